"""A probe file's way through real folders and a real S3 server that checks signatures and policies."""

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest

from dynfusion.edges.storage_probe import probe
from tests.s3 import FaultProxy, make_bucket, request, s3_server

READ_ONLY = ("s3:ListBucket", "s3:GetObject")


def facts(uri: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for fact in probe(uri):
        found |= fact
    return found


def wrong(uri: str) -> set[str]:
    """The steps that fail."""
    return {step for step, problem in facts(uri)["problems"].items() if problem is not None}


class Guarded:
    """A store that knows two users: `keys` of each by what he may do in the bucket `runs`."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        make_bucket(endpoint, "runs")
        secrets = {"endpoint_url": endpoint, "region_name": "us-east-1"}
        client = boto3.client("iam", aws_access_key_id="test", aws_secret_access_key="test", **secrets)
        self.keys = {name: self._user(client, name, actions) for name, actions in USERS.items()}

    @staticmethod
    def _user(client: Any, name: str, actions: tuple[str, ...]) -> dict[str, str]:
        client.create_user(UserName=name)
        places = ["arn:aws:s3:::runs", "arn:aws:s3:::runs/*"]
        policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": actions, "Resource": places}]}
        client.put_user_policy(UserName=name, PolicyName="all", PolicyDocument=json.dumps(policy))
        made = client.create_access_key(UserName=name)["AccessKey"]
        return {"AWS_ACCESS_KEY_ID": made["AccessKeyId"], "AWS_SECRET_ACCESS_KEY": made["SecretAccessKey"]}

    def lock(self, *, on: bool) -> None:
        """From now on the store checks who asks, or does not."""
        body = b"0" if on else b"inf"
        headers = {"Content-Type": "text/plain"}
        asked = urllib.request.Request(f"{self.endpoint}/moto-api/reset-auth", body, headers, method="POST")
        urllib.request.urlopen(asked, timeout=10).close()


USERS = {
    "writer": (*READ_ONLY, "s3:PutObject", "s3:DeleteObject"),
    "reader": READ_ONLY,
    "hoarder": (*READ_ONLY, "s3:PutObject"),
}


@pytest.fixture
def guarded(s3: str) -> Iterator[Guarded]:
    with s3_server() as endpoint:
        store = Guarded(endpoint)
        store.lock(on=True)
        yield store


def test_who_may_not_is_told_each_permission_that_is_missing(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    missing: dict[str, set[str]] = {}
    for user, keys in guarded.keys.items():
        for name, value in keys.items():
            monkeypatch.setenv(name, value)
        missing[user] = wrong(f"s3://runs/{user}?endpoint_override={guarded.endpoint}&region=us-east-1")
        monkeypatch.setattr("dynfusion.edges.s3_clients.clients._made", {})
    assert missing == {"writer": set(), "reader": {"write", "delete"}, "hoarder": {"delete"}}
    guarded.lock(on=False)
    left = request(guarded.endpoint, "GET", "/runs?list-type=2").decode()
    assert left.count("<Key>") == 1  # what the hoarder may not delete, and the table names
    assert "hoarder/.dynfusion-doctor-" in left


def test_nothing_stays_in_a_bucket_and_the_store_tells_the_time(s3: str) -> None:
    make_bucket(s3, "probed")
    request(s3, "PUT", "/probed/runs/mine", b"kept")
    found = facts(f"s3://probed/runs?endpoint_override={s3}")
    assert found["problems"] == dict.fromkeys(("write", "list", "read", "delete"))
    assert abs(found["clock_offset_seconds"]) < 5
    left = request(s3, "GET", "/probed?list-type=2").decode()
    assert left.count("<Key>") == left.count("<Key>runs/mine</Key>") == 1


def test_a_bucket_that_is_not_there_is_told_at_once(s3: str) -> None:
    problems = facts(f"s3://nowhere-at-all/runs?endpoint_override={s3}")["problems"]
    assert list(problems) == ["write"]
    assert "there is no bucket nowhere-at-all" in problems["write"]


def test_what_comes_back_is_compared_with_what_was_written(s3: str) -> None:
    make_bucket(s3, "liar")
    with FaultProxy(
        s3, lambda method, path, _: "wrong byte" if method == "GET" and "/probe" in path else None
    ) as proxy:
        found = facts(f"s3://liar/runs?endpoint_override={proxy.endpoint}")["problems"]
    assert "found something else than what was written" in found.pop("read")
    assert found == dict.fromkeys(("write", "list", "delete"))


def test_a_folder_that_is_not_there_is_judged_by_the_one_above_and_stays_unmade(tmp_path: Path) -> None:
    assert wrong(str(tmp_path / "runs" / "mine")) == set()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written_to(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    assert wrong(str(tmp_path)) == {"write"}


def test_a_path_that_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    assert wrong(str(tmp_path / "runs")) == {"write"}
