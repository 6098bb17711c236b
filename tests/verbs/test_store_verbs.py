import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from dynfusion.store.dataset import open_dataset
from dynfusion.verbs.inspect import inspect
from dynfusion.verbs.pack import pack
from dynfusion.verbs.sample import sample
from dynfusion.verbs.verify import verify
from tests.store.sources import DIMS, write_folder, write_sources


def pack_command(modalities: list[str], out: Path, **changes: Any) -> Any:
    options = {
        "table": None, "id_column": "id", "labels": [], "split_column": None, "on_bad": "error", "zero_rows": "keep",
        "holdout": 0.0, "seed": 0,
    }  # fmt: skip
    return pack(modalities=modalities, out=str(out), **{**options, **changes})


def sources(folder: Path) -> list[str]:
    return [f"{name}={path}" for name, path in write_sources(folder, 300).items()]


def test_pack_inspect_and_verify_tell_the_same_story(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = pack_command(sources(tmp_path / "sources"), tmp_path / "packed", holdout=0.1)
    said = capsys.readouterr().out
    assert f"{manifest.rows} training rows, {manifest.holdout_rows} held out" in said
    inspect(str(tmp_path / "packed"), as_json=True)
    told = json.loads(capsys.readouterr().out)
    assert told["fingerprint"] == manifest.fingerprint
    assert told["bytes"] == sum(
        path.stat().st_size
        for path in (tmp_path / "packed").iterdir()
        if path.name not in ("manifest.json", "inputs.json")
    )
    assert [(m["name"], m["dim"]) for m in told["modalities"]] == list(DIMS.items())
    for entry in told["modalities"]:
        assert entry["present_rate"] == entry["present_rows"] / told["rows"]
    inspect(str(tmp_path / "packed"))
    table = capsys.readouterr().out
    assert manifest.fingerprint in table
    assert all(name in table for name in DIMS)
    assert verify(str(tmp_path / "packed")) == []
    assert f"all {len(manifest.files)} files are right" in capsys.readouterr().out


def test_verify_prints_every_problem_it_returns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    manifest = pack_command(sources(tmp_path / "sources"), tmp_path / "packed")
    (tmp_path / "packed" / manifest.shards[0].path).unlink()
    capsys.readouterr()
    problems = verify(str(tmp_path / "packed"))
    assert (
        capsys.readouterr().out.splitlines()[1:]
        == problems
        == [f"{tmp_path / 'packed' / 'train-00000.arrow'}: missing"]
    )


def test_wrong_use_of_pack_is_refused_with_a_sentence(tmp_path: Path) -> None:
    for modalities, sentence in [
        (["morgan"], "modality 'morgan': expected NAME=PATH"),
        (["a=x", "a=y"], "modality a: given twice"),
        ([], "modalities: found none"),
        (["a/b=x"], "modality a/b: a name is made of letters"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            pack_command(modalities, tmp_path / "packed")
    with pytest.raises(ValueError, match="setting on_bad: found 'ignore'"):
        pack_command(["a=x"], tmp_path / "packed", on_bad="ignore")
    with pytest.raises(ValueError, match=r"setting holdout: found 1\.5"):
        pack_command(["a=x"], tmp_path / "packed", holdout=1.5)


def test_sample_prints_rows_that_a_person_can_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = [f"m{row:06d},{'C' * (row % 5)},{row}" for row in range(300)]
    (tmp_path / "table.csv").write_text("\n".join(["id,smiles,weight", *lines]) + "\n")
    modalities = sources(tmp_path / "sources")
    pack_command(modalities, tmp_path / "packed", table=tmp_path / "table.csv", labels=["weight"])
    capsys.readouterr()
    rows = sample(str(tmp_path / "packed"), rows=12, seed=1)
    said = capsys.readouterr().out.splitlines()
    assert len(rows) == 12
    assert len(said) == 12 * (1 + len(DIMS))
    dataset = open_dataset(tmp_path / "packed")
    for row in rows:
        known = dataset.table("train").slice(row["row"], 1).to_pylist()[0]
        assert row["known"] == {name: known[name] for name in ("id", "smiles", "weight")}
        assert f"row {row['row']}: id {known['id']}" in "\n".join(said)
        read = dataset.read("train", slice(row["row"], row["row"] + 1))
        for m, (name, dim) in enumerate(DIMS.items()):
            if read.present[0, m]:
                assert row["modalities"][name].startswith(f"{float(read.values[name][0, 0]):.3g} ")
                assert (f"({dim} numbers" in row["modalities"][name]) == (dim > 5)
            else:
                assert row["modalities"][name] == "absent: encoder failed"
    assert sample(str(tmp_path / "packed"), rows=12, seed=1) == rows
    with pytest.raises(ValueError, match="rows: found 0, at least 1"):
        sample(str(tmp_path / "packed"), rows=0)


def test_pack_extends_a_data_set_by_its_address(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pack_command(sources(tmp_path / "sources"), tmp_path / "packed")
    more = [f"{name}={path}" for name, path in write_sources(tmp_path / "more", 310).items()]
    with pytest.raises(ValueError, match="give either --out for a new data set or --extend"):
        pack_command(more, tmp_path / "other", extend=str(tmp_path / "packed"))
    with pytest.raises(ValueError, match=r"that the data set has already .*--on-duplicate first"):
        pack(modalities=more, out=None, extend=str(tmp_path / "packed"))
    manifest = pack(modalities=more, out=None, extend=str(tmp_path / "packed"), on_duplicate="first")
    assert f"{tmp_path / 'packed'}/manifest-1.json: {manifest.rows} training rows" in capsys.readouterr().out
    inspect(f"{tmp_path / 'packed'}/manifest-1.json", as_json=True)
    assert json.loads(capsys.readouterr().out)["rows"] == manifest.rows


def test_modalities_that_share_no_id_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write_folder(tmp_path / "one", np.ones((9, 2), np.float16), [f"a{row}" for row in range(9)])
    other = write_folder(tmp_path / "other", np.ones((9, 2), np.float16), [f"b{row}" for row in range(9)])
    none = write_folder(tmp_path / "none", np.full((9, 2), np.nan, np.float16), [f"a{row}" for row in range(9)])
    pack_command([f"one={one}", f"other={other}"], tmp_path / "apart")
    assert "warning: no row has two modalities" in capsys.readouterr().out
    pack_command([f"one={one}", f"again={one}", f"none={none}"], tmp_path / "together")
    said = capsys.readouterr().out
    assert "warning: modality none is present in no row" in said
    assert "no row has two" not in said
    pack(modalities=[f"onee={one}"], out=None, extend=str(tmp_path / "apart"))
    assert "onee is new, the data set had one, other" in capsys.readouterr().out
