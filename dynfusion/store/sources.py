"""What can be packed: one modality's vectors with ids, from a folder as `embed` writes it or from a Parquet file."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

_VECTORS = "embeddings.npy"
_IDS = "ids.txt"
_OPTIONAL = {"smiles": "smiles.txt", "group": "groups.txt"}
_FLOATS = (np.float16, np.float32, np.float64)


@dataclass(frozen=True)
class Source:
    """One modality as given: ids (unique strings), vectors [rows, dim], and what else is known row by row.

    `reasons` (uint8, 0 = present) says why a row is absent; `group` names the molecules that must stay together when
    rows are held out.
    """

    name: str
    path: Path
    ids: pa.Array
    vectors: np.ndarray
    encoder: str
    reasons: np.ndarray | None
    smiles: pa.Array | None
    group: pa.Array | None

    @property
    def dim(self) -> int:
        return int(self.vectors.shape[1])


def read_source(name: str, path: str | Path) -> Source:
    """The modality at a folder (`embeddings.npy` + `ids.txt`) or a Parquet file (`id` + one vector column).

    Raises ValueError, naming the file, for anything missing, empty, truncated, pickled, of another shape or with
    duplicate ids.
    """
    path = Path(path)
    if path.is_dir():
        source = _read_folder(name, path)
    elif path.is_file():
        source = _read_parquet(name, path)
    else:
        raise ValueError(f"modality {name}: {path} is neither a folder nor a file")
    check_ids(source.ids, f"modality {name}: {_ids_file(path)}")
    return source


def source_files(path: str | Path) -> Iterator[Path]:
    """The files that `read_source` reads at this place."""
    path = Path(path)
    if not path.is_dir():
        yield path
        return
    for name in (_VECTORS, _IDS, "encoder.txt", "reasons.npy", *_OPTIONAL.values()):
        if (path / name).is_file():
            yield path / name


def digest_files(path: str | Path) -> dict[str, str]:
    """SHA-256 of each file that `read_source` reads at this place, by file name."""
    digests = {}
    for file in source_files(path):
        with file.open("rb") as content:
            digests[file.name] = hashlib.file_digest(content, "sha256").hexdigest()
    return digests


def check_ids(ids: pa.Array, where: str) -> None:
    """Raise ValueError when an id is missing, blank or there twice; `where` opens the sentence."""
    if len(ids) == 0:
        raise ValueError(f"{where} has no rows, at least one is needed")
    blank = pc.fill_null(pc.equal(ids, ""), True).to_numpy(zero_copy_only=False)
    if blank.any():
        raise ValueError(f"{where} has no id in row {int(blank.argmax())}, every row needs one")
    counts = pc.value_counts(ids)
    repeated = counts.filter(pc.greater(counts.field("counts"), 1))
    if len(repeated):
        first = repeated[0].as_py()
        raise ValueError(
            f"{where} has duplicate ids ({len(repeated)} of them, such as {first['values']!r}, {first['counts']} "
            "times), each id may stand once"
        )


def _ids_file(path: Path) -> Path:
    return path / _IDS if path.is_dir() else path


def _read_folder(name: str, folder: Path) -> Source:
    where = f"modality {name}"
    vectors = _load_npy(folder / _VECTORS, where)
    if vectors.ndim != 2 or vectors.dtype.type not in _FLOATS or vectors.shape[1] == 0:
        raise ValueError(
            f"{where}: {folder / _VECTORS} holds {vectors.dtype} of shape {vectors.shape}, "
            "allowed is float16, float32 or float64 [molecules, dim]"
        )
    ids = _read_lines(folder / _IDS, where)
    optional = {key: _read_lines(folder / file, where) for key, file in _OPTIONAL.items() if (folder / file).is_file()}
    reasons = _load_npy(folder / "reasons.npy", where) if (folder / "reasons.npy").is_file() else None
    if reasons is not None and (reasons.dtype != np.uint8 or reasons.ndim != 1):
        raise ValueError(f"{where}: {folder / 'reasons.npy'} holds {reasons.dtype}, allowed is uint8 [molecules]")
    columns = {_IDS: ids, "reasons.npy": reasons, **{_OPTIONAL[key]: column for key, column in optional.items()}}
    for file, column in columns.items():
        if column is not None and len(column) != len(vectors):
            raise ValueError(f"{where}: {folder / file} has {len(column)} rows, {_VECTORS} has {len(vectors)}")
    encoder = folder / "encoder.txt"
    return Source(
        name=name,
        path=folder,
        ids=ids,
        vectors=vectors,
        encoder=" ".join(encoder.read_text(encoding="utf-8").split()) if encoder.is_file() else "",
        reasons=reasons,
        smiles=_blank_to_null(optional.get("smiles")),
        group=_blank_to_null(optional.get("group")),
    )


def _load_npy(path: Path, where: str) -> np.ndarray:
    if not path.is_file():
        raise ValueError(f"{where}: {path} is missing")
    if path.stat().st_size == 0:
        raise ValueError(f"{where}: {path} is empty")
    with path.open("rb") as file:
        magic = file.read(6)
    if magic != b"\x93NUMPY":
        raise ValueError(f"{where}: {path} is not a .npy file (pickles are never read), save it with numpy.save")
    try:
        return np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, EOFError) as error:
        reason = str(error).splitlines()[0].rstrip(".") if str(error) else "it ends too early"
        raise ValueError(f"{where}: {path} is truncated or holds Python objects, {reason}") from None


def _read_lines(path: Path, where: str) -> pa.Array:
    """One string a line; the line end may be Windows', the last one may lack it."""
    if not path.is_file():
        raise ValueError(f"{where}: {path} is missing")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{where}: {path} is not UTF-8 text, byte {error.start} is wrong") from None
    if not text:
        raise ValueError(f"{where}: {path} is empty")
    return pa.array(text.removesuffix("\n").split("\n"), pa.string())


def _blank_to_null(column: pa.Array | None) -> pa.Array | None:
    return None if column is None else pc.if_else(pc.equal(column, ""), pa.scalar(None, pa.string()), column)


def _read_parquet(name: str, path: Path) -> Source:
    where = f"modality {name}: {path}"
    table = read_parquet_table(path, f"modality {name}")
    if "id" not in table.column_names:
        raise ValueError(f"{where} has no column id, found {', '.join(table.column_names)}")
    vectors = [field.name for field in table.schema if pa.types.is_nested(field.type)]
    if len(vectors) != 1:
        raise ValueError(f"{where} needs exactly one vector column (a list of floats), found {vectors or 'none'}")
    optional = {key: _strings(table, key) for key in _OPTIONAL if key in table.column_names}
    return Source(
        name=name,
        path=path,
        ids=_strings(table, "id"),
        vectors=_to_matrix(table.column(vectors[0]).combine_chunks(), f"{where}, column {vectors[0]},"),
        encoder=(table.schema.metadata or {}).get(b"encoder", b"").decode(),
        reasons=None,
        smiles=_blank_to_null(optional.get("smiles")),
        group=_blank_to_null(optional.get("group")),
    )


def read_parquet_table(path: Path, where: str) -> pa.Table:
    """A whole Parquet file. Raises ValueError when it is empty, truncated or something else."""
    if path.stat().st_size == 0:
        raise ValueError(f"{where}: {path} is empty")
    try:
        return pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        first = str(error).splitlines()[0].rstrip(".")
        raise ValueError(f"{where}: {path} is not a readable Parquet file (pickles are never read), {first}") from None


def _strings(table: pa.Table, column: str) -> pa.Array:
    return pa.concat_arrays([chunk.cast(pa.string()) for chunk in table.column(column).chunks] or [pa.array([], "str")])


def _to_matrix(column: pa.Array, where: str) -> np.ndarray:
    """A list column as [rows, dim]; a null row becomes NaN."""
    if isinstance(column, pa.ChunkedArray):
        column = pa.concat_arrays(column.chunks) if column.num_chunks else pa.array([], column.type)
    value_type = getattr(column.type, "value_type", pa.null())
    if not pa.types.is_floating(value_type):
        raise ValueError(f"{where} holds {column.type}, allowed is a list of float16, float32 or float64")
    given = column.is_valid().to_numpy(zero_copy_only=False)
    widths = np.unique(pc.list_value_length(column.filter(pa.array(given))).to_numpy(zero_copy_only=False))
    if len(widths) != 1 or widths[0] == 0:
        raise ValueError(f"{where} has vectors of {', '.join(map(str, widths)) or 'no'} numbers, all need one width")
    flat = column.filter(pa.array(given)).flatten()
    if flat.null_count:
        raise ValueError(f"{where} has {flat.null_count} missing numbers inside vectors, make the whole vector missing")
    dense = flat.to_numpy().reshape(-1, int(widths[0]))
    if given.all():
        return dense
    matrix = np.full((len(column), dense.shape[1]), np.nan, dense.dtype)
    matrix[given] = dense
    return matrix
