"""A Containerfile as stages of instructions, and the steps of one target run on this machine without an engine.

All stages share one folder, below which the image's absolute paths lie: `/opt/venv` is `FOLDER/opt/venv`. That does
where no two stages write different things to one path. What the base brings, Python and pip, is this machine's.
"""

import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

SYSTEM = "apt-get"
"""A RUN that begins with it installs into the base system, and is not run here."""

PLACES = ("opt", "build", "var")
"""Folders of the image's root that its steps write to."""


@dataclass(frozen=True)
class Instruction:
    """One instruction: its word in capitals and what follows it, continued lines joined."""

    word: str
    text: str

    @property
    def source(self) -> str | None:
        """The stage that a COPY takes from, None where it is the context."""
        found = re.match(r"--from=(\S+)", self.text)
        return found.group(1) if found else None

    @property
    def paths(self) -> tuple[list[str], str]:
        """What a COPY takes, and where it puts it."""
        *sources, target = [word for word in shlex.split(self.text) if not word.startswith("--")]
        return sources, target

    @property
    def variables(self) -> dict[str, str]:
        """Names and values of an ENV or ARG."""
        pairs = (word.partition("=") for word in shlex.split(self.text))
        return {name: value for name, _, value in pairs}


@dataclass(frozen=True)
class Stage:
    """A stage: its name, what it begins from, and its instructions."""

    name: str
    base: str
    instructions: tuple[Instruction, ...] = ()


Stages = Mapping[str, Stage]


def parse(text: str) -> dict[str, Stage]:
    """The stages by name, in order. Raises ValueError for a stage without a name."""
    joined = re.sub(r"\\\n\s*", "", re.sub(r"^\s*#.*\n", "", text, flags=re.M))
    stages: dict[str, Stage] = {}
    name = ""
    for line in filter(str.strip, joined.splitlines()):
        word, _, rest = line.strip().partition(" ")
        if word != "FROM":
            stages[name] = Stage(name, stages[name].base, (*stages[name].instructions, Instruction(word, rest)))
            continue
        found = re.fullmatch(r"(\S+) AS (\S+)", rest)
        if found is None:
            raise ValueError(f"FROM {rest}: expected FROM BASE AS NAME")
        name = found.group(2)
        stages[name] = Stage(name, found.group(1))
    return stages


def lineage(stages: Stages, target: str) -> list[Stage]:
    """A stage behind all that it begins from."""
    stage = stages[target]
    return [*(lineage(stages, stage.base) if stage.base in stages else []), stage]


def instructions(stages: Stages, target: str) -> list[Instruction]:
    """Those of a stage behind those of all that it begins from."""
    return [instruction for stage in lineage(stages, target) for instruction in stage.instructions]


def needed(stages: Stages, target: str) -> list[Stage]:
    """Every stage that a target is made of, once, in an order in which they can be made."""
    found: list[Stage] = []
    for stage in lineage(stages, target):
        for instruction in stage.instructions:
            found += needed(stages, instruction.source) if instruction.source else []
        found.append(stage)
    return list(dict.fromkeys(found))


def make(stages: Stages, target: str, *, context: Path, root: Path, arguments: Mapping[str, str]) -> list[str]:
    """Run the steps of a target and of all that it is made of; what was left out comes back.

    `arguments` are build arguments. Raises RuntimeError with what a step said when it fails.
    """
    left_out = []
    for stage in needed(stages, target):
        place = "/"
        for before in lineage(stages, stage.name)[:-1]:
            place = _workdir(before.instructions, place)
        for instruction in stage.instructions:
            place = _workdir((instruction,), place)
            here = root / place.strip("/")
            here.mkdir(parents=True, exist_ok=True)
            if instruction.word == "COPY":
                _copy(instruction, context if instruction.source is None else root, here, root)
            elif instruction.word == "RUN" and instruction.text.startswith(SYSTEM):
                left_out.append(instruction.text)
            elif instruction.word == "RUN":
                _run(_moved(instruction.text, root), here, _environment(stages, stage.name, root, arguments))
    return left_out


def _workdir(said: tuple[Instruction, ...], place: str) -> str:
    return next((each.text for each in reversed(said) if each.word == "WORKDIR"), place)


def _moved(text: str, root: Path) -> str:
    """The absolute paths of a text, below the folder."""
    return re.sub(rf"(?<![\w./])/({'|'.join(PLACES)})(?=[/\s:]|$)", rf"{root}/\1", text)


def _environment(stages: Stages, name: str, root: Path, arguments: Mapping[str, str]) -> dict[str, str]:
    """ENV and ARG of a stage and of those before it, a build argument in place of ARG's default."""
    found = dict(os.environ)
    for instruction in instructions(stages, name):
        if instruction.word in ("ENV", "ARG"):
            for variable, value in instruction.variables.items():
                given = arguments.get(variable, value) if instruction.word == "ARG" else value
                found[variable] = _moved(given.replace("$PATH", found["PATH"]), root)
    return found


def _run(command: str, here: Path, environment: Mapping[str, str]) -> None:
    done = subprocess.run(["sh", "-ec", command], cwd=here, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{command}: exit code {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")


def _copy(instruction: Instruction, origin: Path, here: Path, root: Path) -> None:
    sources, target = instruction.paths
    for source in sources:
        into = root / target.strip("/") if target.startswith("/") else here / target
        into = into / Path(source).name if target.endswith("/") else into
        taken = origin / source.strip("/")
        if taken == into:  # from another stage, to the same path
            continue
        if taken.is_dir():
            shutil.copytree(taken, into, dirs_exist_ok=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            into.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(taken, into)


def packages(run: str) -> list[str]:
    """What an `apt-get install` in a RUN names, each with its version."""
    found = re.search(r"apt-get install ([^&]+)", run)
    return [word for word in found.group(1).split() if not word.startswith("-")] if found else []
