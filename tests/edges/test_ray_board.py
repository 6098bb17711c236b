"""What workers say reaches the driver, and watching ends no run: a display that fails, a board that is lost."""

import subprocess
import sys
import time
from typing import Any

import pytest
import ray
from ray.exceptions import ActorUnavailableError

from dynfusion.edges.ray_board import Board, Voice, Watch, _Reader, watched_board
from tests.clusters import two_node_cluster

pytestmark = pytest.mark.usefixtures("ray_cluster")


@ray.remote(num_cpus=0)
def speak(voice: Voice, steps: list[int]) -> str:
    """A worker."""
    for step in steps:
        voice.record({"step": step})
        voice.say(f"step {step}")
    return "trained"


@ray.remote(num_cpus=0)
def fail(voice: Voice) -> str:
    """A worker that meets what ends a run for good."""
    try:
        voice.fail("the loss is nan")
    except ValueError as error:
        return str(error)
    return "the board has it"


def until(condition: Any) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_lost_board_is_said_once_and_ends_neither_worker_nor_run() -> None:
    records: list[dict[str, Any]] = []
    said: list[str] = []
    with watched_board(Watch(records.append, said.append)) as board:
        voice = Voice(board, quiet=False)
        ray.get(speak.remote(voice, [1, 2]))
        until(lambda: len(said) == 2)
        ray.kill(board)
        assert ray.get(speak.remote(voice, [3, 4])) == "trained"
        until(lambda: len(said) == 3)
        assert ray.get(speak.remote(voice, [5])) == "trained"
        assert ray.get(fail.remote(voice)) == "the loss is nan"
    assert [record["step"] for record in records] == [1, 2]
    assert said[:2] == ["step 1", "step 2"]
    assert said[2].startswith("watching has ended")
    assert len(said) == 3


class Unheard(Board):
    """A board whose answers to every second question are lost on their way."""

    asked = 0

    def take(self, after: int) -> list[tuple[str, Any]]:
        answer = super().take(after)
        self.asked += 1
        if self.asked % 2:
            raise ActorUnavailableError("the connection is gone", None)
        return answer


def test_an_answer_that_is_lost_on_its_way_loses_no_post_and_doubles_none() -> None:
    said: list[str] = []
    board = ray.remote(num_cpus=0)(Unheard).remote()
    reader = _Reader(board, Watch(print, said.append))
    for steps in ([1, 2], [3], [4, 5]):
        ray.get(speak.remote(Voice(board, quiet=False), steps))
        ray.get(board.failed.remote())  # behind what was said
        reader.take()
    assert said == ["step 1", "step 2", "step 3"]
    reader.take_last()
    assert said == [f"step {step}" for step in (1, 2, 3, 4, 5)]
    reader.take_last()
    assert len(said) == 5


def test_what_ended_a_run_for_good_is_raised_by_the_driver() -> None:
    watched = watched_board(Watch(print, print))
    with pytest.raises(ValueError, match="the loss is nan"), watched as board:
        assert ray.get(fail.remote(Voice(board, quiet=False))) == "the board has it"


def test_a_display_that_fails_loses_only_what_it_did_not_show() -> None:
    shown: list[int] = []
    said: list[str] = []

    def show(record: dict[str, Any]) -> None:
        if record["step"] in (2, 3):
            raise ConnectionError("503")
        shown.append(record["step"])

    with watched_board(Watch(show, said.append)) as board:
        voice = Voice(board, quiet=False)
        ray.get(speak.remote(voice, [1, 2, 3, 4]))
        until(lambda: shown == [1, 4])
        ray.get(speak.remote(voice, [5]))
        until(lambda: shown == [1, 4, 5])
    assert said == [f"step {step}" for step in (1, 2, 3, 4, 5)]


WHERE = """
import ray
from dynfusion.edges.ray_board import Watch, watched_board

ray.init()
for _ in range(8):
    with watched_board(Watch(print, print)) as board:
        node = ray.get(board.__ray_call__.remote(lambda self: ray.get_runtime_context().get_node_id()))
        assert node == ray.get_runtime_context().get_node_id()
print("all here")
"""


@pytest.mark.slow
def test_the_board_is_where_the_driver_is() -> None:
    with two_node_cluster(head_cpus=0, second_cpus=2) as cluster:
        driver = [sys.executable, "-c", WHERE]
        done = subprocess.run(driver, env=cluster.environment, capture_output=True, text=True, check=False, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["all here"], done.stderr
