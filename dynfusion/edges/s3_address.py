"""`s3://bucket/folder?endpoint_override=http://host:9000&region=...&profile=...`, and never a key in it.

What the address leaves out comes from where every S3 program looks: AWS_ENDPOINT_URL_S3, AWS_REGION (or
AWS_DEFAULT_REGION), AWS_PROFILE, the profile's file, the machine's role.
"""

from dataclasses import dataclass, replace
from urllib.parse import parse_qsl, urlsplit

_ALLOWED = ("endpoint_override", "scheme", "region", "profile")


@dataclass(frozen=True)
class S3Address:
    """A bucket, a key (without leading or trailing slash), and what the address says about how to reach them."""

    bucket: str
    key: str
    endpoint: str | None = None
    region: str | None = None
    profile: str | None = None

    @property
    def path(self) -> str:
        """`bucket/key`, as both libraries want it."""
        return f"{self.bucket}/{self.key}" if self.key else self.bucket

    def __str__(self) -> str:
        return f"s3://{self.path}"

    def join(self, path: str) -> "S3Address":
        """The address of a file below this one."""
        return replace(self, key=f"{self.key}/{path}" if self.key else path)


def is_s3(uri: object) -> bool:
    """Whether the text is an `s3://` address."""
    return str(uri).startswith("s3://")


def parse_s3(uri: str) -> S3Address:
    """The parts of an address.

    Raises ValueError for an address without a bucket, with keys in it, or with a query that is not known.
    """
    parts = urlsplit(uri)
    if "@" in parts.netloc or parts.username:
        raise ValueError(
            "s3 address: it has keys in it, give them by AWS_PROFILE or ?profile=NAME, never in an address"
        )
    query = dict(parse_qsl(parts.query))
    unknown = [name for name in query if name not in _ALLOWED]
    if unknown:
        raise ValueError(
            f"s3://{parts.netloc}{parts.path}: found {unknown[0]} behind the question mark, allowed are "
            f"{', '.join(_ALLOWED)}; keys come from AWS_PROFILE, the environment or the machine's role"
        )
    if not parts.netloc:
        raise ValueError(f"{uri}: no bucket, expected s3://bucket/folder")
    endpoint = query.get("endpoint_override")
    if endpoint and "://" not in endpoint:
        endpoint = f"{query.get('scheme', 'https')}://{endpoint}"
    return S3Address(parts.netloc, parts.path.strip("/"), endpoint, query.get("region"), query.get("profile"))
