"""What the chaos suite saw, a line for each fault: told by the tests where DYNFUSION_CHAOS names a file, else nowhere.

DYNFUSION_CHAOS=chaos.jsonl python -m pytest tests/chaos -m slow
python -m tests.chaos.ledger chaos.jsonl
"""

import json
import os
import sys
from pathlib import Path

FILE = "DYNFUSION_CHAOS"


def note(fault: str, promised: str, happened: str, lost: str = "nothing") -> None:
    """Keep what became of a fault; called once all that was promised has been asserted."""
    if file := os.environ.get(FILE):
        with Path(file).open("a", encoding="utf-8") as lines:
            lines.write(json.dumps({"fault": fault, "promised": promised, "happened": happened, "lost": lost}) + "\n")


def table(lines: list[str]) -> str:
    """A Markdown table; a fault that was tried several times is one row with how often, and its last outcome."""
    found: dict[str, list[dict[str, str]]] = {}
    for line in lines:
        row = json.loads(line)
        found.setdefault(row["fault"], []).append(row)
    head = ["| fault | times | promised | happened | data lost |", "|---|---|---|---|---|"]
    rows = [
        f"| {fault} | {len(seen)} | {seen[-1]['promised']} | {seen[-1]['happened']} | {seen[-1]['lost']} |"
        for fault, seen in found.items()
    ]
    return "\n".join([*head, *rows])


if __name__ == "__main__":
    print(table(Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()))
