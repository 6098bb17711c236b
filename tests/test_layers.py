"""The house: a folder is a layer, and imports run only downwards."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "dynfusion"

BELOW = {
    "printable": set(),
    "settings": {"printable"},
    "store": {"settings", "printable"},
    "fusion": {"settings", "printable"},
    "page": {"settings", "printable"},
    "preflight": set(),
    "encoders": {"store", "fusion", "settings", "printable"},
    "training": {"store", "fusion", "settings", "printable"},
    "evaluation": {"page", "store", "fusion", "settings", "printable"},
    "run_settings": {"training", "evaluation", "encoders", "page", "store", "fusion", "settings", "printable"},
}
BELOW["tuning"] = {*BELOW["run_settings"], "run_settings"}
BELOW["edges"] = {*BELOW["tuning"], "tuning", "preflight"}
BELOW["verbs"] = {*BELOW["edges"], "edges"}
BELOW["cli"] = set()
BELOW["__init__"] = set()
BELOW["__main__"] = {"cli"}

FOREIGN = {
    "page": {"ray", "deepspeed", "torch", "sklearn", "s3fs", "rdkit", "rich", "typer"},
    "preflight": {"ray", "deepspeed", "torch", "numpy", "pyarrow", "sklearn", "s3fs", "rdkit", "rich", "typer"},
    "tuning": {"ray", "deepspeed", "torch", "s3fs", "rdkit", "typer"},
    "store": {"ray", "deepspeed", "sklearn", "scipy", "s3fs", "rdkit", "rich", "typer"},
    "fusion": {"ray", "deepspeed", "sklearn", "scipy", "s3fs", "rdkit", "rich", "typer", "pyarrow"},
    "training": {"ray", "deepspeed", "sklearn", "s3fs", "rdkit", "rich", "typer", "pyarrow"},
    "evaluation": {"ray", "deepspeed", "s3fs", "rdkit", "typer"},
    "encoders": {"ray", "deepspeed", "sklearn", "torch", "s3fs", "rich", "typer"},
    "verbs": {"ray", "deepspeed", "torch", "typer"},
    "cli": {"ray", "deepspeed", "torch", "numpy", "pyarrow", "sklearn"},
}

FILES = sorted(PACKAGE.rglob("*.py"))


def layer(path: Path) -> str:
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are written in full"
            yield node.module or "", node.lineno


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_only_from_its_own_layer_and_those_below(path: Path) -> None:
    here = layer(path)
    for name, line in imports(ast.parse(path.read_text())):
        if name.startswith("dynfusion."):
            there = name.split(".")[1]
            assert there == here or there in BELOW[here], f"{path}:{line}: {here} imports {there}"
        assert name.split(".")[0] not in FOREIGN.get(here, set()), f"{path}:{line}: {here} imports {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_no_function_imports_the_package_and_nothing_is_imported_for_types_only(path: Path) -> None:
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for name, line in imports(node):
                assert not name.startswith("dynfusion"), f"{path}:{line}: import of {name} inside {node.name}"
    assert "TYPE_CHECKING" not in path.read_text()


def loaded_after(statement: str) -> set[str]:
    """Top-level modules in a fresh process once it has run `statement`."""
    code = f"{statement}\nimport sys\nprint(*{{name.split('.')[0] for name in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_store_and_fusion_load_no_cluster_and_no_object_store() -> None:
    modules = sorted(
        f"dynfusion.{path.relative_to(PACKAGE).with_suffix('').as_posix().replace('/', '.')}"
        for path in FILES
        if layer(path) in ("store", "fusion") and path.stem != "__init__"
    )
    loaded = loaded_after(f"import {', '.join(modules)}")
    assert not loaded & {"ray", "deepspeed", "s3fs", "fsspec", "botocore", "sklearn", "rdkit"}


def test_the_processes_of_a_training_run_load_no_scikit_learn_until_a_check_fits_a_probe() -> None:
    assert not loaded_after("import dynfusion.run_settings") & {"scipy", "sklearn", "pandas", "ray"}
    assert "sklearn" not in loaded_after("import dynfusion.edges.ray_trial")


def test_help_loads_nothing_heavy() -> None:
    loaded = loaded_after("from dynfusion.cli import main\nmain(['--help'])\nmain(['train', '--help'])")
    assert not loaded & {"torch", "ray", "deepspeed", "numpy", "pyarrow", "sklearn", "rdkit", "matplotlib"}


def test_public_names_resolve() -> None:
    import dynfusion

    for name in dynfusion.__all__:
        assert getattr(dynfusion, name).__name__ == name
    with pytest.raises(AttributeError, match="has no attribute 'nothing', it has Dataset, FusionModel"):
        _ = dynfusion.nothing
