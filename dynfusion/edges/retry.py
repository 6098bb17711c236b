"""Trying again what may pass: jittered, ever longer waits up to a deadline, and fresh credentials when they expired."""

import logging
import random
import re
import time
from collections.abc import Callable
from typing import TypeVar

from aiohttp import ClientError as ConnectionFailure
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

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


_NO_CONNECTION = re.compile(
    r"Could not connect to the endpoint|Couldn't (connect|resolve)|curlCode: [67]\b|Connection refused|"
    r"Cannot connect to host|Name or service not known|failure in name resolution|nodename nor servname|"
    r"No address associated"
)


class TooShortError(OSError):
    """A store sent fewer bytes than it was asked for."""


def retrying(
    call: Callable[[], Result],
    what: str,
    *,
    renew: Callable[[], None],
    deadline_seconds: float,
    unreached: str | None = None,
) -> Result:
    """What `call` returns, at once or after some failures; `renew` makes the next call use credentials read anew.

    `unreached` is what to say of a server that never answered anything in this process: a wrong address is not worth
    the whole deadline. None when it did answer.

    Raises FileNotFoundError when there is no such thing. Raises ValueError, one sentence that begins with `what`, when
    access stays denied or the deadline is over.
    """
    started, attempts, denials, told = time.monotonic(), 0, 0, False
    while True:
        attempts += 1
        try:
            return call()
        except FileNotFoundError:
            raise
        except FAILURES as error:
            seconds = time.monotonic() - started
            longest = min(_FIRST_WAIT_SECONDS * 2 ** (attempts - 1), _LONGEST_WAIT_SECONDS)
            pause = random.uniform(longest / 2, longest)
            nobody = unreached is not None and bool(_NO_CONNECTION.search(str(error)))
            limit = min(deadline_seconds, _UNREACHED_SECONDS) if nobody else deadline_seconds
            over = seconds + pause > limit
            if seconds > _TELL_AFTER_SECONDS and not told:
                told = True
                _log.warning("%s: %s; trying again for up to %.0f s", what, one_line(error), limit)
            if _is_denied(error):
                denials += 1
                if over or denials > _NEW_CREDENTIALS:
                    raise ValueError(f"{what}: access is denied, {one_line(error)}; check the credentials") from error
                renew()
            elif over and nobody:
                raise ValueError(f"{what}: {unreached}, {one_line(error)}") from error
            elif over:
                raise ValueError(
                    f"{what}: still failing after {attempts} attempts in {seconds:.0f} s, {one_line(error)}"
                ) from error
        time.sleep(pause)


def _is_denied(error: BaseException) -> bool:
    return isinstance(error, (PermissionError, NoCredentialsError)) or bool(_DENIED.search(str(error)))


def one_line(error: BaseException) -> str:
    """What a library says, as the end of a sentence."""
    text = str(error).strip() or type(error).__name__
    return text.splitlines()[0].rstrip(".")
