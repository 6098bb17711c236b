"""What is installed is what was tested: every dependency, and theirs, stands in constraints.txt with one version."""

import importlib.metadata
import json
import re
import subprocess
import sys
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

ROOT = Path(__file__).parents[2]
LINES = [line for line in (ROOT / "constraints.txt").read_text().splitlines() if line and not line.startswith("#")]
PINNED = dict(line.split("==") for line in LINES if "==" in line)
INSTALLED_EXTRAS = ("chem", "dev")
"""What `make setup` installs; the other extras, tracking and xgboost, are installed by hand where they are wanted."""


def wanted() -> list[Requirement]:
    """What the package itself asks for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = [text for name in INSTALLED_EXTRAS for text in project["optional-dependencies"][name]]
    return [Requirement(text) for text in (*project["dependencies"], *extras)]


def closure() -> dict[str, str]:
    """Installed version by name of all that the package needs on this machine."""
    found: dict[str, str] = {}
    todo = [(requirement, "") for requirement in wanted()]
    seen: set[tuple[str, str]] = set()
    while todo:
        requirement, extra = todo.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted_extra in ("", *sorted(requirement.extras)):
            if (name, wanted_extra) in seen:
                continue
            seen.add((name, wanted_extra))
            distribution = importlib.metadata.distribution(name)
            found[name] = distribution.version
            todo += [(Requirement(text), wanted_extra) for text in distribution.requires or ()]
    return found


def test_every_line_pins_one_version_and_names_no_place() -> None:
    wrong = [line for line in LINES if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*==[0-9][A-Za-z0-9.!]*", line)]
    assert not wrong, "allowed is NAME==VERSION: no range, no address, no build of a package index"
    names = [canonicalize_name(line.split("==")[0]) for line in LINES]
    assert len(names) == len(set(names))


def test_every_dependency_of_a_dependency_is_pinned() -> None:
    pinned = {canonicalize_name(name) for name in PINNED}
    assert not sorted(closure().keys() - pinned), "add them to constraints.txt, in the version that was tested"


def test_what_the_package_asks_for_allows_what_is_pinned() -> None:
    versions = {canonicalize_name(name): Version(version) for name, version in PINNED.items()}
    for requirement in wanted():
        version = versions[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(version, prereleases=True), f"{requirement}: pinned is {version}"


@pytest.mark.slow
def test_no_pinned_version_has_a_known_vulnerability() -> None:
    """With `pip install pip-audit`, where it reaches its data: it calls a package that it knows nothing of sound."""
    if find_spec("pip_audit") is None:
        pytest.skip("pip-audit is not installed")
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(ROOT / "constraints.txt"), "--no-deps"]
    options = ["--disable-pip", "--progress-spinner", "off", "--format", "json"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    if not done.stdout.startswith("{"):
        pytest.skip(f"pip-audit does not reach its data: {done.stderr.strip().splitlines()[-1:]}")
    found = json.loads(done.stdout)["dependencies"]
    unknown = [one["name"] for one in found if "skip_reason" in one]
    if len(unknown) > len(found) // 20:
        pytest.skip(f"pip-audit does not reach its data: it knows nothing of {len(unknown)} of {len(found)} packages")
    vulnerable = {one["name"]: [each["id"] for each in one["vulns"]] for one in found if one.get("vulns")}
    assert not vulnerable
