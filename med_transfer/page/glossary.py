"""The words of pages and reports, and a tooltip for each where a page uses it first."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

from markupsafe import escape
from pydantic import BaseModel, ConfigDict

from med_transfer.config import load_config
from med_transfer.page.language import Language

_FILE = Path(__file__).with_name("glossary.yaml")
_LINK = re.compile(r"\s*\(\[[^\]]*\]\([^)]*\)\)")
_TAG = re.compile(r"(<[^>]*>)")
_LEFT_ALONE = {"svg", "style", "a", "button", "summary", "title", "h1", "h2", "h3", "h4"}


class Word(BaseModel):
    """One entry.

    Attributes:
        en, zh_tw: the word; several with one meaning are parted by commas.
        means: in English, with links to the documents.
        means_zh_tw: the same for the words that a report uses in this meaning, which get a tooltip; empty for others.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    en: str
    zh_tw: str
    means: str
    means_zh_tw: str = ""

    def names(self, language: Language) -> list[str]:
        """As a page writes it."""
        if language == "en":
            return self.en.split(", ")
        return [name for name in re.split("[，（）]", self.zh_tw) if name]

    def meaning(self, language: Language) -> str:
        """Without links."""
        return _LINK.sub("", self.means) if language == "en" else self.means_zh_tw


class Glossary(BaseModel):
    """All words, in the order of the English alphabet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    words: tuple[Word, ...]


@cache
def glossary() -> tuple[Word, ...]:
    """Every word. Raises ConfigError where the file is no list of words."""
    return load_config(Glossary, _FILE).words


def with_tooltips(page: str, language: Language) -> str:
    """The page, each word of the glossary a button where its main part uses it first, and what it means at the end.

    The meaning opens as a popover, without a script: by pointer, finger and keyboard. Headings, links, figures and
    names of files are left alone.
    """
    head, opening, rest = page.partition('<main id="content">')
    main, closing, foot = rest.rpartition("</main>")
    words = {_plain(name): word for word in glossary() if word.means_zh_tw for name in word.names(language)}
    names = "|".join(re.escape(name).replace(r"\ ", "[ -]") for name in sorted(words, key=len, reverse=True))
    alone = rf"(?<![./])\b(?:{names})\b(?![./=]\w)"  # not in a file's name or a setting
    pattern = re.compile(alone if language == "en" else names, re.IGNORECASE)
    used: dict[str, Word] = {}

    def button(match: re.Match[str]) -> str:
        word = words[_plain(match[0])]
        key = _key(word)
        if key in used:
            return match[0]
        used[key] = word
        meaning = escape(word.meaning(language))
        return f'<button type="button" class="term" popovertarget="{key}" title="{meaning}">{match[0]}</button>'

    marked = "".join(_marked(main, pattern, button))
    notes = "".join(
        f'<div id="{key}" class="meaning" popover><b>{escape(", ".join(word.names(language)))}</b> '
        f"{escape(word.meaning(language))}</div>\n"
        for key, word in used.items()
    )
    return f"{head}{opening}{marked}{notes}{closing}{foot}"


def _marked(html: str, pattern: re.Pattern[str], button: Callable[[re.Match[str]], str]) -> Iterator[str]:
    left_alone: list[str] = []
    for piece in _TAG.split(html):
        if piece.startswith("<"):
            name = re.match(r"</?([a-z0-9]*)", piece)
            tag = name[1] if name else ""
            if tag in _LEFT_ALONE and piece.startswith("</"):
                left_alone.pop()
            elif tag in _LEFT_ALONE and not piece.endswith("/>"):
                left_alone.append(tag)
            yield piece
        else:
            yield piece if left_alone else pattern.sub(button, piece)


def _plain(name: str) -> str:
    """``Out-of-fold`` and ``out of fold`` are one word."""
    return name.lower().replace("-", " ")


def _key(word: Word) -> str:
    return "word-" + re.sub(r"[^a-z0-9]+", "-", word.en.lower()).strip("-")
