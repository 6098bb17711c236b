"""Ray's job server: submit a command under a name, follow its log whatever happens to the connection, say how it ended.

connect --> submit --> follow --+-- log chunk: printed, counted
                                +-- connection lost: ask the status, connect again, skip what was printed
                                +-- job ended: Ending
"""

import asyncio
import http.client
import json
import logging
import os
import re
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails, JobStatus, JobSubmissionClient

ADDRESS_VARIABLES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
ANSWER_SECONDS = 10.0
LOST_SECONDS = 300.0
SILENCE_SECONDS = 300.0
_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 10.0
_TOKEN = (
    "set RAY_AUTH_MODE=token and the cluster's token as RAY_AUTH_TOKEN, in a file that RAY_AUTH_TOKEN_PATH names, or "
    "in ~/.ray/auth_token"
)


class ClusterError(RuntimeError):
    """The job server cannot be reached or lets nobody in; the state of a job on it is unknown."""


@dataclass(frozen=True)
class Submission:
    """A job that was submitted; `new` is False where it ran already."""

    id: str
    new: bool


@dataclass(frozen=True)
class Ending:
    """How a job ended: its status, the exit code of its command where it has one, and Ray's sentence."""

    status: JobStatus
    exit_code: int | None
    message: str


def find_address(address: str | None) -> str:
    """The job server's URL from `address`, else from RAY_API_SERVER_ADDRESS or RAY_ADDRESS.

    Raises ClusterError when none of them is given, and when nothing answers there.
    """
    found = address or next((os.environ[name] for name in ADDRESS_VARIABLES if os.environ.get(name)), None)
    if not found:
        raise ClusterError("no cluster: give --address http://HEAD:8265, or set RAY_API_SERVER_ADDRESS or RAY_ADDRESS")
    if found.startswith(("http://", "https://")):
        return found.rstrip("/")
    if "://" not in found and ":" in found and _answers(f"http://{found}"):
        return f"http://{found}"
    raise ClusterError(
        f"Ray at {found}: no job server answers there; it is the dashboard's address that is needed, such as "
        "http://HEAD:8265 (--address or RAY_API_SERVER_ADDRESS)"
    )


def connect(address: str) -> JobSubmissionClient:
    """A client of the job server at this URL. Raises ClusterError in one sentence."""
    if not _answers(address):
        raise ClusterError(f"Ray at {address}: nothing answers within {ANSWER_SECONDS:.0f} s; is the address right?")
    for module in ("dashboard_sdk", "job.sdk"):
        logging.getLogger(f"ray.dashboard.modules.{module}").setLevel(logging.ERROR)  # it tells of every upload
    with _said(address), _only_this_address(address):
        return JobSubmissionClient(address)


def submit(
    client: JobSubmissionClient, base: str, entrypoint: str, package: Path, variables: dict[str, str]
) -> Submission:
    """Start `entrypoint` as job `<base>-<attempt>`, or find the attempt that is still running.

    Raises ValueError when the running attempt has another command, ClusterError when the server fails.
    """
    with _said(client.get_address()):
        while True:
            last, job = _last_attempt(client, base)
            if job is not None and not job.status.is_terminal():
                if job.entrypoint != entrypoint:
                    raise ValueError(
                        f"job {job.submission_id} is still running another command, {job.entrypoint}; wait for its "
                        "end, stop it, or give this one another --name"
                    )
                return Submission(str(job.submission_id), new=False)
            name = f"{base}-{last + 1}"
            environment: dict[str, object] = {"working_dir": str(package)}
            if variables:
                environment["env_vars"] = variables
            try:
                client.submit_job(entrypoint=entrypoint, submission_id=name, runtime_env=environment)
            except RuntimeError:
                if _last_attempt(client, base)[0] == last:  # nobody else was faster: the server refused it
                    raise
            else:
                return Submission(name, new=True)


def submission_base(verb: str, name: str) -> str:
    """What the ids of all attempts begin with: the verb and the run, in characters that fit a file name."""
    return f"{verb}-{re.sub(r'[^A-Za-z0-9_.-]+', '-', name).strip('-.')[:80]}"


def follow(client: JobSubmissionClient, job: str, write: Callable[[str], None], say: Callable[[str], None]) -> Ending:
    """Hand the job's log to `write` as it comes, from its beginning, and return how the job ended.

    A lost connection is made anew. Raises ClusterError when the server has not answered for five minutes.
    """
    return asyncio.run(_follow(client, job, write, say))


def stop(client: JobSubmissionClient, job: str, deadline_seconds: float = 30.0) -> JobStatus:
    """Ask the job to end and return its status once it has ended, or after the deadline."""
    with _said(client.get_address()):
        client.stop_job(job)
        deadline = time.monotonic() + deadline_seconds
        while True:
            status = client.get_job_status(job)
            if status.is_terminal() or time.monotonic() > deadline:
                return status
            time.sleep(_PAUSE_SECONDS)


async def _follow(
    client: JobSubmissionClient, job: str, write: Callable[[str], None], say: Callable[[str], None]
) -> Ending:
    written, pause, heard = 0, _PAUSE_SECONDS, time.monotonic()
    while True:
        try:
            seen = 0
            async for chunk in _chunks(client, job):
                new = chunk[max(0, written - seen) :]
                seen += len(chunk)
                if new:
                    write(new)
                    written += len(new)
                    pause = _PAUSE_SECONDS
        except (aiohttp.ClientError, OSError, RuntimeError) as error:  # how Ray's client says that the log broke off
            say(f"the log of {job} broke off ({_first_line(error)}), asking for its status")
        ending = await asyncio.to_thread(_ending, client, job)
        if isinstance(ending, Ending):
            rest = (await asyncio.to_thread(_whole_log, client, job))[written:]
            if rest:
                write(rest)
            return ending
        if ending:
            heard = time.monotonic()
        elif time.monotonic() - heard > LOST_SECONDS:
            raise ClusterError(
                f"Ray at {client.get_address()}: no answer for {LOST_SECONDS:.0f} s, job {job} may still run; the same "
                "command follows it again"
            )
        await asyncio.sleep(pause)
        pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


async def _chunks(client: JobSubmissionClient, job: str) -> AsyncIterator[str]:
    """The log from its beginning; ends with the job, or after a long silence, since a dead connection is silent too."""
    lines = client.tail_job_logs(job)
    try:
        while True:
            yield await asyncio.wait_for(anext(lines), SILENCE_SECONDS)
    except (StopAsyncIteration, TimeoutError):
        return
    finally:
        await lines.aclose()


def _ending(client: JobSubmissionClient, job: str) -> Ending | bool:
    """How the job ended; True while it has not; False when the server does not answer."""
    if not _answers(client.get_address()):
        return False
    try:
        with _said(client.get_address()):
            info = client.get_job_info(job)
    except OSError:
        return False
    if not info.status.is_terminal():
        return True
    return Ending(info.status, info.driver_exit_code, _first_line(info.message or ""))


def _whole_log(client: JobSubmissionClient, job: str) -> str:
    """The log, or nothing where the server has none (any more)."""
    try:
        return client.get_job_logs(job) or ""
    except (OSError, RuntimeError):
        return ""


def _last_attempt(client: JobSubmissionClient, base: str) -> tuple[int, JobDetails | None]:
    """(highest number of an attempt, its job), or (0, None)."""
    attempts = {
        int(job.submission_id.removeprefix(f"{base}-")): job
        for job in client.list_jobs()
        if job.submission_id and re.fullmatch(rf"{re.escape(base)}-\d+", job.submission_id)
    }
    last = max(attempts, default=0)
    return last, attempts.get(last)


def _answers(address: str) -> bool:
    """Whether an HTTP server answers at all; what it answers is for Ray's client to judge."""
    try:
        with urllib.request.urlopen(f"{address}/api/version", timeout=ANSWER_SECONDS) as answer:
            json.load(answer)
    except urllib.error.HTTPError as error:
        error.close()
        return error.code in (401, 403)
    except (OSError, ValueError, http.client.HTTPException) as error:
        return "CERTIFICATE" in str(error)
    return True


@contextmanager
def _said(address: str) -> Iterator[None]:
    """What Ray's client raises, as one sentence."""
    try:
        yield
    except AuthenticationError as error:
        sent = "the token was refused" if "Forbidden" in str(error) else "it wants a token and none was sent"
        raise ClusterError(f"Ray at {address}: {sent}; {_TOKEN}") from error
    except ConnectionError as error:
        raise ClusterError(f"Ray at {address}: {_first_line(error)}") from error
    except RuntimeError as error:
        raise ClusterError(f"Ray at {address}: {_first_line(error)}") from error


@contextmanager
def _only_this_address(address: str) -> Iterator[None]:
    """Ray's client lets the environment overrule the address that it is given; here the given one counts."""
    name = ADDRESS_VARIABLES[0]
    before = os.environ.get(name)
    os.environ[name] = address
    try:
        yield
    finally:
        if before is None:
            del os.environ[name]
        else:
            os.environ[name] = before


def _first_line(error: object) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".:") if lines else type(error).__name__
