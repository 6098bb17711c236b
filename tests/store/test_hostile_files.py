"""Files that lie about themselves, each found by `tests.fuzz`: what became a crash or a foreign error is a sentence."""

import hashlib
import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from dynfusion.encoders.folder import read_folder
from dynfusion.store.dataset import open_dataset
from dynfusion.store.extend import extend
from dynfusion.store.files import LOCAL, Files
from dynfusion.store.manifest import FileSpec
from dynfusion.store.pack_inputs import PackInputs
from dynfusion.store.shard import check_shard
from dynfusion.store.sidecar import read_sidecars
from dynfusion.store.sources import open_source
from dynfusion.store.table import open_metadata
from dynfusion.store.texts import array_as_text
from tests.fuzz.examples import Examples, arrow, make_examples, npy, parquet
from tests.fuzz.memory import memory_files

IDS = ["aaaa", "bbbb", "cccc"]
OFFSETS = struct.pack("<4i", 0, 4, 8, 12)


@pytest.fixture(scope="module")
def examples(tmp_path_factory: pytest.TempPathFactory) -> Examples:
    return make_examples(tmp_path_factory.mktemp("examples"))


def read_all(uri: str, files: Files) -> None:
    for piece in open_source("m", uri, files=files).pieces:
        list(piece.read(files, 2))


def refused(files: dict[str, bytes], uri: str, sentence: str) -> None:
    """The modality at `uri` is refused, when it is opened or when it is read."""
    here = memory_files(files)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_all(uri, here)
    assert type(caught.value) is ValueError
    assert "\n" not in str(caught.value)


def with_wrong_offsets(content: bytes) -> bytes:
    """The texts of an Arrow file end far behind it: pyarrow would read whatever memory is there."""
    assert content.count(OFFSETS) == 1
    return content.replace(OFFSETS, struct.pack("<4i", 0, 4, 8, 1 << 30))


@pytest.mark.parametrize("stream", [False, True])
def test_an_arrow_file_whose_texts_lie_elsewhere(tmp_path: Path, stream: bool) -> None:
    table = pa.table({"id": IDS, "x": np.ones(3, np.float32)})
    content = with_wrong_offsets(arrow(table, stream=stream))
    refused({"v.arrow": content}, "v.arrow", "v.arrow is not a readable Arrow file")
    (tmp_path / "v.arrow").write_bytes(content)
    with pytest.raises(ValueError, match=r"v\.arrow is not a readable Arrow file"):
        read_all(str(tmp_path / "v.arrow"), LOCAL)  # mapped, from a disk


def test_an_arrow_file_whose_dictionary_has_no_such_entry() -> None:
    ids = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2], pa.int8()), IDS)
    content = arrow(pa.table({"id": ids, "x": np.ones(3, np.float32)}))
    assert content.count(b"\0\1\2\0\0\0\0\0") == 1
    wrong = content.replace(b"\0\1\2\0\0\0\0\0", b"\0\1\x7f\0\0\0\0\0")
    refused({"v.arrow": wrong}, "v.arrow", "v.arrow is not a readable Arrow file")


def test_a_name_of_a_column_that_is_no_text() -> None:
    content = arrow(pa.table({"id": IDS, "xxxxx": np.ones(3, np.float32)})).replace(b"xxxxx", b"xx\xff\xffx")
    refused({"v.arrow": content}, "v.arrow", "modality m: v.arrow is not a readable Arrow file")


def test_an_encoder_in_metadata_that_is_no_text() -> None:
    schema = pa.schema([("id", pa.string()), ("x", pa.float32())], metadata={b"encoder": b"a\xff\nb"})
    files = memory_files({"v.parquet": parquet(pa.table([IDS, [1.0, 2.0, 3.0]], schema=schema))})
    assert open_source("m", "v.parquet", files=files).encoder == "a\ufffd b"


def test_a_parquet_file_that_breaks_off_inside_a_page() -> None:
    numbers = np.random.default_rng(0).random(5000).astype(np.float32)
    content = bytearray(parquet(pa.table({"id": [f"m{n}" for n in range(5000)], "x": numbers})))
    content[2000:2400] = bytes(400)
    refused({"v.parquet": bytes(content)}, "v.parquet", "v.parquet is not a readable Parquet file")


def npz(**members: bytes) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w") as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    return made.getvalue()


EMBEDDINGS = npy(np.ones((3, 2), np.float16))


def test_an_archive_that_claims_more_than_it_holds() -> None:
    """No memory is asked for before the member is known to be as long."""
    ids = npy(np.array(IDS)).replace(b"(3,), }        ", b"(3000000000,), }")
    refused({"v.npz": npz(ids=ids, embeddings=EMBEDDINGS)}, "v.npz", "array ids.* is truncated, found .. bytes of 4800")


def test_an_archive_with_ids_that_are_no_characters() -> None:
    ids = np.array(IDS)
    ids.view(np.uint32)[0] = 0x110000
    refused({"v.npz": npz(ids=npy(ids), embeddings=EMBEDDINGS)}, "v.npz", "holds bytes that are not UTF-8 text")
    with pytest.raises(ValueError, match="here holds bytes that are not UTF-8 text"):
        array_as_text(ids, "here")


@pytest.mark.parametrize("ids", [np.array([1.5, 2.5, 3.5]), np.array([True, False, True]), np.array([1j, 2j, 3j])])
def test_an_archive_with_ids_that_are_no_text(ids: np.ndarray) -> None:
    refused({"v.npz": npz(ids=npy(ids), embeddings=EMBEDDINGS)}, "v.npz", "allowed are text")


@pytest.mark.parametrize(("place", "value"), [(6, 1), (8, 99)])  # encrypted; a way of packing that nobody knows
def test_an_archive_that_is_encrypted_or_packed_otherwise(place: int, value: int) -> None:
    content = bytearray(npz(ids=npy(np.array(IDS)), embeddings=EMBEDDINGS))
    for signature, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
        at = content.index(signature) + place + shift
        content[at : at + 2] = struct.pack("<H", value)
    refused({"v.npz": bytes(content)}, "v.npz", r"v.npz is not a readable .npz file")


@pytest.mark.filterwarnings("ignore:Reading `.npy` or `.npz` file required additional header parsing")
@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"(3, 2)", b"(3,-2)"),
        (b"(3, 2)", b"([],2)"),
        (b"'<f2'", b"'<f2'[" + b"(" * 60),
        (b"(3, 2), }" + b" " * 22, b"(99999999999999999999, 2), }"),
        (b"'descr'", b"[1]:'d'"),
    ],
)
def test_an_array_with_a_header_that_describes_none(tmp_path: Path, old: bytes, new: bytes) -> None:
    assert old in EMBEDDINGS
    header = EMBEDDINGS[:128].replace(old, new).ljust(128)[:128]
    files = {"d/embeddings.npy": header + EMBEDDINGS[128:], "d/ids.txt": b"a\nb\nc\n"}
    refused(files, "d", "d/embeddings.npy is truncated or holds Python objects")
    for name in ("ids.txt", "smiles.txt", "groups.txt", "encoder.txt"):
        (tmp_path / name).write_bytes(b"a\nb\nc\n")
    (tmp_path / "reasons.npy").write_bytes(npy(np.zeros(3, np.uint8)))
    (tmp_path / "embeddings.npy").write_bytes(files["d/embeddings.npy"])
    with pytest.raises(ValueError, match="not readable as a NumPy array"):
        read_folder(tmp_path)


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("embeddings.npy", npy(np.ones((3, 2))), "float64 of shape .* allowed is float16 of 2 axes"),
        ("embeddings.npy", npy(np.float16(1)), r"float16 of shape \(\), allowed is float16 of 2 axes"),
        ("reasons.npy", npy(np.zeros((3, 1), np.uint8)), "allowed is uint8 of 1 axes"),
        ("ids.txt", b"a\n\xff\nc\n", "not UTF-8 text, byte 2 is wrong"),
    ],
)
def test_a_folder_of_an_encoder_with_another_kind_of_file(
    tmp_path: Path, name: str, content: bytes, sentence: str
) -> None:
    files = {"embeddings.npy": EMBEDDINGS, "reasons.npy": npy(np.zeros(3, np.uint8))}
    files |= dict.fromkeys(("ids.txt", "smiles.txt", "groups.txt", "encoder.txt"), b"a\nb\nc\n")
    for file, made in {**files, name: content}.items():
        (tmp_path / file).write_bytes(made)
    with pytest.raises(ValueError, match=rf"{name}: .*{sentence}"):
        read_folder(tmp_path)


def test_a_label_that_is_too_large_for_its_column() -> None:
    files = memory_files({"t.csv": b"", "t.parquet": parquet(pa.table({"id": IDS, "y": [1, 2, 1 << 62]}))})
    table = open_metadata("t.parquet", id_column="id", labels=("y",), split_column=None, files=files)
    with pytest.raises(ValueError, match=r"table t\.parquet, column y: a label is a whole number beyond"):
        [list(piece.read(files, 2)) for piece in table.pieces]


def test_names_of_columns_that_would_begin_a_line() -> None:
    refused({"v.csv": b'"a\nb",x\n1,2\n'}, "v.csv", r"has no column id, found a\\nb, x")


def sidecar(examples: Examples, tmp_path: Path, content: bytes, sentence: str) -> None:
    manifest = examples.dataset.manifest
    path = manifest.shards[0].sidecar.path
    (tmp_path / path).write_bytes(content)
    digest = hashlib.sha256(content).hexdigest()
    file = FileSpec(path=path, rows=manifest.shards[0].rows, bytes=len(content), sha256=digest)
    with pytest.raises(ValueError, match=sentence) as caught:
        read_sidecars(tmp_path, [file], manifest, checked=set())
    assert type(caught.value) is ValueError


def test_a_sidecar_with_the_right_hash_and_wrong_content(examples: Examples, tmp_path: Path) -> None:
    manifest = examples.dataset.manifest
    content = examples.packed[manifest.shards[0].sidecar.path]
    table = pa.ipc.open_file(content).read_all()
    offsets = struct.pack("<2i", 0, len(table["id"][0].as_py()))
    assert offsets in content
    sidecar(examples, tmp_path, content.replace(offsets, struct.pack("<2i", 0, 1 << 30), 1), "not valid Arrow")
    sidecar(examples, tmp_path, arrow(table.drop(["smiles"])), "column smiles: found none, allowed is one of string")
    sidecar(examples, tmp_path, arrow(table.append_column("id", table["id"])), "column id: found string and string")
    labels = table.set_column(table.column_names.index("y"), "y", pa.array([1] * table.num_rows, pa.int8()))
    sidecar(examples, tmp_path, arrow(labels), "column y: found int8, allowed is one of double or string")
    sidecar(examples, tmp_path, arrow(table.slice(1)), "rows, the manifest says")
    sidecar(examples, tmp_path, b"ARROW1", "missing or not readable as Arrow IPC")


def test_an_extension_of_a_data_set_with_such_a_sidecar(examples: Examples, tmp_path: Path) -> None:
    for name, content in examples.packed.items():
        (tmp_path / name).write_bytes(content)
    path = tmp_path / examples.dataset.manifest.shards[0].sidecar.path
    path.write_bytes(path.read_bytes()[:-8] + b"\0" * 8)
    with pytest.raises(ValueError, match=f"{path.name}: its SHA-256 is not the manifest's"):
        extend(PackInputs({"a": examples.folder / "a"}), tmp_path)
    with pytest.raises(ValueError, match=f"{path.name}: its SHA-256 is not the manifest's"):
        open_dataset(tmp_path).table("train")


@pytest.mark.parametrize("start", ["schema", "block", "block + 4", "block + 8"])
@pytest.mark.parametrize("value", [0, 0x7FFFFFF0, 0xFFFFFFF0])
def test_a_shard_whose_header_leads_nowhere(examples: Examples, tmp_path: Path, start: str, value: int) -> None:
    manifest = examples.dataset.manifest
    shard, first = manifest.shards[0], manifest.geometry.first_block
    at = 12 if start == "schema" else first + int(start.removeprefix("block").removeprefix(" + ") or 0)
    content = bytearray(examples.packed[shard.path])
    content[at : at + 4] = struct.pack("<I", value)
    (tmp_path / shard.path).write_bytes(content)
    size, blocks = shard.bytes, shard.blocks
    sentence = r"train-00000\.arrow: (not readable as Arrow IPC|its blocks|block .* does not start)"
    with pytest.raises(ValueError, match=sentence) as caught:
        check_shard(tmp_path / shard.path, manifest.geometry, size=size, num_blocks=blocks, names=manifest.names)
    assert type(caught.value) is ValueError
