import hashlib
import sys
from pathlib import Path

import numpy as np
import pytest

from dynfusion.encoders.embed import CHUNK_ROWS, ENCODERS, embed
from dynfusion.encoders.folder import copy_without, read_folder, written_whole
from dynfusion.store.reasons import Reason

IDS = ["m1", "m2", "m3"]
SMILES = ["CCO", "C[C@H](N)C(=O)O", "c1ccccc1"]


def digests(folder: Path) -> dict[str, str]:
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(folder.iterdir())}


@pytest.mark.parametrize("name", ENCODERS)
def test_a_folder_reads_back_as_it_was_encoded(tmp_path: Path, name: str) -> None:
    folder = read_folder(embed(IDS, SMILES, encoder=name, out=tmp_path / "out"))
    np.testing.assert_array_equal(folder.values, ENCODERS[name].encode(SMILES).values.astype(np.float16))
    assert folder.values.dtype == np.float16
    assert folder.reasons.tolist() == [Reason.PRESENT] * 3
    assert (folder.ids, folder.smiles) == (tuple(IDS), tuple(SMILES))
    assert folder.groups == ("CCO", "CC(N)C(=O)O", "c1ccccc1")
    assert folder.encoder.startswith(f"{name} ")
    assert "rdkit=" in folder.encoder


def test_two_processes_write_the_same_bytes_as_one_and_count_every_row(tmp_path: Path) -> None:
    smiles = ["C" * length + "O" for length in range(1, 2 * CHUNK_ROWS + 3)]
    ids = [f"m{row}" for row in range(len(smiles))]
    seen: list[tuple[int, int]] = []
    one = embed(ids, smiles, encoder="morgan", out=tmp_path / "one")
    two = embed(
        ids, smiles, encoder="morgan", out=tmp_path / "two", workers=2, progress=lambda *rows: seen.append(rows)
    )
    assert digests(one) == digests(two)
    assert [done for done, _ in seen] == [CHUNK_ROWS, 2 * CHUNK_ROWS, len(smiles)]
    assert {total for _, total in seen} == {len(smiles)}


def test_bad_rows_become_absent_when_asked_for_each_with_its_reason(tmp_path: Path) -> None:
    smiles = ["CCO", "", "C1CC", "Cl[I]Cl"]
    folder = read_folder(
        embed(["a", "b", "c", "d"], smiles, encoder="selfies-ngrams", out=tmp_path / "out", on_bad="absent")
    )
    assert folder.reasons.tolist() == [Reason.PRESENT, Reason.NOT_GIVEN, Reason.FAILED, Reason.FAILED]
    assert np.isnan(folder.values).all(axis=1).tolist() == [False, True, True, True]
    assert folder.smiles == tuple(smiles)
    assert folder.groups == ("CCO", "", "", "Cl[I]Cl")


def test_a_molecule_that_the_encoder_cannot_express_is_no_bad_input(tmp_path: Path) -> None:
    folder = read_folder(embed(["a", "b"], ["CCO", "Cl[I]Cl"], encoder="selfies-ngrams", out=tmp_path / "out"))
    assert folder.reasons.tolist() == [Reason.PRESENT, Reason.FAILED]


@pytest.mark.parametrize("workers", [1, 2])
def test_an_unreadable_smiles_is_named_and_nothing_stays_behind(tmp_path: Path, workers: int) -> None:
    smiles = ["C"] * CHUNK_ROWS + ["CC", "C1CC"]
    ids = [f"m{row}" for row in range(1, len(smiles) + 1)]
    with pytest.raises(
        ValueError, match=f"^row {len(ids)}, id 'm{len(ids)}': SMILES 'C1CC' cannot be read; correct it, or "
    ):
        embed(ids, smiles, encoder="morgan", out=tmp_path / "out", workers=workers)
    assert list(tmp_path.iterdir()) == []


def test_an_empty_smiles_is_named(tmp_path: Path) -> None:
    with pytest.raises(
        ValueError, match=r"^row 2, id 'b': the SMILES is empty; correct it, or let such rows be absent"
    ):
        embed(["a", "b"], ["C", ""], encoder="morgan", out=tmp_path / "out")


def test_repeated_ids_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="row 2: id 'a' was already used in row 1"):
        embed(["a", "a"], ["C", "CC"], encoder="morgan", out=tmp_path / "out")


def test_an_unknown_encoder_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="encoder 'ecfp': unknown, allowed are morgan, descriptors, selfies-ngrams"):
        embed(IDS, SMILES, encoder="ecfp", out=tmp_path / "out")


def test_no_worker_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="workers: found 0, at least 1 is needed"):
        embed(IDS, SMILES, encoder="morgan", out=tmp_path / "out", workers=0)


def test_a_missing_package_is_named_with_the_way_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "selfies", None)
    with pytest.raises(ValueError, match=r"needs the package selfies, install it with pip install dynfusion\[chem\]"):
        embed(IDS, SMILES, encoder="selfies-ngrams", out=tmp_path / "out")


def test_the_same_call_again_keeps_the_folder_and_another_one_is_refused(tmp_path: Path) -> None:
    out = embed(IDS, SMILES, encoder="morgan", out=tmp_path / "out")
    before = {file.name: file.stat().st_mtime_ns for file in out.iterdir()}
    embed(IDS, SMILES, encoder="morgan", out=out)
    assert {file.name: file.stat().st_mtime_ns for file in out.iterdir()} == before
    with pytest.raises(ValueError, match="out: already exists and holds other embeddings"):
        embed(IDS, [*SMILES[:2], "CCN"], encoder="morgan", out=out)
    with pytest.raises(ValueError, match="out: already exists and holds other embeddings"):
        embed(IDS, SMILES, encoder="selfies-ngrams", out=out)


def test_bad_rows_of_an_existing_folder_are_still_refused(tmp_path: Path) -> None:
    out = embed(["a", "b"], ["C", "C1CC"], encoder="morgan", out=tmp_path / "out", on_bad="absent")
    with pytest.raises(ValueError, match="row 2, id 'b': SMILES 'C1CC' cannot be read"):
        embed(["a", "b"], ["C", "C1CC"], encoder="morgan", out=out)


def test_a_folder_is_never_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ValueError, match="out: already exists"), written_whole(tmp_path / "out"):
        pass
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]


def test_a_copy_without_rows_lacks_just_those_and_keeps_older_reasons(tmp_path: Path) -> None:
    source = embed(["a", "b", "c"], ["C", "CC", "C1C"], encoder="morgan", out=tmp_path / "source", on_bad="absent")
    copy = read_folder(copy_without(source, np.array([False, True, True]), out=tmp_path / "copy"))
    assert copy.reasons.tolist() == [Reason.PRESENT, Reason.DROPPED, Reason.FAILED]
    assert np.isnan(copy.values).all(axis=1).tolist() == [False, True, True]
    np.testing.assert_array_equal(copy.values[0], read_folder(source).values[0])
    assert copy.ids == ("a", "b", "c")


def test_a_folder_that_is_none_or_disagrees_with_itself_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"ids.txt: no such file, expected a folder as `dynfusion embed` writes it"):
        read_folder(tmp_path)
    out = embed(IDS, SMILES, encoder="morgan", out=tmp_path / "out")
    np.save(out / "reasons.npy", np.zeros(2, np.uint8))
    with pytest.raises(ValueError, match=r"reasons.npy: 2 rows, but ids.txt in the same folder has 3"):
        read_folder(out)
    (out / "embeddings.npy").write_bytes(b"not an array")
    with pytest.raises(ValueError, match=r"embeddings.npy: not readable as a NumPy array"):
        read_folder(out)
