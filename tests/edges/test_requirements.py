"""What dynfusion needs, read from its own metadata."""

from dynfusion.edges.requirements import requirements


def test_requirements_include_what_the_extras_of_dependencies_ask_for() -> None:
    by_name = {found.name: found for found in requirements()}
    assert by_name["torch"].wanted_by == "dynfusion"
    assert ">=2.11" in by_name["torch"].specifier
    assert by_name["aiohttp_cors"].wanted_by == "ray[default]"  # the dashboard's
    assert by_name["tensorboardx"].wanted_by in ("dynfusion", "ray[train]", "ray[tune]")
    assert "rdkit" not in by_name  # an extra of dynfusion that nobody asked for
    assert "pytest" not in by_name
