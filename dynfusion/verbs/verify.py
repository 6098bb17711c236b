"""`dynfusion verify`: every checksum of a packed dataset."""

from dynfusion.store import verify as checking
from dynfusion.store.manifest import read_manifest


def verify(uri: str) -> list[str]:
    """Print the problems, or that there are none, and return them.

    Raises ValueError when there is no valid manifest.
    """
    problems = checking.verify(uri)
    for problem in problems:
        print(problem)
    if not problems:
        print(f"{uri}: all {len(read_manifest(uri).files)} files are right")
    return problems
