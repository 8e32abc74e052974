"""Sentences of a page in the reader's language: the English sentence is its own key.

A catalogue is a YAML file of English sentences and their translations, ``<name>.zh_TW.yaml``, beside what it
translates. A sentence without a translation is shown in English. Reasons may come to any page: each room has a
catalogue ``reasons`` of the sentences that it makes, and every translator knows them all.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Literal, Protocol, TypeVar, get_args, runtime_checkable

from pydantic import RootModel

from med_transfer.config import load_config
from med_transfer.errors import UsageError

Language = Literal["en", "zh-TW"]
LANGUAGES: tuple[Language, ...] = get_args(Language)
_Value = TypeVar("_Value")
_HERE = Path(__file__).parent


class Catalogue(RootModel[dict[str, str]]):
    """English sentence to its translation, both with the same ``{placeholders}``."""


@runtime_checkable
class Translatable(Protocol):
    """English text that knows its template and values, see :class:`med_transfer.errors.sentence.Sentence`."""

    def translated(self, t: Callable[..., str]) -> str:
        """In the language of ``t``."""
        ...


@dataclass(frozen=True)
class Translator:
    """Called with an English sentence and the values of its placeholders, gives the sentence in ``language``.

    Values that are :class:`Translatable` are translated too.
    """

    language: Language = "en"
    sentences: Mapping[str, str] = field(default_factory=dict)

    def __call__(self, sentence: str, /, **values: object) -> str:
        """The translated sentence with its placeholders filled."""
        return self.template(sentence).format(**{name: self.translated(value) for name, value in values.items()})

    def translated(self, value: _Value) -> _Value | str:
        """A :class:`Translatable` value in ``language``; anything else as it is."""
        return value.translated(self) if isinstance(value, Translatable) else value

    def template(self, sentence: str) -> str:
        """The translated sentence, its placeholders not yet filled."""
        return self.sentences.get(sentence, sentence)

    def reading(self, place: Path) -> Translator:
        """With the sentences of the catalogue of ``place``, for example ``sections/flow`` (no suffix), added.

        Raises:
            ConfigError: there is no such catalogue, or it is no YAML of sentences.
        """
        if self.language == "en":
            return self
        catalogue = load_config(Catalogue, catalogue_path(place, self.language)).root
        return replace(self, sentences={**self.sentences, **catalogue})


ENGLISH = Translator()


def catalogue_path(place: Path, language: Language) -> Path:
    """The catalogue of a module, which is named without its suffix: ``sections/flow`` to ``flow.zh_TW.yaml``."""
    return place.with_name(f"{place.name}.{language.replace('-', '_')}.yaml")


def translator(language: Language) -> Translator:
    """A translator with the sentences that every page has.

    Raises:
        UsageError: there is no such language.
        ConfigError: a catalogue cannot be read.
    """
    if language not in LANGUAGES:
        raise UsageError(f"language {language!r}", expected=" or ".join(LANGUAGES))
    return Translator(language, {} if language == "en" else _reasons(language)).reading(_HERE / "layout")


@cache
def _reasons(language: Language) -> dict[str, str]:
    catalogues = sorted(_HERE.parent.glob(catalogue_path(Path("*/reasons"), language).as_posix()))
    reasons: dict[str, str] = {}
    for path in catalogues:
        reasons |= load_config(Catalogue, path).root
    return reasons


def sentence(text: str) -> str:
    """The same text; marks an English sentence that is translated later, where ``t`` gets it from a variable."""
    return text
