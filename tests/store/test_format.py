"""A reader written from FORMAT.md alone, in plain numpy and pyarrow; it imports nothing of the package."""

import hashlib
import json
import zlib
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dynfusion.store.dataset import open_dataset
from dynfusion.store.extend import extend
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from tests.store.sources import DIMS, packed, vectors, write_folder

# ---- the stranger's reader ------------------------------------------------------------------------------------------


def read_strangely(folder: Path, name: str, part: str) -> tuple[dict[str, np.ndarray], np.ndarray, pa.Table]:
    """Values by modality, presence [rows, modalities] and the sidecar of one part."""
    manifest = json.loads((folder / name).read_text())
    assert manifest["format_version"] == 1
    rest = {key: value for key, value in manifest.items() if key != "fingerprint"}
    text = json.dumps(rest, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest()[:32] == manifest["fingerprint"]
    entry = np.dtype([("offset", "<u8"), ("rows", "<u4"), ("crc32", "<u4")])
    content = (folder / manifest["blocks"]["path"]).read_bytes()
    assert content[:16] == b"dynfusion blocks"
    table = np.frombuffer(content[16:], entry)
    first = 0 if part == "train" else sum(shard["blocks"] for shard in manifest["shards"])
    shards = manifest["shards" if part == "train" else "holdout_shards"]
    geometry, modalities = manifest["geometry"], manifest["modalities"]
    values = {modality["name"]: [np.zeros((0, modality["dim"]), np.float16)] for modality in modalities}
    present = [np.zeros((0, len(modalities)), bool)]
    for shard in shards:
        with (folder / shard["path"]).open("rb") as file:
            for number in range(shard["blocks"]):
                block = geometry["first_block"] + number * geometry["block_bytes"]
                file.seek(block)
                content = file.read(geometry["block_bytes"])
                offset, rows, crc32 = table[first + number].tolist()
                assert (offset, crc32) == (block, zlib.crc32(content))
                bits = []
                for m, modality in enumerate(modalities):
                    start, size = geometry["values_offsets"][m], rows * modality["dim"]
                    flat = np.frombuffer(content, np.float16, size, start)
                    values[modality["name"]].append(flat.reshape(rows, modality["dim"]))
                    bitmap = np.frombuffer(content, np.uint8, -(-rows // 8), geometry["validity_offsets"][m])
                    bits.append(np.unpackbits(bitmap, count=rows, bitorder="little").astype(bool))
                present.append(np.stack(bits, axis=1))
        first += shard["blocks"]
    sidecars = [pa.ipc.open_file(str(folder / shard["sidecar"]["path"])).read_all() for shard in shards]
    return (
        {name: np.concatenate(parts) for name, parts in values.items()},
        np.concatenate(present),
        pa.concat_tables(sidecars),
    )


# ---------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("part", ["train", "holdout"])
def test_a_reader_written_from_the_page_reads_what_ours_does(tmp_path: Path, part: str) -> None:
    packed(tmp_path, 700, PackSettings(holdout=0.2, shard_bytes=6_000))
    more = {
        name: write_folder(tmp_path / f"more-{name}", vectors(90, dim, seed=9), [f"n{row}" for row in range(90)])
        for name, dim in DIMS.items()
    }
    address = extend(PackInputs(more), tmp_path / "packed", settings=PackSettings(shard_bytes=6_000))
    for name, uri in (("manifest.json", tmp_path / "packed"), ("manifest-1.json", address)):
        dataset = open_dataset(uri)
        values, present, table = read_strangely(tmp_path / "packed", name, part)
        ours = dataset.read(part)
        assert len(present) == len(ours.row_ids) > 100
        assert (present == ours.present).all()
        assert all((values[name] == ours.values[name]).all() for name in DIMS)
        assert table.equals(dataset.table(part))


def test_plain_arrow_reads_a_shard(tmp_path: Path) -> None:
    dataset = packed(tmp_path, 300, PackSettings(shard_bytes=6_000))
    shards = [pa.ipc.open_file(str(tmp_path / "packed" / shard.path)).read_all() for shard in dataset.manifest.shards]
    table = pa.concat_tables(shards)
    read = dataset.read("train")
    assert table.num_rows == dataset.manifest.rows
    for m, (name, dim) in enumerate(DIMS.items()):
        column = table[name].combine_chunks()
        assert (column.is_valid().to_numpy(zero_copy_only=False) == read.present[:, m]).all()
        there = column.drop_null().flatten().to_numpy().reshape(-1, dim)
        assert (there == read.values[name][read.present[:, m]]).all()


def test_the_page_names_every_field_of_the_manifest(tmp_path: Path) -> None:
    packed(tmp_path, 100)
    manifest = json.loads((tmp_path / "packed" / "manifest.json").read_text())
    page = (Path(__file__).parents[2] / "dynfusion" / "store" / "FORMAT.md").read_text()
    names = {*manifest, *manifest["modalities"][0], *manifest["geometry"], *manifest["shards"][0]}
    assert not {name for name in names if f"`{name}`" not in page}
