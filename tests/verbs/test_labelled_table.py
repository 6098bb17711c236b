import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynfusion.evaluation.tasks.task import read_task
from dynfusion.store.dataset import open_dataset
from dynfusion.verbs.labelled_table import TableColumns, pack_table, parse_tasks


def write(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_csv_becomes_a_task_with_its_split_and_an_unreadable_molecule_kept(tmp_path):
    rows = [f"{'C' * (row % 5 + 1)}O,{row % 2},{'test' if row % 3 == 0 else 'train'}" for row in range(12)]
    path = write(tmp_path / "mine.csv", "smiles,active,split", [*rows, "not a molecule,1,test"])
    uri = pack_table("mine", path, encoders=("morgan",), out=tmp_path / "out")
    task = read_task("mine", open_dataset(uri))
    assert len(task.ids) == 13
    assert (~task.present.any(axis=1)).sum() == 1
    assert task.split_name == "given"
    assert (task.label_names, task.kind) == (("active",), "binary")
    assert pack_table("mine", path, encoders=("morgan",), out=tmp_path / "out") == uri


def test_a_model_without_local_encoders_and_a_csv_without_labels_are_refused(tmp_path):
    path = write(tmp_path / "mine.csv", "smiles,active", ["CO,1", "CCO,0"])
    with pytest.raises(ValueError, match="the model's modality smi-ted has no local encoder"):
        pack_table("mine", path, encoders=("smi-ted",), out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"bare\.csv: found 0 columns of 0 and 1"):
        pack_table("mine", write(tmp_path / "bare.csv", "smiles", ["CO"]), encoders=("morgan",), out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"gone\.csv: no such file"):
        pack_table("mine", tmp_path / "gone.csv", encoders=("morgan",), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tasks_are_name_and_place_each_name_once():
    assert parse_tasks("a=packed/a, b=b.csv") == {"a": "packed/a", "b": "b.csv"}
    with pytest.raises(ValueError, match="tasks: found 'packed/a', expected NAME=URI or a CSV or Parquet file"):
        parse_tasks("packed/a")
    with pytest.raises(ValueError, match="tasks: a is given twice"):
        parse_tasks("a=x,a=y")


def test_a_table_without_a_name_has_that_of_its_file():
    assert parse_tasks("sets/bace.csv,mine=packed/x,v2.1.parquet") == {
        "bace": "sets/bace.csv",
        "mine": "packed/x",
        "v2.1": "v2.1.parquet",
    }
    with pytest.raises(ValueError, match="tasks: bace is given twice"):
        parse_tasks("sets/bace.csv,bace.parquet")


def test_a_parquet_file_with_columns_of_other_names_becomes_a_regression_task(tmp_path):
    measured = [0.25 * row if row != 4 else None for row in range(10)]
    table = pa.table(
        {
            "compound": pa.array(range(100, 110)),
            "structure": ["C" * (row + 1) + "O" for row in range(10)],
            "logS": pa.array(measured, pa.float32()),
            "pKa": pa.array([7.0] * 10),
            "fold": pa.array(["Test" if row % 3 == 0 else "training" for row in range(10)]).dictionary_encode(),
        }
    )
    pq.write_table(table, tmp_path / "assay.parquet")
    columns = TableColumns(smiles="structure", id="compound", split="fold", labels=("logS",))
    uri = pack_table("assay", tmp_path / "assay.parquet", encoders=("morgan",), out=tmp_path / "out", columns=columns)
    task = read_task("assay", open_dataset(uri))
    assert task.ids.tolist() == [str(number) for number in range(100, 110)]
    assert task.smiles[0] == "CO"
    assert (task.kind, task.label_names, task.split_name) == ("regression", ("logS",), "given")
    np.testing.assert_array_equal(task.labels[:, 0], [np.nan if one is None else one for one in measured])
    assert (task.split == "test").tolist() == [row % 3 == 0 for row in range(10)]
    for wrong, option in ((TableColumns(), "smiles-column"), (TableColumns("structure", id="name"), "id-column")):
        with pytest.raises(ValueError, match=rf"assay\.parquet: no column '\w+' for --{option}, it has compound"):
            pack_table("assay", tmp_path / "assay.parquet", encoders=("morgan",), out=tmp_path, columns=wrong)


def test_a_moleculenet_set_knows_its_labels(tmp_path):
    path = write(tmp_path / "clintox.csv", "id,smiles,FDA_APPROVED,CT_TOX,split", ["a,CO,1,0,train", "b,CCO,0,1,test"])
    task = read_task("clintox", open_dataset(pack_table("clintox", path, encoders=("morgan",), out=tmp_path / "out")))
    assert task.label_names == ("FDA_APPROVED", "CT_TOX")
    assert task.ids.tolist() == ["a", "b"]


def test_labels_that_cannot_be_told_are_asked_for(tmp_path):
    path = write(tmp_path / "two.csv", "smiles,active,ring,group", ["CO,1,0,a", "CCO,0,1,b", "CCCO,0,1,a"])
    with pytest.raises(ValueError, match=r"two\.csv: found 2 columns of 0 and 1 \(active, ring\) .* name the labels"):
        pack_table("two", path, encoders=("morgan",), out=tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"two\.csv: no column 'actve' for --labels, it has smiles, active, ring, group"
    ):
        pack_table("two", path, encoders=("morgan",), out=tmp_path / "out", columns=TableColumns(labels=("actve",)))
    with pytest.raises(
        ValueError, match=r"two\.csv: found smiles in --labels, allowed is any column but smiles, id, split"
    ):
        pack_table("two", path, encoders=("morgan",), out=tmp_path / "out", columns=TableColumns(labels=("smiles",)))
    task = read_task(
        "two",
        open_dataset(
            pack_table("two", path, encoders=("morgan",), out=tmp_path, columns=TableColumns(labels=("ring",)))
        ),
    )
    assert task.label_names == ("ring",)
