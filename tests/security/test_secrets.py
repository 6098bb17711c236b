"""Keys of S3 and Ray's token are in nothing that the product writes, sends to other machines or says."""

import base64
import gzip
import io
import logging
import pickle
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from dynfusion.edges.datasets import open_dataset, pack_to_store, verify
from dynfusion.edges.job_package import check_open, pack_folder
from dynfusion.edges.s3_address import parse_s3
from dynfusion.edges.s3_clients import STALL_SECONDS, Reach, clients, filesystem
from dynfusion.edges.s3_storage import open_storage
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build, to_toml
from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs
from dynfusion.training.checkpoint import LISTS
from dynfusion.training.run_folder import Ending, finish
from dynfusion.training.sources import join
from tests.datasets import write_folders
from tests.s3 import FaultProxy, make_bucket
from tests.security.canary import CANARIES, RAY_TOKEN, SECRET_KEY, SESSION_TOKEN, environment, leaks, leaks_below
from tests.training.cases import run


@pytest.fixture
def keys(s3: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The endpoint of an S3 server, and canaries as the keys that every client signs with."""
    for name, value in {**environment(), "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": RAY_TOKEN}.items():
        monkeypatch.setenv(name, value)
    clients.renew(lambda: clients.generation)
    yield s3
    clients.renew(lambda: clients.generation)


def archive(text: str) -> bytes:
    made = io.BytesIO()
    with zipfile.ZipFile(made, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("inside.txt", f"key={text}\n")
    return made.getvalue()


@pytest.mark.parametrize("name", CANARIES)
def test_the_search_finds_a_secret_however_it_is_written(name: str, tmp_path: Path) -> None:
    secret = CANARIES[name]
    for before in ("", "x", "xy", "xyz"):
        assert leaks(base64.b64encode(f"{before}{secret}, and more".encode())) == [name]
    assert leaks(secret.encode().hex().encode()) == [name]
    assert leaks(b"..." + pickle.dumps({"key": secret})) == [name]
    for number, content in enumerate((archive(secret), gzip.compress(secret.encode()))):
        (tmp_path / str(number)).write_bytes(content)
    assert list(leaks_below(tmp_path).values()) == [[name], [name]]
    assert not leaks(b"nothing of this kind" * 100)


def test_packing_training_and_exporting_in_a_bucket_write_no_secret(
    keys: str, tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    make_bucket(keys, "canary")
    address = f"s3://canary/set?endpoint_override={keys}"
    inputs = PackInputs(write_folders(tmp_path / "sources", rows=300))
    pack_to_store(lambda folder: pack(inputs, out=folder), address)
    found = clients.access(Reach(keys, None, None, STALL_SECONDS)).keys
    assert found is not None, "the canaries are what the clients sign with"
    assert (found["secret_key"], found["session_token"]) == (SECRET_KEY, SESSION_TOKEN)
    dataset = open_dataset(address)
    assert not verify(address)
    _, history = run(dataset, tmp_path / "run")
    checkpoint = sorted((tmp_path / "run").glob("checkpoint-*"))[-1]
    settings = build(RunSettings, {"data": {"uri": address}, "cluster": {"storage": "s3://canary/runs"}})
    storage = open_storage(f"s3://canary/runs/one?endpoint_override={keys}")
    storage.put(checkpoint, checkpoint.name, last=LISTS)
    storage.write("run.json", to_toml(settings).encode())
    sources, ending = join([dataset], ()), Ending(8, "every epoch is done", history)
    finish(storage, checkpoint, ending, settings.model_dump(mode="json"), sources)
    everything = open_storage(f"s3://canary?endpoint_override={keys}")
    names = everything.sizes("")
    assert {"set/manifest.json", "runs/one/model/training.json"} <= names.keys()
    assert not [(name, leaks(everything.read(name))) for name in names if leaks(everything.read(name))]
    assert not leaks_below(tmp_path)
    said = capfd.readouterr()
    assert not leaks(f"{said.out}{said.err}{caplog.text}".encode())
    for travels in (dataset, storage, storage.store, filesystem(parse_s3(address))):
        assert not leaks(pickle.dumps(travels)), travels


@pytest.mark.parametrize("fault", ["denied", "expired", "reset", "slow down", "truncated"])
def test_no_error_of_a_store_repeats_a_secret(keys: str, fault: str) -> None:
    make_bucket(keys, f"canary-{fault.replace(' ', '-')}")
    with FaultProxy(keys, lambda method, path, count: fault) as proxy:
        storage = open_storage(
            f"s3://canary-{fault.replace(' ', '-')}/run?endpoint_override={proxy.endpoint}", deadline_seconds=1.0
        )
        with pytest.raises((ValueError, OSError)) as caught:
            storage.read("run.json")
    error: BaseException | None = caught.value
    while error is not None:
        assert not leaks(f"{error!r} {error}".encode())
        error = error.__cause__ or error.__context__


@pytest.mark.parametrize(
    "address", [f"s3://id:{SECRET_KEY.replace('/', '%2F')}@b/x", f"s3://b/x?secret_key={SESSION_TOKEN}"]
)
def test_an_address_with_a_key_is_refused_and_not_repeated(address: str) -> None:
    with pytest.raises(ValueError, match="key") as caught:
        parse_s3(address)
    assert not leaks(str(caught.value).encode())


@pytest.mark.parametrize("name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "RAY_AUTH_TOKEN"])
def test_a_job_takes_no_secret_in_its_environment_nor_in_its_package(keys: str, tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match=f"--env {name}: looks like a secret") as caught:
        check_open({name: CANARIES[name]}, [])
    assert not leaks(str(caught.value).encode())
    folder = tmp_path / "work"
    for file in (
        ".env",
        "keys.env",
        ".envrc",
        "token",
        ".git-credentials",
        ".aws/credentials",
        ".ray/auth_token",
        "auth_token",
        "deep/.env.local",
        "deep/credentials",
    ):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).write_text(f"{name}={CANARIES[name]}\n")
    (folder / "run.toml").write_text('data.uri = "s3://bucket/set"\n')
    package = pack_folder(folder, tmp_path / "work.zip")
    assert {entry for entry in package.names if not entry.endswith("/")} == {"run.toml"}
    assert not leaks(package.path.read_bytes())
