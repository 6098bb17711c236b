"""Run files, space files, records and cells that are hostile, and sentences about them on a terminal."""

import json
import sys
from pathlib import Path

import pytest

from dynfusion.cli import main
from dynfusion.evaluation.protocol.cells import read_choice, read_result, write_choice, write_result
from dynfusion.run_settings import read_run
from dynfusion.settings import parse_json, parse_overrides, read_toml
from dynfusion.tuning.records import read_sweep
from dynfusion.tuning.space import read_space
from tests.fuzz.memory import MemoryStorage
from tests.fuzz.parsers_results import choice, finished_group

DEEP = 50_000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a = " + "[" * DEEP + "]" * DEEP, "nested too deeply"),
        ("a = " + "9" * 5000, "Exceeds the limit"),
        ("a = 1\na = 2", "Cannot overwrite"),
        ("a", "Expected '='"),
    ],
)
def test_a_run_file_that_is_no_toml_whatever_the_library_raises(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "run.toml").write_text(text)
    for read in (read_toml, read_run, read_space):
        with pytest.raises(ValueError, match=f"run.toml: not readable as TOML, .*{reason}") as caught:
            read(tmp_path / "run.toml")
        assert type(caught.value) is ValueError


def test_an_override_that_no_reader_can_hold_is_a_text() -> None:
    for text in ("[" * DEEP, "9" * 5000):
        assert parse_overrides([f"cluster.name={text}"]) == {"cluster": {"name": text}}


def test_a_sentence_repeats_no_more_than_a_line_of_a_file(tmp_path: Path) -> None:
    (tmp_path / "run.toml").write_text(f'[train]\n"a\\nb{"x" * 9999}" = 1\n[data]\nuri = "x"\n')
    with pytest.raises(ValueError, match=r"^setting train\.a\\nbxxx") as caught:
        read_run(tmp_path / "run.toml")
    assert len(str(caught.value)) < 2000
    (tmp_path / "run.toml").write_text(f'[train]\nepochs = "{"x" * 9999}"\n[data]\nuri = "x"\n')
    with pytest.raises(ValueError, match=r"^setting train\.epochs: found 'xxx.*\.\.\., ") as caught:
        read_run(tmp_path / "run.toml")
    assert len(str(caught.value)) < 1000


def test_nothing_of_a_file_steers_the_terminal(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "v.csv").write_text('"\x1b[2J\x1b[31mred",x\n1,2\n')
    assert main(["pack", "--modality", f"m={tmp_path / 'v.csv'}", "--out", str(tmp_path / "out")]) == 1
    said = capsys.readouterr().err
    assert r"\x1b[2J\x1b[31mred" in said
    assert all(char.isprintable() or char == "\n" for char in said)


@pytest.mark.parametrize("when", ["[1]", '"linear"', "3"])
def test_a_condition_that_is_no_table_is_named(tmp_path: Path, when: str) -> None:
    (tmp_path / "space.toml").write_text(f'["loss.alignment"]\nuniform = [0.1, 0.2]\nwhen = {when}\n')
    with pytest.raises(ValueError, match=r"space.toml: loss\.alignment: when .*, allowed is a table"):
        read_space(tmp_path / "space.toml")


def test_a_record_nested_too_deeply_and_one_with_a_strange_name() -> None:
    for content, reason in ((b"[" * DEEP, "recursion limit"), (b'{"a\\nb": 1}', r"it has (no|an unknown)")):
        with pytest.raises(ValueError, match=f"memory/sweep.json: .*{reason}") as caught:
            read_sweep(MemoryStorage({"sweep.json": content}))
        assert "\n" not in str(caught.value)


def test_json_is_nested_no_deeper_than_it_is_read() -> None:
    assert parse_json(b'{"a": {"a": [1]}}', "x") == {"a": {"a": [1]}}
    with pytest.raises(ValueError, match="x: not readable as JSON, the name 'a' stands twice"):
        parse_json(b'{"b": [{"a": 1, "a": 2}]}', "x")
    with pytest.raises(ValueError, match="x: not readable as JSON, it is nested too deeply"):
        parse_json(b'{"a":' * DEEP, "x")
    assert sys.getrecursionlimit() < DEEP


@pytest.mark.parametrize("content", ["[]", "{}", '{"group": 1, "sha256": 1}', "[" * DEEP, '{"choice": 1}', "{"])
def test_a_cell_that_something_else_wrote_counts_as_not_there(tmp_path: Path, content: str) -> None:
    result = finished_group()
    write_result(tmp_path, result)
    write_choice(tmp_path, choice(), {"C": 1.0})
    assert read_result(tmp_path, result.group) is not None
    assert read_choice(tmp_path, choice()) == {"C": 1.0}
    for name in (result.group.name, choice().name):
        (tmp_path / f"{name}.json").write_text(content)
    assert read_result(tmp_path, result.group) is None
    assert read_choice(tmp_path, choice()) is None


def test_a_cell_that_lacks_what_it_lists_counts_as_not_there(tmp_path: Path) -> None:
    result = finished_group()
    write_result(tmp_path, result)
    path = tmp_path / f"{result.group.name}.json"
    record = json.loads(path.read_text())
    for change in ({"metrics": ["roc_auc", "other"]}, {"unscored": None}, {"metrics": 3}):
        path.write_text(json.dumps({**record, **change}))
        assert read_result(tmp_path, result.group) is None
