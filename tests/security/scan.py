"""What in the code could run what a file says: calls and imports that are forbidden, found in syntax trees."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

MODULES = (
    *("pickle", "cPickle", "_pickle", "cloudpickle", "dill", "jsonpickle", "joblib", "shelve", "marshal", "yaml"),
    *("ray.cloudpickle", "xmlrpc", "telnetlib"),
)
"""Not to be imported at all."""

CALLS = (
    *("eval", "exec", "compile", "__import__", "os.system", "os.popen", "tempfile.mktemp", "importlib.import_module"),
    *("torch.jit.load", "torch.hub.load", "torch.package.PackageImporter", "pandas.read_pickle", "numpy.fromregex"),
    *("numpy.genfromtxt", "numpy.loadtxt", "runpy.run_path", "ctypes.CDLL", "ssl._create_unverified_context"),
)
"""Not to be called."""

NEEDED = {
    "torch.load": ("weights_only", True),
    "numpy.load": ("allow_pickle", False),
    "numpy.lib.format.read_array": ("allow_pickle", False),
}
"""Allowed with this argument written out, whatever the library's default is today."""

REFUSED_ARGUMENTS = (("shell", True), ("allow_pickle", True), ("verify", False), ("weights_only", False))


@dataclass(frozen=True)
class Finding:
    """A forbidden thing and where it stands."""

    what: str
    line: int


def findings(tree: ast.AST) -> Iterator[Finding]:
    """Everything forbidden in a module, whatever names it gave to what it imports."""
    names = _imported(tree)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield from (Finding(f"import {name}", node.lineno) for name in _modules(node) if _is_forbidden(name))
        elif isinstance(node, ast.Call):
            yield from (Finding(what, node.lineno) for what in _wrong_call(node, names))
        elif isinstance(node, ast.Attribute) and _is_forbidden(_dotted(node, names)):
            yield Finding(_dotted(node, names), node.lineno)


def _wrong_call(call: ast.Call, names: dict[str, str]) -> Iterator[str]:
    called = _dotted(call.func, names)
    given = {keyword.arg: keyword.value for keyword in call.keywords}
    if called in CALLS:
        yield called
    if called in NEEDED:
        name, value = NEEDED[called]
        found = given.get(name)
        if not (isinstance(found, ast.Constant) and found.value is value):
            yield f"{called} without {name}={value}"
    for name, value in REFUSED_ARGUMENTS:
        found = given.get(name)
        if isinstance(found, ast.Constant) and found.value is value:
            yield f"{called or 'a call'} with {name}={value}"


def _imported(tree: ast.AST) -> dict[str, str]:
    """What each imported name stands for, dotted."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                first = alias.name.split(".")[0]
                names[alias.asname or first] = alias.name if alias.asname else first
        elif isinstance(node, ast.ImportFrom):
            names |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    return names


def _modules(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [f"{node.module}.{alias.name}" for alias in node.names]


def _is_forbidden(name: str) -> bool:
    return any(name == module or name.startswith(f"{module}.") for module in MODULES)


def _dotted(node: ast.AST, names: dict[str, str]) -> str:
    """`np.lib.format.read_array` as `numpy.lib.format.read_array`; empty for what is no chain of names."""
    if isinstance(node, ast.Name):
        return names.get(node.id, node.id)
    if isinstance(node, ast.Attribute):
        below = _dotted(node.value, names)
        return f"{below}.{node.attr}" if below else ""
    return ""
