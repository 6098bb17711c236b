"""Sections about the data and the making: tasks and leaks, every subset, calibration, choices, settings, training."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from dynfusion.evaluation.report import plots
from dynfusion.evaluation.report.selection import LINEAR, Record, Report, average, is_fused, matching, metric_of
from dynfusion.evaluation.report.wording import GLOSSARY, METRIC_NAMES, PROBE_NAMES
from dynfusion.page.blocks import (
    UNKNOWN,
    Block,
    Cell,
    Figures,
    Fold,
    Group,
    Row,
    Section,
    Table,
    Terms,
    Text,
    one_group,
    plain,
)

COUNTS = ("test", "with_scaffold", "scaffold_in_train", "readable", "molecule_in_train", "molecule_in_pool")
COUNTED_WORDS = ("all present", "one absent", "two absent", "three absent", "four absent", "five absent")


def leak_note(report: Report, table: Record) -> tuple[str, ...]:
    """One line below a table: what its test molecules share with training rows and with the fusion model's pool."""
    names = table["tasks"] if table["task"] is None else [table["task"]]
    found = [_leaks(task, table["split"]) for task in report["tasks"] if task["name"] in names]
    found = [counts for counts in found if counts]
    if not found:
        return ()
    total = {name: _sum([counts[name] for counts in found]) for name in COUNTS}
    parts = [
        f"scaffold also in training {_share(total['scaffold_in_train'], total['with_scaffold'])}",
        f"molecule also in training {_share(total['molecule_in_train'], total['readable'])}",
        f"molecule in the fusion model’s pool {_share(total['molecule_in_pool'], total['readable'])}",
    ]
    return (f"Leaks among test molecules of this split: {', '.join(parts)}{_known_of_pool(report)}.",)


def _known_of_pool(report: Report) -> str:
    """What a count of shared molecules does not know of the pool."""
    known = report.get("pool_smiles", 1)
    return f" (the SMILES of {100 * known:.1f}\u00a0% of it are known)" if 0 < known < 1 else ""


def _leaks(task: Record, split: str) -> dict[str, int | None]:
    """Counts of a task, summed over the folds of a split; empty where nothing is known."""
    found = [r for r in task["leaks"] if _family(r["fold"]) in split.split(" and ")]
    return {name: _sum([record[name] for record in found]) for name in COUNTS} if found else {}


def _sum(counts: Sequence[int | None]) -> int | None:
    known = [count for count in counts if count is not None]
    return sum(known) if len(known) == len(counts) else None


def _share(count: int | None, whole: int | None) -> str:
    if count is None or not whole:
        return "unknown"
    return f"{100 * count / whole:.1f}\u00a0%"


def data(report: Report) -> list[Section]:
    """Tasks, and their leaks on every split."""
    modalities = report["modalities"]
    rows = []
    for task in report["tasks"]:
        parts = [*(f"{task['molecules'][part]:,}" for part in ("train", "valid", "test")), f"{task['in_no_part']:,}"]
        present = [f"{100 * task['present'][name]:.1f} %" for name in modalities]
        positives = UNKNOWN if task.get("base_rate") is None else f"{100 * task['base_rate']:.1f} %"
        labels = str(len(task["labels"])) if len(task["labels"]) > 1 else "1"
        cells = [task["kind"], labels, positives, task["split"], *parts, *present, str(task["nothing_present_test"])]
        rows.append(Row(task["name"], tuple(Cell(text) for text in cells)))
    columns = ("Task", "Kind", "Labels", "Positive", "Split", "Train", "Valid", "Test", "In no part")
    table = Table((*columns, *(f"{name} present" for name in modalities), "Nothing present"), one_group(rows))
    leaks = _leak_table(report)
    text = Text(
        "Sizes are those of the given split; molecules in no part of it are left out of everything. A molecule with "
        f"nothing present stays in the test and gets the prior.{_undefined(report)}"
    )
    more: list[Block] = (
        [Text("Leaks: what the test molecules share with training rows and the pool."), leaks] if leaks else []
    )
    return [Section("data", "Tasks and leaks", (text, table, *more), "Tasks, leaks")]


def _undefined(report: Report) -> str:
    """Of which tasks some draw of the test molecules had no value for some label."""
    found = {task["name"]: task.get("undefined_draws") or 0 for task in report["tasks"]}
    parts = [f"{name} {100 * share:.1f} %" for name, share in found.items() if share]
    if not parts:
        return ""
    return (
        " Where molecules are drawn again, a rare label may be drawn with one class only; it is left out of the mean "
        f"over labels of that draw (share of labels and draws: {', '.join(parts)})."
    )


def _leak_table(report: Report) -> Table | None:
    rows = []
    for task in report["tasks"]:
        for split in dict.fromkeys(_family(record["fold"]) for record in task["leaks"]):
            counts = _leaks(task, split)
            shares = [
                _share(counts["scaffold_in_train"], counts["with_scaffold"]),
                _share(counts["molecule_in_train"], counts["readable"]),
                _share(counts["molecule_in_pool"], counts["readable"]),
            ]
            cells = [split, f"{counts['test']:,}", *shares]
            rows.append(Row(task["name"], tuple(Cell(text) for text in cells)))
    columns = (
        "Task",
        "Split",
        "Molecules tested",
        "Scaffold in training",
        "Molecule in training",
        "Molecule in the pool",
    )
    return Table(columns, one_group(rows)) if rows else None


def _family(fold: str) -> str:
    """The split that a fold belongs to."""
    return next((name for name in ("scaffold-cv", "scaffold", "given", "hashed") if fold.startswith(name)), fold)


def details(report: Report) -> list[Section]:
    """What is looked up: subsets, calibration, choices, imputers."""
    parts = (
        ("Every subset of visible modalities", _subsets(report)),
        ("Calibration", _calibration(report)),
        ("Choices of probes", _choices(report)),
        ("Choices of imputers", _imputers(report)),
    )
    folds = tuple(Fold(title, tuple(blocks)) for title, blocks in parts if blocks)
    return [Section("details", "Details", folds, "Details")] if folds else []


def _subsets(report: Report) -> list[Block]:
    blocks: list[Block] = []
    records = matching(report["subsets"], section="folds", probe=LINEAR, fitting="transferred")
    for task in dict.fromkeys(record["task"] for record in records):
        found = matching(records, task=task, metric=metric_of(report, task))
        by_place = {(tuple(r["visible"]), r["representation"]): r["value"] for r in found}
        names = list(dict.fromkeys(record["representation"] for record in found))
        visible = list(dict.fromkeys(tuple(record["visible"]) for record in found))
        rows = [Row(name, tuple(plain(by_place.get((s, name))) for s in visible), is_fused(name)) for name in names]
        table = Table(("Representation", *(" + ".join(subset) for subset in visible)), one_group(rows))
        blocks.append(Fold(f"{task}: {METRIC_NAMES[metric_of(report, task)]}", (table,)))
    return blocks


def _calibration(report: Report) -> list[Block]:
    records, total = report["calibration"], len(report["modalities"])
    if not records:
        return []
    names = list(dict.fromkeys(record["representation"] for record in records))
    tasks = list(dict.fromkeys(record["task"] for record in records))
    counts = sorted({total - len(record["visible"]) for record in records})
    keys = [(key, title) for key, title in KEYS_OF_CALIBRATION if any(r.get(key) is not None for r in records)]
    blocks: list[Block] = [
        Text(
            "Heads on all that is present, the given split, binary tasks; mean over the subsets with that many absent. "
            "Brier score and calibration error: 0 is perfect. Confidence (0.5 to 1) should not rise as modalities go."
        )
    ]
    for scope in [None, *tasks] if len(tasks) > 1 else tasks:
        groups = []
        for key, title in keys:
            rows = []
            for name in names:
                of_name = [r for r in records if r["representation"] == name and scope in (None, r["task"])]
                by_count = [average(r.get(key) for r in of_name if total - len(r["visible"]) == k) for k in counts]
                rows.append(Row(name, tuple(plain(value) for value in by_count), is_fused(name)))
            groups.append(Group(title, tuple(rows)))
        columns = ("Representation", *(COUNTED_WORDS[k] if k < len(COUNTED_WORDS) else f"{k} absent" for k in counts))
        table = Table(columns, tuple(groups))
        blocks.append(table if scope is None or len(tasks) == 1 else Fold(scope, (table,)))
    return blocks


KEYS_OF_CALIBRATION = (("ece", "Calibration error"), ("brier", "Brier score"), ("confidence", "Confidence"))


def _choices(report: Report) -> list[Block]:
    groups: dict[str, list[Row]] = {}
    for record in report["choices"]:
        chosen = ", ".join(f"{name} = {value:g}" for name, value in record["chosen"].items()) or UNKNOWN
        probe = PROBE_NAMES.get(record["probe"], record["probe"])
        cells = (Cell(probe), Cell(str(record.get("split", UNKNOWN))), Cell(chosen))
        groups.setdefault(record["task"], []).append(Row(record["representation"], cells))
    found = tuple(Group(task, tuple(rows)) for task, rows in groups.items())
    text = Text(
        "Chosen once for each split on training and validation rows of its first fold; one grid for all. "
        f"{_at_ends(report)}{_unconverged(report)}"
    )
    return [text, Table(("Representation", "Probe", "Split", "Chosen"), found, words=True)] if found else []


GRIDS = (
    ("linear", "inverse_penalty", "inverse_penalties"),
    ("knn", "neighbours", "neighbours"),
    ("boosting", "rounds", "rounds"),
)
"""(probe, what is chosen, setting of the grid)."""


def _at_ends(report: Report) -> str:
    """How often the last value of a grid was the best, so that a longer one might have been better."""
    grids, parts = report["settings"]["evaluation"].get("probe", {}), []
    for probe, name, setting in GRIDS:
        chosen = [r["chosen"][name] for r in report["choices"] if r["probe"] == probe and name in r["chosen"]]
        last = max(grids.get(setting, ()), default=None)
        if chosen and last is not None:
            parts.append(f"{PROBE_NAMES.get(probe, probe)} {sum(c == last for c in chosen)} of {len(chosen)}")
    return f"The largest value of its grid was the best one: {', '.join(parts)} times. " if parts else ""


def _unconverged(report: Report) -> str:
    number, groups = report.get("unconverged", (0, 0))
    return f"{number} linear heads are not at their optimum, of {groups:,} groups of cells." if number else ""


def _imputers(report: Report) -> list[Block]:
    rows = []
    for record in report["imputers"]:
        chosen = f"k = {record['k']:g}" if "k" in record else f"penalty {record.get('alpha')}"
        cells = [" + ".join(record["visible"]), chosen, f"{record['rows']:,}", f"{record['held_rows']:,}"]
        kind = record.get("imputer", record.get("kind", "ridge"))
        rows.append(Row(record["target"], tuple(Cell(text) for text in [kind, *cells])))
    text = Text("Fitted on pool rows that the fusion model was trained on; chosen on held pool rows.")
    columns = ("Target", "Imputer", "From", "Chosen", "Pool rows", "Held rows")
    return [text, Table(columns, one_group(rows), words=True)] if rows else []


def training(report: Report) -> list[Section]:
    """Curves of every model's own training, ablations folded."""
    blocks: list[Block] = [Text("The fusion model’s own training on unlabelled molecules.")]
    for model in report["models"]:
        drawn = plots.training_curves(model["training"].get("history", []), model=model["name"])
        figures = Figures(tuple((plot, f"{name} during training") for name, plot in drawn))
        if drawn:
            blocks.append(figures if len(blocks) == 1 else Fold(model["name"], (figures,)))
    return (
        [Section("training", "Training", (Fold("Training curves", tuple(blocks)),), "Training")]
        if len(blocks) > 1
        else []
    )


def making(report: Report) -> list[Section]:
    """Settings, versions, and what words mean."""
    settings = report["settings"]
    blocks: list[Block] = []
    for title, tree in (("Settings of the evaluation", "evaluation"), ("Settings of the run", "run")):
        entries = dotted(settings.get(tree) or {})
        blocks += [Fold(title, (Terms(tuple(entries), code=True),))] if entries else []
    blocks.append(
        Fold("Versions", (Terms(tuple((name, str(value)) for name, value in report["versions"].items()), code=True),))
    )
    return [Section("terms", "Terms and settings", (Fold("Terms", (Terms(GLOSSARY),)), *blocks), "Terms")]


def dotted(tree: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """Settings by their full names, values as JSON."""
    rows: list[tuple[str, str]] = []
    for name, value in tree.items():
        if isinstance(value, Mapping):
            rows += dotted(value, f"{prefix}{name}.")
        else:
            rows.append((f"{prefix}{name}", json.dumps(value, ensure_ascii=False)))
    return rows
