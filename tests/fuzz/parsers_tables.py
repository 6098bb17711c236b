"""Tables: of vectors, of labels, of SMILES; as CSV, Parquet and Arrow."""

import io
import re
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa

from dynfusion.evaluation.tasks.task import label_array, split_array
from dynfusion.store.files import LOCAL
from dynfusion.store.sources import open_source
from dynfusion.store.table import open_metadata
from dynfusion.verbs.labelled_table import TableColumns, read_labelled
from tests.fuzz.examples import Examples, arrow, parquet
from tests.fuzz.judge import Files, Parser
from tests.fuzz.memory import memory_files
from tests.fuzz.mutations import mutated_bytes, mutated_text, with_changed_numbers
from tests.fuzz.on_disk import new_folder
from tests.fuzz.sources import CHUNK_ROWS, read_all, read_source
from tests.fuzz.tables import odd_table


def table_parsers(examples: Examples) -> list[Parser]:
    """Parsers of vectors, labels and SMILES in tables."""
    vectors = _vector_table(examples)
    unreadable = re.compile("^modality m: .*(is empty|is not a readable|is not readable|is missing)")
    table_check = re.compile("^table: .*(is empty|is not a readable|is not readable)")
    task_check = re.compile("(is empty|is not a readable|is not readable)")
    return [
        Parser("parquet", _columnar(vectors, "v.parquet"), read_source("v.parquet"), unreadable),
        Parser("arrow", _columnar(vectors, "v.arrow"), _arrow_reader(examples), unreadable),
        Parser("csv", _two_files(_csv_of(vectors)), read_source("d"), unreadable),
        Parser("table", _tables(examples), _read_table, table_check),
        Parser("task", _tasks(), _task_reader(examples), task_check),
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


def text_maker(text: str, name: str) -> Any:
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
    first, second = text_maker(text, "d/a.csv"), text_maker(text, "d/b.csv")

    def make(draw: Random) -> Files:
        return {**first(draw), "d/b.csv": other} if draw.random() < 0.5 else {"d/a.csv": other, **second(draw)}

    return make


def _tables(examples: Examples) -> Any:
    """The table of labels, as CSV, Parquet and Arrow: numbers, classes, true and false."""
    lines = (examples.folder / "table.csv").read_text().splitlines()
    rows = [f"{line},{'abc'[n % 3]},{'true' if n % 2 else 'false'},C" for n, line in enumerate(lines[1:])]
    text = "\n".join([f"{lines[0]},c,b,group", *rows]) + "\n"
    table = pa.csv.read_csv(io.BytesIO(text.encode()))
    as_csv = text_maker(text, "t.csv")
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
            makers += [text_maker(text, f"{kind}.csv"), text_maker(tabs, f"{kind}.tsv")]
            makers.append(_plain_columnar(table, f"{kind}.parquet"))

    def make(draw: Random) -> Files:
        return draw.choice(makers)(draw)

    return make


def _arrow_reader(examples: Examples) -> Any:
    """From a disk, where such a file is mapped rather than read."""
    path = examples.scratch / "v.arrow"

    def read(files: Files) -> None:
        path.write_bytes(files["v.arrow"])
        read_all(open_source("m", str(path)), LOCAL)

    return read


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
    folder = new_folder(examples, "task")

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
