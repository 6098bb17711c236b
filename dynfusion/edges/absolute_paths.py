"""Paths made absolute: what runs on a cluster has a working folder of its own."""

from pathlib import Path

from dynfusion.edges.s3_address import is_s3
from dynfusion.run_settings import RunSettings
from dynfusion.store.manifest import local_folder, split_address


def with_absolute_paths(settings: RunSettings) -> RunSettings:
    """The same run from any folder."""
    uris = tuple(_folder(uri) for uri in settings.data.uris)
    data = settings.data.model_copy(update={"uri": uris[0] if len(uris) == 1 else uris})
    if data.cache_dir is not None:
        data = data.model_copy(update={"cache_dir": str(Path(data.cache_dir).expanduser().absolute())})
    cluster = settings.cluster.model_copy(update={"storage": _folder(settings.cluster.storage)})
    init = settings.train.init
    train = settings.train.model_copy(update={"init": None if init is None else _folder(init)})
    tasks = {name: _folder(uri) for name, uri in settings.validation.tasks.items()}
    reference = settings.validation.reference
    watched = {"tasks": tasks, "reference": None if reference is None else _folder(reference)}
    validation = settings.validation.model_copy(update=watched)
    update = {"data": data, "cluster": cluster, "train": train, "validation": validation}
    return settings.model_copy(update=update)


def absolute(uri: str) -> str:
    """The same place from any folder; what has a scheme is that already, and is judged by whoever opens it."""
    return uri if "://" in uri else str(Path(uri).expanduser().absolute())


def _folder(uri: str) -> str:
    """The same place from any folder; a manifest or another JSON file that is named keeps its name."""
    if is_s3(uri):
        return uri
    folder, name = local_folder(uri).absolute(), split_address(uri)[1]
    return str(folder / name if uri.endswith(".json") else folder)
