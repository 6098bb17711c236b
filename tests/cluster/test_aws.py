"""`cluster/aws.yaml` is what Ray's launcher, `ray start` and EC2 take, to the last field; nothing is started."""

import copy
import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

import botocore.session
import click
import jsonschema
import pytest
import ray.autoscaler
import yaml
from botocore.model import Shape
from botocore.validate import ParamValidator
from ray.autoscaler._private.util import prepare_config, validate_config
from ray.scripts.scripts import start

ROOT = Path(__file__).parents[2]
FILE = ROOT / "cluster" / "aws.yaml"
TOKEN = "~/.ray/auth_token"


def read() -> dict[str, Any]:
    return yaml.safe_load(FILE.read_text())


@cache
def strict_schema() -> dict[str, Any]:
    """Ray's own, where it names fields without others being allowed."""
    schema = json.loads((Path(ray.autoscaler.__file__).parent / "ray-schema.json").read_text())
    schema["properties"]["provider"]["additionalProperties"] = False
    return schema


@cache
def launch_parameters() -> Shape:
    """What EC2 takes as the description of a machine; Ray hands `node_config` over as it is."""
    ec2 = botocore.session.get_session().get_service_model("ec2")
    return ec2.operation_model("RunInstances").input_shape


def check(config: dict[str, Any]) -> None:
    """Raises an error for what Ray, EC2, the shell or the repository would not take."""
    validate_config(prepare_config(copy.deepcopy(config)))
    jsonschema.validate(config, strict_schema())
    for kind in config["available_node_types"].values():
        wanted = {**kind["node_config"], "MinCount": 1, "MaxCount": 1}
        report = ParamValidator().validate(wanted, launch_parameters())
        if report.has_errors():
            raise ValueError(report.generate_report())
        wrong = [*outside_enumerations(wanted, launch_parameters())]
        if wrong:
            raise ValueError(", ".join(wrong))
    for remote, local in config["file_mounts"].items():
        if local != TOKEN and not (ROOT / local).exists():
            raise ValueError(f"file_mounts: {remote} is made of {local}, which is not in the repository")
    for pattern in (*config["rsync_exclude"], *config["rsync_filter"]):
        if not isinstance(pattern, str):
            raise TypeError(f"rsync: found {pattern!r}, allowed is a pattern")
    script = "\n".join(commands(config))
    subprocess.run(["bash", "-n", "-c", script], check=True, capture_output=True)
    for options in re.findall(r"ray start ([^;\n]*)", script):
        words = shlex.split(options.replace("$RAY_HEAD_IP", "10.0.0.1"))
        start.make_context("ray start", words)  # raises for an option that it does not have


def outside_enumerations(value: Any, shape: Shape, path: str = "node_config") -> Iterator[str]:
    """Where a value is none of those that EC2 lists; botocore's own check leaves that out."""
    if shape.type_name == "structure":
        for name, inner in value.items():
            yield from outside_enumerations(inner, shape.members[name], f"{path}.{name}")
    elif shape.type_name == "list":
        for inner in value:
            yield from outside_enumerations(inner, shape.member, path)
    elif getattr(shape, "enum", None) and value not in shape.enum:
        yield f"{path}: found {value!r}"


def commands(config: Mapping[str, Any]) -> list[str]:
    return [command for name, several in config.items() if name.endswith("_commands") for command in several]


def places(tree: Any, path: tuple[str | int, ...] = ()) -> Iterator[tuple[str | int, ...]]:
    """The way to every mapping, list and value of a tree, the tree itself first."""
    yield path
    inner = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
    for key, value in inner:
        yield from places(value, (*path, key))


def at(tree: Any, path: tuple[str | int, ...]) -> Any:
    for key in path:
        tree = tree[key]
    return tree


MAPPINGS = [path for path in places(read()) if isinstance(at(read(), path), dict)]
VALUES = [path for path in places(read()) if not isinstance(at(read(), path), dict | list)]
REFUSED = (ValueError, TypeError, RuntimeError, jsonschema.ValidationError, click.UsageError)


def name(path: tuple[str | int, ...]) -> str:
    return ".".join(map(str, path)) or "top"


def test_ray_and_ec2_take_the_file_as_it_is() -> None:
    check(read())


@pytest.mark.parametrize("path", MAPPINGS, ids=name)
def test_a_field_that_does_not_exist_is_refused_at_every_depth(path: tuple[str | int, ...]) -> None:
    config = read()
    at(config, path)["planted"] = {"planted": "planted"}
    with pytest.raises(REFUSED):
        check(config)


@pytest.mark.parametrize("path", VALUES, ids=name)
def test_a_value_of_another_kind_is_refused_at_every_depth(path: tuple[str | int, ...]) -> None:
    config = read()
    at(config, path[:-1])[path[-1]] = {"planted": ["planted"]}
    with pytest.raises(REFUSED):
        check(config)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("available_node_types", "gpu", "node_config", "InstanceMarketOptions", "MarketType"), "spott"),
        (("available_node_types", "gpu", "node_config", "InstanceType"), "g6.2xlargest"),
        (("available_node_types", "head", "resources", "CPU"), -1),
        (("available_node_types", "gpu", "min_workers"), 9),
        (("head_node_type",), "heads"),
        (("worker_start_ray_commands", 1), "ray start --adress=$RAY_HEAD_IP:6379"),
        (("setup_commands", 0), "chmod 600 '~/.ray/auth_token"),
        (("file_mounts", "~/source/constraints.txt"), "constraint.txt"),
    ],
    ids=str,
)
def test_a_value_that_nobody_knows_is_refused(path: tuple[str | int, ...], value: object) -> None:
    config = read()
    at(config, path[:-1])[path[-1]] = value
    with pytest.raises((*REFUSED, subprocess.CalledProcessError)):
        check(config)


def test_the_head_stays_and_the_machines_with_gpus_are_spot_ones_that_come_and_go() -> None:
    config = read()
    head, gpu = (config["available_node_types"][kind] for kind in ("head", "gpu"))
    assert "InstanceMarketOptions" not in head["node_config"]
    assert head["resources"]["CPU"] == 0
    assert "--num-cpus=0" in config["head_start_ray_commands"][-1]
    assert gpu["node_config"]["InstanceMarketOptions"]["MarketType"] == "spot"
    assert gpu["min_workers"] == 0 < gpu["max_workers"] <= config["max_workers"]
    assert config["idle_timeout_minutes"] > 0
    for kind in (head, gpu):
        assert kind["node_config"]["IamInstanceProfile"]
        assert kind["node_config"]["MetadataOptions"]["HttpTokens"] == "required"


def test_workers_have_as_many_threads_as_cpus_though_the_launcher_sets_one() -> None:
    for start_commands in (read()["head_start_ray_commands"], read()["worker_start_ray_commands"]):
        assert re.search(r"unset OMP_NUM_THREADS; ray start", start_commands[-1])


def test_the_token_is_handed_over_as_a_file_that_no_command_reads() -> None:
    config = read()
    assert config["file_mounts"]["~/.ray/auth_token"] == TOKEN
    touched = [command for command in commands(config) if "auth_token" in command or "RAY_AUTH_TOKEN" in command]
    assert touched == ["chmod 700 ~/.ray && chmod 600 ~/.ray/auth_token"]
    assert any("RAY_AUTH_MODE=token" in command for command in config["setup_commands"])


def test_the_security_group_is_the_owners_since_rays_own_lets_everybody_try_ssh() -> None:
    provider = read()["provider"]
    assert provider["security_group"] == {"GroupName": "dynfusion"}
    readme = (ROOT / "cluster" / "README.md").read_text()
    assert "create-security-group --group-name dynfusion" in readme
