"""What of a working folder travels to the cluster, and what never does."""

from pathlib import Path

import pytest

from dynfusion.edges.job_package import LIMIT_BYTES, check_open, pack_folder


def test_what_git_ignores_and_what_is_secret_stays_at_home(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    for name in (
        *("jobs/train.py", "run.toml", ".gitignore", ".env", "deep/down/.env.local", "deep/server.pem"),
        *(".aws/credentials", "big/data.arrow", "deep/cache.tmp", ".git/config", ".venv/pyvenv.cfg", "deep/kept.csv"),
    ):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("x")
    (folder / ".gitignore").write_text("*.tmp\n/big/\n")
    package = pack_folder(folder, tmp_path / "out.zip")
    files = {name for name in package.names if not name.endswith("/")}
    assert files == {"jobs/train.py", "run.toml", ".gitignore", "deep/kept.csv"}


def test_a_folder_over_the_limit_is_refused_by_its_largest_files(tmp_path: Path) -> None:
    folder = tmp_path / "work"
    folder.mkdir()
    (folder / "small.txt").write_text("x")
    with (folder / "embeddings.npy").open("wb") as file:
        file.truncate(LIMIT_BYTES + 1)
    with pytest.raises(ValueError, match=r"takes less than 100\.0 MiB; the largest are embeddings\.npy \(100\.0 MiB\)"):
        pack_folder(folder, tmp_path / "out.zip")


@pytest.mark.parametrize(
    ("variables", "arguments"),
    [
        ({"AWS_SECRET_ACCESS_KEY": "x"}, []),
        ({"WANDB_API_KEY": "x"}, []),
        ({"HF_TOKEN": "x"}, []),
        ({"db_password": "x"}, []),
        ({"MLFLOW_TRACKING_URI": "https://me:hidden@mlflow.example"}, []),
        ({}, ["data.uri=s3://AKIAABCDEFGHIJKLMNOP@bucket/packed"]),
        ({}, ["data.uri=s3://key:secret@bucket/packed"]),
    ],
)
def test_a_secret_is_refused_by_name_and_never_repeated(variables: dict[str, str], arguments: list[str]) -> None:
    with pytest.raises(ValueError, match="secret") as refused:
        check_open(variables, arguments)
    assert "hidden" not in str(refused.value)


def test_ordinary_variables_and_arguments_pass() -> None:
    check_open(
        {
            "OMP_NUM_THREADS": "4",
            "AWS_ENDPOINT_URL_S3": "http://minio:9000",
            "AUTHOR": "x",
            "TOKENIZERS_PARALLELISM": "0",
        },
        ["data.uri=s3://bucket/packed?endpoint_override=minio:9000", "cluster.name=token-study", "--labels", "a,b"],
    )
