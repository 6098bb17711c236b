"""`dynfusion submit VERB ...`: a verb as a job of a Ray cluster, followed to its end."""

import shlex
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dynfusion.edges.job_package import check_open, pack_folder
from dynfusion.edges.ray_jobs import (
    ClusterError,
    Ending,
    connect,
    find_address,
    follow,
    stop,
    submission_base,
)
from dynfusion.edges.ray_jobs import submit as submit_job
from dynfusion.run_settings import read_run
from dynfusion.settings import parse_overrides, read_toml
from dynfusion.tuning.search import read_search, tune_options
from dynfusion.verbs.evaluation_settings import read_settings

SUCCEEDED, FAILED, WRONG_USE, STOPPED, NO_CLUSTER, INTERRUPTED = 0, 1, 2, 3, 4, 130


@dataclass(frozen=True)
class SubmitOptions:
    """How a job is submitted and watched."""

    address: str | None
    working_dir: Path
    env: Sequence[str]
    name: str | None
    wait: bool
    stop_on_interrupt: bool


def submit(verb: str, arguments: Sequence[str], parsed: Mapping[str, Any], options: SubmitOptions) -> int:
    """Run `dynfusion <verb> <arguments>` on a cluster and return the exit code, one of the constants above.

    `parsed` are the same arguments by name. The log goes to standard output, everything else to standard error.
    Raises ValueError for what can be seen to be wrong before anything is sent.
    """
    variables = _variables(options.env)
    check_open(variables, [*arguments])
    _check_settings(verb, parsed, options.working_dir)
    name = options.name or _run_name(verb, parsed, options.working_dir)
    try:
        address = find_address(options.address)
        client = connect(address)
        with tempfile.TemporaryDirectory(prefix="dynfusion-submit-") as scratch:
            package = pack_folder(options.working_dir, Path(scratch) / "working_dir.zip")
            _check_shipped(verb, parsed, package.names, options.working_dir)
            script = f"jobs/{verb}.py"
            command = ["python", script] if script in package.names else ["python", "-m", "dynfusion", verb]
            entrypoint = shlex.join([*command, *arguments])
            job = submit_job(client, submission_base(verb, name), entrypoint, package.path, variables)
        _say(f"{'submitted' if job.new else 'already running:'} {job.id} at {address}: {entrypoint}")
        if not options.wait:
            print(job.id)
            return SUCCEEDED
        return _watch(client, job.id, address, stop_on_interrupt=options.stop_on_interrupt)
    except ClusterError as error:
        _say(f"error: {error}")
        return NO_CLUSTER


def _watch(client: Any, job: str, address: str, *, stop_on_interrupt: bool) -> int:
    try:
        return _exit_code(job, follow(client, job, _write, _say))
    except KeyboardInterrupt:
        if stop_on_interrupt:
            _say(f"stopping {job} (once more Ctrl-C leaves it to itself)")
            _say(f"{job}: {stop(client, job).value}")
        else:
            _say(
                f"no longer following {job}, which goes on; follow again with the same command, stop it with: ray job "
                f"stop {job} --address {address}"
            )
        return INTERRUPTED


def _exit_code(job: str, ending: Ending) -> int:
    _say(f"{job}: {ending.status.value}{f', {ending.message}' if ending.message else ''}")
    if ending.status.value == "SUCCEEDED":
        return SUCCEEDED
    if ending.status.value == "STOPPED":
        return STOPPED
    return WRONG_USE if ending.exit_code == WRONG_USE else FAILED


def _run_name(verb: str, parsed: Mapping[str, Any], folder: Path) -> str:
    """What the job is called: a run's or a sweep's name, else the last part of where the verb writes."""
    if verb == "train":
        settings = [read_toml(folder / parsed["run"]), parse_overrides(parsed["overrides"] or ())]
        names = [tree["cluster"]["name"] for tree in settings if "name" in tree.get("cluster", {})]
        return str(names[-1]) if names else Path(parsed["run"]).stem
    if verb == "tune":
        return str(parsed["name"] or Path(parsed["space"]).stem)
    if verb == "doctor":
        return "cluster"
    return str(parsed.get("out") or parsed.get("extend")).rstrip("/").rsplit("/", 1)[-1]


def _check_settings(verb: str, parsed: Mapping[str, Any], folder: Path) -> None:
    """Refuse here what the job would refuse once it runs. Raises ValueError naming the first wrong setting."""
    if verb == "train":
        read_run(folder / parsed["run"], parsed["overrides"] or ())
    if verb == "tune":
        if parsed["space"] == "show" or parsed["run"] is None:
            raise ValueError(
                "submit tune: found no space and run file, allowed is SPACE --run RUN; `tune show` runs here"
            )
        read_search(folder / parsed["space"], folder / parsed["run"], parsed["overrides"] or (), tune_options(parsed))
    if verb == "evaluate":
        read_settings(parsed["overrides"] or ())


def _check_shipped(verb: str, parsed: Mapping[str, Any], names: frozenset[str], folder: Path) -> None:
    """A run or space file must be where the job looks for it."""
    for kind in {"train": ("run",), "tune": ("run", "space")}.get(verb, ()):
        file = Path(parsed[kind])
        if file.is_absolute() or file.as_posix() not in names:
            raise ValueError(
                f"{kind} file {file}: not among what is sent, allowed is a path inside the working folder {folder} "
                "that .gitignore and .rayignore do not name"
            )


def _variables(pairs: Sequence[str]) -> dict[str, str]:
    for pair in pairs:
        if not pair.partition("=")[0] or "=" not in pair:
            raise ValueError(f"--env: found {pair!r}, allowed is NAME=VALUE")
    return dict(pair.split("=", 1) for pair in pairs)


def _write(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
