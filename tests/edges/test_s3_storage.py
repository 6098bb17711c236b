"""A run's folder behaves alike on a disk and in a bucket."""

import pickle
from pathlib import Path

import pytest

from dynfusion.edges.s3_storage import below, open_storage
from dynfusion.training.checkpoint import checkpoint_name, next_attempt, take_attempt
from dynfusion.training.storage import Storage, exists
from tests.s3 import FaultProxy, make_bucket


@pytest.fixture(params=["disk", "bucket"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Storage:
    if request.param == "disk":
        return open_storage(str(tmp_path / "runs" / "one"))
    endpoint = request.getfixturevalue("s3")
    bucket = f"storage-{abs(hash(request.node.name)) % 10**8}"
    make_bucket(endpoint, bucket)
    return open_storage(below(f"s3://{bucket}/runs?endpoint_override={endpoint}", "one"))


def make_folder(folder: Path) -> Path:
    (folder / "engine").mkdir(parents=True)
    (folder / "engine" / "part.pt").write_bytes(b"moments")
    (folder / "files-00000-of-00001.json").write_bytes(b"{}")
    return folder


def test_what_was_written_is_read_back(storage: Storage) -> None:
    assert storage.names() == []
    assert not exists(storage, "run.json")
    with pytest.raises(FileNotFoundError):
        storage.read("run.json")
    storage.write("run.json", b"one")
    storage.write("run.json", b"another")
    assert storage.read("run.json") == b"another"
    assert storage.names() == ["run.json"]
    storage.discard("run.json")
    storage.discard("never there")
    assert storage.names() == []


def test_a_folder_comes_back_as_it_was_put_there(storage: Storage, tmp_path: Path) -> None:
    source = make_folder(tmp_path / "source")
    storage.put(source, "checkpoint-1", last="files-*")
    assert storage.names() == ["checkpoint-1"]
    with pickle.loads(pickle.dumps(storage)).local("checkpoint-1") as folder:  # as a worker does
        found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert found == {"engine/part.pt": b"moments", "files-00000-of-00001.json": b"{}"}
    assert storage.sizes("checkpoint-1") == {"engine/part.pt": 7, "files-00000-of-00001.json": 2}
    assert storage.sizes("never there") == {}
    storage.remove("checkpoint-1")
    storage.remove("never there")
    assert storage.names() == []
    with storage.local("checkpoint-1") as folder:
        assert not list(folder.glob("*"))


def test_all_of_a_folder_comes_too(storage: Storage, tmp_path: Path) -> None:
    storage.put(make_folder(tmp_path / "here"), "", last="files-*.json")
    storage.write("config.json", b"{}")
    with storage.local("") as folder:
        found = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
        assert found == {"config.json", "engine/part.pt", "files-00000-of-00001.json"}
        assert (folder / "engine" / "part.pt").read_bytes() == b"moments"


def test_no_two_starts_share_a_number_though_the_first_left_nothing(storage: Storage, tmp_path: Path) -> None:
    assert [take_attempt(storage), take_attempt(storage)] == [1, 2]
    storage.put(make_folder(tmp_path / "source"), checkpoint_name(8, 5), last="files-*")  # by an earlier version
    assert next_attempt(storage) == take_attempt(storage) == 6
    assert take_attempt(storage) == 7


def test_the_list_of_files_goes_up_behind_all_others_and_through_faults(s3: str, tmp_path: Path) -> None:
    make_bucket(s3, "storage-last")

    def once(method: str, path: str, count: int) -> str | None:
        return "slow down" if method == "PUT" and count == 0 else None

    with FaultProxy(s3, once) as proxy:
        storage = open_storage(f"s3://storage-last/run?endpoint_override={proxy.endpoint}")
        storage.put(make_folder(tmp_path / "source"), "checkpoint-1", last="files-*")
        puts = [path.rpartition("/")[2] for method, path in proxy.seen if method == "PUT"]
    assert proxy.done == ["slow down"] * 2
    assert [name.split("?")[0] for name in puts] == ["part.pt"] * 2 + ["files-00000-of-00001.json"] * 2


def test_the_query_of_an_address_stays_behind_the_folder() -> None:
    assert below("s3://b/runs/?region=x", "one") == "s3://b/runs/one?region=x"
    assert below("/runs", "one") == "/runs/one"
