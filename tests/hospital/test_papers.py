"""The evidence named in the hospital's documents exists: files, and tests in them."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAPERS = ("security.md", "intended_use.md", "traceability.md")
_NAMED = re.compile(r"`((?:tests|docs|docker|med_transfer)/[\w./-]+)(?:::(\w+))?`")


@functools.cache
def names_in(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("paper", PAPERS)
def test_what_is_named_exists(paper):
    text = (ROOT / "docs/hospital" / paper).read_text()
    named = _NAMED.findall(text)
    assert not [file for file, _ in named if not (ROOT / file).exists()]
    assert not [(file, test) for file, test in named if test and test not in names_in(ROOT / file)]
    if paper != "intended_use.md":
        assert len(named) > 15


def test_every_threat_has_a_counter_measure_and_a_test():
    text = (ROOT / "docs/hospital/security.md").read_text()
    rows = [row.split(" | ") for row in text.splitlines() if row.startswith("| ") and "tests/" in row]
    assert len(rows) >= 14
    assert all(len(row) == 4 and row[1].strip() and row[2].strip() for row in rows)
    named = [row for row in text.splitlines() if row.startswith("|") and row.count("|") == 5]
    named = [row for row in named if not row.startswith(("| asset |", "| -- |"))]
    assert len(named) == len(rows)  # no row without a test
