"""What a report answers about a fusion model, as the table that stands at the head of a results file.

    python -m tests.bench.evaluation_answers REPORT/report.json [--line fused]

Prints Markdown: fused less every rival by how much is absent, on the folds, mean over tasks, with both intervals; how
often reconstruction is better than ridge regression; ablations less the model, on the given split.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from dynfusion.evaluation.report.selection import comparison, main_table, matching, metric_of
from dynfusion.evaluation.representations.features import FUSED

COLUMNS = ("all present", "one absent", "two absent", "any absent")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("report", type=Path)
    parser.add_argument("--line", default="fused")
    arguments = parser.parse_args()
    report = json.loads(arguments.report.read_text(encoding="utf-8"))
    print("\n".join([*differences(report, arguments.line), "", *skills(report), "", *removed(report, arguments.line)]))


def differences(report: Mapping[str, Any], ours: str, *, fitting: str = "transferred") -> list[str]:
    """Ours less each line of the headline's table."""
    table = main_table(report, fitting=fitting)
    assert table is not None, "the report has no folds"
    lines = [f"| less | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
    for row in table["rows"]:
        against = row["representation"]
        if against == ours:
            continue
        found = [comparison(report, against, column, ours=ours, task=table["task"]) for column in COLUMNS]
        lines.append(f"| {against} | {' | '.join(map(_difference, found))} |")
    return lines


def skills(report: Mapping[str, Any]) -> list[str]:
    """Reconstruction against ridge regression, over all (task, visible subset, absent modality)."""
    found = report["reconstruction"]
    values = sorted(record["skill_ridge"] for record in found)
    ahead = sum(record["skill_ridge_low"] > 0 for record in found)
    behind = sum(record["skill_ridge_high"] < 0 for record in found)
    return [
        f"Reconstruction over ridge regression: better in {ahead} of {len(found)}, worse in {behind} (intervals "
        f"exclude 0); skill {values[0]:+.3f} to {values[-1]:+.3f}, median {values[len(values) // 2]:+.3f}."
    ]


def removed(report: Mapping[str, Any], ours: str) -> list[str]:
    """Every ablation against the model, on the given split."""
    metric = metric_of(report, None)
    named = matching(report["comparisons"], section="given", probe="linear", fitting="transferred", metric=metric)
    lines = []
    for one in (f"{FUSED} ({model['name']})" for model in report["models"] if model["ablation"]):
        found = [_only(matching(named, representation=ours, against=one, task=None, column=c)) for c in COLUMNS]
        lines.append(f"| {one} | {' | '.join(map(_difference, found))} |")
    return [f"| {ours} less | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|", *lines] if lines else []


def _only(found: Sequence[Any]) -> Any:
    return found[0] if found else None


def _difference(found: Mapping[str, Any] | None) -> str:
    """Bold where every interval there is excludes zero."""
    if found is None or found.get("difference") is None:
        return "–"
    intervals = [_span(found, "low", "high"), _span(found, "fold_low", "fold_high")]
    text = f"{found['difference']:+.3f} [{'; '.join(span for span in intervals if span)}]"
    return text if found["tie"] else f"**{text}**"


def _span(found: Mapping[str, Any], low: str, high: str) -> str:
    return f"{found[low]:+.3f}, {found[high]:+.3f}" if found.get(low) is not None else ""


if __name__ == "__main__":
    main()
