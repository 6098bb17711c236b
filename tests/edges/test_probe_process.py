"""A probe that hangs, dies or chatters is an answer, in time; what it started is gone."""

import os
import threading
import time
from pathlib import Path

import psutil
import pytest

from dynfusion.edges.probe_process import Answer, Question, ask

CHATTER = """
import os, subprocess, sys
from dynfusion.edges.probe_process import serve
def probe(word):
    print("something that a library prints", flush=True)
    yield {"word": word, "pid": os.getpid()}
    yield {"doing": "while it went on"}
    BODY
    yield {"more": True}
serve(probe)
"""


def answer(
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    body: str,
    seconds: float = 20.0,
    given_up: threading.Event | None = None,
) -> Answer:
    (folder / "some_probe.py").write_text(CHATTER.replace("BODY", body))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), str(Path(__file__).parents[2])]))
    return ask(Question("some_probe", {"word": "héllo"}, seconds), given_up or threading.Event())


def test_what_a_probe_says_comes_back_and_what_it_prints_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said = answer(tmp_path, monkeypatch, "os.system('echo more chatter')")
    assert said.unanswered is None
    assert (said.facts["word"], said.facts["more"]) == ("héllo", True)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ("os.kill(os.getpid(), 11)", "the process that looked died (exit code -11), while it went on"),
        ("raise OSError('no\\nsuch disk')", "OSError: no such disk, while it went on"),
    ],
)
def test_a_probe_that_dies_leaves_what_it_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, body: str, sentence: str
) -> None:
    said = answer(tmp_path, monkeypatch, body)
    assert said.unanswered == sentence
    assert said.facts["word"] == "héllo"


def test_a_probe_that_hangs_is_ended_with_its_children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = f"open({str(tmp_path / 'child')!r}, 'w').write(str(child.pid))"
    body = f"child = subprocess.Popen(['sleep', '60']); {noted}; child.wait()"
    started = time.monotonic()
    said = answer(tmp_path, monkeypatch, body, seconds=1.5)
    assert time.monotonic() - started < 10
    assert said.unanswered == "no answer within 2 s, while it went on"
    for process in (int((tmp_path / "child").read_text()), said.facts["pid"]):
        assert not psutil.pid_exists(process) or psutil.Process(process).status() == psutil.STATUS_ZOMBIE


def test_it_is_given_up_when_somebody_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given_up = threading.Event()
    threading.Timer(1.0, given_up.set).start()
    started = time.monotonic()
    assert answer(tmp_path, monkeypatch, "subprocess.run(['sleep', '60'])", 60.0, given_up).unanswered is not None
    assert time.monotonic() - started < 10
