"""`dynfusion doctor` on planted faults: each is real, is found, and its cure is named."""

import importlib.metadata
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from dynfusion.cli import main
from tests.clusters import free_ports
from tests.datasets import packed
from tests.edges.test_storage_probe import Guarded
from tests.s3 import FaultProxy, make_bucket, s3_server

NAMESPACE = ("unshare", "--mount", "sh", "-c")
IN_NAMESPACE = (
    shutil.which("unshare") is not None
    and subprocess.run([*NAMESPACE, "mount -t tmpfs tmpfs /mnt"], capture_output=True, check=False).returncode == 0
)
needs_mounts = pytest.mark.skipif(not IN_NAMESPACE, reason="mounting needs root and mount namespaces")


@pytest.fixture(autouse=True)
def _alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """No cluster and no token of whoever runs the tests."""
    for name in [name for name in os.environ if name.startswith("RAY_")]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(packed(tmp_path_factory.mktemp("data")).uri)


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> "Told":
    return Told(capsys)


class Told:
    """Runs `doctor --json` and has what it said, by check."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys
        self.code = 0

    def __call__(self, *options: str) -> dict[str, dict[str, str]]:
        self.capsys.readouterr()
        self.code = main(["doctor", "--json", *options])
        return by_name(self.capsys.readouterr().out)


def by_name(printed: str) -> dict[str, dict[str, str]]:
    return {finding["name"]: finding for finding in json.loads(printed)["findings"]}


def failed(finding: dict[str, str], found: str, cure: str, state: str = "failed") -> None:
    assert finding["state"] == state, finding
    assert found in finding["found"]
    assert cure in finding["cure"]


def in_shell(before: str, *options: str, **env: str) -> tuple[int, dict[str, dict[str, str]]]:
    """`doctor` behind what a shell does first, in a mount namespace of its own where that mounts anything."""
    line = f'{before} && exec "$0" -m dynfusion doctor --json "$@"'
    shell = NAMESPACE if "mount" in before else ("sh", "-c")
    done = subprocess.run(
        [*shell, line, sys.executable, *options], env={**os.environ, **env}, capture_output=True, text=True, check=False
    )
    return done.returncode, by_name(done.stdout)


def test_a_machine_is_looked_at_in_about_two_seconds_without_torch(capsys: pytest.CaptureFixture[str]) -> None:
    def seconds() -> float:
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "dynfusion", "doctor"], capture_output=True, check=False)
        return time.perf_counter() - started

    assert min(seconds() for _ in range(3)) < 2
    main(["doctor"])
    printed = capsys.readouterr().out
    for check in ("Python", "packages", "shared memory", "open files", "disk", "GPUs", "ports"):
        assert f"│ {check}" in printed
    assert printed.strip().splitlines()[-1].endswith(" ok")


def test_json_has_the_findings_of_the_table_and_the_gravest_state(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--json", "--data", "nowhere"]) == 1
    printed = json.loads(capsys.readouterr().out)
    assert printed["state"] == "failed"
    assert {frozenset(finding) for finding in printed["findings"]} == {frozenset(("name", "state", "found", "cure"))}
    assert main(["doctor", "--data", "nowhere"]) == 1
    table = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "1 failed" in table
    assert "manifest.json is missing" in table


def test_an_address_of_another_kind_is_no_folder_of_this_name(told: Told, tmp_path: Path) -> None:
    found = told("--data", "gs://bucket/set", "--storage", "gs://bucket/runs")
    for name in ("data", "storage"):
        assert "found gs://" in found[name]["found"]
        assert "s3://" in found[name]["found"]


def test_a_package_of_a_version_that_is_not_allowed(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("s3fs", "aiohttp_cors"):
        folder = tmp_path / f"{name}-0.0.1.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.0.1\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")]))
    failed(told()["packages"], "s3fs is 0.0.1, dynfusion needs >=2024.6", "python -m pip install 's3fs>=2024.6'")
    assert told.code == 1


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, as pytest's own are not."""
    with tempfile.TemporaryDirectory(dir="/tmp") as folder:
        Path(folder).chmod(0o711)
        yield Path(folder)


def test_a_token_that_others_can_read(told: Told, open_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    token = open_folder / "auth_token"
    token.write_text("a" * 32)
    token.chmod(0o644)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(token))
    failed(told()["token file"], "mode 0644", f"chmod 600 {token}")
    assert told.code == 1
    token.chmod(0o600)
    assert told()["token file"]["state"] == "ok"
    token.unlink()
    failed(told()["token file"], "no such file", "ray get-auth-token --generate")


def test_a_cluster_that_is_not_there(told: Told) -> None:
    (port,) = free_ports(1)
    failed(told("--cluster", f"127.0.0.1:{port}")["cluster"], "Connection refused", "ray status")
    assert told.code == 1
    failed(told("--cluster", f"http://127.0.0.1:{port}")["cluster"], "nothing answers", "is the address right")
    failed(told("--cluster", "ray://head:10001")["cluster"], "allowed is HOST:PORT", "--cluster HOST:6379")


def test_a_port_that_somebody_listens_on(told: Told) -> None:
    with closing(socket.socket()) as taken:
        taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            taken.bind(("", 8265))
            taken.listen()
        except OSError:
            pytest.skip("port 8265 is in use already")
        failed(told()["ports"], "8265 (dashboard) is in use", "--dashboard-port=8266", "warning")
    assert told.code == 0


def test_too_few_open_files() -> None:
    code, found = in_shell("ulimit -n 512")
    failed(found["open files"], "may open 512 files", "ulimit -n 65536")
    assert code == 1


DRIVERS = {
    "two GPUs": """
        row="NVIDIA H200, 143771, 1, 575.57"
        case "$*" in *query*) printf "$row\\n$row\\n";; *) echo "CUDA Version: 12.9";; esac
    """,
    "no driver": "echo NVIDIA-SMI has failed because it could not communicate with the NVIDIA driver.; exit 9",
}


def test_gpus_that_torch_or_the_driver_does_not_serve(
    told: Told, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "nvidia-smi"
    monkeypatch.setenv("PATH", os.pathsep.join([str(tmp_path), os.environ["PATH"]]))
    for name, script in DRIVERS.items():
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        found = told()
        if name == "no driver":
            failed(found["GPUs"], "could not communicate with the NVIDIA driver", "restart the NVIDIA driver")
        else:
            assert found["GPUs"]["found"] == "2 x NVIDIA H200, 140.4 GiB each, driver 575.57"
            if importlib.metadata.version("torch").endswith("+cpu"):
                failed(found["torch build"], "is a build for CPUs", "CUDA build")


@needs_mounts
def test_a_full_disk(tmp_path: Path) -> None:
    before = f"mount -t tmpfs -o size=64k tmpfs {tmp_path} && dd if=/dev/zero of={tmp_path}/full bs=1k count=64"
    code, found = in_shell(f"{before} >&2", RAY_TMPDIR=str(tmp_path))
    failed(found["disk"], f"0 bytes free of 64.0 KiB in {tmp_path}/ray (Ray's sessions)", "RAY_TMPDIR")
    assert code == 1


@needs_mounts
def test_too_little_shared_memory() -> None:
    code, found = in_shell("mount -t tmpfs -o size=16m tmpfs /dev/shm")
    failed(found["shared memory"], "/dev/shm has 16.0 MiB", "--shm-size", "warning")
    assert code == int(any(finding["state"] == "failed" for finding in found.values()))


def test_a_damaged_block(told: Told, data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "packed"))
    assert told("--data", str(copy))["blocks"]["state"] == "ok"
    shard = next(copy.glob("train-*.arrow"))
    content = bytearray(shard.read_bytes())
    content[5000] ^= 1
    shard.write_bytes(content)
    failed(told("--data", str(copy))["blocks"], f"{shard.name}: the checksum of block 2", "dynfusion verify")
    assert told.code == 1


def test_a_shard_that_is_missing(told: Told, data: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(data, tmp_path / "packed"))
    shard = next(copy.glob("train-*.arrow"))
    shard.unlink()
    failed(told("--data", str(copy))["data"], f"{shard.name}: the manifest lists it", "copy these files again")
    assert told.code == 1


def test_a_bucket_that_is_not_there(told: Told, s3: str) -> None:
    found = told("--storage", f"s3://not-made/runs?endpoint_override={s3}")
    failed(found["storage"], "there is no bucket not-made", "aws s3 mb s3://not-made")
    assert told.code == 1


@pytest.fixture(scope="module")
def guarded(s3: str) -> Iterator[Guarded]:
    with s3_server() as endpoint:
        store = Guarded(endpoint)
        store.lock(on=True)
        yield store


def test_a_bucket_where_writing_is_denied(told: Told, guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in guarded.keys["reader"].items():
        monkeypatch.setenv(name, value)
    found = told("--storage", f"s3://runs/mine?endpoint_override={guarded.endpoint}")
    failed(
        found["storage"], "cannot write, delete", "allow s3:PutObject, s3:DeleteObject to this user or role on s3://"
    )
    assert told.code == 1


def test_wrong_keys(told: Told, guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    storage = f"s3://runs/mine?endpoint_override={guarded.endpoint}"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "NOBODY")
    found = told("--storage", storage, "--data", storage.replace("mine", "packed"))
    failed(found["storage"], "does not exist in our records", "give valid keys: AWS_PROFILE")
    failed(found["data"], "access is denied", "AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", guarded.keys["writer"]["AWS_ACCESS_KEY_ID"])
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret-canary")
    found = told("--storage", storage)
    failed(found["storage"], "signature we calculated does not match", "give valid keys")
    assert "secret-canary" not in json.dumps(found)


def test_a_clock_that_is_apart_from_the_stores(told: Told, s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    make_bucket(s3, "late")
    with FaultProxy(s3, lambda *_: None) as proxy:
        handler: Any = proxy._server.RequestHandlerClass
        old = "Mon, 30 Nov 2020 12:00:00 GMT"
        monkeypatch.setattr(handler, "date_time_string", lambda self, timestamp=None: old)
        found = told("--storage", f"s3://late/runs?endpoint_override={proxy.endpoint}")
    assert found["storage"]["state"] == "ok"
    failed(found["clocks"], "s3://late/runs differs from this machine by", "NTP")
    assert told.code == 1


@pytest.mark.slow
def test_a_store_that_hangs_is_a_finding_in_time(told: Told, s3: str) -> None:
    with closing(socket.socket()) as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        started = time.monotonic()
        silent = f"s3://runs/mine?endpoint_override=http://127.0.0.1:{deaf.getsockname()[1]}"
        found = told("--storage", silent, "--data", silent)
    assert time.monotonic() - started < 60
    failed(found["storage"], "cannot write", "check the endpoint")
    assert found["data"]["state"] == "failed"


def test_nothing_is_left_behind(told: Told, data: Path, tmp_path: Path) -> None:
    before = sorted(data.iterdir())
    found = told("--storage", str(tmp_path / "runs"), "--data", str(data))
    assert (found["storage"]["state"], found["data"]["state"], found["blocks"]["state"]) == ("ok", "ok", "ok")
    assert list(tmp_path.iterdir()) == []
    assert sorted(data.iterdir()) == before
