"""What a newcomer's files and commands have: blank last lines, tabs, odd bytes, addresses of other stores."""

from pathlib import Path

import numpy as np
import pytest

from dynfusion.store.dataset import open_dataset
from dynfusion.store.files import LOCAL
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs
from dynfusion.store.text_lines import read_lines
from dynfusion.verbs.pack import pack as pack_verb
from tests.store.sources import write_folder

IDS = ["a", "b", "c"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "m", np.ones((3, 2), np.float32), IDS)


def packed_ids(folder: Path) -> list[str]:
    pack(PackInputs({"m": folder}), out=folder.parent / "packed")
    return sorted(open_dataset(folder.parent / "packed").table("train")["id"].to_pylist())


@pytest.mark.parametrize("end", ["\n\n", "\n\n\n", "\r\n\r\n", "\n  \n", "\n "])
def test_blank_lines_behind_the_last_id_are_no_rows(folder: Path, end: str) -> None:
    (folder / "ids.txt").write_bytes(("a\nb\nc" + end).encode())
    assert packed_ids(folder) == IDS


def test_blank_lines_that_are_rows_stay_rows(folder: Path) -> None:
    (folder / "smiles.txt").write_text("C\n\n\n")
    assert packed_ids(folder) == IDS
    assert open_dataset(folder.parent / "packed").table("train")["smiles"].null_count == 2


def test_a_blank_line_for_an_id_is_still_refused(folder: Path) -> None:
    (folder / "ids.txt").write_text("a\nb\n\n")
    with pytest.raises(ValueError, match=r"ids.txt has no id in row 2"):
        packed_ids(folder)
    (folder / "ids.txt").write_text("a\nb\n")
    with pytest.raises(ValueError, match=r"ids.txt has 2 rows, embeddings.npy has 3"):
        packed_ids(folder)


def test_blank_last_lines_are_counted(tmp_path: Path) -> None:
    for text, rows, blank in (("a", 1, 0), ("a\n", 1, 0), ("a\n\n", 2, 1), ("a\n\nb\n \n\n", 5, 2), ("\n\n", 2, 0)):
        (tmp_path / "x").write_text(text)
        found = read_lines("m", str(tmp_path / "x"), LOCAL, every=2)
        assert (found.rows, found.blank) == (rows, blank)


def test_a_tsv_is_a_csv_of_tabs(tmp_path: Path, folder: Path) -> None:
    (tmp_path / "x.tsv").write_text("id\tf0\tf1\na\t1\t2\nb\t3\t4\n")
    (tmp_path / "t.tsv").write_text("id\tsmiles\ty\na\tC,C\t1\nb\tCC\t\n")
    inputs = PackInputs({"m": folder, "n": tmp_path / "x.tsv"}, table=tmp_path / "t.tsv", labels=("y",))
    pack(inputs, out=tmp_path / "packed")
    rows = {row["id"]: row for row in open_dataset(tmp_path / "packed").table("train").to_pylist()}
    assert (rows["a"]["smiles"], rows["a"]["y"], rows["b"]["y"]) == ("C,C", 1.0, None)
    assert open_dataset(tmp_path / "packed").manifest.modalities[1].features == ("f0", "f1")


def test_ids_in_sentences_are_printable(folder: Path) -> None:
    np.save(folder / "embeddings.npy", np.array([[1, 2], [np.inf, 1], [1, 1]], np.float32))
    (folder / "ids.txt").write_text("a\n\x1b[31mred\nc\n")
    with pytest.raises(ValueError, match=r"\(ids \\x1b\[31mred\)"):
        packed_ids(folder)


def test_an_encoder_that_is_not_text_is_named(folder: Path) -> None:
    (folder / "encoder.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"modality m: .*encoder.txt is not UTF-8 text, byte 3 is wrong"):
        packed_ids(folder)


@pytest.mark.parametrize("scheme", ["gs", "az", "http"])
def test_addresses_of_other_stores_are_told_what_there_is(tmp_path: Path, folder: Path, scheme: str) -> None:
    known = rf"found {scheme}://, known are local (paths|folders), file:// and s3:// addresses"
    with pytest.raises(ValueError, match=known):
        pack_verb(modalities=[f"m={scheme}://bucket/m"], out=str(tmp_path / "packed"))
    with pytest.raises(ValueError, match=known):
        pack_verb(modalities=[f"m={folder}"], out=f"{scheme}://bucket/packed")
    with pytest.raises(ValueError, match=known):
        open_dataset(f"{scheme}://bucket/packed")


@pytest.mark.parametrize("memory", ["0", "0.1", "inf", "nan"])
def test_too_little_memory_is_told_by_the_option_s_name(tmp_path: Path, folder: Path, memory: str) -> None:
    with pytest.raises(ValueError, match=rf"--memory-gb: found {memory}, at least 0.375 is needed"):
        pack_verb(modalities=[f"m={folder}"], out=str(tmp_path / "packed"), memory_gb=float(memory))
