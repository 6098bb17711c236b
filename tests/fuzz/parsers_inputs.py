"""What is given to `pack` and `evaluate`: arrays, archives, tables of vectors, tables of labels, tables of SMILES."""

import io
import re
import zipfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from dynfusion.encoders.folder import read_folder
from dynfusion.evaluation.tasks.task import label_array, split_array
from dynfusion.store.files import LOCAL
from dynfusion.store.sources import open_source
from dynfusion.store.table import open_metadata
from dynfusion.verbs.labelled_table import TableColumns, read_labelled
from tests.fuzz.examples import Examples, arrow, npy, parquet
from tests.fuzz.judge import Files, Parser
from tests.fuzz.memory import memory_files
from tests.fuzz.mutations import NUMBERS, mutated_bytes, mutated_text, with_changed_numbers
from tests.fuzz.tables import odd_table

CHUNK_ROWS = 16
_KINDS = (
    *(b"<f4", b">f2", b"<f8", b"|O", b"<U3", b"|S2", b"|V2", b"<i8", b"|b1", b"<c8", b"<M8[s]", b"<U0", b"|V0"),
    *(b"<f2", b"|u1", b">i4", b"<g", b"|S400", b"<U99999999", b"f", b""),
)
_SHAPE = re.compile(rb"\((\d+), (\d+)\)|\((\d+),\)")


def input_parsers(examples: Examples) -> list[Parser]:
    """Parsers of what a person gives."""
    vectors = _vector_table(examples)
    unreadable = re.compile("^modality m: .*(is empty|is not a readable|is not readable|is missing)")
    npy_check = re.compile("is empty|is not a .npy file|is missing|is not UTF-8 text")
    table_check = re.compile("^table: .*(is empty|is not a readable|is not readable)")
    npz_check = re.compile("^modality m: .*is not a readable .npz file, (File|Bad)")
    task_check = re.compile("(is empty|is not a readable|is not readable)")
    folder_check = re.compile("not UTF-8|not readable as a NumPy array")
    return [
        Parser("npy", _npy(examples), _read_source("d"), npy_check),
        Parser("npz", _npz(examples), _read_source("v.npz"), npz_check),
        Parser("parquet", _columnar(vectors, "v.parquet"), _read_source("v.parquet"), unreadable),
        Parser("arrow", _columnar(vectors, "v.arrow"), _arrow_reader(examples), unreadable),
        Parser("csv", _two_files(_csv_of(vectors)), _read_source("d"), unreadable),
        Parser("table", _tables(examples), _read_table, table_check),
        Parser("task", _tasks(), _task_reader(examples), task_check),
        Parser("embedding folder", _npy(examples, whole=True), _folder_reader(examples), folder_check),
    ]


def _vector_table(examples: Examples) -> pa.Table:
    vectors = examples.vectors.astype(np.float32)
    columns = {f"x{number}": vectors[:, number] for number in range(vectors.shape[1])}
    return pa.table({"id": list(examples.ids), "smiles": ["C"] * len(examples.ids), **columns})


def _with_lists(table: pa.Table, draw: Random) -> pa.Table:
    """The vectors in one column: of lists, of lists of one width, of bytes, or each in a column of its own."""
    kind = draw.randrange(4)
    numbers = np.stack([table[name].to_numpy() for name in table.column_names[2:]], axis=1)
    rows = table.select(["id", "smiles"])
    if kind == 0:
        return rows.append_column("vector", pa.array(numbers.tolist(), pa.list_(pa.float32())))
    if kind == 1:
        return rows.append_column("vector", pa.array(numbers.tolist(), pa.list_(pa.float32(), numbers.shape[1])))
    if kind == 2:
        raw = [row.tobytes() for row in numbers.astype(np.float16)]
        return rows.append_column("vector", pa.array(raw, pa.binary(2 * numbers.shape[1])))
    return table


def _npy(examples: Examples, *, whole: bool = False) -> Any:
    rows = len(examples.ids)
    ids = "".join(f"{name}\n" for name in examples.ids).encode()
    files = {
        "d/embeddings.npy": npy(examples.vectors),
        "d/ids.txt": ids,
        "d/smiles.txt": b"C\n" * rows,
        "d/groups.txt": b"C\n" * rows,
        "d/reasons.npy": npy(np.zeros(rows, np.uint8)),
        "d/encoder.txt": b"random numbers\n",
    }
    as_array = {name: content for name, content in files.items() if name != "d/ids.txt"}
    as_array["d/ids.npy"] = npy(np.array(examples.ids))
    several = {f"d/{name}.npy": npy(examples.vectors) for name in "ef"}
    several |= {"d/e.ids.txt": ids, "d/f.ids.npy": npy(np.arange(rows) + 1000)}

    def make(draw: Random) -> Files:
        chosen = dict(files if whole else draw.choice((files, files, as_array, several)))
        name = draw.choice(list(chosen))
        if not whole and draw.random() < 0.03:
            del chosen[name]
        elif name.endswith(".npy"):
            chosen[name] = _mutated_npy(chosen[name], draw)
        elif draw.random() < 0.7:
            chosen[name] = mutated_text(chosen[name].decode(), draw).encode("utf-8", "surrogatepass")
        else:
            chosen[name] = mutated_bytes(chosen[name], draw)
        return chosen

    return make


def _mutated_npy(content: bytes, draw: Random) -> bytes:
    """The header as text, a number of the shape, the type, the numbers, or any bytes."""
    kind, end = draw.randrange(5), content.index(b"\n") + 1
    if kind == 0:
        return mutated_bytes(content, draw)
    if kind == 1:
        return with_changed_numbers(content, draw, start=end)
    header = content[10:end]
    if kind == 2:
        number = str(draw.choice([n for n in NUMBERS if isinstance(n, int)])).encode()
        header = _SHAPE.sub(draw.choice((b"(%s, 4)" % number, b"(44, %s)" % number, b"(%s,)" % number, b"()")), header)
    elif kind == 3:
        kinds = (
            b"<f4",
            b">f2",
            b"<f8",
            b"|O",
            b"<U3",
            b"|S2",
            b"|V2",
            b"<i8",
            b"|b1",
            b"<c8",
            b"<M8[s]",
            b"<U0",
            b"|V0",
        )
        header = re.sub(rb"'descr': '[^']*'", b"'descr': '%s'" % draw.choice(kinds), header)
    else:
        header = mutated_text(header.decode("latin-1"), draw).encode("latin-1", "replace")
    return content[:8] + len(header).to_bytes(2, "little", signed=False)[:2] + header[:65_535] + content[end:]


def _npz(examples: Examples) -> Any:
    arrays = {"ids.npy": npy(np.array(examples.ids)), "embeddings.npy": npy(examples.vectors)}
    out = io.BytesIO()
    np.savez_compressed(out, ids=np.array(examples.ids), embeddings=examples.vectors)
    whole = out.getvalue()

    def make(draw: Random) -> Files:
        if draw.random() < 0.3:
            return {"v.npz": mutated_bytes(whole, draw)}
        chosen, made = dict(arrays), io.BytesIO()
        name = draw.choice(list(chosen))
        change = draw.randrange(4)
        if change == 0:
            chosen[draw.choice(("x.npy", "ids", "a/../b.npy", "smiles.npy"))] = chosen.pop(name)
        elif change == 1:
            chosen["more.npy"] = npy(examples.vectors)
        else:
            chosen[name] = _mutated_npy(chosen[name], draw)
        with zipfile.ZipFile(made, "w", draw.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED))) as archive:
            for member, content in chosen.items():
                archive.writestr(member, content)
        return {"v.npz": made.getvalue()}

    return make


def _columnar(table: pa.Table, name: str) -> Any:
    def written(made: pa.Table, draw: Random) -> bytes:
        if name.endswith(".parquet"):
            return parquet(made)
        return arrow(made, stream=draw.random() < 0.3, compression=draw.choice((None, None, None, "lz4")))

    def make(draw: Random) -> Files:
        made, kind = _with_lists(table, draw), draw.random()
        if kind < 0.55:
            return {name: written(odd_table(made, draw), draw)}
        content = written(made, draw)
        return {name: with_changed_numbers(content, draw) if kind < 0.85 else mutated_bytes(content, draw)}

    return make


def _csv_of(table: pa.Table) -> str:
    out = io.BytesIO()
    pa.csv.write_csv(table, out)
    return out.getvalue().decode()


def _text(text: str, name: str) -> Any:
    def make(draw: Random) -> Files:
        if draw.random() < 0.2:
            return {name: mutated_bytes(text.encode(), draw)}
        made = text
        for _ in range(draw.choice((1, 1, 2))):
            made = mutated_text(made, draw)
        return {name: made.encode("utf-8", "surrogatepass")}

    return make


def _two_files(text: str) -> Any:
    """Two files of one modality, of which one was changed."""
    other = text.replace('"m', '"n').encode()
    first, second = _text(text, "d/a.csv"), _text(text, "d/b.csv")

    def make(draw: Random) -> Files:
        return {**first(draw), "d/b.csv": other} if draw.random() < 0.5 else {"d/a.csv": other, **second(draw)}

    return make


def _tables(examples: Examples) -> Any:
    """The table of labels, as CSV, Parquet and Arrow: numbers, classes, true and false."""
    lines = (examples.folder / "table.csv").read_text().splitlines()
    rows = [f"{line},{'abc'[n % 3]},{'true' if n % 2 else 'false'},C" for n, line in enumerate(lines[1:])]
    text = "\n".join([f"{lines[0]},c,b,group", *rows]) + "\n"
    table = pa.csv.read_csv(io.BytesIO(text.encode()))
    as_csv = _text(text, "t.csv")
    others = [_plain_columnar(table, name) for name in ("t.parquet", "t.feather")]
    second = re.sub("(?m)^m", "n", text).encode()

    def make(draw: Random) -> Files:
        made = draw.choice((as_csv, as_csv, *others))(draw)
        return {**made, "t2.csv": second} if draw.random() < 0.2 else made

    return make


def _plain_columnar(table: pa.Table, name: str) -> Any:
    write = parquet if name.endswith(".parquet") else arrow

    def make(draw: Random) -> Files:
        if draw.random() < 0.7:
            return {name: write(odd_table(table, draw))}
        return {name: with_changed_numbers(write(table), draw)}

    return make


def _tasks() -> Any:
    """A table of SMILES and labels: of 0 and 1, of classes, of numbers; named on the command line or to be found."""
    makers = []
    for labels in (("0", "1"), ("a", "b", "c"), ("0.5", "7", "")):
        lines = [f"m{n},{'C' * (n + 1)},{labels[n % len(labels)]},{('train', 'test')[n % 2]}" for n in range(12)]
        text = "\n".join(["id,smiles,y,split", *lines]) + "\n"
        table = pa.csv.read_csv(io.BytesIO(text.encode()))
        for kind in ("named", "found"):
            tabs = text.replace(",", "\t")
            makers += [_text(text, f"{kind}.csv"), _text(tabs, f"{kind}.tsv")]
            makers.append(_plain_columnar(table, f"{kind}.parquet"))

    def make(draw: Random) -> Files:
        return draw.choice(makers)(draw)

    return make


def _read_source(uri: str) -> Any:
    def read(files: Files) -> None:
        _read_all(open_source("m", uri, files=memory_files(files)), memory_files(files))

    return read


def _arrow_reader(examples: Examples) -> Any:
    """From a disk, where such a file is mapped rather than read."""
    path = examples.scratch / "v.arrow"

    def read(files: Files) -> None:
        path.write_bytes(files["v.arrow"])
        _read_all(open_source("m", str(path)), LOCAL)

    return read


def _read_all(source: Any, files: Any) -> None:
    for piece in source.pieces:
        for chunk in piece.read(files, CHUNK_ROWS):
            assert len(chunk.ids) == len(chunk.vectors)
            assert chunk.vectors.shape[1] == source.dim
            chunk.ids.to_pylist()
            with np.errstate(invalid="ignore"):  # a NaN that signals
                chunk.vectors.astype(np.float64)


def _read_table(files: Files) -> None:
    here = memory_files(files)
    known = {"c": pa.string()} if len(files) > 1 else None
    labels = ("y", "c", "b")
    table = open_metadata("t*", id_column="id", labels=labels, split_column="split", files=here, known=known)
    for piece in table.pieces:
        for chunk in piece.read(here, CHUNK_ROWS):
            for column in (chunk.ids, *chunk.texts.values()):
                assert len(column.to_pylist()) == len(chunk.ids)


def _task_reader(examples: Examples) -> Any:
    folder = _folder(examples, "task")

    def read(files: Files) -> None:
        ((name, content),) = files.items()
        (folder / name).write_bytes(content)
        path = folder / name
        named = TableColumns(labels=("y",)) if name.startswith("named") else TableColumns()
        _, labels, split = read_labelled("t", path, named)
        packed = open_metadata(str(path), id_column="id", labels=labels, split_column=split)
        chunks = [chunk for piece in packed.pieces for chunk in piece.read(LOCAL, CHUNK_ROWS)]
        rows = pa.concat_tables([pa.table(chunk.texts) for chunk in chunks]) if chunks else pa.table({})
        if rows.num_rows:
            label_array("t", rows, tuple(labels))
            split_array("t", rows, split, np.array([text for chunk in chunks for text in chunk.ids.to_pylist()], str))

    return read


def _folder_reader(examples: Examples) -> Any:
    folder = _folder(examples, "d")

    def read(files: Files) -> None:
        for name, content in files.items():
            (folder.parent / name).write_bytes(content)
        found = read_folder(folder)
        float(np.nansum(np.asarray(found.values, np.float64)))

    return read


def _folder(examples: Examples, name: str) -> Path:
    folder = examples.scratch / name
    folder.mkdir(exist_ok=True)
    return folder
