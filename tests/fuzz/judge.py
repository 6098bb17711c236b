"""What a parser may do with a file: take it, or refuse it in one sentence. Anything else is a fault of the parser."""

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from random import Random
from time import process_time
from typing import Any

Files = dict[str, bytes]
"""Contents by name: what a case consists of."""

LONGEST_SENTENCE = 4000
SLOWEST_SECONDS = 5.0
"""Of a processor, on however busy a machine."""


@dataclass(frozen=True)
class Parser:
    """A reader of files and how to make files for it that are nearly right.

    `first_check` finds the sentences of its first check: that a file is JSON at all, has its magic, its hash. `refuses`
    has the types of error beside ValueError that it is documented to raise.
    """

    name: str
    make: Callable[[Random], Files]
    read: Callable[[Files], object]
    first_check: re.Pattern[str]
    refuses: tuple[type[Exception], ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a case: `kind` is "accepted", a documented error's type, or "undocumented: ..."."""

    kind: str
    past_first_check: bool
    sentence: str
    seconds: float

    @property
    def is_fault(self) -> bool:
        return self.kind.startswith("undocumented")


class FirstCheckError(Exception):
    """Raised by `read` of a parser that says nothing when its first check fails, such as one that looks for a cache."""


def judge(parser: Parser, files: Files) -> Outcome:
    """Read a case."""
    begun = process_time()
    try:
        parser.read(files)
    except FirstCheckError:
        return Outcome("not there", False, "", process_time() - begun)
    except Exception as error:
        kind, sentence = _kind(parser, error), str(error)
    else:
        kind, sentence = "accepted", ""
    seconds = process_time() - begun
    if seconds > SLOWEST_SECONDS:
        kind = f"undocumented: {seconds:.1f} s, then {kind}"
    return Outcome(kind, kind == "accepted" or not parser.first_check.search(sentence), sentence, seconds)


def _kind(parser: Parser, error: Exception) -> str:
    own = type(error) is ValueError or (isinstance(error, ValueError) and _is_ours(type(error)))
    if not own and not isinstance(error, parser.refuses):
        return f"undocumented: {type(error).__module__}.{type(error).__qualname__}"
    sentence = str(error)
    if not sentence.strip() or "\n" in sentence:
        return "undocumented: not one sentence"
    if len(sentence) > LONGEST_SENTENCE:
        return f"undocumented: a sentence of {len(sentence)} characters"
    return type(error).__name__


def _is_ours(kind: type[Exception]) -> bool:
    return kind.__module__.startswith("dynfusion.")


@dataclass
class Tally:
    """Outcomes counted."""

    cases: int = 0
    past: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    slowest_seconds: float = 0.0

    def add(self, outcome: Outcome) -> None:
        self.cases += 1
        self.past += outcome.past_first_check
        self.kinds[outcome.kind] += 1
        self.slowest_seconds = max(self.slowest_seconds, outcome.seconds)

    @property
    def share_past_first_check(self) -> float:
        return self.past / self.cases if self.cases else 0.0

    def record(self) -> dict[str, Any]:
        """The counts as JSON holds them."""
        found: Mapping[str, int] = dict(self.kinds.most_common())
        return {
            "cases": self.cases,
            "share_past_first_check": round(self.share_past_first_check, 4),
            "accepted": found.get("accepted", 0),
            "refused": {kind: count for kind, count in found.items() if not kind.startswith(("accepted", "undoc"))},
            "undocumented": {kind: count for kind, count in found.items() if kind.startswith("undocumented")},
            "slowest_seconds": round(self.slowest_seconds, 4),
        }


def case_seed(seed: int, name: str, number: int) -> str:
    """What a case is drawn from: the same case for the same three, on any machine."""
    return f"{seed} {name} {number}"
