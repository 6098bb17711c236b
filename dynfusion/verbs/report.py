"""`dynfusion report DIR`: the readable report again, from its numbers; of several, one page that compares them."""

from collections.abc import Sequence
from pathlib import Path

from dynfusion.evaluation.report.compare import compare_reports
from dynfusion.evaluation.report.page import rebuild_report

COMPARISON = Path("comparison")


def report(folders: str | Path | Sequence[str | Path], *, out: str | Path | None = None) -> Path:
    """Makes `report.md` and `report.html` of a folder again from its `report.json`; the path of the HTML file.

    Several folders are compared: `comparison.html` and `comparison.md` in `out`, by default the folder `comparison`.

    Raises ValueError when a folder has no readable report, `out` is given for one, or several have no task in common.
    """
    chosen = [Path(folders)] if isinstance(folders, str | Path) else [Path(folder) for folder in folders]
    if len(chosen) == 1 and out is not None:
        raise ValueError("--out: found it with one report, which is written where it lies; it belongs to several")
    page = rebuild_report(chosen[0]) if len(chosen) == 1 else compare_reports(chosen, Path(out or COMPARISON))
    print(f"report: {page}")
    return page
