"""Jinja's environment as every page uses it: where templates lie, escaping, translation, colours."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from types import CodeType

from jinja2 import BytecodeCache, Environment, FileSystemLoader, StrictUndefined
from jinja2.bccache import Bucket
from markupsafe import Markup, escape

from med_transfer.errors import printable
from med_transfer.errors.numbers import rounded, threshold, with_minus_sign
from med_transfer.page.language import ENGLISH, Translator
from med_transfer.page.theme import DARK, LIGHT, PRINT

FOLDER = Path(__file__).parent
_REMEMBERED = 1024  # sentences
# What pages hold: their own style, pictures within the file. No script, no network, no form, no frame.
POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'"


class _Compiled(BytecodeCache):
    """Templates that were compiled for an earlier page of this process, as long as their files are what they were."""

    def __init__(self) -> None:
        self._code: dict[tuple[str, str], CodeType] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._code.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        if bucket.code is not None:
            self._code[bucket.key, bucket.checksum] = bucket.code


_COMPILED = _Compiled()


def environment(*folders: Path, t: Translator = ENGLISH) -> Environment:
    """Templates of ``folders`` and of this package, among them ``layout.html.jinja``, which a page extends.

    Everything is escaped, what is not defined is an error. A template has ``t("A sentence with {value}", value=...)``,
    whose values are escaped too unless they are Markup, ``translated`` for text that a record holds, ``language``, the
    palettes of the style, and the filters ``threshold``, ``rounded`` and ``minus``, for the sign of numbers in a text,
    see :mod:`med_transfer.errors.numbers`.
    """
    jinja = Environment(
        loader=FileSystemLoader([*folders, FOLDER]),
        autoescape=True,
        finalize=_finalized,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        bytecode_cache=_COMPILED,
    )
    jinja.globals |= {"t": in_page(t), "translated": t.translated, "language": t.language}
    jinja.filters |= {"threshold": threshold, "rounded": rounded, "minus": _minus}
    jinja.globals["policy"] = POLICY
    jinja.globals |= {"light": LIGHT, "dark": DARK, "print": PRINT}
    return jinja


def _minus(text: str) -> str:
    return Markup(with_minus_sign(text)) if isinstance(text, Markup) else with_minus_sign(text)


def _finalized(value: object) -> object:
    """Text without characters that reverse a line or that no page can hold, as a file's name may have them."""
    if not isinstance(value, str) or value.isprintable():
        return value
    return Markup(printable(value)) if isinstance(value, Markup) else printable(value)


def in_page(t: Translator) -> Callable[..., Markup]:
    """``t`` for templates: the sentence and its values become HTML, escaped unless they are Markup."""

    @lru_cache(_REMEMBERED)
    def template(sentence: str) -> Markup:
        return escape(t.template(sentence))

    def translate(sentence: str, /, **values: object) -> Markup:
        translation = template(sentence)
        if not values:
            return translation
        return translation.format(**{name: t.translated(value) for name, value in values.items()})

    return translate
