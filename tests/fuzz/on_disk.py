"""Copies of examples on the disk in memory, for parsers that read folders."""

from pathlib import Path

from tests.fuzz.examples import Examples
from tests.fuzz.judge import Files


def copied(examples: Examples, name: str, files: Files) -> Path:
    """A folder with these files."""
    folder = examples.scratch / f"copy-{name}"
    for path, content in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


class Replaced:
    """Inside the `with` the folder has these files in place of the valid ones."""

    def __init__(self, folder: Path, files: Files, valid: Files) -> None:
        self.folder, self.files, self.valid = folder, files, valid

    def __enter__(self) -> None:
        for name, content in self.files.items():
            (self.folder / name).write_bytes(content)

    def __exit__(self, *_: object) -> None:
        for name in self.files:
            if name in self.valid:
                (self.folder / name).write_bytes(self.valid[name])
            else:
                (self.folder / name).unlink()


def new_folder(examples: Examples, name: str) -> Path:
    """A folder of this name, made when it is not there."""
    folder = examples.scratch / name
    folder.mkdir(exist_ok=True)
    return folder
