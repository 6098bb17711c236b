"""What inspect and pack say of a folder with extensions, and figures that agree."""

import json
import shutil
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

from dynfusion.verbs.inspect import inspect
from dynfusion.verbs.pack import pack
from tests.store.sources import write_folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty rows, and two extensions of them that know nothing of each other."""
    ids = {"": [f"m{row}" for row in range(40)], "-1": ["x"], "-2": ["y", "z"]}
    for name, found in ids.items():
        write_folder(tmp_path / f"source{name}", np.ones((len(found), 2), np.float16), found)
    packed = tmp_path / "packed"
    pack(modalities=[f"m={tmp_path / 'source'}"], out=str(packed))
    return packed


def extended(folder: Path, number: int, base: str = "") -> None:
    pack(modalities=[f"m={folder.parent}/source-{number}"], out=None, extend=str(folder / base))


def told(uri: Path, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    capsys.readouterr()
    inspect(str(uri), as_json=True)
    return json.loads(capsys.readouterr().out)


def test_a_second_extension_of_one_base_is_told_what_it_lacks(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    extended(folder, 1)
    said = capsys.readouterr().out
    assert "it extends manifest.json\n" in said
    assert "warning" not in said
    extended(folder, 2)
    said = capsys.readouterr().out
    assert "it extends manifest.json\n" in said
    assert (
        "warning: the folder has other extensions, what they added is not in manifest-2.json: manifest-1.json (41 "
        in said
    )
    extended(folder, 1, "manifest-2.json")
    said = capsys.readouterr().out
    assert "it extends manifest-2.json\n" in said
    assert "manifest-2.json (42" not in said.partition("warning")[2]
    assert "manifest-1.json (41 training rows, extends manifest.json)" in said.partition("warning")[2]


def test_inspect_shows_the_base_and_the_other_manifests(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    inspect(str(folder))
    assert "also here" not in capsys.readouterr().out
    extended(folder, 1)
    extended(folder, 2, "manifest-1.json")
    (folder / "manifest-3.json").write_text("{")
    capsys.readouterr()
    inspect(str(folder / "manifest-2.json"))
    said = capsys.readouterr().out
    assert "extends      manifest-1.json\n" in said
    others = "manifest.json (40 training rows), manifest-1.json (41 training rows, extends manifest.json), "
    assert f"also here    {others}manifest-3.json (not readable)\n" in said
    found = told(folder, capsys)
    assert found["manifest"] == "manifest.json"
    assert found["manifests"][:3] == [
        {"name": "manifest.json", "rows": 40, "extends": None},
        {"name": "manifest-1.json", "rows": 41, "extends": "manifest.json"},
        {"name": "manifest-2.json", "rows": 43, "extends": "manifest-1.json"},
    ]


def test_inspect_shows_what_it_can_of_a_folder_with_odd_manifests(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = folder / "copy.json"
    shutil.copy(folder / "manifest.json", copy)
    (folder / "manifest-7.json").mkdir()
    found = told(copy, capsys)
    assert found["manifest"] == "copy.json"
    assert [entry["rows"] for entry in found["manifests"]] == [40, 40, None]
    inspect(str(copy))
    others = "manifest.json (40 training rows), manifest-7.json (not readable)"
    assert f"also here    {others}\n" in capsys.readouterr().out
    extended(folder, 1)
    assert "it extends " in capsys.readouterr().out


def test_a_folder_that_cannot_be_listed_leaves_the_other_manifests_unknown(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(self: Path) -> NoReturn:
        raise PermissionError(f"cannot list {self}")

    monkeypatch.setattr(Path, "iterdir", denied)
    inspect(str(folder))
    assert f"also here    not known, cannot list {folder}\n" in capsys.readouterr().out
    found = told(folder, capsys)
    assert [entry["name"] for entry in found["manifests"]] == ["manifest.json"]
    assert found["manifests_unknown"] == f"cannot list {folder}"


def test_present_and_absent_cells_add_up_to_the_rows_they_are_of(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    values = np.ones((100, 2), np.float32)
    values[::4] = np.nan
    ids = [f"m{row}" for row in range(100)]
    one = write_folder(tmp_path / "one", values, ids)
    other = write_folder(tmp_path / "other", np.ones((90, 3), np.float32), ids[:90])
    manifest = pack(modalities=[f"one={one}", f"other={other}"], out=str(tmp_path / "packed"), holdout=0.2)
    assert manifest.holdout_rows > 0
    assert manifest.dropped_rows > 0
    found = told(tmp_path / "packed", capsys)
    assert found["all_rows"] == 100
    assert [entry["present_in_all_rows"] for entry in found["modalities"]] == [75, 90]
    for entry in found["modalities"]:
        assert entry["present_in_all_rows"] + sum(entry["absent"].values()) == 100
    assert found["files"] == len(manifest.files)
    inspect(str(tmp_path / "packed"))
    assert f"files        {len(manifest.files)} beside manifest.json" in capsys.readouterr().out
