import pytest

from dynfusion.edges.s3_clients import STALL_SECONDS, Clients, Reach


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
