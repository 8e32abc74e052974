"""The conformance statement matches the code."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs the extra [hospital]")

from med_transfer.hospital.conformance import statement


def test_the_page_is_up_to_date():
    page = Path(__file__).parents[2] / "docs" / "hospital" / "conformance.md"
    assert page.read_text() == statement(), "run: make docs"
