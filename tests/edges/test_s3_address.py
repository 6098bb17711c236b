import pytest

from dynfusion.edges.s3_address import S3Address, is_s3, parse_s3


def test_an_address_has_a_bucket_a_key_and_where_to_reach_it() -> None:
    for uri, expected in [
        ("s3://bucket", S3Address("bucket", "")),
        ("s3://bucket/a/b/", S3Address("bucket", "a/b")),
        ("s3://bucket/a?endpoint_override=http://host:9000", S3Address("bucket", "a", "http://host:9000")),
        ("s3://bucket/a?scheme=http&endpoint_override=host:9000", S3Address("bucket", "a", "http://host:9000")),
        ("s3://bucket/a?endpoint_override=host:9000", S3Address("bucket", "a", "https://host:9000")),
        ("s3://bucket/a?region=eu-west-1&profile=lab", S3Address("bucket", "a", None, "eu-west-1", "lab")),
    ]:
        assert parse_s3(uri) == expected
    assert str(parse_s3("s3://bucket/a?profile=lab").join("b.arrow")) == "s3://bucket/a/b.arrow"
    assert parse_s3("s3://bucket").join("b").path == "bucket/b"
    assert is_s3("s3://bucket/a")
    assert not is_s3("bucket/s3://a")


def test_keys_in_an_address_are_refused_and_not_repeated() -> None:
    for uri in ("s3://AKIAEXAMPLE:hidden@bucket/a", "s3://bucket/a?secret_key=hidden", "s3://bucket?access_key=hidden"):
        with pytest.raises(ValueError, match=r"keys") as caught:
            parse_s3(uri)
        assert "hidden" not in str(caught.value)


def test_an_address_without_a_bucket_is_refused() -> None:
    with pytest.raises(ValueError, match="no bucket, expected s3://bucket/folder"):
        parse_s3("s3:///a")
