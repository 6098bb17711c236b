import socket

import pytest

from dynfusion.edges import retry
from dynfusion.edges.retry import is_answer, retrying


class Failing:
    """Raises these errors one after another, then returns 7."""

    def __init__(self, *errors: Exception) -> None:
        self.errors = list(errors)
        self.calls = self.renewals = 0

    def __call__(self) -> int:
        self.calls += 1
        if self.errors:
            raise self.errors.pop(0)
        return 7

    def renew(self) -> None:
        self.renewals += 1


@pytest.fixture
def pauses(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Time that passes only by pausing; the pauses."""
    taken: list[float] = []
    monkeypatch.setattr(retry.time, "sleep", taken.append)
    monkeypatch.setattr(retry.time, "monotonic", lambda: sum(taken, 0.0))
    return taken


def test_what_passes_is_tried_again_after_longer_and_longer_jittered_pauses(pauses: list[float]) -> None:
    call = Failing(*[OSError("AWS Error SLOW_DOWN")] * 9)
    assert retrying(call, "s3://b/k", renew=call.renew, deadline_seconds=300.0) == 7
    assert call.calls == 10
    longest = [min(0.1 * 2**attempt, 10.0) for attempt in range(9)]
    assert all(most / 2 <= pause <= most for pause, most in zip(pauses, longest, strict=True))
    assert len(set(pauses)) == 9


def test_the_deadline_ends_it_with_one_sentence(pauses: list[float]) -> None:
    call = Failing(*[OSError("connection reset\nby peer")] * 100)
    with pytest.raises(ValueError, match=r"^s3://b/k: still failing after \d+ attempts in \d+ s, connection reset$"):
        retrying(call, "s3://b/k", renew=call.renew, deadline_seconds=20.0)
    assert sum(pauses) <= 20
    assert call.renewals == 0


def test_denied_access_gets_new_keys_twice_and_no_more(pauses: list[float]) -> None:
    call = Failing(PermissionError("expired"), OSError("AWS Error ACCESS_DENIED during HeadObject"))
    assert retrying(call, "s3://b/k", renew=call.renew, deadline_seconds=300.0) == 7
    assert call.renewals == 2
    call = Failing(*[OSError("AWS Error UNKNOWN (HTTP status 400): ExpiredToken")] * 9)
    with pytest.raises(ValueError, match=r"s3://b/k: access is denied, .*ExpiredToken; check the credentials"):
        retrying(call, "s3://b/k", renew=call.renew, deadline_seconds=300.0)
    assert call.calls == 3


@pytest.mark.parametrize(
    ("said", "sentence"),
    [
        (
            "AWS Error UNKNOWN (HTTP status 301) during HeadObject",
            "the bucket is in another region, .*; name it with AWS_",
        ),
        (
            "AWS Error UNKNOWN (HTTP status 400) during HeadObject",
            "check the credentials, and that AWS_REGION is the bu",
        ),
    ],
)
def test_a_bucket_of_another_region_is_told(pauses: list[float], said: str, sentence: str) -> None:
    call = Failing(*[OSError(said)] * 9)
    with pytest.raises(ValueError, match=f"^s3://b/k: .*{sentence}"):
        retrying(call, "s3://b/k", renew=call.renew, deadline_seconds=300.0)
    assert call.calls == 3


def test_a_missing_file_is_not_tried_again(pauses: list[float]) -> None:
    call = Failing(FileNotFoundError("nothing there"))
    with pytest.raises(FileNotFoundError):
        retrying(call, "s3://b/k", renew=call.renew, deadline_seconds=300.0)
    assert not pauses


REFUSED = 'Could not connect to the endpoint URL: "http://127.0.0.1:9/b/k"'
SILENT = "http://x does not answer, check y"
NO_NAME_YET = "Cannot connect to host s3:443 ssl:default [Temporary failure in name resolution]"


@pytest.mark.parametrize("error", [REFUSED, "AWS Error NETWORK_CONNECTION: curlCode: 6, Could not resolve hostname"])
def test_a_server_that_never_answered_is_given_up_soon(pauses: list[float], error: str) -> None:
    call = Failing(*[OSError(error)] * 100)
    with pytest.raises(ValueError, match=r"^s3://b/k: http://x does not answer, check y, .*(connect|resolve)"):
        retrying(call, "s3://b/k", renew=call.renew, deadline_seconds=300.0, unreached=lambda: SILENT)
    assert 10 < sum(pauses) <= 30


def test_a_server_that_answered_before_or_answers_badly_is_given_the_whole_deadline(pauses: list[float]) -> None:
    for error, unreached in ((REFUSED, None), ("AWS Error SLOW_DOWN", SILENT), (NO_NAME_YET, SILENT)):
        call = Failing(*[OSError(error)] * 100)
        with pytest.raises(ValueError, match=r"^s3://b/k: still failing after"):
            retrying(
                call,
                "s3://b/k",
                renew=call.renew,
                deadline_seconds=300.0,
                unreached=lambda unreached=unreached: unreached,
            )
        assert sum(pauses) > 250
        pauses.clear()


def test_only_failures_to_connect_in_a_row_count_as_silence(pauses: list[float]) -> None:
    timeout, refused = OSError("Connect timeout on endpoint URL"), OSError(REFUSED)
    call = Failing(*[timeout] * 6, *[refused] * 2, timeout, *[refused] * 100)
    with pytest.raises(ValueError, match="does not answer"):
        retrying(call, "s3://b/k", renew=call.renew, deadline_seconds=300.0, unreached=lambda: SILENT)
    assert 20 < sum(pauses[9:]) <= 30 < sum(pauses[6:])


def test_an_answer_that_another_thread_got_meanwhile_counts(pauses: list[float]) -> None:
    call = Failing(*[OSError(REFUSED)] * 30)
    unreached = lambda: SILENT if sum(pauses) < 20 else None  # noqa: E731
    assert retrying(call, "s3://b/k", renew=call.renew, deadline_seconds=300.0, unreached=unreached) == 7


def test_what_a_server_says_is_an_answer_and_what_the_network_says_is_none() -> None:
    for said in ("AWS Error SLOW_DOWN 503", "AWS Error ACCESS_DENIED", "Not Found"):
        assert is_answer(OSError(said))
    for said in (REFUSED, NO_NAME_YET, "Read timeout on endpoint URL", "AWS Error NETWORK_CONNECTION: curlCode: 28"):
        assert not is_answer(OSError(said))


def test_a_resolver_without_an_answer_yet_is_found_below_what_hides_it(pauses: list[float]) -> None:
    hidden = OSError(REFUSED)
    hidden.__context__ = socket.gaierror(socket.EAI_AGAIN, "try again")
    call = Failing(*[hidden] * 12)
    assert retrying(call, "s3://b/k", renew=call.renew, deadline_seconds=300.0, unreached=lambda: SILENT) == 7
    assert sum(pauses) > 30
