"""One modality as given: any mixture of files, folders and patterns, opened but not read.

address --Files.find--> files --by kind--> npy_files | npz_files | columnar_files --> pieces, each read chunk by chunk
"""

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial

from dynfusion.store.columnar_files import open_columnar
from dynfusion.store.files import LOCAL, Files, folder_of, name_of
from dynfusion.store.npy_files import FOLDER_FILES, VECTORS, open_npy
from dynfusion.store.npz_files import open_npz
from dynfusion.store.source import OpenedFile, Piece
from dynfusion.store.table_files import KINDS, SUFFIXES


@dataclass(frozen=True)
class Source:
    """A modality's name, address, width, what made it (one line, empty when unknown) and its pieces in order.

    `ids_at` names where its ids stand, for sentences about them; `texts` are the columns besides the ids, `features`
    the names of its numbers in their order where each has a column.
    """

    name: str
    uri: str
    dim: int
    encoder: str
    ids_at: str
    texts: frozenset[str]
    pieces: tuple[Piece, ...]
    features: tuple[str, ...] = ()


def open_source(
    name: str,
    uri: str,
    *,
    files: Files = LOCAL,
    binary_dtype: str = "float16",
    like: OpenedFile | None = None,
    elsewhere: Container[str] = (),
) -> Source:
    """The modality at an address: a folder as `embed` writes it, a file, a folder of files, or a pattern.

    `like` stands for what is known of the modality already (`open_columnar`), `elsewhere` has names of no feature.

    Raises ValueError, naming the file, for anything missing, empty, truncated, pickled or of another shape.
    """
    where = f"modality {name}"
    found = files.find(uri.rstrip("/"))
    if not found:
        raise ValueError(f"{where}: {uri} is neither a folder nor a file, and no pattern that names any")
    opened = _open_all(
        where, found, files, like, partial(open_columnar, binary_dtype=binary_dtype, elsewhere=elsewhere)
    )
    if not opened:
        missing = f"{uri.rstrip('/')}/{VECTORS} is missing" if found != [uri] else f"{uri} is of no known kind"
        raise ValueError(f"{where}: {missing}, and nothing else here ends with {', '.join(SUFFIXES)}")
    first = opened[0]
    if not first.dim:
        raise ValueError(
            f"{where}: {first.uri} has vectors of no numbers or none at all, and no other file tells their width"
        )
    for file in opened[1:]:
        if file.dim != first.dim:
            raise ValueError(f"{where}: {file.uri} has vectors of {file.dim} numbers, {first.uri} of {first.dim}")
        if file.encoder != first.encoder:
            raise ValueError(
                f"{where}: {file.uri} was made by {file.encoder or 'an unknown encoder'!r}, {first.uri} by "
                f"{first.encoder or 'an unknown encoder'!r}, one modality has one encoder"
            )
    pieces = tuple(piece for file in opened for piece in file.pieces)
    ids_at = f"{where}: {first.ids_uri if len(opened) == 1 else uri}"
    texts = frozenset(text for file in opened for text in file.texts)
    features = next((file.features for file in opened if file.features), ())
    return Source(name, uri, first.dim, first.encoder, ids_at, texts, pieces, features)


def source_files(uri: str, files: Files = LOCAL) -> list[str]:
    """Every file that may be read for this address, sorted: those it names and what counts beside them."""
    uri = uri.rstrip("/")
    found = files.find(uri)
    whole = found and not set("*?[") & set(uri) and name_of(found[0]) != name_of(uri)  # a folder: all beside is in it
    beside = [] if whole else [near for file in found if file.endswith(".npy") for near in _beside(file, files)]
    return sorted({*found, *beside})


def _beside(uri: str, files: Files) -> list[str]:
    """The files there are beside a `.npy` file that say more about its rows."""
    if name_of(uri) == VECTORS:
        counting = {f"{folder_of(uri)}/{name}" for name in FOLDER_FILES}
        return sorted(counting.intersection(files.find(folder_of(uri))))
    return [*files.find(_stem(uri) + ".ids.npy"), *files.find(_stem(uri) + ".ids.txt")]


def _open_all(
    where: str,
    found: Sequence[str],
    files: Files,
    like: OpenedFile | None,
    open_table: Callable[..., OpenedFile],
) -> list[OpenedFile]:
    folders = {folder_of(uri) for uri in found if name_of(uri) == VECTORS}
    opened: list[OpenedFile] = []
    for uri in found:
        suffix = uri.rpartition(".")[2].lower()
        if name_of(uri) == VECTORS:
            ids_uri = _folder_ids(folder_of(uri), files)
            opened.append(open_npy(where, uri, files, ids_uri=ids_uri, in_folder=True))
        elif folder_of(uri) in folders:
            continue
        elif suffix == "npy" and not uri.endswith(".ids.npy"):
            opened.append(open_npy(where, uri, files, ids_uri=_ids_beside(uri, files), in_folder=False))
        elif suffix == "npz":
            opened.append(open_npz(where, uri, files))
        elif suffix in KINDS:
            opened.append(open_table(where, uri, files, like=like))
        if opened and opened[-1].dim and (like is None or (opened[-1].features and not like.features)):
            like = opened[-1]
    return [file if file.dim or not like else open_table(where, file.uri, files, like=like) for file in opened]


def _folder_ids(folder: str, files: Files) -> str:
    text, array = f"{folder}/ids.txt", f"{folder}/ids.npy"
    return array if files.find(array) and not files.find(text) else text


def _ids_beside(uri: str, files: Files) -> str:
    """`x.ids.npy` beside `x.npy`, else `x.ids.txt`."""
    array = _stem(uri) + ".ids.npy"
    return array if files.find(array) else _stem(uri) + ".ids.txt"


def _stem(uri: str) -> str:
    return uri.rpartition(".")[0]
