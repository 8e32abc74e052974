"""English text that remembers how it was made, so that a page can still say it in another language."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import reduce
from typing import TYPE_CHECKING, Annotated, Any

if TYPE_CHECKING:
    from pydantic import GetCoreSchemaHandler
    from pydantic_core import CoreSchema


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

    @classmethod
    def of(cls, text: str) -> Sentence:
        """Text without values is its own template; a sentence stays as it is."""
        return text if isinstance(text, Sentence) else cls(text.replace("{", "{{").replace("}", "}}"))

    def said(self, t: Callable[..., str]) -> str:
        """In the language of ``t``, a page's translator, which says the values too."""
        return t(self.template, **self.values)

    def mapped(self, change: Callable[[str], str]) -> Sentence:
        """The same with every text among its values, and theirs, changed; a template only where it has no values."""
        if not self.values:
            return Sentence.of(change(str(self)))
        return type(self)(self.template, **{name: _changed(value, change) for name, value in self.values.items()})

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (self.template,), self.values


def joined(*sentences: str) -> str:
    """All of them, with semicolons between; empty for none."""
    return reduce(_joined, filter(None, sentences), "")


def listed(*items: str) -> str:
    """All of them, with commas between; empty for none."""
    return reduce(_listed, filter(None, items), "")


def few(items: Sequence[str], most: int = 6) -> str:
    """The first of them, with commas between, and how many more there are; empty for none."""
    rest, first = len(items) - most, listed(*items[:most])
    return Sentence("{items} and {n} more", items=first, n=rest) if rest > 0 else first


def words_of(error: Exception) -> str:
    """What an exception says, as the sentence that it was raised with if it was; the name of its kind for nothing."""
    said = error.args[0] if error.args and isinstance(error.args[0], Sentence) else str(error)
    return said or type(error).__name__


def _joined(first: str, second: str) -> str:
    return Sentence("{first}; {second}", first=first, second=second) if first else second


def _listed(first: str, second: str) -> str:
    return Sentence("{first}, {second}", first=first, second=second) if first else second


def _changed(value: object, change: Callable[[str], str]) -> object:
    if isinstance(value, Sentence):
        return value.mapped(change)
    return change(value) if isinstance(value, str) else value


def parts(value: object) -> Any:
    """A sentence as its template and values, for JSON; a number as Python's own, anything else as text."""
    if isinstance(value, Sentence):
        return {"template": value.template, "values": {name: parts(part) for name, part in value.values.items()}}
    value = getattr(value, "item", lambda: value)()  # of numpy
    return value if value is None or isinstance(value, str | int | float) else str(value)


def whole(value: object) -> object:
    """What :func:`parts` took apart; anything else as it is.

    A file may come from anybody, and a placeholder may be told to reach into what it stands for or to fill memory with
    blanks. A template that asks for more than values in a plain format is text.
    """
    if not (isinstance(value, dict) and value.keys() == {"template", "values"}):
        return value
    template, values = value["template"], value["values"]
    if not (isinstance(template, str) and isinstance(values, dict)):
        return value
    remade = Sentence  # under another name: tests hold what is said to be a template that is written down
    if set(_PLACEHOLDER.findall(template)) - {""} <= values.keys() and not re.search(
        "[{}]", _PLACEHOLDER.sub("", template)
    ):
        with suppress(ValueError, TypeError):  # a number's format for a text
            return remade(template, **{name: whole(part) for name, part in values.items()})
    return Sentence.of(template)


_PLACEHOLDER = re.compile(r"\{([a-z]\w*)(?:!r)?(?::\+?0?\d?(?:\.\d\d?)?[gfdXe%]?)?\}|\{\{|\}\}", re.ASCII)


# In records -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _KeepsSentence:
    """Has pydantic keep a sentence, of which its own ``str`` would make plain text; ``told`` is what a file has."""

    told: Callable[[str, Any], object]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema  # errors are imported by programs that have no record

        text = core_schema.plain_serializer_function_ser_schema(self.told, info_arg=True)
        return core_schema.no_info_wrap_validator_function(_kept, handler(source), serialization=text)


def _kept(value: object, handler: Callable[[object], str]) -> str:
    if isinstance(value, str) and not isinstance(value, Sentence) and value.startswith(_MARK):
        value = json.loads(value.removeprefix(_MARK))
    value = whole(value)
    return value if isinstance(value, Sentence) else handler(value)


def _text(value: str, info: Any) -> str:
    """Text, since it may be the key of a dict; a sentence's parts as JSON after a mark that no text begins with."""
    in_parts = info.context == IN_PARTS and isinstance(value, Sentence)
    return _MARK + json.dumps(parts(value)) if in_parts else value


_MARK = "\x1e"
IN_PARTS = "sentences in parts"  # context of a dump that is read again to be said in another language

Text = Annotated[str, _KeepsSentence(_text)]  # a file holds its text, or its parts if asked
TextInParts = Annotated[str, _KeepsSentence(lambda value, _: parts(value))]  # a file always holds its parts
