import pytest

from dynfusion.evaluation.tasks.task import read_task
from dynfusion.store.dataset import open_dataset
from dynfusion.verbs.evaluate import parse_tasks
from dynfusion.verbs.labelled_csv import pack_csv


def write(path, header, rows):
    path.write_text("\n".join([header, *rows]) + "\n")
    return path


def test_a_csv_becomes_a_task_with_its_split_and_an_unreadable_molecule_kept(tmp_path):
    rows = [f"{'C' * (row % 5 + 1)}O,{row % 2},{'test' if row % 3 == 0 else 'train'}" for row in range(12)]
    path = write(tmp_path / "mine.csv", "smiles,active,split", [*rows, "not a molecule,1,test"])
    uri = pack_csv("mine", path, encoders=("morgan",), out=tmp_path / "out")
    task = read_task("mine", open_dataset(uri))
    assert len(task.ids) == 13
    assert (~task.present.any(axis=1)).sum() == 1
    assert task.split_name == "given"
    assert (task.label_names, task.kind) == (("active",), "binary")
    assert pack_csv("mine", path, encoders=("morgan",), out=tmp_path / "out") == uri


def test_a_model_without_local_encoders_and_a_csv_without_labels_are_refused(tmp_path):
    path = write(tmp_path / "mine.csv", "smiles,active", ["CO,1", "CCO,0"])
    with pytest.raises(ValueError, match="the model's modality smi-ted has no local encoder"):
        pack_csv("mine", path, encoders=("smi-ted",), out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"bare\.csv: found 0 columns of 0 and 1"):
        pack_csv("mine", write(tmp_path / "bare.csv", "smiles", ["CO"]), encoders=("morgan",), out=tmp_path / "out")
    with pytest.raises(ValueError, match=r"gone\.csv: no such file"):
        pack_csv("mine", tmp_path / "gone.csv", encoders=("morgan",), out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tasks_are_name_and_place_each_name_once():
    assert parse_tasks("a=packed/a, b=b.csv") == {"a": "packed/a", "b": "b.csv"}
    with pytest.raises(ValueError, match="tasks: found 'packed/a', expected NAME=URI_OR_CSV"):
        parse_tasks("packed/a")
    with pytest.raises(ValueError, match="tasks: a is given twice"):
        parse_tasks("a=x,a=y")


def test_labels_that_cannot_be_told_are_asked_for(tmp_path):
    path = write(tmp_path / "two.csv", "smiles,active,ring,group", ["CO,1,0,a", "CCO,0,1,b", "CCCO,0,1,a"])
    with pytest.raises(ValueError, match=r"two\.csv: found 2 columns of 0 and 1 \(active, ring\) .* name the labels"):
        pack_csv("two", path, encoders=("morgan",), out=tmp_path / "out")
    with pytest.raises(
        ValueError, match=r"two\.csv: no column 'actve' for --labels, it has smiles, active, ring, group"
    ):
        pack_csv("two", path, encoders=("morgan",), out=tmp_path / "out", labels=["actve"])
    task = read_task("two", open_dataset(pack_csv("two", path, encoders=("morgan",), out=tmp_path, labels=["ring"])))
    assert task.label_names == ("ring",)
