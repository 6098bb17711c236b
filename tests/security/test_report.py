"""A report is opened in a browser: names from data, models and report.json are text there, in figures too."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from dynfusion.evaluation.report.page import write_report
from tests.evaluation.report_example import MODALITIES, example_report

HOSTILE = '<img onerror="a()">'


def renamed(report: dict[str, Any], name: str, other: str) -> dict[str, Any]:
    """The report with another name in every text and key."""
    return json.loads(json.dumps(report).replace(name, json.dumps(other)[1:-1]))


@pytest.mark.parametrize("name", ["bace", MODALITIES[0]])
def test_a_name_is_text_in_the_page_and_its_figures(tmp_path: Path, name: str) -> None:
    write_report(tmp_path, renamed(example_report(("bace", "bbbp"), quick=True), name, HOSTILE))
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert "onerror" in page, "the name is shown"
    assert not re.search(r"<\s*(script|img|iframe|object|embed)\b", page)
    assert not re.search(r"<[^>]*\son\w+\s*=", re.sub(r'"[^"]*"', '""', page)), "no element has a handler"
    assert not re.search(r"<\s*(script|img)\b", (tmp_path / "report.md").read_text(encoding="utf-8"))
