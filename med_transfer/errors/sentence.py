"""Text that keeps its template and values, so that a page can render it in another language."""

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
    """A string formatted from a template and values; it is stored in files as plain text, like any other string.

    Args:
        template: English with ``{placeholders}``; also the key of its translations.
        values: numbers, names, or nested sentences.
    """

    template: str
    values: dict[str, Any]

    def __new__(cls, template: str, /, **values: object) -> Sentence:
        """Format the template; template and values become attributes of the string."""
        sentence = super().__new__(cls, template.format(**values))
        sentence.template, sentence.values = template, values
        return sentence

    @classmethod
    def of(cls, text: str) -> Sentence:
        """A sentence whose template is ``text`` itself; a sentence is returned unchanged."""
        return text if isinstance(text, Sentence) else cls(text.replace("{", "{{").replace("}", "}}"))

    def translated(self, t: Callable[..., str]) -> str:
        """The text in the language of ``t``, a page's translator, which also translates the values."""
        return t(self.template, **self.values)

    def mapped(self, change: Callable[[str], str]) -> Sentence:
        """Apply ``change`` to all text values, nested ones included; to the template only if there are no values."""
        if not self.values:
            return Sentence.of(change(str(self)))
        return type(self)(self.template, **{name: _changed(value, change) for name, value in self.values.items()})

    def __getnewargs_ex__(self) -> tuple[tuple[str], dict[str, Any]]:
        return (self.template,), self.values


def joined(*sentences: str) -> str:
    """Join sentences with semicolons; empty ones are left out."""
    return reduce(_joined, filter(None, sentences), "")


def listed(*items: str) -> str:
    """Join items with commas; empty ones are left out."""
    return reduce(_listed, filter(None, items), "")


def few(items: Sequence[str], max_items: int = 6) -> str:
    """Join the first ``max_items`` items with commas, followed by the number of the others."""
    rest, first = len(items) - max_items, listed(*items[:max_items])
    return Sentence("{items} and {n} more", items=first, n=rest) if rest > 0 else first


def files(n: int) -> Sentence:
    """``1 file``, ``2 files``."""
    return Sentence("{n} file", n=n) if n == 1 else Sentence("{n} files", n=n)


def message_of(error: Exception) -> str:
    """An exception's message, as the :class:`Sentence` it was raised with if any; its class name if it has none."""
    sentence = error.args[0] if error.args and isinstance(error.args[0], Sentence) else str(error)
    return sentence or type(error).__name__


def _joined(first: str, second: str) -> str:
    return Sentence("{first}; {second}", first=first, second=second) if first else second


def _listed(first: str, second: str) -> str:
    return Sentence("{first}, {second}", first=first, second=second) if first else second


def _changed(value: object, change: Callable[[str], str]) -> object:
    if isinstance(value, Sentence):
        return value.mapped(change)
    return change(value) if isinstance(value, str) else value


def parts(value: object) -> Any:
    """A value for JSON: a sentence as its template and values, NumPy scalars as Python's, anything else as text."""
    if isinstance(value, Sentence):
        return {"template": value.template, "values": {name: parts(part) for name, part in value.values.items()}}
    value = getattr(value, "item", lambda: value)()  # of numpy
    return value if value is None or isinstance(value, str | int | float) else str(value)


def whole(value: object) -> object:
    """Rebuild the sentence that :func:`parts` took apart; anything else is returned unchanged.

    Files are untrusted, and a format string can access attributes of its values or fill memory with padding. A template
    that uses more than plain placeholders for known values is therefore kept as literal text.
    """
    if not (isinstance(value, dict) and value.keys() == {"template", "values"}):
        return value
    template, values = value["template"], value["values"]
    if not (isinstance(template, str) and isinstance(values, dict)):
        return value
    remade = Sentence  # an alias, since tests require a literal template in every call of Sentence
    if set(_PLACEHOLDER.findall(template)) - {""} <= values.keys() and not re.search(
        "[{}]", _PLACEHOLDER.sub("", template)
    ):
        with suppress(ValueError, TypeError):  # a numeric format for a text value
            return remade(template, **{name: whole(part) for name, part in values.items()})
    return Sentence.of(template)


_PLACEHOLDER = re.compile(r"\{([a-z]\w*)(?:!r)?(?::\+?0?\d?(?:\.\d\d?)?[gfdXe%]?)?\}|\{\{|\}\}", re.ASCII)


# In records -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _KeepsSentence:
    """Make pydantic keep a :class:`Sentence`, which its ``str`` would turn into plain text; ``told`` serialises it."""

    told: Callable[[str, Any], object]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        from pydantic_core import core_schema  # imported here: not every user of the errors needs pydantic

        text = core_schema.plain_serializer_function_ser_schema(self.told, info_arg=True)
        return core_schema.no_info_wrap_validator_function(_kept, handler(source), serialization=text)


def _kept(value: object, handler: Callable[[object], str]) -> str:
    if isinstance(value, str) and not isinstance(value, Sentence) and value.startswith(_MARK):
        value = json.loads(value.removeprefix(_MARK))
    value = whole(value)
    return value if isinstance(value, Sentence) else handler(value)


def _text(value: str, info: Any) -> str:
    """Plain text, or on request a sentence's parts as JSON after a mark; a string, because it may be a dict key."""
    in_parts = info.context == IN_PARTS and isinstance(value, Sentence)
    return _MARK + json.dumps(parts(value)) if in_parts else value


_MARK = "\x1e"
IN_PARTS = "sentences in parts"  # context of a dump that is read back to be translated

Text = Annotated[str, _KeepsSentence(_text)]  # stored as plain text, or as parts on request
TextInParts = Annotated[str, _KeepsSentence(lambda value, _: parts(value))]  # always stored as parts
