"""The evidence named in the hospital's documents exists: files, and tests in them. Their node.yaml is accepted."""

from __future__ import annotations

import ast
import functools
import re
from pathlib import Path

import pytest
from documented import Block, blocks

from med_transfer.config import load_config
from med_transfer.hospital.config import NodeConfig

ROOT = Path(__file__).parents[2]
PAPERS = ("security.md", "intended_use.md", "traceability.md")
NODE_YAML = [
    block
    for block in blocks("text")
    if block.page.startswith("docs/hospital/") and block.code.partition(":")[0] in NodeConfig.model_fields
]
REST = "folder: node\ndestinations: [{ae_title: PACS, address: 10.1.2.4, port: 104}]\n"  # of a page's section alone
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


@pytest.mark.parametrize("shown", NODE_YAML, ids=str)
def test_what_is_shown_of_node_yaml_is_accepted(shown: Block, tmp_path):
    file = tmp_path / "node.yaml"
    file.write_text(shown.code if shown.code.startswith("folder:") else REST + shown.code)
    assert load_config(NodeConfig, file).folder


def test_every_section_that_is_shown_of_node_yaml_is_checked():
    shown = {block.code.partition(":")[0] for block in NODE_YAML}
    assert shown >= {"folder", "metrics", "page", "routes", "workitems"}
