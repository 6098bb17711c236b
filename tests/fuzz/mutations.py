"""Mutations of valid files: of their bytes, of their text, and of what they say as a tree of names and values."""

import json
from collections.abc import Callable
from random import Random
from typing import Any

Tree = Any

NUMBERS: tuple[Any, ...] = (
    *(0, 1, -1, 2, 7, 8, 15, 255, 256, 65_535, 1 << 31, -(1 << 31), (1 << 32) - 1, 1 << 53, (1 << 63) - 1, 1 << 63),
    *(-(1 << 63), 1 << 64, 10**30, 0.5, -0.0, 1e-300, 1e308, -1e308, float("nan"), float("inf"), -float("inf")),
)
TEXTS = (
    *("", " ", "x", "a" * 3000, "ä", "\u202e", "\x00", "a\nb", "\x1b[31m", "null", "NaN", "1e999", "0", "true", "🧪"),
    *("../up", "/etc/passwd", "a/../../b", "a\\b", "..", ".", "C:\\x", "s3://bucket/key", "a b", "é", "\ud7ff", "%s{}"),
)
OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"": None}, [0, "a", None])
DEEP = 4000
"""Levels; readers of JSON and TOML in Python end long before, with an error that is not theirs to raise."""


def mutated_bytes(content: bytes, draw: Random) -> bytes:
    """One to three changes of single bits, bytes, numbers of 4 or 8 bytes, ranges, or the end."""
    made = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3))):
        draw.choice(_BYTE_CHANGES)(made, draw)
    return bytes(made)


def with_changed_numbers(content: bytes, draw: Random, *, start: int = 0, stop: int | None = None) -> bytes:
    """The same length: one to four bits, bytes or numbers changed between `start` and `stop`."""
    made = bytearray(content[start:stop])
    for _ in range(draw.choice((1, 1, 2, 4))):
        draw.choice((_flip, _set_byte, _set_number))(made, draw)
    return content[:start] + bytes(made) + content[start + len(made) :]


def mutated_text(text: str, draw: Random) -> str:
    """A line dropped, repeated or swapped with another, or something strange in the middle."""
    lines = text.splitlines(keepends=True) or [""]
    at, other = draw.randrange(len(lines)), draw.randrange(len(lines))
    change = draw.randrange(5)
    if change == 0:
        del lines[at]
    elif change == 1:
        lines.insert(other, lines[at])
    elif change == 2:
        lines[at], lines[other] = lines[other], lines[at]
    else:
        line, place = lines[at], draw.randrange(len(lines[at]) + 1)
        strange = draw.choice((*TEXTS, *map(str, NUMBERS), ",", "\t", '"', "'", "=", "[", "]", "{", "\r\n", "#"))
        lines[at] = line[:place] + strange + line[place + draw.choice((0, 0, 1, 3)) :]
    return "".join(lines)


def mutated_tree(tree: Tree, draw: Random) -> Tree:
    """The tree, changed in one to three places, mostly one; it may be given and comes back as another object."""
    for _ in range(draw.choice((1, 1, 1, 1, 2, 3))):
        tree = _changed_somewhere(tree, draw)
    return tree


def as_json(tree: Tree, draw: Random) -> bytes:
    """The tree as JSON; now and then with a name that stands twice, nested too deeply, or with a number of digits."""
    text = json.dumps(tree)
    strange = draw.randrange(60)
    if strange == 0 and text.startswith("{") and len(text) > 2:
        first = text[1:].partition(":")[0]
        text = f"{{{first}: {draw.choice(('0', 'null', '[]'))}, {text[1:]}"
    elif strange == 1:
        text = text.replace("1", "[" * DEEP + "]" * DEEP, 1)
    elif strange == 2:
        text = text.replace("1", "1" * 5000, 1)
    return text.encode("utf-8", "surrogatepass")


def strange_value(draw: Random) -> Any:
    """A number, a text, or something of another type."""
    return draw.choice(draw.choice((NUMBERS, TEXTS, OTHERS)))


def _changed_somewhere(tree: Tree, draw: Random, depth: int = 0) -> Tree:
    """Down a random path, mostly to its end, and a change there; what lies on the way is made anew."""
    if not isinstance(tree, dict | list) or not tree or (depth and draw.random() < 0.12):
        return _changed_value(tree, draw)
    here = draw.random() < 0.2
    if isinstance(tree, dict):
        name = draw.choice(list(tree))
        if here:
            return _changed_entry(tree, name, draw)
        return {**tree, name: _changed_somewhere(tree[name], draw, depth + 1)}
    at = draw.randrange(len(tree))
    if here:
        return draw.choice((tree[:at] + tree[at + 1 :], [*tree, tree[at]], tree[:at], tree[::-1], tree * 3))
    return [*tree[:at], _changed_somewhere(tree[at], draw, depth + 1), *tree[at + 1 :]]


def _changed_entry(tree: dict[str, Tree], name: str, draw: Random) -> dict[str, Tree]:
    change, other = draw.randrange(4), draw.choice(list(tree))
    if change == 0:
        return {key: value for key, value in tree.items() if key != name}
    if change == 1:
        return {draw.choice((*TEXTS, name.upper(), f"{name}2")) if key == name else key: v for key, v in tree.items()}
    if change == 2:
        return {**tree, name: tree[other], other: tree[name]}
    return {**tree, draw.choice(TEXTS): tree[name]}


def _changed_value(value: Tree, draw: Random) -> Tree:
    near = draw.random() < 0.6
    if near and isinstance(value, int) and not isinstance(value, bool):
        return value + draw.choice((-2, -1, 1, 2, 8, 16, value))
    if near and isinstance(value, float):
        return value * draw.choice((-1.0, 0.0, 2.0, 1e3, 1e-3))
    if near and isinstance(value, str) and value:
        at = draw.randrange(len(value))
        return value[:at] + draw.choice((*TEXTS, value[at].swapcase())) + value[at + 1 :]
    if draw.random() < 0.1:
        return [value]
    return strange_value(draw)


def _flip(made: bytearray, draw: Random) -> None:
    if made:
        made[draw.randrange(len(made))] ^= 1 << draw.randrange(8)


def _set_byte(made: bytearray, draw: Random) -> None:
    if made:
        made[draw.randrange(len(made))] = draw.choice((0, 1, 0x0A, 0x22, 0x2C, 0x7F, 0x80, 0xFF, draw.randrange(256)))


def _set_number(made: bytearray, draw: Random) -> None:
    """A little-endian number of 4 or 8 bytes at a multiple of 4, as most formats have them."""
    size = draw.choice((4, 8))
    if len(made) < size:
        return
    at = draw.randrange(0, len(made) - size + 1, 4)
    old = int.from_bytes(made[at : at + size], "little", signed=True)
    new = draw.choice((*(number for number in NUMBERS if isinstance(number, int)), old + 1, old - 1, old * 2, -old))
    made[at : at + size] = (new % (1 << (8 * size))).to_bytes(size, "little")


def _cut(made: bytearray, draw: Random) -> None:
    del made[draw.randrange(len(made) + 1) :]


def _drop(made: bytearray, draw: Random) -> None:
    at = draw.randrange(len(made) + 1)
    del made[at : at + draw.choice((1, 2, 4, 8, 64))]


def _insert(made: bytearray, draw: Random) -> None:
    at = draw.randrange(len(made) + 1)
    made[at:at] = draw.choice((b"\0", b"\xff" * 8, bytes(64), b"\n", b'"', bytes(made[:32])))


def _copy(made: bytearray, draw: Random) -> None:
    size = draw.choice((4, 16, 64))
    source, target = draw.randrange(len(made) + 1), draw.randrange(len(made) + 1)
    made[target : target + size] = made[source : source + size]


_BYTE_CHANGES: tuple[Callable[[bytearray, Random], None], ...] = (
    *(_flip, _flip, _set_byte, _set_number, _set_number),
    *(_cut, _drop, _insert, _copy),
)
