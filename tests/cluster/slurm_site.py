"""What a Slurm job finds, made on this machine: `srun` runs its command here, `scontrol` notes what it is asked.

With two nodes each is a network namespace with an address and a /tmp of its own; they share the rest of the disk.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from dynfusion.fusion.model import ModelSettings
from dynfusion.run_settings import RunSettings
from dynfusion.settings import build, to_toml
from tests.datasets import packed
from tests.training.cases import MASKING, MODEL

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "cluster" / "slurm.sh"
NAMESPACE = ["unshare", "--user", "--map-current-user", "--pid", "--fork", "--kill-child", "--mount-proc"]

SRUN = """#!/usr/bin/env bash
while [[ $1 == --* ]]; do shift; done
[ -n "${MACHINES:-}" ] || exec "$@"
for machine in $MACHINES; do
    own_tmp='mount --bind "$0" /tmp && exec "$@"'
    ip netns exec "$machine" unshare --mount bash -c "$own_tmp" "$MACHINES_TMP/$machine" "$@" &
done
trap 'kill $(jobs -p)' TERM
wait
"""
SCONTROL = """#!/usr/bin/env bash
if [ "$1 $2" = "show hostnames" ]; then
    tr , '\\n' <<<"$3"
else
    echo "$@" >>"$SCONTROL_LOG"
fi
"""


def own_processes() -> bool:
    """Whether a job sees its own processes only: what it starts ends every Ray that it sees."""
    try:
        return subprocess.run([*NAMESPACE, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


@dataclass
class Site:
    """What a job finds: Slurm's commands, a home, a folder for runs."""

    folder: Path

    def __post_init__(self) -> None:
        for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
            command = self.folder / "bin" / name
            command.parent.mkdir(exist_ok=True)
            command.write_text(text)
            command.chmod(0o755)
        (self.folder / "home").mkdir()

    @property
    def asked(self) -> list[str]:
        """What `scontrol` was asked."""
        log = self.folder / "scontrol.log"
        return log.read_text().splitlines() if log.exists() else []

    def environment(self, job: int) -> dict[str, str]:
        own = {name: value for name, value in os.environ.items() if not name.startswith(("RAY_", "SLURM_"))}
        paths = [str(self.folder / "bin"), str(Path(sys.executable).parent), os.environ["PATH"]]
        slurm = {"SLURM_JOB_ID": str(job), "SLURM_JOB_NUM_NODES": "1", "SLURM_JOB_NODELIST": "here"}
        return {
            **own,
            **slurm,
            "PATH": os.pathsep.join(paths),
            "PYTHONPATH": str(ROOT),
            "HOME": str(self.folder / "home"),
            "SCONTROL_LOG": str(self.folder / "scontrol.log"),
            "SLURM_CPUS_PER_TASK": "2",
            "DYNFUSION_CACHE": str(self.folder / "cache"),
            "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5",
        }

    def start(self, job: int, *words: str, inside: tuple[str, ...] = (), **env: str) -> "Job":
        log = self.folder / f"job-{job}-{len(list(self.folder.glob('job-*')))}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*inside, "bash", str(SCRIPT), *words],
                env={**self.environment(job), **env},
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        return Job(job, process, log)


@dataclass
class Job:
    """A batch script that runs."""

    number: int
    process: subprocess.Popen[bytes]
    log: Path

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def says(self, pattern: str, seconds: float = 150) -> re.Match[str]:
        until(lambda: re.search(pattern, self.text) or self.process.poll() is not None, seconds)
        found = re.search(pattern, self.text)
        assert found, self.text
        return found

    def code(self, seconds: float = 240) -> int:
        return self.process.wait(seconds)

    def kill(self) -> None:
        if self.process.poll() is None:
            for process in psutil.Process(self.process.pid).children(recursive=True):
                with suppress(psutil.NoSuchProcess):  # it ended with the one before
                    process.kill()
            self.process.kill()
            self.process.wait()
        for left in left_by(self.number):
            shutil.rmtree(left)


def left_by(job: int) -> list[Path]:
    """Folders on the node's disk."""
    return [*Path(tempfile.gettempdir()).glob(f"dynfusion-{os.getuid()}-{job}*")]


def until(true: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def run_file(site: Site, *, epochs: int = 4, model: ModelSettings = MODEL) -> str:
    settings = {
        "data": {"uri": packed(site.folder / "data").uri},
        "model": model.model_dump(),
        "masking": MASKING.model_dump(),
        "train": {"epochs": epochs, "global_batch_rows": 128, "log_every_steps": 5, "checkpoint_every_steps": 10_000},
        "cluster": {"name": "run", "storage": str(site.folder / "runs"), "workers": 2},
    }
    path = site.folder / "run.toml"
    path.write_text(to_toml(build(RunSettings, settings)))
    return str(path)


@dataclass(frozen=True)
class Machines:
    """Two machines of a network of their own, as an environment for `Site.start`, which begins `inside` the first."""

    inside: tuple[str, ...]
    environment: dict[str, str]


@contextmanager
def two_machines(folder: Path) -> Iterator[Machines]:
    """Needs root and `ip`; the folder must not lie below /tmp, which is another one on each of them."""
    names = [f"slurm{os.getpid()}{end}" for end in "ab"]
    addresses = ["10.213.0.1", "10.213.0.2"]
    try:
        for name in names:
            ip("netns", "add", name)
            (folder / "tmp" / name).mkdir(parents=True)
        ip("link", "add", "wire0", "netns", names[0], "type", "veth", "peer", "name", "wire0", "netns", names[1])
        for name, address in zip(names, addresses, strict=True):
            ip("-n", name, "address", "add", f"{address}/24", "dev", "wire0")
            for device in ("lo", "wire0"):
                ip("-n", name, "link", "set", device, "up")
        slurm = {"SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": ",".join(addresses), "SLURM_CPUS_PER_TASK": "1"}
        network = {"GLOO_SOCKET_IFNAME": "wire0"}  # this machine's name is no address of theirs
        machines = {"MACHINES": " ".join(names), "MACHINES_TMP": str(folder / "tmp")}
        yield Machines(("ip", "netns", "exec", names[0]), {**slurm, **network, **machines})
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], check=False, capture_output=True)


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)
