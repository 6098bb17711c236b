import pickle
from pathlib import Path
from typing import Literal

import numpy as np
import pytest

from dynfusion.encoders.folder import read_folder
from dynfusion.store.reasons import Reason
from dynfusion.verbs.embed import embed

GOOD = 'name,smiles\nethanol,CCO\n"benzene, pure", c1ccccc1 \n'


def run(
    tmp_path: Path,
    content: str | bytes,
    *,
    id_column: str | None = "name",
    on_bad: Literal["error", "absent"] = "error",
) -> Path:
    table = tmp_path / "molecules.csv"
    table.write_bytes(content.encode() if isinstance(content, str) else content)
    return embed(
        table,
        smiles_column="smiles",
        id_column=id_column,
        encoder="morgan",
        out=tmp_path / "out",
        workers=1,
        on_bad=on_bad,
    )


def test_a_csv_becomes_a_folder_row_for_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = read_folder(run(tmp_path, "\ufeff" + GOOD))
    assert folder.ids == ("ethanol", "benzene, pure")
    assert folder.smiles == ("CCO", "c1ccccc1")
    assert folder.reasons.tolist() == [Reason.PRESENT, Reason.PRESENT]
    assert capsys.readouterr().out.startswith("embed molecules.csv with morgan: done in ")


def test_without_an_id_column_rows_are_numbered(tmp_path: Path) -> None:
    assert read_folder(run(tmp_path, GOOD, id_column=None)).ids == ("1", "2")


def test_bad_rows_are_absent_when_asked_for(tmp_path: Path) -> None:
    folder = read_folder(run(tmp_path, "name,smiles\na,CCO\nb,C1CC\nc,\n", on_bad="absent"))
    assert folder.reasons.tolist() == [Reason.PRESENT, Reason.FAILED, Reason.NOT_GIVEN]
    assert np.isnan(folder.values[1:]).all()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ("name,smiles\na,CCO\nb,C1CC\n", r"molecules\.csv, row 2, id 'b': SMILES 'C1CC' cannot be read"),
        ("name,smiles\na,CCO\nb,\n", r"molecules\.csv, row 2, id 'b': the SMILES is empty"),
        ("name,smiles\na,CCO\na,CC\n", r"molecules\.csv, row 2: id 'a' was already used in row 1"),
        ("name,smiles\n,CCO\n", r"molecules\.csv, row 1: the id is empty"),
        ("", r"molecules\.csv: the file is empty, expected a header and at least one row"),
        ("name,smiles\n", r"molecules\.csv: no row under the header"),
        ("name,smiles\na,\nb, \n", r"molecules\.csv: column 'smiles' is empty in all 2 rows"),
        ("name,SMILES\na,CCO\n", r"molecules\.csv: column 'smiles' found 0 times, columns are name, SMILES"),
        ("id,smiles\na,CCO\n", r"molecules\.csv: column 'name' found 0 times, columns are id, smiles"),
        ("name,smiles,smiles\na,C,C\n", r"molecules\.csv: column 'smiles' found 2 times"),
        ("name,smiles\na,CCO\nb\n", r"molecules\.csv, row 2: 1 fields, but the header has 2"),
        (pickle.dumps({"smiles": ["C"]}), r"molecules\.csv: not readable as a UTF-8 CSV file"),
        (b"name,smiles\na,\xff\xfe\n", r"molecules\.csv: not readable as a UTF-8 CSV file"),
    ],
)
def test_bad_input_is_named_in_one_sentence_and_leaves_nothing(
    tmp_path: Path, content: str | bytes, sentence: str
) -> None:
    with pytest.raises(ValueError, match=sentence):
        run(tmp_path, content)
    assert [file.name for file in tmp_path.iterdir()] == ["molecules.csv"]


def test_a_missing_file_and_a_folder_are_refused(tmp_path: Path) -> None:
    for path, found in ((tmp_path / "none.csv", "no such file"), (tmp_path, "is a folder")):
        with pytest.raises(ValueError, match=f"{path.name}: {found}, expected a CSV file with a header"):
            embed(path, smiles_column="smiles", id_column=None, encoder="morgan", out=tmp_path / "out", workers=1)
