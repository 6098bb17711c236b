"""Two packs to one place: one does the work, the other is told; a killed one is in nobody's way."""

import multiprocessing
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest

from dynfusion.store.pack import pack
from dynfusion.store.pack_inputs import PackInputs, PackSettings
from dynfusion.store.verify import verify
from tests.store.sources import write_sources

KEPT = ["out", "sources"]


def pack_and_stop(sources: dict[str, Path], out: Path, reached: Event, go_on: Event) -> None:
    def stop(done: int, total: int) -> None:
        reached.set()
        go_on.wait(60)

    pack(PackInputs(sources), out=out, progress=stop)


@pytest.fixture
def under_way(tmp_path: Path) -> tuple[multiprocessing.context.ForkProcess, Event]:
    """A process in the middle of packing `sources` to `out`, and what lets it finish."""
    context = multiprocessing.get_context("fork")
    reached, go_on = context.Event(), context.Event()
    sources = write_sources(tmp_path / "sources", 200)
    process = context.Process(target=pack_and_stop, args=(sources, tmp_path / "out", reached, go_on))
    process.start()
    assert reached.wait(60)
    return process, go_on


def sources_of(folder: Path) -> PackInputs:
    return PackInputs({path.name: path for path in [folder / name for name in ("tall", "odd", "wide")]})


@pytest.mark.parametrize("seed", [0, 1])
def test_the_second_is_told_at_once_and_does_the_first_no_harm(
    tmp_path: Path, under_way: tuple[multiprocessing.context.ForkProcess, Event], seed: int
) -> None:
    process, go_on = under_way
    inputs, begun = sources_of(tmp_path / "sources"), time.monotonic()
    try:
        with pytest.raises(ValueError, match=r"out: another process is packing to it$"):
            pack(inputs, out=tmp_path / "out", settings=PackSettings(seed=seed))
        assert time.monotonic() - begun < 10
    finally:
        go_on.set()
        process.join()
    assert process.exitcode == 0
    assert verify(tmp_path / "out") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == KEPT
    assert pack(inputs, out=tmp_path / "out").pack_seed == 0


def test_a_killed_pack_is_in_nobody_s_way(
    tmp_path: Path, under_way: tuple[multiprocessing.context.ForkProcess, Event]
) -> None:
    process, _ = under_way
    process.kill()
    process.join()
    assert (tmp_path / ".out.lock").exists()
    pack(sources_of(tmp_path / "sources"), out=tmp_path / "out")
    assert verify(tmp_path / "out") == []
    assert sorted(path.name for path in tmp_path.iterdir()) == KEPT
