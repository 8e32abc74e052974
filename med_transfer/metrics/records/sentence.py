"""English text that remembers how it was made, so that a page can still say it in another language."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import reduce
from typing import Annotated, Any

import numpy as np
from pydantic import PlainSerializer, SerializationInfo, ValidatorFunctionWrapHandler, WrapValidator


class Sentence(str):
    """Text made of a template and its values; files hold the text alone, as of any other string.

    Args:
        template: English with ``{placeholders}``: the code of what is said, and the key of its translations.
        values: numbers, names, or further sentences.
    """

    template: str
    values: dict[str, Any]

    def __new__(cls, template: str, /, **values: object) -> Sentence:
        """The template with its values filled in, which both stay attributes of the text."""
        sentence = super().__new__(cls, template.format(**values))
        sentence.template, sentence.values = template, values
        return sentence

    def said(self, t: Callable[..., str]) -> str:
        """In the language of ``t``, a page's translator, which says the values too."""
        return t(self.template, **self.values)

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (self.template,), self.values


def joined(*sentences: str) -> str:
    """All of them, with semicolons between; empty for none."""
    return reduce(_pair, filter(None, sentences), "")


def _pair(first: str, second: str) -> str:
    return Sentence("{first}; {second}", first=first, second=second) if first else second


def _kept(value: object, handler: ValidatorFunctionWrapHandler) -> str:
    if isinstance(value, str) and not isinstance(value, Sentence) and value.startswith(_MARK):
        value = json.loads(value.removeprefix(_MARK))
    value = _whole(value)
    return value if isinstance(value, Sentence) else handler(value)


def _told(value: str, info: SerializationInfo) -> str:
    """Text, since it may be the key of a dict; a sentence's parts as JSON after a mark that no text begins with."""
    in_parts = info.context == IN_PARTS and isinstance(value, Sentence)
    return _MARK + json.dumps(_parts(value)) if in_parts else value


def _parts(value: object) -> Any:
    """A sentence as its template and values; a number of numpy as Python's own."""
    if isinstance(value, Sentence):
        return {"template": value.template, "values": {name: _parts(part) for name, part in value.values.items()}}
    return value.item() if isinstance(value, np.generic) else value


def _whole(value: object) -> object:
    """What :func:`_parts` took apart."""
    if isinstance(value, dict) and value.keys() == {"template", "values"}:
        remade = Sentence  # under another name: tests hold what is said to be a template that is written down
        return remade(value["template"], **{name: _whole(part) for name, part in value["values"].items()})
    return value


_MARK = "\x1e"
IN_PARTS = "sentences in parts"  # context of a dump that is read again to be said in another language

# Of a record: a Sentence stays one, which pydantic's own str would not; a file holds its text, or its parts if asked.
Text = Annotated[str, WrapValidator(_kept), PlainSerializer(_told)]
