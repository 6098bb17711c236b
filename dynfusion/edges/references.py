"""A sweep's ridge reference where it is kept: one JSON file in a folder, or in a bucket."""

from pathlib import Path

from dynfusion.edges.s3_address import is_s3
from dynfusion.edges.s3_storage import open_storage
from dynfusion.evaluation.reference import Reference, read, write
from dynfusion.evaluation.validation_settings import ValidationSettings
from dynfusion.store.manifest import Manifest
from dynfusion.training.storage import Storage


def keep_reference(address: str, reference: Reference) -> None:
    """Put the file there, whole or not at all."""
    storage, name = _place(address)
    storage.write(name, write(reference))


def open_reference(settings: ValidationSettings, manifest: Manifest) -> Reference | None:
    """The reference that `validation.reference` names, None where it names none.

    Raises ValueError when there is no such file, it is torn, or it belongs to other data or other held-out molecules.
    """
    if settings.reference is None:
        return None
    storage, name = _place(settings.reference)
    try:
        content = storage.read(name)
    except FileNotFoundError:
        raise ValueError(
            f"validation.reference: there is no {settings.reference}, allowed is the file that a sweep has made"
        ) from None
    return read(content, settings.reference, manifest=manifest, rows=settings.rows)


def _place(address: str) -> tuple[Storage, str]:
    """The folder of a file and its name there; what follows a `?` belongs to the address of the folder."""
    if not is_s3(address):
        path = Path(address.removeprefix("file://"))
        return open_storage(str(path.parent)), path.name
    file, question, query = address.partition("?")
    folder, _, name = file.rpartition("/")
    return open_storage(f"{folder}{question}{query}"), name
