"""`dynfusion train` on s3:// addresses: the weights of the same run on local files, bit for bit."""

import os
import subprocess
import sys
import zlib
from pathlib import Path

import pytest

from dynfusion.edges.datasets import upload
from dynfusion.edges.s3_storage import open_storage
from tests.datasets import packed
from tests.s3 import FaultProxy, make_bucket

RUN = """
[data]
uri = "{uri}"
[train]
epochs = 2
global_batch_rows = 64
[model]
dim = 16
[cluster]
workers = 2
storage = "{storage}"
"""


@pytest.mark.slow
def test_two_workers_train_from_a_store_as_from_local_files(s3: str, tmp_path: Path) -> None:
    dataset = packed(tmp_path / "data")
    make_bucket(s3, "remote-train")
    upload(Path(dataset.uri), f"s3://remote-train/set?endpoint_override={s3}")
    places = {
        "local": (dataset.uri, []),
        "cache": (f"s3://remote-train/set?endpoint_override={s3}", [f"data.cache_dir={tmp_path / 'cache'}"]),
        "memory": (f"s3://remote-train/set?endpoint_override={s3}", []),
    }
    weights = {}
    for name, (uri, overrides) in places.items():
        (tmp_path / f"{name}.toml").write_text(RUN.format(uri=uri, storage=tmp_path / "runs"))
        command = [sys.executable, "-m", "dynfusion", "train", str(tmp_path / f"{name}.toml"), *overrides]
        done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-2000:]
        weights[name] = (tmp_path / "runs" / name / "model" / "model.safetensors").read_bytes()
    assert weights["cache"] == weights["memory"] == weights["local"]


def one_in_twenty(method: str, path: str, count: int) -> str | None:
    """503 for 5 % of all requests, the same ones each time."""
    return "slow down" if zlib.crc32(f"{method} {path} {count}".encode()) % 20 == 0 else None


@pytest.mark.slow
def test_data_and_run_live_in_a_store_that_fails_now_and_then(s3: str, tmp_path: Path) -> None:
    dataset = packed(tmp_path / "data")
    make_bucket(s3, "faulty-train")
    upload(Path(dataset.uri), f"s3://faulty-train/set?endpoint_override={s3}")
    with FaultProxy(s3, one_in_twenty) as proxy:
        places = {
            "local": (dataset.uri, str(tmp_path / "runs")),
            "store": (
                f"s3://faulty-train/set?endpoint_override={proxy.endpoint}",
                f"s3://faulty-train/runs?endpoint_override={proxy.endpoint}",
            ),
        }
        for name, (uri, storage) in places.items():
            (tmp_path / f"{name}.toml").write_text(RUN.format(uri=uri, storage=storage))
            command = [sys.executable, "-m", "dynfusion", "train", str(tmp_path / f"{name}.toml")]
            done = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=False)
            assert done.returncode == 0, done.stderr[-2000:]
        again = subprocess.run(command, env=dict(os.environ), capture_output=True, text=True, check=True)
        assert "is already finished" in again.stdout
    assert len(proxy.done) >= 5, proxy.done
    store = open_storage(f"s3://faulty-train/runs/store?endpoint_override={s3}")
    local = (tmp_path / "runs" / "local" / "model" / "model.safetensors").read_bytes()
    assert store.read("model/model.safetensors") == local
    assert {"history.jsonl", "model", "run.json", "tensorboard"} <= set(store.names())
