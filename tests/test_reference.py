"""The pages of docs/reference match the code: all of it, and nothing that no longer exists."""

from pathlib import Path

import pytest

pytest.importorskip("pynetdicom", reason="needs the extra [hospital]")

import med_transfer
from med_transfer import errors
from med_transfer.cli.reference.errors import meaning_and_remedy
from med_transfer.cli.reference.pages import _FILES, pages
from med_transfer.cli.reference.settings import groups
from med_transfer.preprocessing.config import InputConfig

REFERENCE = Path(__file__).parents[1] / "docs/reference"
KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


def test_the_pages_are_up_to_date():
    for name, text in pages().items():
        assert (REFERENCE / name).read_text(encoding="utf-8") == text, f"{name}: run make docs"


@pytest.mark.parametrize("model", [model for model, *_ in _FILES.values()], ids=lambda model: model.__name__)
def test_every_key_says_what_it_is_for(model):
    keys = [key for group in groups(model) for key in group.keys]
    assert len({key.name for key in keys}) > 5
    assert [key.name for key in keys if not key.meaning] == []


def test_a_key_has_its_type_unit_and_default():
    (group,) = (group for group in groups(InputConfig) if not group.name)
    gap = next(key for key in group.keys if key.name == "max_gap_mm")
    assert (gap.kind, gap.unit, gap.default) == ("number ≥ 0", "mm", "`0`")
    assert gap.meaning.startswith("a series with unevenly spaced slices is interpolated if no gap is wider than this")


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_says_what_to_do(kind):
    meaning, remedy = meaning_and_remedy(kind)
    assert meaning.endswith(".")
    assert remedy.endswith(".")
    assert f"`{kind.__name__}`" in (REFERENCE / "errors.md").read_text(encoding="utf-8")


def test_every_public_name_is_on_the_page_of_python():
    page = (REFERENCE / "python.md").read_text(encoding="utf-8")
    assert [name for name in med_transfer.__all__ if f".{name}\n" not in page] == []
