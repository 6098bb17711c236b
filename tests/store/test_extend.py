"""More rows or another modality for a packed dataset: equal to packing all at once, and the old one stays."""

import hashlib
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynfusion.store import extend as extending
from dynfusion.store.dataset import Dataset, open_dataset
from dynfusion.store.extend import extend
from dynfusion.store.files import Files
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings, open_inputs
from dynfusion.store.pack_passes import read_sources
from dynfusion.store.verify import verify
from tests.store.sources import DIMS, vectors, write_folder

SETTINGS = PackSettings(holdout=0.2, shard_bytes=4_000, block_rows=16)
IDS = [f"m{row:05d}" for row in range(600)]


def sources(folder: Path, rows: slice, names: tuple[str, ...] = tuple(DIMS)) -> PackInputs:
    """Some rows of the same 600 molecules, with labels."""
    made = {}
    for number, name in enumerate(names):
        made[name] = write_folder(folder / name, vectors(600, DIMS[name], seed=list(DIMS).index(name))[rows], IDS[rows])
        if number == 0:
            (made[name] / "groups.txt").write_text("".join(f"g{row // 3}\n" for row in range(600)[rows]))
    lines = [f"{IDS[row]},{row % 2}" for row in range(600)[rows]]
    (folder / "table.csv").write_text("\n".join(["id,y", *lines]) + "\n")
    return PackInputs(made, table=folder / "table.csv", labels=("y",))


def content(dataset: Dataset) -> dict[str, tuple]:
    """Everything that is known of each molecule, by id."""
    found = {}
    for part in ("train", "holdout"):
        read = dataset.read(part)
        for place, row in enumerate(dataset.table(part).to_pylist()):
            cells = tuple(read.values[name][place].tobytes() for name in sorted(read.values))
            present = tuple(sorted(zip(dataset.manifest.names, read.present[place].tolist(), strict=True)))
            found[row["id"]] = (part, tuple(sorted(row.items())), cells, present)
    for row in dataset.table("dropped").to_pylist():
        found[row["id"]] = ("dropped", tuple(sorted(row.items())))
    return found


def bytes_of(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_added_rows_come_as_new_shards_and_the_old_dataset_stays(tmp_path: Path) -> None:
    old = pack(sources(tmp_path / "old", slice(0, 400)), out=tmp_path / "packed", settings=SETTINGS)
    before = bytes_of(tmp_path / "packed")
    address = extend(sources(tmp_path / "new", slice(400, 600)), tmp_path / "packed", settings=SETTINGS)
    assert address == f"{tmp_path / 'packed'}/manifest-1.json"
    after = bytes_of(tmp_path / "packed")
    assert {name: digest for name, digest in after.items() if name in before} == before
    assert open_dataset(tmp_path / "packed").manifest == old
    assert verify(address) == verify(tmp_path / "packed") == []
    whole = pack(sources(tmp_path / "all", slice(0, 600)), out=tmp_path / "whole", settings=SETTINGS)
    new = open_dataset(address)
    assert content(new) == content(open_dataset(tmp_path / "whole"))
    full = [shard for shard in old.shards if shard.rows % old.block_rows == 0]
    assert len(full) == len(old.shards) - 1 > 3
    assert new.manifest.shards[: len(full)] == tuple(full)
    assert (new.manifest.rows, new.manifest.absent) == (whole.rows, whole.absent)
    assert new.manifest.extends == old.fingerprint
    for one, other in zip(new.manifest.modalities, whole.modalities, strict=True):
        assert one.present_rows == other.present_rows
        assert (one.minimum, one.maximum) == (other.minimum, other.maximum)
        np.testing.assert_allclose(one.mean, other.mean, atol=1e-12)
        np.testing.assert_allclose(one.std, other.std, rtol=1e-10)
    starts = np.cumsum([0, *(shard.rows for shard in new.manifest.shards)])
    assert all(start % new.manifest.block_rows == 0 for start in starts[:-1])


def test_an_added_modality_gives_the_pack_of_all_at_once(tmp_path: Path) -> None:
    pack(sources(tmp_path / "old", slice(0, 600), ("tall", "odd")), out=tmp_path / "packed", settings=SETTINGS)
    third = PackInputs({"wide": write_folder(tmp_path / "wide", vectors(600, 16, seed=2), IDS)})
    new = open_dataset(extend(third, tmp_path / "packed", settings=SETTINGS))
    pack(sources(tmp_path / "all", slice(0, 600)), out=tmp_path / "whole", settings=SETTINGS)
    whole = open_dataset(tmp_path / "whole")
    assert content(new) == content(whole)
    assert [shard.sha256 for shard in new.manifest.shards] == [shard.sha256 for shard in whole.manifest.shards]
    assert new.manifest.modalities == whole.manifest.modalities


def test_cells_for_old_rows_fill_gaps_and_twice_given_ones_are_duplicates(tmp_path: Path) -> None:
    ids = ["a", "b", "c", "d"]
    one = {
        "x": write_folder(tmp_path / "x", np.ones((4, 2), np.float32), ids),
        "y": write_folder(tmp_path / "y", np.ones((2, 3), np.float32), ids[:2]),
    }
    pack(PackInputs(one), out=tmp_path / "packed")
    rest = PackInputs({"y": write_folder(tmp_path / "rest", np.full((3, 3), 2, np.float32), ["c", "d", "e"])})
    filled = extend(rest, tmp_path / "packed")
    again = PackInputs({"y": write_folder(tmp_path / "again", np.full((2, 3), 3, np.float32), ["a", "f"])})
    with pytest.raises(
        ValueError, match=r"modality y: .*again gives ids that the data set has already \(1 of them, such as 'a'\)"
    ):
        extend(again, filled)
    last = open_dataset(extend(again, filled, settings=PackSettings(on_duplicate="last")))
    assert last.uri.endswith("manifest-2.json")
    found = dict(zip(last.table("train")["id"].to_pylist(), last.read("train").values["y"][:, 0].tolist(), strict=True))
    assert found == {"a": 3, "b": 1, "c": 2, "d": 2, "e": 2, "f": 3}


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[Path, PackInputs]:
    """A packed dataset with a label y of a, b and c (b's is unknown), and a new row x with a table of z for all."""
    old = write_folder(tmp_path / "old", np.ones((3, 2), np.float16), ["a", "b", "c"])
    (tmp_path / "old.csv").write_text("id,smiles,y\na,C,1\nb,CC,\nc,CCC,3\n")
    pack(PackInputs({"m": old}, table=tmp_path / "old.csv", labels=("y",)), out=tmp_path / "packed")
    (tmp_path / "new.csv").write_text("id,z\na,10\nb,20\nx,30\n")
    new = write_folder(tmp_path / "new", np.ones((1, 2), np.float16), ["x"])
    return tmp_path / "packed", PackInputs({"m": new}, table=tmp_path / "new.csv", labels=("z",))


def known(address: str) -> dict[str, tuple]:
    rows = open_dataset(address).table("train").to_pylist()
    return {row["id"]: (row["smiles"], row["y"], row["z"]) for row in rows}


@pytest.mark.parametrize("rule", ["error", "first", "last"])
def test_new_labels_for_old_rows_leave_the_old_ones(labelled: tuple[Path, PackInputs], rule: str) -> None:
    address = extend(labelled[1], labelled[0], settings=PackSettings(on_duplicate=rule))
    expected = {"a": ("C", 1, 10), "b": ("CC", None, 20), "c": ("CCC", 3, None), "x": (None, None, 30)}
    assert known(address) == expected
    assert open_dataset(address).manifest.label_columns == ("y", "z")
    assert verify(address) == []


def test_rows_added_without_labels_have_the_columns_of_full_shards(tmp_path: Path) -> None:
    old = sources(tmp_path / "old", slice(0, 96))
    pack(old, out=tmp_path / "packed", settings=PackSettings(block_rows=16))
    new = sources(tmp_path / "new", slice(96, 112))
    first = extend(PackInputs(new.modalities), tmp_path / "packed")
    kept = open_dataset(tmp_path / "packed").manifest.shards
    assert open_dataset(first).manifest.shards[: len(kept)] == kept
    assert open_dataset(first).table("train")["y"].null_count == 16
    again = PackInputs({"tall": new.modalities["tall"]}, table=new.table, labels=("y",))
    second = open_dataset(extend(again, first, settings=PackSettings(on_duplicate="first")))
    assert second.table("train")["y"].null_count == 0


def test_groups_that_come_with_new_rows_are_a_column_of_all(tmp_path: Path) -> None:
    old = write_folder(tmp_path / "old", np.ones((32, 2), np.float16), IDS[:32])
    pack(PackInputs({"m": old}), out=tmp_path / "packed", settings=PackSettings(block_rows=16))
    new = write_folder(tmp_path / "new", np.ones((1, 2), np.float16), ["x"])
    (new / "groups.txt").write_text("g\n")
    extended = open_dataset(extend(PackInputs({"m": new}), tmp_path / "packed"))
    groups = extended.table("train")["group"]
    assert (len(groups), groups.drop_null().to_pylist()) == (33, ["g"])


def test_only_another_value_of_a_label_is_a_duplicate(labelled: tuple[Path, PackInputs]) -> None:
    folder, new = labelled
    table = folder.parent / "changed.csv"
    table.write_text("id,y,z\na,1,10\nb,2,20\nc,4,\nx,,30\n")
    changed = PackInputs(new.modalities, table=table, labels=("y", "z"))
    with pytest.raises(
        ValueError, match=r"gives ids with another y that the data set has already \(1 of them, such as 'c'\)"
    ):
        extend(changed, folder)
    for rule, y in (("first", 3), ("last", 4)):
        found = known(extend(changed, folder, settings=PackSettings(on_duplicate=rule)))
        assert found == {"a": ("C", 1, 10), "b": ("CC", 2, 20), "c": ("CCC", y, None), "x": (None, None, 30)}


def test_the_same_extension_again_finds_it_and_a_killed_one_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pack(sources(tmp_path / "old", slice(0, 400)), out=tmp_path / "packed", settings=SETTINGS)
    new = sources(tmp_path / "new", slice(400, 600))

    class KilledError(BaseException):
        pass

    def killed(*arguments: object) -> None:
        raise KilledError

    monkeypatch.setattr(extending, "write_manifest", killed)
    with pytest.raises(KilledError):
        extend(new, tmp_path / "packed", settings=SETTINGS)
    monkeypatch.undo()
    assert not list((tmp_path / "packed").glob("manifest-*.json"))
    address = extend(new, tmp_path / "packed", settings=SETTINGS)
    first = bytes_of(tmp_path / "packed")
    assert extend(new, tmp_path / "packed", settings=SETTINGS) == address
    assert bytes_of(tmp_path / "packed") == first
    assert verify(address) == []
    assert not [path for path in (tmp_path / "packed").iterdir() if path.name.startswith(".")]


def test_what_does_not_fit_the_base_is_refused(tmp_path: Path) -> None:
    pack(sources(tmp_path / "old", slice(0, 100)), out=tmp_path / "packed", settings=SETTINGS)
    wrong = PackInputs({"tall": write_folder(tmp_path / "wrong", np.ones((2, 3), np.float16), ["a", "b"])})
    with pytest.raises(ValueError, match=r"modality tall: .*wrong has vectors of 3 numbers, .*packed of 6"):
        extend(wrong, tmp_path / "packed")
    with pytest.raises(ValueError, match=r"setting holdout: found 0.5, .*packed holds out 0.2"):
        extend(wrong, tmp_path / "packed", settings=PackSettings(holdout=0.5))
    with pytest.raises(ValueError, match=r"no packed dataset here, manifest-7.json is missing"):
        extend(wrong, f"{tmp_path / 'packed'}/manifest-7.json")


def test_of_two_extensions_at_once_the_second_is_told_and_then_gets_the_next_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "packed"
    pack(sources(tmp_path / "old", slice(0, 100)), out=place, settings=SETTINGS)
    one, other = (sources(tmp_path / str(at), slice(at, at + 50)) for at in (100, 150))
    begun, go_on, made = threading.Event(), threading.Event(), list[str]()

    def slowly(inputs: PackInputs, files: Files, **more: Any) -> object:
        if inputs is one:
            begun.set()
            assert go_on.wait(60)
        return open_inputs(inputs, files, **more)

    monkeypatch.setattr(extending, "open_inputs", slowly)
    first = threading.Thread(target=lambda: made.append(extend(one, place, settings=SETTINGS)))
    first.start()
    try:
        assert begun.wait(60)
        with pytest.raises(ValueError, match=r"packed: another process is extending it"):
            extend(other, place, settings=SETTINGS)
    finally:
        go_on.set()
        first.join()
    published = bytes_of(place)
    assert extend(other, place, settings=SETTINGS) == f"{place}/manifest-2.json"
    assert made == [f"{place}/manifest-1.json"]
    assert published.items() <= bytes_of(place).items()
    assert verify(made[0]) == verify(f"{place}/manifest-2.json") == []
    assert not list(place.glob(".*"))


def test_a_manifest_that_appears_meanwhile_is_never_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = tmp_path / "packed"
    pack(sources(tmp_path / "old", slice(0, 100)), out=place, settings=SETTINGS)
    new = sources(tmp_path / "new", slice(100, 200))

    def meanwhile(inputs: PackInputs, files: Files, **more: Any) -> object:
        (place / "manifest-1.json").write_text("of a machine that sees no lock")
        (place / "inputs-1.json").write_text("other")
        return open_inputs(inputs, files, **more)

    monkeypatch.setattr(extending, "open_inputs", meanwhile)
    before = bytes_of(place)
    with pytest.raises(ValueError, match=r"packed: another extension has become its manifest-1.json meanwhile"):
        extend(new, place, settings=SETTINGS)
    monkeypatch.undo()
    after = bytes_of(place)
    assert after.keys() - before.keys() == {"manifest-1.json", "inputs-1.json"}
    assert extend(new, place, settings=SETTINGS) == f"{place}/manifest-2.json"
    assert after.items() <= bytes_of(place).items()


def test_a_run_killed_while_it_reads_every_row_again_goes_on_with_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = (
        sources(tmp_path / "old", slice(0, 400)),
        sources(tmp_path / "new", slice(350, 500)),
    )
    settings = SETTINGS.model_copy(update={"on_duplicate": "last"})
    for place in ("packed", "undisturbed"):
        pack(old, out=tmp_path / place, settings=settings)

    class KilledError(BaseException):
        pass

    reads = list[int]()

    def killed(work: object) -> None:
        reads.append(1)
        read_sources(work)  # type: ignore[arg-type]
        if len(reads) == 2:
            raise KilledError

    monkeypatch.setattr(extending, "read_sources", killed)
    with pytest.raises(KilledError):
        extend(new, tmp_path / "packed", settings=settings)
    address = extend(new, tmp_path / "packed", settings=settings)
    assert len(reads) == 3
    assert bytes_of(tmp_path / "packed") == bytes_of(
        Path(extend(new, tmp_path / "undisturbed", settings=settings)).parent
    )
    assert verify(address) == []
