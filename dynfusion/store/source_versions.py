"""Whether the files that are packed stay as they are: their versions before they are opened, and again at the end."""

import os
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from dynfusion.store.files import Files, Looks, looks_of
from dynfusion.store.sources import source_files

_TICK_NS = 2 * 10**9
"""Two changes of a file within this time may leave it with one time of change."""


@dataclass(frozen=True)
class SeenFile:
    """A file's version; and how it looked on this machine's disk, None when it lies elsewhere or was changed so lately
    that its next change may look the same."""

    version: str
    looks: Looks | None


@dataclass(frozen=True)
class SeenSources:
    """By address, all its files by theirs."""

    addresses: Mapping[str, Mapping[str, SeenFile]]
    files: Files

    def versions(self, address: str) -> dict[str, str]:
        """The version of every file of an address."""
        return {uri: seen.version for uri, seen in self.addresses[address].items()}

    def check(self) -> None:
        """Raises ValueError, naming the file, when one is no longer what it was."""
        for found in self.addresses.values():
            for uri, seen in found.items():
                try:
                    same = _same_looks(uri, seen, self.files) or self.files.version(uri) == seen.version
                except FileNotFoundError:
                    raise ValueError(
                        f"{uri}: it vanished while it was being packed, pack again from all files"
                    ) from None
                if not same:
                    raise ValueError(
                        f"{uri}: it changed while it was being packed, pack again when whatever writes it is done"
                    )

    @contextmanager
    def unchanged(self) -> Iterator[None]:
        """What reads the files; they are looked at again after it, and when it fails, which a change may have caused.

        Raises ValueError as `check` does.
        """
        try:
            yield
        except (ValueError, LookupError, OSError):
            self.check()
            raise
        self.check()


def see_sources(addresses: Iterable[str], files: Files) -> SeenSources:
    """All files that may be read for these addresses, companions included, as they are now."""
    return SeenSources(
        {uri: {file: _see(file, files) for file in source_files(uri, files)} for uri in addresses}, files
    )


def _see(uri: str, files: Files) -> SeenFile:
    looks = _looks(uri, files)  # before its content, so that a change meanwhile makes it look otherwise
    settled = looks is not None and time.time_ns() - looks[1] > _TICK_NS
    return SeenFile(files.version(uri), looks if settled else None)


def _same_looks(uri: str, seen: SeenFile, files: Files) -> bool:
    return seen.looks is not None and seen.looks == _looks(uri, files)


def _looks(uri: str, files: Files) -> Looks | None:
    path = files.path(uri)
    return None if path is None else looks_of(os.stat(path))
