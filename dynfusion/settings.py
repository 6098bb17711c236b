"""The mechanism of settings: frozen validated models, dotted overrides, a fingerprint. It knows no setting by name.

run file (TOML, differences only) --read_toml--+
command line `loss.alignment=0.3` --parse_overrides--+--> build --> one frozen tree
a sampled trial, a record in a checkpoint ------------+
"""

import difflib
import hashlib
import json
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import tomli_w
from pydantic import BaseModel, ConfigDict, ValidationError

from dynfusion.printable import quoted, short


class Settings(BaseModel):
    """Base of every settings model: frozen, unknown names refused, defaults validated too."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False)


Tree = TypeVar("Tree", bound=Settings)


def read_toml(path: str | Path) -> dict[str, Any]:
    """The nested mapping of a TOML file.

    Raises ValueError when the file is missing or is not TOML, naming the file.
    """
    try:
        return tomllib.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"run file {path}: no such file") from None
    except RecursionError:
        raise ValueError(f"run file {path}: not readable as TOML, it is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits, too
        raise ValueError(f"run file {path}: not readable as TOML, {error}") from None


def parse_json(content: bytes, where: str, what: str = "readable as JSON") -> Any:
    """What these bytes of a JSON file say; `where` opens the sentence, `what` is what they are not.

    Raises ValueError for bytes that are not UTF-8 or not JSON, nested too deeply, or name something twice.
    """
    try:
        return json.loads(content.decode("utf-8"), object_pairs_hook=_named_once)
    except RecursionError:
        raise ValueError(f"{where}: not {what}, it is nested too deeply") from None
    except ValueError as error:  # a number of thousands of digits, too
        raise ValueError(f"{where}: not {what}, {error}") from None


def parse_overrides(assignments: Iterable[str]) -> dict[str, Any]:
    """`["loss.alignment=0.3", "engine.kind=torch"]` as a nested mapping; values are TOML literals, else plain strings.

    Raises ValueError for a text that is not `dotted.name=value`.
    """
    tree: dict[str, Any] = {}
    for assignment in assignments:
        name, equals, text = assignment.partition("=")
        if not equals or not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"setting {assignment!r}: expected dotted.name=value, such as loss.alignment=0.3")
        *parents, leaf = name.split(".")
        branch = tree
        for parent in parents:
            branch = branch.setdefault(parent, {})
            if not isinstance(branch, dict):
                raise ValueError(f"setting {name}: {parent} was already given a value on this command line")
        branch[leaf] = _literal(text)
    return tree


def build(kind: type[Tree], *layers: Mapping[str, Any]) -> Tree:
    """One validated tree from nested mappings; a later layer wins over an earlier one, leaf by leaf.

    Raises ValueError with one sentence that names the first wrong setting, what was found and what is allowed.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        merged = _merge(merged, layer)
    try:
        return kind.model_validate(merged)
    except ValidationError as error:
        raise ValueError(_sentence(kind, error)) from None


def to_toml(settings: Settings) -> str:
    """The full tree with its defaults as TOML text, each setting's description behind it.

    A setting without a value (`None`) is a comment.
    """
    return "\n\n".join(_sections(settings, "")) + "\n"


def differences(settings: Settings, default: Settings | None = None) -> dict[str, Any]:
    """What a run file must say to give this tree: the nested mapping of values that are not the default.

    `None` in place of another default cannot be said in TOML and is left out.
    """
    dumped = settings.model_dump(mode="json")
    found: dict[str, Any] = {}
    for field, info in type(settings).model_fields.items():
        value = getattr(settings, field)
        usual = getattr(default, field) if default is not None else info.get_default(call_default_factory=True)
        if isinstance(value, Settings):
            inner = differences(value, usual if isinstance(usual, Settings) else None)
            found |= {field: inner} if inner else {}
        elif value != usual and value is not None:
            found[field] = dumped[field]
    return found


def fingerprint(settings: Settings) -> str:
    """16 hexadecimal digits that change when any setting changes, equal across machines and processes."""
    text = json.dumps(settings.model_dump(mode="json"), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def nearest(name: str, known: list[str]) -> str:
    """What to say to an unknown dotted name: the known one that was probably meant, else all those beside it."""
    leaf = name.rsplit(".", 1)[-1]
    close = difflib.get_close_matches(name, known, n=1) or [n for n in known if n.rsplit(".", 1)[-1] == leaf][:1]
    return f"did you mean {close[0]}?" if close else f"known here: {', '.join(_siblings(known, name))}"


def _literal(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        return text


def _named_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object: of a name that stands twice, two readers may see different values."""
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the name {twice!r} stands twice in one object")
    return found


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        merged[name] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _sections(settings: Settings, name: str) -> Iterable[str]:
    """The model's own lines under its table's header, then those of the models inside it."""
    lines, inner = [f"[{name}]"] if name else [], []
    for field, info in type(settings).model_fields.items():
        value = getattr(settings, field)
        if isinstance(value, Settings):
            inner.append((value, f"{name}.{field}" if name else field))
            continue
        text = f"# {field} =" if value is None else _line(field, settings.model_dump(mode="json")[field])
        lines.append(f"{text}  # {info.description}" if info.description else text)
    if len(lines) > bool(name):
        yield "\n".join(lines)
    for value, below in inner:
        yield from _sections(value, below)


def _line(name: str, value: Any) -> str:
    """`name = value` on one line, whatever the value."""
    if isinstance(value, dict):
        entries = ", ".join(_line(key, entry) for key, entry in value.items())
        return f"{name} = {{{entries}}}"
    if isinstance(value, list):
        return f"{name} = [{', '.join(_line('x', entry).partition(' = ')[2] for entry in value)}]"
    return tomli_w.dumps({name: value}).strip()


def _sentence(kind: type[Settings], error: ValidationError) -> str:
    found = error.errors(include_url=False)
    first = next((one for one in found if one["type"] == "extra_forbidden"), found[0])
    name = quoted(".".join(str(part) for part in first["loc"]))
    if first["type"] == "extra_forbidden":
        return f"setting {name}: unknown name, {nearest(name, list(_names(kind)))}"
    if first["type"] == "missing":
        return f"setting {name}{_needed(kind, first['loc'])}: a value is required"
    if first["type"] == "value_error":
        return f"setting {name}: {first['ctx']['error']}" if name else str(first["ctx"]["error"])
    said = first["msg"].partition(", unable to")[0].replace("Input should be", "allowed is", 1)
    return f"setting {name}: found {short(first['input'])}, {said[0].lower()}{said[1:]}"


def _needed(kind: type[Settings], place: tuple[int | str, ...]) -> str:
    """What below a missing part of the tree must have a value, as `.name`."""
    inner: Any = kind
    for part in place:
        inner = (
            inner.model_fields[str(part)].annotation
            if isinstance(inner, type) and issubclass(inner, Settings)
            else None
        )
    if not (isinstance(inner, type) and issubclass(inner, Settings)):
        return ""
    return next((f".{name}" for name, field in inner.model_fields.items() if field.is_required()), "")


def _names(kind: type[BaseModel], prefix: str = "") -> Iterable[str]:
    for name, field in kind.model_fields.items():
        yield prefix + name
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _names(field.annotation, f"{prefix}{name}.")


def _siblings(known: list[str], name: str) -> list[str]:
    parent = name.rpartition(".")[0]
    return [other for other in known if other.rpartition(".")[0] == parent]
