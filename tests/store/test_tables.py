"""What a table says of the sources' molecules: splits, labels, and ids that nothing else has."""

from pathlib import Path

import numpy as np
import pytest

from dynfusion.store.dataset import open_dataset
from dynfusion.store.extend import extend
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from tests.store.sources import write_folder

IDS = [f"m{row}" for row in range(40)]


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "m", np.ones((40, 2), np.float16), IDS)


def table(path: Path, lines: list[str]) -> Path:
    path.write_text("\n".join(lines) + "\n")
    return path


def packed(tmp_path: Path, source: Path, lines: list[str], **more: object) -> list[str]:
    """What pack said of a table with these lines."""
    said: list[str] = []
    pack(PackInputs({"m": source}, table=table(tmp_path / "t.csv", lines), **more), out=tmp_path / "p", say=said.append)
    return said


def test_split_rows_among_the_training_rows_are_counted_aloud(tmp_path: Path, source: Path) -> None:
    names = ["train"] * 30 + ["test"] * 7 + ["valid"] * 2
    said = packed(tmp_path, source, ["id,s", *(f"{i},{s}" for i, s in zip(IDS, names, strict=False))], split_column="s")
    assert len(said) == 1
    assert said[0].startswith("split column s: among the training rows of this pack are 30 train, 2 valid, 7 test;")


def test_a_split_of_training_rows_alone_is_not_worth_a_line(tmp_path: Path, source: Path) -> None:
    assert packed(tmp_path, source, ["id,s", *(f"{i},train" for i in IDS)], split_column="s") == []


def test_usual_spellings_of_a_split_are_one(tmp_path: Path, source: Path) -> None:
    spelt = {
        "Training": "train",
        "TRAIN": "train",
        "val": "valid",
        "Validation": "valid",
        "dev": "valid",
        "Test": "test",
    }
    lines = [f"{i},{spelling}" for i, spelling in zip(IDS, spelt, strict=False)]
    packed(tmp_path, source, ["id,s", *lines], split_column="s")
    rows = open_dataset(tmp_path / "p").table("train").to_pylist()
    found = {row["id"]: row["s"] for row in rows}
    assert [found[i] for i in IDS[: len(spelt)]] == list(spelt.values())
    assert found[IDS[-1]] is None


def test_an_unknown_split_is_refused_by_id_and_value(tmp_path: Path, source: Path) -> None:
    with pytest.raises(
        ValueError, match=r"t.csv, column s, holds 'fold-3' for id 'm1', allowed are train, valid, test"
    ):
        packed(tmp_path, source, ["id,s", "m0,train", "m1,fold-3"], split_column="s")


def test_a_table_of_other_ids_is_refused_and_one_of_some_is_told(tmp_path: Path, source: Path) -> None:
    with pytest.raises(ValueError, match=r"t.csv, column id, has 2 ids and none of them is in a modality"):
        packed(tmp_path, source, ["id,y", "M0,1", "M1,0"], labels=("y",))
    said = packed(tmp_path, source, ["id,y", "m0,1", "m0,1", "x,0", "y,1"], labels=("y",))
    assert said == [
        f"table {tmp_path / 't.csv'}, column id, has 3 ids, 1 of them in a modality; 2 rows have none and are kept "
        "without vectors"
    ]


def test_the_table_of_an_extension_is_matched_against_old_and_new_rows(tmp_path: Path, source: Path) -> None:
    packed(tmp_path, source, ["id,y", *(f"{i},1" for i in IDS)], labels=("y",))
    new = write_folder(tmp_path / "new", np.ones((1, 2), np.float16), ["n"])
    said: list[str] = []
    inputs = PackInputs({"m": new}, table=table(tmp_path / "n.csv", ["id,z", "n,1", "m3,2", "q,3"]), labels=("z",))
    extend(inputs, tmp_path / "p", say=said.append)
    assert [sentence.partition(" has ")[2][:30] for sentence in said] == ["3 ids, 2 of them in a modality"[:30]]
    inputs = PackInputs({"m": new}, table=table(tmp_path / "n.csv", ["id,z", "q,3"]), labels=("z",))
    with pytest.raises(ValueError, match=r"n.csv, column id, has 1 ids and none of them is in a modality"):
        extend(inputs, tmp_path / "p")


@pytest.mark.parametrize(("old", "new"), [("1", "active")])
def test_a_label_of_another_kind_than_the_base_s_is_refused_by_name(
    tmp_path: Path, source: Path, old: str, new: str
) -> None:
    packed(tmp_path, source, ["id,y", f"m0,{old}"], labels=("y",))
    more = write_folder(tmp_path / "new", np.ones((1, 2), np.float16), ["n"])
    inputs = PackInputs({"m": more}, table=table(tmp_path / "n.csv", ["id,y", f"n,{new}"]), labels=("y",))
    kinds = ("text", "numbers") if old == "1" else ("numbers", "text")
    with pytest.raises(ValueError, match=rf"n.csv, column y, holds {kinds[0]} where .*p has {kinds[1]}"):
        extend(inputs, tmp_path / "p")


def test_settings_that_the_base_decides_are_refused_when_they_differ(tmp_path: Path, source: Path) -> None:
    pack(PackInputs({"m": source}), out=tmp_path / "p", settings=PackSettings(seed=3, block_rows=16))
    new = PackInputs({"m": write_folder(tmp_path / "new", np.ones((1, 2), np.float16), ["n"])})
    with pytest.raises(ValueError, match=r"setting seed: found 4, .*p was shuffled by 3"):
        extend(new, tmp_path / "p", settings=PackSettings(seed=4))
    with pytest.raises(ValueError, match=r"setting block_rows: found 32, .*p has blocks of 16 rows"):
        extend(new, tmp_path / "p", settings=PackSettings(block_rows=32))
    address = extend(new, tmp_path / "p", settings=PackSettings(seed=3, block_rows=16, lanes=2))
    assert open_dataset(address).manifest.lanes == 2


def test_an_id_that_the_base_has_is_told_from_one_given_twice(tmp_path: Path, source: Path) -> None:
    packed(tmp_path, source, ["id,y", *(f"{i},1" for i in IDS)], labels=("y",))
    both = write_folder(tmp_path / "both", np.ones((4, 2), np.float16), ["a", "a", "m5", "m6"])
    with pytest.raises(
        ValueError, match=r"both gives ids that the data set has already \(2 of them, such as 'm[56]'\), --on-duplicate"
    ):
        extend(PackInputs({"m": both}), tmp_path / "p")
    twice = write_folder(tmp_path / "twice", np.ones((2, 2), np.float16), ["a", "a"])
    with pytest.raises(ValueError, match=r"twice has duplicate ids \(1 of them, such as 'a', 2 times\)"):
        extend(PackInputs({"m": twice}), tmp_path / "p")


def test_splits_of_an_older_data_set_are_spelt_as_today(
    tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = table(tmp_path / "t.csv", ["id,s", "m0,Training"])
    with monkeypatch.context() as patch:
        patch.setattr("dynfusion.store.table._split", lambda column, ids, where: column)
        settings = PackSettings(block_rows=8)
        pack(PackInputs({"m": source}, table=old, split_column="s"), out=tmp_path / "old", settings=settings)
    more = table(tmp_path / "u.csv", ["id,s", "m0,train", "m1,Test"])
    address = extend(PackInputs({"n": source}, table=more, split_column="s"), tmp_path / "old")
    assert set(open_dataset(address).table("train")["s"].to_pylist()) <= {"train", "test", None}
    new = write_folder(tmp_path / "new", np.ones((1, 2), np.float16), ["z"])
    address = extend(PackInputs({"m": new}), tmp_path / "old")
    assert "Training" not in open_dataset(address).table("train")["s"].to_pylist()


def test_labels_that_the_base_has_as_text_are_read_as_text(tmp_path: Path, source: Path) -> None:
    old = table(tmp_path / "t.csv", ["id,y", "m0,active"])
    pack(PackInputs({"m": source}, table=old, labels=("y",)), out=tmp_path / "old")
    new = write_folder(tmp_path / "new", np.ones((1, 2), np.float16), ["z"])
    for value in ("", "2"):
        more = table(tmp_path / f"u{value}.csv", ["id,y", f"z,{value}"])
        address = extend(PackInputs({"m": new}, table=more, labels=("y",)), tmp_path / "old")
        found = open_dataset(address).table("train")
        assert dict(zip(found["id"].to_pylist(), found["y"].to_pylist(), strict=True))["z"] == (value or None)
