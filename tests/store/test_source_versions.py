"""A source that changes while it is packed is an error, whatever kind of file it is."""

import os
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from dynfusion.store.dataset import open_dataset
from dynfusion.store.extend import extend
from dynfusion.store.files import LOCAL
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs
from dynfusion.store.run_jobs import run_on_threads
from dynfusion.store.source_versions import see_sources
from tests.store.sources import write_folder

IDS = [f"m{number:02d}" for number in range(40)]
COLUMN = np.arange(40, dtype=np.float32)[:, None]


def changing(change: Callable[[], object], before: str = "scatter") -> Callable[..., None]:
    """Run the jobs, the change before those of one pass."""

    def run(function, jobs, *, finished):
        if function.__name__ == before:
            change()
        run_on_threads(function, jobs, finished=finished, threads=1)

    return run


def write_csv(path: Path, factor: int, rows: int = 40) -> None:
    path.write_text("id,f\n" + "".join(f"{name},{factor * n}\n" for n, name in enumerate(IDS[:rows])))


def write_parquet(path: Path, factor: int) -> None:
    pq.write_table(pa.table({"id": IDS, "f": [float(factor * n) for n in range(40)]}), path)


@pytest.mark.parametrize("width", [1, 256])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("before", ["scatter", "run_join", "run_shard"])
def test_ids_beside_vectors_that_change_are_an_error(tmp_path: Path, width: int, dtype: str, before: str) -> None:
    source = write_folder(tmp_path / "m", np.repeat(COLUMN, width, 1).astype(dtype), IDS)
    run = changing(lambda: (source / "ids.txt").write_text("\n".join(reversed(IDS)) + "\n"), before)
    with pytest.raises(ValueError, match=r"m/ids.txt: it changed while it was being packed"):
        pack(PackInputs({"m": source}), out=tmp_path / "packed", run_jobs=run)
    assert not (tmp_path / "packed").exists()
    assert not (tmp_path / ".packed.partial").exists()
    (source / "ids.txt").write_text("\n".join(IDS) + "\n")
    pack(PackInputs({"m": source}), out=tmp_path / "packed")
    packed = open_dataset(tmp_path / "packed")
    assert [f"m{int(row[0]):02d}" for row in packed.read("train").values["m"]] == packed.table("train")[
        "id"
    ].to_pylist()


@pytest.mark.parametrize(
    ("name", "write", "again"),
    [
        ("x.csv", partial(write_csv, factor=1), partial(write_csv, factor=2)),
        ("x.csv", partial(write_csv, factor=1), partial(write_csv, factor=1, rows=20)),
        ("x.csv", partial(write_csv, factor=1), partial(Path.write_text, data="id,g\na,b\n")),
        ("x.parquet", partial(write_parquet, factor=1), partial(write_parquet, factor=3)),
        ("x.parquet", partial(write_parquet, factor=1), partial(Path.write_bytes, data=b"PAR1")),
    ],
)
def test_tables_that_change_are_an_error(
    tmp_path: Path, name: str, write: Callable[[Path], None], again: Callable[[Path], None]
) -> None:
    """Also where the change makes the reading fail: the sentence names it."""
    write(tmp_path / name)
    with pytest.raises(ValueError, match=f"{name}: it changed while it was being packed"):
        pack(
            PackInputs({"m": tmp_path / name}),
            out=tmp_path / "packed",
            run_jobs=changing(lambda: again(tmp_path / name)),
        )


def test_labels_and_sources_of_an_extension_are_looked_at_again(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "m", COLUMN[:20], IDS[:20])
    new = write_folder(tmp_path / "n", COLUMN[20:], IDS[20:])
    pack(PackInputs({"m": source}), out=tmp_path / "packed")
    table = tmp_path / "t.csv"
    write_csv(table, 1)
    for file, again in ((table, lambda: write_csv(table, 2)), (new / "ids.txt", (new / "ids.txt").unlink)):
        with pytest.raises(ValueError, match=rf"{file.name}: it (changed|vanished) while it was being packed"):
            extend(
                PackInputs({"m": new}, table=table, labels=("f",)),
                tmp_path / "packed",
                run_jobs=changing(again, "run_join"),
            )
        assert not (tmp_path / "packed" / "manifest-1.json").exists()


def test_files_that_rest_are_not_read_again(tmp_path: Path) -> None:
    source = write_folder(tmp_path / "m", COLUMN, IDS)
    for file in source.iterdir():
        os.utime(file, ns=(10**18, 10**18))
    read: list[str] = []

    def version(uri: str) -> str:
        read.append(uri)
        return LOCAL.version(uri)

    seen = see_sources([str(source)], type(LOCAL)(LOCAL.open, LOCAL.find, version, LOCAL.path))
    assert len(read) == 3
    seen.check()
    assert len(read) == 3
    os.utime(source / "ids.txt")  # the content decides
    seen.check()
    assert read[3:] == [str(source / "ids.txt")]
