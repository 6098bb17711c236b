"""Shapes written in signatures are checked at every call while testing."""

from jaxtyping import install_import_hook

install_import_hook("dynfusion", "beartype.beartype")
