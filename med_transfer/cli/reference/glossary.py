"""The page of words, from the glossary that the reports take their tooltips from."""

from __future__ import annotations

from med_transfer.page.glossary import glossary

_HEAD = """# Glossary

The words of pages, messages and reports, in English and in Traditional Chinese as the report writes them.

| English | 中文 | means here |
| -- | -- | -- |
"""


def glossary_page() -> str:
    """docs/reference/glossary.md."""
    return _HEAD + "".join(f"| {word.en} | {word.zh_tw} | {word.means} |\n" for word in glossary())
