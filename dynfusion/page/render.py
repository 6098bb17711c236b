"""Renders a page: one HTML file that needs nothing else, and the same as Markdown."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from dynfusion.page.blocks import Block, Figures, Fold, kind


def rendered(content: Mapping[str, Any]) -> dict[str, bytes]:
    """`md` and `html` of title, meta, sentences, tiles and sections; equal content gives equal bytes."""
    environment = Environment(
        loader=PackageLoader("dynfusion.page", "templates"),
        undefined=StrictUndefined,
        autoescape=lambda template: template is not None and template.endswith(".html"),
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters |= {"kind": kind, "markdown": markdown, "breakable": breakable, "legible": legible}
    return {ending: environment.get_template(f"report.{ending}").render(content).encode() for ending in ("md", "html")}


def strict_json(report: Mapping[str, Any]) -> bytes:
    """JSON text with a last newline; a number that is not finite becomes null."""
    return (json.dumps(_strict(report), indent=1, allow_nan=False, ensure_ascii=False) + "\n").encode()


def markdown(text: str) -> str:
    """Text that breaks no table and starts no markup."""
    return text.replace("\\", "\\\\").replace("|", "\\|").replace("*", "\\*").replace("<", "&lt;").replace("_", "\\_")


def legible(block: Block) -> bool:
    """Whether there is anything of a block in a text without figures."""
    if isinstance(block, Fold):
        return any(legible(part) for part in block.blocks)
    return not isinstance(block, Figures)


def breakable(text: str) -> Markup:
    """HTML of a long name that may go on in the next line after a plus."""
    return Markup("+<wbr>").join(text.split("+"))


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _strict(entry) for name, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str | bytes):
        return [_strict(entry) for entry in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
