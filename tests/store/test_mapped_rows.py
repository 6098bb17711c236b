"""Vectors gathered from the file in which they lie: the same bytes as through buckets, where it is worth it."""

import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dynfusion.store import mapped_rows
from dynfusion.store.files import LOCAL, Files
from dynfusion.store.mapped_rows import MappedRows, map_sources
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs
from dynfusion.store.run_jobs import run_on_threads
from dynfusion.store.sources import open_source
from dynfusion.store.table_files import open_table
from tests.store.sources import vectors, write_folder
from tests.store.test_pack import files_of
from tests.store.test_pack_scale import SMALL, KilledError, in_many_pieces, inputs_of

IDS = [f"m{row}" for row in range(90)]
ALL = 1 << 30


def several(folder: Path) -> dict[str, Path]:
    """What can be mapped (wide, wider) and what cannot."""
    wide = vectors(90, 256, seed=1)
    write_folder(folder / "files" / "part-0", wide, IDS)
    write_folder(folder / "files" / "part-1", wide, [f"n{row}" for row in range(90)])
    return {
        "wide": write_folder(folder / "wide", wide, IDS),
        "narrow": write_folder(folder / "narrow", vectors(90, 255, seed=2), IDS),
        "float32": write_folder(folder / "float32", wide.astype(np.float32), IDS),
        "swapped": write_folder(folder / "swapped", wide.astype(">f2"), IDS),
        "files": folder / "files",
        "wider": write_folder(folder / "wider", vectors(90, 300, seed=3), IDS[::-1]),
    }


def mapped_names(sources: dict[str, Path], *, files: Files = LOCAL, memory_bytes: int = ALL) -> list[str]:
    opened = [open_source(name, str(uri)) for name, uri in sources.items()]
    return list(map_sources(opened, files, memory_bytes=memory_bytes))


def test_wide_float16_rows_of_one_file_on_disk_are_mapped_while_they_fit(tmp_path: Path) -> None:
    sources = several(tmp_path)
    assert mapped_names(sources) == ["wide", "wider"]
    assert mapped_names(sources, memory_bytes=2 * 90 * 556) == ["wide", "wider"]
    assert mapped_names(sources, memory_bytes=2 * 90 * 556 - 1) == ["wide"]
    assert mapped_names(sources, memory_bytes=0) == []
    assert mapped_names(sources, files=Files(LOCAL.open, LOCAL.find, LOCAL.version, lambda uri: None)) == []


def test_another_process_maps_the_file_anew(tmp_path: Path) -> None:
    source = open_source("wide", str(several(tmp_path)["wide"]))
    found = map_sources([source], LOCAL, memory_bytes=ALL)["wide"]
    assert np.array_equal(found.rows, np.load(tmp_path / "wide" / "embeddings.npy"), equal_nan=True)
    content = pickle.dumps(found)
    assert len(content) < 1000
    again = pickle.loads(content)
    assert isinstance(again, MappedRows)
    assert np.array_equal(again.rows, found.rows, equal_nan=True)


def test_mapped_and_scattered_vectors_pack_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inputs = PackInputs(several(tmp_path))
    pack(inputs, out=tmp_path / "mapped", settings=SMALL)
    monkeypatch.setattr(mapped_rows, "_ROW_BYTES", ALL)
    pack(inputs, out=tmp_path / "scattered", settings=SMALL)
    in_many_pieces(monkeypatch, 9_000, 64)
    monkeypatch.setattr(mapped_rows, "_ROW_BYTES", 1)
    pack(inputs, out=tmp_path / "pieces", settings=SMALL)
    assert files_of(tmp_path / "mapped") == files_of(tmp_path / "scattered") == files_of(tmp_path / "pieces")


@pytest.mark.parametrize("killed_in", ["scatter", "run_join", "run_shard"])
def test_a_killed_pack_of_mapped_vectors_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, killed_in: str
) -> None:
    inputs = inputs_of(tmp_path)
    pack(inputs, out=tmp_path / "scattered", settings=SMALL)
    in_many_pieces(monkeypatch, 30_000, 100)
    monkeypatch.setattr(mapped_rows, "_ROW_BYTES", 1)

    def run(function, jobs, *, finished):
        def stop(number, result):
            finished(number, result)
            if function.__name__ == killed_in:
                raise KilledError

        run_on_threads(function, jobs, finished=stop, threads=1)

    with pytest.raises(KilledError):
        pack(inputs, out=tmp_path / "killed", settings=SMALL, run_jobs=run)
    assert all(path.stat().st_size == 0 for path in (tmp_path / ".killed.partial").rglob("values.bin"))
    pack(inputs, out=tmp_path / "killed", settings=SMALL)
    assert files_of(tmp_path / "scattered") == files_of(tmp_path / "killed")


def test_a_file_that_is_cut_while_it_is_packed_is_refused(tmp_path: Path) -> None:
    """Its pages are gone: to touch them would end the process."""
    source = several(tmp_path)["wide"]

    def run(function, jobs, *, finished):
        if function.__name__ == "run_shard":
            os.truncate(source / "embeddings.npy", 4096)
        run_on_threads(function, jobs, finished=finished, threads=1)

    with pytest.raises(ValueError, match=r"embeddings.npy: it changed while it was being packed"):
        pack(PackInputs({"wide": source}), out=tmp_path / "packed", run_jobs=run)
    assert not (tmp_path / "packed").exists()


@pytest.mark.parametrize("writer", [pa.ipc.new_file, pa.ipc.new_stream])
def test_an_arrow_file_that_is_written_while_it_is_read_is_refused(
    tmp_path: Path, writer: Callable[[str, pa.Schema], pa.ipc.RecordBatchStreamWriter]
) -> None:
    table = pa.table({"id": ["a", "b", "c"], "vector": [[1.0], [2.0], [3.0]]})
    with writer(str(tmp_path / "x.arrow"), table.schema) as sink:
        sink.write_table(table)
    _, pieces = open_table("m", str(tmp_path / "x.arrow"), LOCAL, texts=())
    batches = pieces[0].read(LOCAL, 1)
    next(batches)
    os.utime(tmp_path / "x.arrow", ns=(1, 1))
    with pytest.raises(ValueError, match=r"x.arrow: it changed while it was being packed"):
        next(batches)
