import pickle

import pytest

from dynfusion.edges.s3_address import parse_s3
from dynfusion.edges.s3_clients import STALL_SECONDS, Clients, Reach, filesystem
from tests.s3 import FaultProxy, make_bucket, request


@pytest.mark.parametrize(
    ("variables", "asked", "region"),
    [
        ({"AWS_REGION": "eu-central-1"}, None, "eu-central-1"),
        ({"AWS_DEFAULT_REGION": "eu-west-1"}, None, "eu-west-1"),
        ({"AWS_REGION": "eu-central-1", "AWS_DEFAULT_REGION": "eu-west-1"}, None, "eu-central-1"),
        ({"AWS_REGION": "eu-central-1"}, "us-west-2", "us-west-2"),
        ({}, None, "us-east-1"),
    ],
)
def test_both_libraries_are_given_the_region_of_the_address_or_of_the_environment(
    variables: dict[str, str], asked: str | None, region: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AWS_REGION", "AWS_DEFAULT_REGION", "AWS_PROFILE", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_CONFIG_FILE", "/nowhere")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    clients, reach = Clients(), Reach(None, asked, None, STALL_SECONDS)
    assert clients.access(reach).region == region
    assert clients.carrier(reach).region == region
    assert clients.small_files(reach).client_kwargs["region_name"] == region
    assert clients.access(reach).endpoint == f"https://s3{'' if region == 'us-east-1' else '.' + region}.amazonaws.com"


def test_a_file_system_that_was_pickled_tries_as_often_as_before(s3: str) -> None:
    make_bucket(s3, "travelled")
    with FaultProxy(s3, lambda method, path, count: "reset" if len(proxy.seen) <= 4 else None) as proxy:
        path, made = filesystem(parse_s3(f"s3://travelled/run?endpoint_override={proxy.endpoint}"))
        sent = pickle.dumps(made)
        assert b"test" not in sent, "no key travels"
        with pickle.loads(sent).open_output_stream(f"{path}/record") as file:
            file.write(b"whole")
        assert proxy.done == ["reset"] * 4
    assert request(s3, "GET", "/travelled/run/record") == b"whole"
