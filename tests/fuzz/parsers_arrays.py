"""Vectors in arrays and archives, and folders as an encoder writes them."""

import io
import re
import zipfile
from random import Random
from typing import Any

import numpy as np

from dynfusion.encoders.folder import read_folder
from tests.fuzz.examples import Examples, npy
from tests.fuzz.judge import Files, Parser
from tests.fuzz.mutations import NUMBERS, mutated_bytes, mutated_text, with_changed_numbers
from tests.fuzz.on_disk import new_folder
from tests.fuzz.sources import read_source

_KINDS = (
    *(b"<f4", b">f2", b"<f8", b"|O", b"<U3", b"|S2", b"|V2", b"<i8", b"|b1", b"<c8", b"<M8[s]", b"<U0", b"|V0"),
    *(b"<f2", b"|u1", b">i4", b"<g", b"|S400", b"<U99999999", b"f", b""),
)
_SHAPE = re.compile(rb"\((\d+), (\d+)\)|\((\d+),\)")


def array_parsers(examples: Examples) -> list[Parser]:
    """Parsers of arrays, archives of them, and folders as an encoder writes them."""
    npy_check = re.compile("is empty|is not a .npy file|is missing|is not UTF-8 text")
    npz_check = re.compile("^modality m: .*is not a readable .npz file, (File|Bad)")
    folder_check = re.compile("not UTF-8|not readable as a NumPy array")
    return [
        Parser("npy", _npy(examples), read_source("d"), npy_check),
        Parser("npz", _npz(examples), read_source("v.npz"), npz_check),
        Parser("embedding folder", _npy(examples, whole=True), _folder_reader(examples), folder_check),
    ]


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


def _folder_reader(examples: Examples) -> Any:
    folder = new_folder(examples, "d")

    def read(files: Files) -> None:
        for name, content in files.items():
            (folder.parent / name).write_bytes(content)
        found = read_folder(folder)
        float(np.nansum(np.asarray(found.values, np.float64)))

    return read
