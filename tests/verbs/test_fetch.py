"""The published files are not at hand in a test: others of the same columns, pinned by their hash, stand for them."""

import csv
from dataclasses import replace
from pathlib import Path

import pytest

from dynfusion.cli import main
from dynfusion.evaluation.tasks.moleculenet import MOLECULENET, content_sha256, file_of
from dynfusion.evaluation.tasks.task import SPLITS, read_task
from dynfusion.store.dataset import open_dataset
from dynfusion.verbs.fetch import fetch
from dynfusion.verbs.labelled_table import pack_table
from tests.edges.http_files import file_server

ROWS = {"train": ["CO", "CCO", "CCCO", "c1ccccc1O"], "valid": ["CCN"], "test": ["CCCN", "c1ccncc1"]}


def write_parts(folder: Path, name: str) -> None:
    """Files as published: labels before the SMILES, a column without a name, line ends of Windows."""
    labels = MOLECULENET[name].labels
    for part in SPLITS:
        path = folder / file_of(name, part)
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            writer = csv.writer(file)
            writer.writerow([*labels, "", "smiles"])
            for row, smiles in enumerate(ROWS[part]):
                gap = ["" if name == "tox21" and row == label else (row + label) % 2 for label in range(len(labels))]
                writer.writerow([*gap, "x", smiles])


@pytest.fixture
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of clintox, sider and tox21, whose hashes are pinned."""
    folder = tmp_path / "published"
    for name in ("clintox", "sider", "tox21"):
        write_parts(folder, name)
        digests = {part: content_sha256((folder / file_of(name, part)).read_bytes()) for part in SPLITS}
        monkeypatch.setitem(MOLECULENET, name, replace(MOLECULENET[name], sha256=digests))  # type: ignore[arg-type]
    return folder


def test_the_registry_has_the_labels_and_hashes_of_six_sets() -> None:
    counts = {name: len(each.labels) for name, each in MOLECULENET.items()}
    assert counts == {"bace": 1, "bbbp": 1, "clintox": 2, "hiv": 1, "sider": 27, "tox21": 12}
    digests = [digest for each in MOLECULENET.values() for digest in each.sha256.values()]
    assert len(set(digests)) == 18
    assert all(len(digest) == 64 for digest in digests)
    assert content_sha256(b"a\r\nb\n") == content_sha256(b"a\nb\n") != content_sha256(b"ab")


def test_local_parts_become_one_file_a_set_that_is_a_task_at_once(published: Path, tmp_path: Path) -> None:
    written = fetch("moleculenet", out=tmp_path / "sets", source=published, tasks=["clintox", "sider", "tox21"])
    assert [path.name for path in written] == ["clintox.csv", "sider.csv", "tox21.csv"]
    with written[1].open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["id", "smiles", *MOLECULENET["sider"].labels, "split"]
    assert [(row["id"], row["split"]) for row in rows[3:6]] == [
        ("sider-00004", "train"),
        ("sider-00005", "valid"),
        ("sider-00006", "test"),
    ]
    for path, gaps in zip(written, (0, 0, 7), strict=True):
        task = read_task(path.stem, open_dataset(pack_table(path.stem, path, encoders=("morgan",), out=tmp_path)))
        assert task.label_names == MOLECULENET[path.stem].labels
        assert task.kind == "binary"
        assert task.split.tolist() == [part for part in SPLITS for _ in ROWS[part]]
        assert task.smiles.tolist() == [smiles for part in SPLITS for smiles in ROWS[part]]
        assert (task.labels != task.labels).sum() == gaps
    assert (published / file_of("sider", "train")).exists(), "local files stay"


def test_a_download_breaks_off_continues_and_gives_the_same_file(published: Path, tmp_path: Path) -> None:
    (local,) = fetch("moleculenet", out=tmp_path / "local", source=published, tasks=["sider"])
    with file_server(published) as server:
        server.break_after = 700
        for _ in range(9):
            with pytest.raises(ValueError, match="broken off"):
                fetch("moleculenet", out=tmp_path / "far", tasks=["sider"], address=server.address)
            if len(server.asked) > 3:
                break
        server.break_after = None
        (far,) = fetch("moleculenet", out=tmp_path / "far", tasks=["sider"], address=server.address)
        assert far.read_bytes() == local.read_bytes()
        assert [path.name for path in far.parent.iterdir()] == ["sider.csv"]
        assert any(asked for _, asked in server.asked)
        before = len(server.asked)
        fetch("moleculenet", out=tmp_path / "far", tasks=["sider"], address=server.address)
        assert len(server.asked) == before, "a set that is there is not fetched again"


def test_a_set_that_is_there_is_told_from_a_changed_one(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (path,) = fetch("moleculenet", out=tmp_path, source=published, tasks=["clintox"])
    pinned = replace(MOLECULENET["clintox"], whole_sha256=content_sha256(path.read_bytes()))
    monkeypatch.setitem(MOLECULENET, "clintox", pinned)  # type: ignore[arg-type]
    capsys.readouterr()
    fetch("moleculenet", out=tmp_path, tasks=["clintox"])
    assert capsys.readouterr().out.replace("\n", "").endswith("clintox.csv: is there already, as published")
    changed = path.read_text().replace("CCN", "CCS")
    path.write_text(changed)
    fetch("moleculenet", out=tmp_path, tasks=["clintox"])
    assert "is not the published set; it is left as it is, remove it" in capsys.readouterr().out.replace("\n", " ")
    assert path.read_text() == changed


SHARED = Path(__file__).parents[3] / "shared" / "data" / "moleculenet"


@pytest.mark.skipif(not SHARED.exists(), reason="needs the published files beside the checkout")
def test_the_published_files_give_the_files_that_are_pinned(tmp_path: Path) -> None:
    for path in fetch("moleculenet", out=tmp_path, source=SHARED):
        assert content_sha256(path.read_bytes()) == MOLECULENET[path.stem].whole_sha256


def test_a_file_that_is_another_is_an_error_and_leaves_no_set(published: Path, tmp_path: Path) -> None:
    path = published / file_of("clintox", "valid")
    path.write_bytes(path.read_bytes().replace(b"CCN", b"CCS"))
    with (
        file_server(published) as server,
        pytest.raises(ValueError, match=r"clintox/valid\.csv: found SHA-256 .*, expected"),
    ):
        fetch("moleculenet", out=tmp_path / "sets", tasks=["clintox"], address=server.address)
    assert not list((tmp_path / "sets").glob("*.csv"))
    assert not list((tmp_path / "sets").rglob("valid*"))


def test_local_files_that_are_others_are_said_and_taken(
    published: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = published / file_of("clintox", "valid")
    path.write_bytes(path.read_bytes().replace(b"CCN", b"CCS"))
    line = ["data", "fetch", "moleculenet", "--out", str(tmp_path / "sets"), "--from", str(published)]
    assert main([*line, "--tasks", "clintox"]) == 0
    assert f"{path}: is not the published file" in capsys.readouterr().out
    assert "CCS" in (tmp_path / "sets" / "clintox.csv").read_text()


def test_what_cannot_be_fetched_is_said_in_one_sentence(published: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="data: found 'qm9', allowed is moleculenet"):
        fetch("qm9", out=tmp_path)
    with pytest.raises(ValueError, match="tasks: found 'esol', allowed are bace, bbbp, clintox, hiv, sider, tox21"):
        fetch("moleculenet", out=tmp_path, tasks=["esol"])
    with pytest.raises(ValueError, match=r"bace/train\.csv: no such file, expected train\.csv, valid\.csv, test\.csv"):
        fetch("moleculenet", out=tmp_path, source=published, tasks=["bace"])
    (published / file_of("clintox", "test")).write_text("smiles,CT_TOX\nCO,1\n")
    with pytest.raises(ValueError, match=r"clintox/test\.csv: no column 'FDA_APPROVED', found smiles, CT_TOX"):
        fetch("moleculenet", out=tmp_path / "sets", source=published, tasks=["clintox"])
    assert not list((tmp_path / "sets").iterdir())
