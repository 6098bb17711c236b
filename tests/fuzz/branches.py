"""`python -m tests.fuzz.branches`: how many branches of the parsers the mutated files reach, by `coverage`.

Counted are the functions that read what a file says, not those that write files or work with what was read.
"""

import argparse
import json
import random
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

FUNCTIONS: dict[str, tuple[str, ...]] = {
    "dynfusion/printable.py": ("",),
    "dynfusion/settings.py": (
        "parse_",
        "_named_once",
        "read_toml",
        "build",
        "_literal",
        "_merge",
        "_sentence",
    ),
    "dynfusion/store/manifest.py": ("parse_manifest", "read_manifest", "FileSpec.", "ModalitySpec.", "Manifest._fits"),
    "dynfusion/store/manifest_checks.py": ("",),
    "dynfusion/store/blocks.py": ("read_blocks",),
    "dynfusion/store/part.py": ("block_offsets", "blocks_of"),
    "dynfusion/store/shard.py": ("check_shard", "_names", "_first_header", "_field", "_vector"),
    "dynfusion/store/sidecar.py": ("read_sidecars", "check_columns", "checked_batch", "_read"),
    "dynfusion/store/sources.py": ("open_source", "_open_all", "_folder_ids", "_ids_beside"),
    "dynfusion/store/npy_files.py": ("",),
    "dynfusion/store/npz_files.py": ("",),
    "dynfusion/store/columnar_files.py": ("",),
    "dynfusion/store/table_files.py": ("",),
    "dynfusion/store/table.py": ("",),
    "dynfusion/store/text_lines.py": ("",),
    "dynfusion/store/texts.py": ("",),
    "dynfusion/encoders/folder.py": ("read_lines", "read_folder", "_read_array"),
    "dynfusion/fusion/api.py": ("load_network", "_read_config", "_shape"),
    "dynfusion/training/checkpoint.py": (
        *("read_state", "read_history", "problem", "_listed", "next_attempt", "complete", "_reads", "_is_entry"),
        *("_leads_out", "checkpoint_names"),
    ),
    "dynfusion/training/run_folder.py": ("claim", "finished", "_read_claim"),
    "dynfusion/tuning/records.py": ("read_", "_read", "_named"),
    "dynfusion/tuning/space.py": ("read_space", "_leaves", "_distribution", "_check_range", "_ordered", "_listed"),
    "dynfusion/evaluation/protocol/cells.py": ("read_result", "read_choice", "_read"),
    "dynfusion/evaluation/reference.py": ("read", "Reference."),
    "dynfusion/edges/ray_snapshot.py": ("mend_snapshot", "_only", "_names"),
    "dynfusion/evaluation/tasks/task.py": ("label_array", "_label_column", "split_array"),
    "dynfusion/verbs/labelled_table.py": ("read_labelled", "_read", "_labels", "_is_binary", "_if_there"),
    "dynfusion/verbs/evaluated_models.py": ("read_training", "_require_table"),
}
"""Names of functions, or what they begin with; an empty name means all of the file."""


def main(arguments: list[str] | None = None) -> int:
    """Print one JSON line for each file and one for all."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz.branches", description=__doc__.partition("\n")[0])
    parser.add_argument("--cases", type=int, default=3000, help="of each parser")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--missing", action="store_true", help="name the branches that were not taken")
    parser.add_argument("--here", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.here:
        return _read_cases(options.cases, options.seed)
    report = _measured(options)
    total = [0, 0]
    for name, functions in FUNCTIONS.items():
        taken, branches, missing = _counted(report["files"][name]["functions"], functions)
        total = [total[0] + taken, total[1] + branches]
        line = {"file": name, "branches": branches, "taken": taken}
        print(json.dumps(line | ({"missing": missing} if options.missing else {})))
    print(json.dumps({"branches": total[1], "taken": total[0], "share": round(total[0] / total[1], 4)}))
    return 0


def _counted(functions: dict[str, Any], names: tuple[str, ...]) -> tuple[int, int, list[list[int]]]:
    """Branches taken, all of them, and those that were not taken, of the functions of these names."""
    taken = branches = 0
    missing: list[list[int]] = []
    for name, found in functions.items():
        if name and any(name == wanted or name.startswith(wanted) for wanted in names):
            taken += found["summary"]["covered_branches"]
            branches += found["summary"]["num_branches"]
            missing += found["missing_branches"]
    return taken, branches, missing


def _measured(options: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        data, out = f"--data-file={folder}/coverage", f"{folder}/coverage.json"
        again = ["tests.fuzz.branches", "--here", "--cases", str(options.cases), "--seed", str(options.seed)]
        for command in (
            ["run", "--branch", data, f"--include={','.join(FUNCTIONS)}", "-m", *again],
            ["json", data, "-o", out],
        ):
            whole = [sys.executable, "-m", "coverage", *command]
            subprocess.run(whole, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        return json.loads(Path(out).read_text())


def _read_cases(cases: int, seed: int) -> int:
    from tests.fuzz.examples import make_examples
    from tests.fuzz.judge import case_seed, judge
    from tests.fuzz.parsers import all_parsers

    with tempfile.TemporaryDirectory() as folder:
        for name, parser in all_parsers(make_examples(Path(folder))).items():
            for number in range(cases):
                judge(parser, parser.make(random.Random(case_seed(seed, name, number))))
    return 0


if __name__ == "__main__":
    sys.exit(main())
