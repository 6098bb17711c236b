"""`dynfusion verify`: every checksum of a packed dataset."""

from dynfusion.edges import datasets
from dynfusion.verbs.display import progress


def verify(uri: str) -> list[str]:
    """Print the problems, or that there are none, and return them.

    Raises ValueError when there is no valid manifest.
    """
    with progress("verify") as advance:
        problems = datasets.verify(uri, progress=lambda done, total: advance(done >> 20, total >> 20))
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{uri}: all {len(datasets.open_dataset(uri).manifest.files)} files are right")
    return problems
