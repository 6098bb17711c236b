"""The working folder of a submitted job as one zip file: what git would keep, without what is secret."""

import re
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ray._private.ray_constants import DASHBOARD_CLIENT_MAX_SIZE, get_runtime_env_default_excludes
from ray._private.runtime_env.packaging import create_package

LIMIT_BYTES = DASHBOARD_CLIENT_MAX_SIZE
"""What Ray's job server takes in one upload; its 512 MiB are those of a driver that is already in the cluster."""

LEFT_OUT = (
    *(".env", ".env.*", "*.env", ".envrc", ".git-credentials", ".s3cfg", ".netrc", ".npmrc", ".pypirc", "token"),
    *("*.pem", "*.key", "*.p12", "*.pfx", "id_rsa*", "id_ed25519*"),
    *(".aws/", ".azure/", ".config/gcloud/", ".docker/", ".gnupg/", ".kube/", ".ray/", ".ssh/", "auth_token"),
    *("credentials", "credentials.json", "kubeconfig", ".git", ".venv", "__pycache__", ".*_cache/", "*.egg-info"),
)
"""Patterns as in .gitignore, on top of the folder's own .gitignore and .rayignore."""

_SECRET_NAME = re.compile(
    r"SECRET|PASSW(OR)?D|PASSPHRASE|CREDENTIAL|TOKENS?($|_)|(^|_)AUTH($|_)|(API|ACCESS|PRIVATE|ACCOUNT|SIGNING)_?KEY",
    re.I,
)
_SECRET_VALUE = re.compile(r"://[^/\s@:]+:[^/\s@]+@|(^|[^A-Z0-9])A(KIA|SIA)[A-Z0-9]{16}")


@dataclass(frozen=True)
class Package:
    """A zip file and the names in it."""

    path: Path
    names: frozenset[str]


def pack_folder(folder: Path, out: Path) -> Package:
    """`folder` as the zip file `out`, without `LEFT_OUT` and what .gitignore and .rayignore name.

    Raises ValueError, naming the largest files, when Ray's job server would not take it, and for a link out of the
    folder, whose content Ray would send.
    """
    if not folder.is_dir():
        raise ValueError(f"--working-dir: found {folder}, allowed is a folder")
    excludes = [*get_runtime_env_default_excludes(), *LEFT_OUT]
    create_package(str(folder), out, include_gitignore=True, excludes=excludes)
    with zipfile.ZipFile(out) as archive:
        entries = archive.infolist()
    _check_links(folder, [entry.filename for entry in entries])
    if out.stat().st_size >= LIMIT_BYTES:
        largest = sorted(entries, key=lambda entry: entry.compress_size, reverse=True)[:3]
        named = ", ".join(f"{entry.filename} ({_mib(entry.compress_size)})" for entry in largest)
        raise ValueError(
            f"working folder {folder}: {_mib(out.stat().st_size)} packed, Ray's job server takes less than "
            f"{_mib(LIMIT_BYTES)}; the largest are {named}: name them in .rayignore and keep data on shared storage"
        )
    return Package(out, frozenset(entry.filename for entry in entries))


def _check_links(folder: Path, names: Sequence[str]) -> None:
    root = folder.resolve()
    for name in names:
        target = (folder / name).resolve()
        if not target.is_relative_to(root):
            raise ValueError(
                f"working folder {folder}: {name} lies behind a link to {target}, whose content would go to whoever "
                "reaches the dashboard; copy it here if the job needs it, else name it in .rayignore"
            )


def check_open(variables: dict[str, str], arguments: list[str]) -> None:
    """Raise ValueError where a secret would go into the job's record, which everybody on the cluster can read."""
    for name, value in variables.items():
        if _SECRET_NAME.search(name) or _SECRET_VALUE.search(value):
            raise ValueError(
                f"--env {name}: looks like a secret, and whoever reaches the dashboard can read a job's environment; "
                "give it to the cluster's nodes instead (a Kubernetes Secret, a role, a credentials file)"
            )
    for argument in arguments:
        if _SECRET_VALUE.search(argument):
            raise ValueError(
                "a secret in the job's command (a password in an address, or an access key) can be read by whoever "
                "reaches the dashboard; give it to the cluster's nodes instead"
            )


def _mib(size: int) -> str:
    return f"{size / 2**20:.1f} MiB"
