import csv

import numpy as np
import pyarrow as pa
import pytest

from dynfusion.evaluation.representations.pool import read_pool
from dynfusion.evaluation.tasks.task import label_array, read_task, split_array
from dynfusion.store.dataset import open_dataset
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings

ROWS = 60


@pytest.fixture
def sources(tmp_path):
    """Two embed folders: `a` lacks every fifth molecule, `b` every third, so some have neither."""
    draws = np.random.default_rng(0)
    values = {}
    for name, dim, every in (("a", 4, 5), ("b", 3, 3)):
        folder = tmp_path / name
        folder.mkdir()
        values[name] = draws.normal(size=(ROWS, dim)).astype(np.float16)
        values[name][::every] = np.nan
        np.save(folder / "embeddings.npy", values[name])
        (folder / "ids.txt").write_text("".join(f"m{row:03d}\n" for row in range(ROWS)))
    return tmp_path, values


def write_table(path, columns):
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["id", *columns])
        writer.writerows([f"m{row:03d}", *(column[row] for column in columns.values())] for row in range(ROWS))


def packed(folder, columns, *, labels, split=None, holdout=0.0, seed=0):
    write_table(folder / "table.csv", columns)
    inputs = PackInputs(
        {name: folder / name for name in ("a", "b")}, folder / "table.csv", labels=labels, split_column=split
    )
    out = folder / f"packed-{seed}-{holdout}"
    pack(inputs, out=out, settings=PackSettings(on_bad="absent", holdout=holdout, seed=seed))
    return open_dataset(out)


SPLIT = ["train" if row % 4 else "test" for row in range(ROWS)]


def test_a_task_holds_every_molecule_whatever_was_dropped_or_held_out(sources):
    folder, values = sources
    dataset = packed(folder, {"y": [row % 2 for row in range(ROWS)], "s": SPLIT}, labels=("y",), split="s", holdout=0.2)
    assert dataset.manifest.dropped_rows == 4
    assert dataset.manifest.holdout_rows > 0
    task = read_task("t", dataset)
    assert task.ids.tolist() == [f"m{row:03d}" for row in range(ROWS)]
    assert task.split.tolist() == SPLIT
    np.testing.assert_array_equal(task.labels[:, 0], [row % 2 for row in range(ROWS)])
    for column, name in enumerate(("a", "b")):
        absent = np.isnan(values[name]).all(axis=1)
        np.testing.assert_array_equal(task.present[:, column], ~absent)
        np.testing.assert_array_equal(task.values[name], np.where(absent[:, None], 0, values[name]))


def test_a_task_does_not_depend_on_how_it_was_shuffled(sources):
    columns = {"y": [row % 2 for row in range(ROWS)], "s": SPLIT}
    first, second = (
        read_task("t", packed(sources[0], columns, labels=("y",), split="s", seed=seed)) for seed in (0, 1)
    )
    assert first.fingerprint() == second.fingerprint()


def test_words_become_classes_and_blanks_stay_missing(sources):
    words = ["" if row == 7 else ("high", "low", "medium")[row % 3] for row in range(ROWS)]
    task = read_task("t", packed(sources[0], {"y": words, "s": SPLIT}, labels=("y",), split="s"))
    assert (task.kind, task.class_names) == ("multiclass", ("high", "low", "medium"))
    assert np.isnan(task.labels[7, 0])
    assert task.labels[:6, 0].tolist() == [0, 1, 2, 0, 1, 2]


def test_several_labels_with_gaps_are_binary_and_real_numbers_are_regression(sources):
    folder, _ = sources
    gaps = ["" if row % 7 == 0 else row % 2 for row in range(ROWS)]
    two = {"y": [row % 2 for row in range(ROWS)], "z": gaps, "s": SPLIT}
    assert read_task("t", packed(folder, two, labels=("y", "z"), split="s")).kind == "binary"
    real = {"y": [row / 7 for row in range(ROWS)], "s": SPLIT}
    assert read_task("t", packed(folder, real, labels=("y",), split="s", seed=2)).kind == "regression"


def test_data_without_labels_are_no_task(sources):
    data = packed(sources[0], {"s": SPLIT}, labels=(), split="s")
    with pytest.raises(ValueError, match=r"task t: .* has no label columns, pack it with --table and --labels"):
        read_task("t", data)
    with pytest.raises(ValueError, match="task t: it has no label column, allowed are data packed with --table"):
        label_array("t", data.table("train"), ())


def test_without_a_split_column_a_hash_of_the_id_decides(sources):
    task = read_task("t", packed(sources[0], {"y": [row % 2 for row in range(ROWS)]}, labels=("y",)))
    assert task.split_name == "hashed"
    assert 4 <= (task.split == "test").sum() <= 22
    assert set(task.split) == {"train", "test"}


def test_a_molecule_without_a_split_belongs_to_no_part(sources):
    some = {"y": [row % 2 for row in range(ROWS)], "s": ["" if row == 3 else SPLIT[row] for row in range(ROWS)]}
    task = read_task("t", packed(sources[0], some, labels=("y",), split="s"))
    assert sum(len(task.rows(part)) for part in ("train", "valid", "test")) == ROWS - 1


def test_what_a_task_must_not_be_is_said_in_one_sentence(sources):
    folder, _ = sources
    labels = {"y": [row % 2 for row in range(ROWS)]}
    without = {**labels, "s": ["train"] * ROWS}
    with pytest.raises(ValueError, match="task t: split column s has no test row"):
        read_task("t", packed(folder, without, labels=("y",), split="s", seed=1))
    with pytest.raises(ValueError, match="has no label columns, pack it with --table and --labels"):
        read_task("t", packed(folder, labels, labels=(), seed=2))


def test_a_pool_is_the_packs_training_rows_with_the_hold_out_behind_them(sources):
    dataset = packed(sources[0], {"y": [0] * ROWS}, labels=(), holdout=0.2)
    statistics = {spec.name: (np.array(spec.mean), np.array(spec.std)) for spec in dataset.manifest.modalities}
    pool = read_pool([dataset], modalities=("b", "a"), statistics=statistics, max_rows=20)
    assert pool.modalities == ("b", "a")
    assert len(pool.present) == 20 + dataset.manifest.holdout_rows
    few = read_pool([dataset], modalities=("b", "a"), statistics=statistics, max_rows=5)
    assert len(few.present) == 5 + min(dataset.manifest.holdout_rows, 5)
    whole = read_pool([dataset], modalities=("a", "b"), statistics=statistics, max_rows=1000)
    train = np.arange(len(whole.present)) < dataset.manifest.rows
    seen = whole.values["a"][train & whole.present[:, 0]]
    np.testing.assert_allclose(seen.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(seen.std(axis=0), 1, atol=1e-3)
    with pytest.raises(ValueError, match="its modalities are a, b, allowed are the model's: a, c"):
        read_pool([dataset], modalities=("a", "c"), statistics=statistics, max_rows=20)


def test_a_row_without_a_split_is_of_no_part():
    table = pa.table({"s": ["train", "test", None]})
    assert split_array("t", table, "s", np.array(["a", "b", "c"]))[0].tolist() == ["train", "test", ""]
