"""What a pack remembers of its inputs: a change of anything that was read is a change of the record."""

import json
from pathlib import Path

import numpy as np
import pytest

from dynfusion.store.files import LOCAL
from dynfusion.store.npy_files import FOLDER_FILES
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings, describe_inputs, see_inputs
from dynfusion.store.run_jobs import run_on_threads
from tests.store.sources import write_folder

VALUES = np.arange(8, dtype=np.float16).reshape(4, 2) + 1


def record(address: Path) -> str:
    inputs = PackInputs({"m": address})
    return describe_inputs(inputs, PackSettings(), see_inputs(inputs, LOCAL))


def test_a_change_in_any_of_several_folders_is_noticed(tmp_path: Path) -> None:
    write_folder(tmp_path / "source" / "a", VALUES, list("abcd"))
    write_folder(tmp_path / "source" / "b", VALUES, list("efgh"))
    pack(PackInputs({"m": tmp_path / "source"}), out=tmp_path / "packed")
    np.save(tmp_path / "source" / "a" / "embeddings.npy", VALUES * 2)
    with pytest.raises(ValueError, match="already holds something else"):
        pack(PackInputs({"m": tmp_path / "source"}), out=tmp_path / "packed")


def test_ids_corrected_beside_a_named_file_are_noticed(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "source", VALUES, list("abcd")) / "embeddings.npy"
    pack(PackInputs({"m": source}), out=tmp_path / "packed")
    (tmp_path / "source" / "ids.txt").write_text("d\nc\nb\na\n")
    with pytest.raises(ValueError, match="already holds something else"):
        pack(PackInputs({"m": source}), out=tmp_path / "packed")


@pytest.mark.parametrize("address", ["embeddings.npy", "", "emb*", "*.npy"])
def test_all_that_counts_beside_vectors_is_in_the_record(tmp_path: Path, address: str) -> None:
    folder = write_folder(tmp_path / "a [1]", VALUES, list("abcd"))
    given = (tmp_path / "a*" if "*" in address else folder) / address
    seen = {record(given)}
    for name in FOLDER_FILES:
        (folder / name).write_bytes(name.encode())
        seen.add(record(given))
    assert len(seen) == 1 + len(FOLDER_FILES)


@pytest.mark.parametrize("address", ["x.npy", "x.*", "?.npy"])
@pytest.mark.parametrize("beside", ["x.ids.txt", "x.ids.npy"])
def test_the_ids_beside_an_array_are_in_the_record(tmp_path: Path, address: str, beside: str) -> None:
    np.save(tmp_path / "x.npy", VALUES)
    (tmp_path / beside).write_text("a\n")
    before = record(tmp_path / address)
    (tmp_path / beside).write_text("b\n")
    assert record(tmp_path / address) != before


def test_a_folder_that_moved_is_the_same_and_files_go_by_their_path_below_it(tmp_path: Path) -> None:
    for name, ids in (("a", "abcd"), ("b", "efgh")):
        write_folder(tmp_path / "source" / name, VALUES, list(ids))
    before = record(tmp_path / "source")
    assert {"a/embeddings.npy", "b/embeddings.npy", "b/ids.txt"} < set(json.loads(before)["modalities"][0][1])
    (tmp_path / "source").rename(tmp_path / "moved")
    assert record(tmp_path / "moved") == before
    assert record(tmp_path / "moved" / "*" / "embeddings.npy") == before


def test_what_a_pack_of_another_work_format_left_is_not_continued(tmp_path: Path) -> None:
    inputs = PackInputs({"m": write_folder(tmp_path / "m", VALUES, list("abcd"))})

    def killed(function, jobs, *, finished):
        run_on_threads(function, jobs, finished=finished, threads=1)
        if function.__name__ == "run_join":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pack(inputs, out=tmp_path / "packed", run_jobs=killed)
    scratch = tmp_path / ".packed.partial" / "work"
    plan = scratch / "plan.txt"
    plan.write_text(plan.read_text().partition(", ")[2])  # as it was before it named its format
    for done in scratch.glob("bucket-*.json"):
        done.write_text('{"parts": [4, 0, 0]}')
    assert pack(inputs, out=tmp_path / "packed").rows == 4
