"""Disks that are full or slow, and caches that are damaged or shared; on file systems of the test's own."""

import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from dynfusion.edges.datasets import upload
from dynfusion.store.dataset import Dataset
from tests.chaos.ledger import note
from tests.chaos.runs import once, require_whole, run_file, train
from tests.clusters import TwoNodes
from tests.s3 import make_bucket

pytestmark = pytest.mark.slow

SAME = "the weights of an undisturbed run, each record once"
SLOW_BYTES_A_SECOND = 300_000


def order(*command: str) -> str:
    """What a system command prints. Skips the test where it may not be run."""
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"{' '.join(command)} is not allowed here: {getattr(error, 'stderr', '') or error}")


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Path]:
    """A folder with so much room, in memory."""
    folder.mkdir()
    order("mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder))
    try:
        yield folder
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def fill(folder: Path) -> None:
    """Leave no byte free."""
    with (folder / "ballast").open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 16))
                file.flush()
        except OSError:
            return


def test_a_full_disk_ends_a_run_with_its_reason_and_it_continues_when_there_is_room(
    dataset: Dataset, cluster: TwoNodes, undisturbed: bytes, tmp_path: Path
) -> None:
    with small_disk(tmp_path / "disk", 64) as disk:
        path = run_file(dataset.uri, tmp_path, storage=str(disk))
        disturb, done = once(150, lambda driver: fill(disk))
        code, output = train(path, cluster.environment, disturb)
        assert done
        assert code == 1, output
        assert "No space left on device" in output.splitlines()[-1], output
        (disk / "ballast").unlink()
        code, output = train(path, cluster.environment)
        assert code == 0, output
        assert f"continuing from {disk}/run/checkpoint-" in output
        require_whole(disk, undisturbed)
    note(
        "the disk of the run is full",
        f"the run ends with that reason; with room again the same command continues: {SAME}",
        f"so it was, full from step {done[0]} on",
    )


@contextmanager
def slow_disk(folder: Path) -> Iterator[Path]:
    """A file system of its own that writes through, on a device that takes so many bytes a second."""
    image = folder.with_suffix(".img")
    with image.open("wb") as file:
        file.truncate(256 << 20)
    device = order("losetup", "--find", "--show", str(image))
    try:
        order("mkfs.ext4", "-q", device)
        folder.mkdir()
        order("mount", "-o", "sync", device, str(folder))
        try:
            number = os.stat(device).st_rdev
            limit = Path("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device")
            if not limit.exists():
                pytest.skip("no control group (version 1) that throttles devices here")
            limit.write_text(f"{os.major(number)}:{os.minor(number)} {SLOW_BYTES_A_SECOND}")
            yield folder
            limit.write_text(f"{os.major(number)}:{os.minor(number)} 0")
        finally:
            subprocess.run(["umount", "--lazy", str(folder)], check=True)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_a_slow_disk_holds_a_run_up_and_changes_nothing(
    dataset: Dataset, cluster: TwoNodes, undisturbed: bytes, tmp_path: Path
) -> None:
    with slow_disk(tmp_path / "disk") as disk:
        path = run_file(dataset.uri, tmp_path, storage=str(disk))
        code, output = train(path, cluster.environment)
        assert code == 0, output
        require_whole(disk, undisturbed)
    note(
        f"a disk that writes {SLOW_BYTES_A_SECOND / 1e6:g} MB a second",
        f"checkpoints are written while training goes on; {SAME}",
        "so it was",
    )


def damage(folder: Path) -> int:
    """Change one byte in the middle of every large file of a cache; how many there were."""
    files = [path for path in folder.rglob("*") if path.is_file() and path.stat().st_size > 10_000]
    for path in files:
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 0x10
        path.write_bytes(content)
    return len(files)


def remote(dataset: Dataset, endpoint: str, bucket: str) -> str:
    """The data set in a bucket of its own."""
    make_bucket(endpoint, bucket)
    upload(Path(dataset.uri), f"s3://{bucket}/set?endpoint_override={endpoint}")
    return f"s3://{bucket}/set?endpoint_override={endpoint}"


def with_keys(environment: dict[str, str]) -> dict[str, str]:
    """The environment of a cluster, with this process's keys for the store; none of a cluster's own."""
    keys = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    return {name: value for name, value in environment.items() if not name.startswith("RAY_")} | keys


def test_a_damaged_cache_is_noticed_and_nothing_of_it_is_trained_on(
    dataset: Dataset, cluster: TwoNodes, undisturbed: bytes, s3: str, tmp_path: Path
) -> None:
    uri, cache, alone = remote(dataset, s3, "chaos-cache"), tmp_path / "cache", with_keys(cluster.environment)
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
    first = run_file(uri, tmp_path / "first", data={"cache_dir": str(cache)})
    code, output = train(first, alone)
    assert code == 0, output
    require_whole(tmp_path / "first", undisturbed)
    assert damage(cache) > 0
    code, output = train(run_file(uri, tmp_path / "second", data={"cache_dir": str(cache)}), alone)
    assert code == 0, output
    require_whole(tmp_path / "second", undisturbed)
    note(
        "every shard in a node's cache is damaged between two runs",
        f"it is noticed and fetched again: {SAME}",
        "so it was",
    )


def test_two_jobs_share_one_cache(
    dataset: Dataset, cluster: TwoNodes, undisturbed: bytes, s3: str, tmp_path: Path
) -> None:
    uri, cache, alone = remote(dataset, s3, "chaos-shared"), tmp_path / "cache", with_keys(cluster.environment)
    paths = []
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        paths.append(run_file(uri, tmp_path / name, data={"cache_dir": str(cache)}))
    ended: dict[str, tuple[int, str]] = {}

    def run(path: Path) -> None:
        ended[path.parent.name] = train(path, alone)

    threads = [threading.Thread(target=run, args=(path,)) for path in paths]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for name, (code, output) in ended.items():
        assert code == 0, output
        require_whole(tmp_path / name, undisturbed)
    kept = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    whole = sum(path.stat().st_size for path in Path(dataset.uri).rglob("*") if path.is_file())
    assert kept < 2 * whole
    note("two jobs start at once on one empty cache", f"each ends with {SAME}; one copy is kept", "so it was")
    shutil.rmtree(cache)
