"""`dynfusion report DIR`: the readable report again, from its numbers."""

from pathlib import Path

from dynfusion.evaluation.report.page import rebuild_report


def report(folder: str | Path) -> Path:
    """Makes `report.md` and `report.html` of a folder again from its `report.json`; the path of the HTML file.

    Raises ValueError when the folder has no readable report.
    """
    page = rebuild_report(Path(folder))
    print(f"report: {page}")
    return page
