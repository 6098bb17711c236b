"""`dynfusion tune show DIR`: what a sweep found, finished or under way."""

from pathlib import Path

from dynfusion.edges.s3_storage import open_storage
from dynfusion.tuning.report.contents import read_contents
from dynfusion.tuning.report.page import terminal_table, write_sweep_report
from dynfusion.tuning.report.wording import summary
from dynfusion.verbs.display import console


def tune_show(folder: str) -> Path:
    """Writes the report into the sweep's folder and prints its table; the path of the HTML file.

    Raises ValueError naming the file that is missing, torn, or does not belong to the sweep.
    """
    storage = open_storage(folder)
    report = write_sweep_report(storage, read_contents(storage))
    console.print(terminal_table(report))
    for sentence in summary(report):
        console.print(sentence)
    page = f"{storage.address}/report.html"
    print(f"report: {page}")
    if report["winner"] or report["best"]:
        print(f"run file: {storage.address}/best.toml")
    return Path(page)
