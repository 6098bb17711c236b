"""`dynfusion train` on an s3:// address: the weights of the same run on local files, bit for bit."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dynfusion.edges.datasets import upload
from tests.datasets import packed
from tests.s3 import make_bucket

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
