"""Trying again what may pass: jittered, ever longer waits up to a deadline, and fresh credentials when they expired."""

import logging
import random
import re
import socket
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

from aiohttp import ClientError as ConnectionFailure
from botocore.exceptions import BotoCoreError, ClientError, ConnectTimeoutError, NoCredentialsError

Result = TypeVar("Result")

FAILURES = (OSError, BotoCoreError, ClientError, ConnectionFailure)

_log = logging.getLogger(__name__)

_TELL_AFTER_SECONDS = 5.0
_UNREACHED_SECONDS = 30.0
_FIRST_WAIT_SECONDS = 0.1
_LONGEST_WAIT_SECONDS = 10.0
_NEW_CREDENTIALS = 2
_DENIED = re.compile(
    r"AccessDenied|ACCESS_DENIED|Forbidden|ExpiredToken|InvalidAccessKeyId|INVALID_ACCESS_KEY_ID|InvalidToken|"
    r"INVALID_CLIENT_TOKEN_ID|SignatureDoesNotMatch|SIGNATURE_DOES_NOT_MATCH|TokenRefreshRequired|"
    r"security token|HTTP status 40[013]"
)
_ELSEWHERE = re.compile(r"PermanentRedirect|AuthorizationHeaderMalformed|IllegalLocation|HTTP status 301")
"""A bucket of another region; a request without a body, as for a file's size, is answered with 400 alone."""


_NO_CONNECTION = re.compile(
    r"Could not connect to the endpoint|Couldn't (connect|resolve)|curlCode: [67]\b|Connection refused|"
    r"Cannot connect to host|Name or service not known|nodename nor servname|No address associated"
)
_NO_NAME_YET = "failure in name resolution"
_NO_ANSWER = re.compile(r"curlCode|NETWORK_CONNECTION|timed out|timeout", re.IGNORECASE)


class TooShortError(OSError):
    """A store sent fewer bytes than it was asked for."""


def retrying(
    call: Callable[[], Result],
    what: str,
    *,
    renew: Callable[[], None],
    deadline_seconds: float,
    unreached: Callable[[], str | None] = lambda: None,
) -> Result:
    """What `call` returns, at once or after some failures; `renew` makes the next call use credentials read anew.

    `unreached()` is what to say of a server that never answered anything in this process, None when it did answer; it
    is asked at each failure. No connection at all for 30 s is a wrong address then, and not worth the whole deadline.

    Raises FileNotFoundError when there is no such thing. Raises ValueError, one sentence that begins with `what`, when
    access stays denied or the deadline is over.
    """
    started, attempts, denials, told = time.monotonic(), 0, 0, False
    silent_since: float | None = None
    while True:
        attempts += 1
        try:
            return call()
        except FileNotFoundError:
            raise
        except FAILURES as error:
            now = time.monotonic()
            seconds, pause = now - started, _pause(attempts)
            nobody = unreached() if _is_no_connection(error) else None
            silent_since = None if nobody is None else now if silent_since is None else silent_since
            left = deadline_seconds - seconds
            if silent_since is not None:
                left = min(left, silent_since + _UNREACHED_SECONDS - now)
            over = pause > left
            if seconds > _TELL_AFTER_SECONDS and not told:
                told = True
                _log.warning("%s: %s; trying again for up to %.0f s", what, one_line(error), seconds + left)
            if _is_denied(error):
                denials += 1
                if over or denials > _NEW_CREDENTIALS:
                    raise ValueError(f"{what}: {_refusal(error)}") from error
                renew()
            elif over and nobody is not None:
                raise ValueError(f"{what}: {nobody}, {one_line(error)}") from error
            elif over:
                raise ValueError(
                    f"{what}: still failing after {attempts} attempts in {seconds:.0f} s, {one_line(error)}"
                ) from error
        time.sleep(pause)


def is_answer(error: BaseException) -> bool:
    """Whether a server said this, be it that it is busy or that access is denied."""
    if isinstance(error, (NoCredentialsError, ConnectTimeoutError, TimeoutError)) or _is_no_connection(error):
        return False
    return not (_waits_for_a_name(error) or _NO_ANSWER.search(str(error)))


def _pause(attempts: int) -> float:
    longest = min(_FIRST_WAIT_SECONDS * 2 ** (attempts - 1), _LONGEST_WAIT_SECONDS)
    return random.uniform(longest / 2, longest)


def _is_no_connection(error: BaseException) -> bool:
    """Nobody listens there, or there is no such name; not a resolver that has no answer yet."""
    return bool(_NO_CONNECTION.search(str(error))) and not _waits_for_a_name(error)


def _waits_for_a_name(error: BaseException) -> bool:
    """A node that has just started may resolve no names for a while; libraries bury that below errors of their own."""
    return any(
        _NO_NAME_YET in str(cause) or (isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_AGAIN)
        for cause in _causes(error)
    )


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _is_denied(error: BaseException) -> bool:
    refused = _DENIED.search(str(error)) or _ELSEWHERE.search(str(error))
    return isinstance(error, (PermissionError, NoCredentialsError)) or bool(refused)


def _refusal(error: BaseException) -> str:
    if _ELSEWHERE.search(str(error)):
        return f"the bucket is in another region, {one_line(error)}; name it with AWS_REGION or ?region="
    nameless = re.search("HTTP status 400|Bad Request", str(error)) and not re.search("Token|KeyId", str(error))
    either = ", and that AWS_REGION is the bucket's" if nameless else ""
    return f"access is denied, {one_line(error)}; check the credentials{either}"


def one_line(error: BaseException) -> str:
    """What a library says, as the end of a sentence."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
