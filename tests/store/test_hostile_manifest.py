"""A manifest with the right fingerprint that contradicts itself: what it says is used as sizes and places in files."""

import json
import re
from collections.abc import Callable
from typing import Any

import pytest

from dynfusion.store.manifest import parse_manifest
from dynfusion.store.mapping import MappedFiles
from tests.fuzz.examples import Examples, make_examples
from tests.fuzz.parsers_store import fingerprinted

Tree = dict[str, Any]


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return make_examples(tmp_path_factory.mktemp("examples"))


def setting(*path: str | int, value: Any) -> Callable[[Tree], None]:
    """A change of the value at a path; a function makes it of the old one."""

    def change(tree: Tree) -> None:
        place: Any = tree
        for part in path[:-1]:
            place = place[part]
        place[path[-1]] = value(place[path[-1]]) if callable(value) else value

    return change


CONTRADICTIONS: dict[str, tuple[Callable[[Tree], None], str]] = {
    "fewer means than dim": (
        setting("modalities", 0, "mean", value=lambda old: old[:-1]),
        "found 2 numbers in mean, allowed are as many as dim, 3",
    ),
    "another dim": (setting("modalities", 1, "dim", value=1 << 40), "allowed are as many as dim, 1099511627776"),
    "names of features for others": (
        setting("modalities", 0, "features", value=["x"]),
        "found 1 numbers in features, allowed are as many as dim, 3",
    ),
    "a modality twice": (setting("modalities", 1, "name", value="a"), "found modality 'a' twice"),
    "a file twice": (
        setting("shards", 1, "path", value="train-00000.arrow"),
        "found file 'train-00000.arrow' twice",
    ),
    "values behind the block": (
        setting("geometry", "values_offsets", value=lambda old: [old[0], old[1] + (1 << 20)]),
        "found offsets that lead out of a block",
    ),
    "presence before the block": (
        setting("geometry", "validity_offsets", value=lambda old: [-8, old[1]]),
        "found offsets that lead out of a block",
    ),
    "one over the other": (
        setting("geometry", "values_offsets", value=lambda old: [old[0], old[0]]),
        "lie over each other",
    ),
    "an odd place": (setting("geometry", "values_offsets", value=lambda old: [old[0] + 1, old[1]]), "is odd"),
    "a place too few": (setting("geometry", "validity_offsets", value=lambda old: old[:1]), "one for each of 2 mod"),
    "odd blocks": (setting("geometry", "block_bytes", value=lambda old: old + 1), "allowed are even numbers"),
    "more rows than shards": (setting("rows", value=lambda old: old + 1), "found shards of .* rows, the manifest says"),
    "rows of the far future": (setting("rows", value=10**30), "found shards of"),
    "fewer held out": (setting("holdout_rows", value=0), "found holdout_shards of"),
    "more blocks than rows": (setting("shards", 0, "blocks", value=99), "allowed are whole blocks of 8 rows"),
    "a shard of no bytes": (setting("shards", 0, "bytes", value=0), "of 0 bytes, its .* blocks need more"),
    "a sidecar of other rows": (setting("shards", 0, "sidecar", "rows", value=3), "found shards.sidecar of 3 rows"),
    "dropped rows of no file": (setting("dropped", value=None), "found dropped of 0 rows, allowed are 1"),
    "another table of blocks": (setting("blocks", "rows", value=1), "found blocks of 1 rows"),
    "blocks of other rows": (setting("block_rows", value=1 << 40), "found offsets that lead out of a block"),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_a_manifest_that_contradicts_itself_is_refused(examples: Examples, name: str) -> None:
    change, sentence = CONTRADICTIONS[name]
    tree = json.loads(examples.packed["manifest.json"])
    assert len(tree["shards"]) > 1
    change(tree)
    with pytest.raises(ValueError, match=sentence) as caught:
        parse_manifest(json.dumps(fingerprinted(tree)).encode(), "manifest.json")
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"[" * 100_000, "nested too deeply"),
        (b'{"rows": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
        (b'{"format_version": 1, "format_version": 1}', "the name 'format_version' stands twice"),
        (b"\xff\xfe", "can't decode byte"),
        (b"", "Expecting value"),
    ],
)
def test_what_is_no_json_is_refused_whatever_the_library_raises(content: bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=f"manifest.json: not a readable manifest, .*{re.escape(reason)}") as caught:
        parse_manifest(content, "manifest.json")
    assert type(caught.value) is ValueError


def test_the_honest_manifest_is_read(examples: Examples) -> None:
    content = examples.packed["manifest.json"]
    tree = json.loads(content)
    assert parse_manifest(content, "manifest.json") == examples.dataset.manifest
    assert fingerprinted(tree) == tree


def test_sizes_that_no_machine_has_addresses_for_are_refused() -> None:
    """The C function would be handed what is left of the number in 64 bits: 4096."""
    with pytest.raises(ValueError, match="shards: found 18446744073709555712 bytes in all"):
        MappedFiles([1 << 63, 1 << 63, 4096])
