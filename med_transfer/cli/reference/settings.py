"""docs/reference/settings/: every key of a config with its type, unit, default and what it is for.

The meaning is the key's line in the docstring of its pydantic model; a test holds that none is without.
"""

from __future__ import annotations

import inspect
import re
import types
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from med_transfer.cli.reference.table import prose, table

_UNITS = {
    "hu": "HU",
    "mm": "mm",
    "degrees": "degrees",
    "voxels": "voxels",
    "seconds": "s",
    "minutes": "min",
    "days": "days",
    "gib": "GiB",
    "mib": "MiB",
    "kib": "KiB",
    "sd": "standard deviations",
    "epochs": "epochs",
    "steps": "steps",
    "fraction": "share",
}
_WORDS = {bool: "yes or no", int: "whole number", float: "number", str: "text", Path: "path", type(None): "none"}
_NAMES = re.compile(r"    (?P<names>\w+(?:, \w+)*): (?P<text>.*)")


@dataclass(frozen=True)
class Key:
    """A key that can be set.

    Attributes:
        name: dotted, as ``--set`` takes it.
        meaning: empty where the docstring says nothing.
    """

    name: str
    kind: str
    unit: str
    default: str
    meaning: str


@dataclass(frozen=True)
class Group:
    """The keys of one model at one place, with what its docstring says first."""

    name: str
    about: str
    keys: tuple[Key, ...]


def settings_page(title: str, sentence: str, model: type[BaseModel], *, leave_out: Collection[str] = ()) -> str:
    """The page of one config: a table a section."""
    parts = [f"# Settings of `{title}`", f"Written from the code by `make docs`. {sentence}"]
    for group in groups(model, leave_out=leave_out):
        rows = [(f"`{key.name}`", key.kind, key.unit, key.default, key.meaning) for key in group.keys]
        parts.append(f"## {group.name}\n\n{group.about}" if group.name else group.about)
        parts.append(table(("key", "type", "unit", "default", "meaning"), rows))
    return "\n\n".join(parts) + "\n"


def groups(
    model: type[BaseModel], path: str = "", *, leave_out: Collection[str] = (), title: str = ""
) -> Iterator[Group]:
    """The keys of a model, then those of the sections in it."""
    known, keys, inner = meanings(model), [], []
    for name, field in model.model_fields.items():
        if name in leave_out:
            continue
        sections = models_in(field.annotation)
        if not sections or field.default is None or not isinstance(field.default, BaseModel):
            meaning = known.get(name) or (_about(sections[0]) if sections else "")
            keys.append(Key(path + name, _kind(field), _unit(name), _default(field), prose(meaning)))
        several = len(sections) > 1
        inner += [(section, f"{path}{name}", section.__name__ if several else "") for section in sections]
    if keys:
        yield Group(title or path.rstrip("."), prose(_about(model)), tuple(keys))
    for section, dotted, variant in inner:
        word = section.model_fields["name"].default if variant and "name" in section.model_fields else variant
        yield from groups(section, f"{dotted}.", title=f"{dotted}: {word}" if word else "")


def models_in(annotation: Any) -> list[type[BaseModel]]:
    """The models that a value may be, or that its list or mapping holds."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [model for inner in get_args(annotation) for model in models_in(inner)]


def meanings(model: type[BaseModel]) -> dict[str, str]:
    """What the docstrings of a model and those it extends say of each key; of a strategy's ``name``, what it is."""
    texts: dict[str, str] = {}
    for owner in reversed(model.__mro__):
        if issubclass(owner, BaseModel) and owner is not BaseModel:
            texts |= _attributes(inspect.cleandoc(owner.__doc__ or ""))
    if "name" in model.model_fields:
        texts.setdefault("name", _about(model))
    return texts


def _attributes(docstring: str) -> dict[str, str]:
    texts: dict[str, str] = {}
    names: list[str] = []
    for line in docstring.partition("Attributes:\n")[2].partition("\n\n")[0].splitlines():
        if found := _NAMES.fullmatch(line):
            names = found["names"].split(", ")
            texts |= dict.fromkeys(names, found["text"])
        else:
            texts |= {name: f"{texts[name]} {line.strip()}" for name in names}
    return texts


def _about(model: type[BaseModel]) -> str:
    return inspect.cleandoc(model.__doc__ or "").partition("\n\n")[0]


def _unit(name: str) -> str:
    return _UNITS.get(name.rpartition("_")[2], "")


def _kind(field: FieldInfo) -> str:
    return " ".join([_type(field.annotation), *_bounds(field.metadata)])


def _type(annotation: Any) -> str:
    """In words: what may stand there."""
    origin, inside = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        constraints = [found for part in inside[1:] for found in getattr(part, "metadata", [part])]
        return " ".join([_type(inside[0]), *_bounds(constraints)])
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in inside)
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(inner) for inner in inside))
    if origin is dict:
        return f"mapping of {_type(inside[0])} to {_type(inside[1])}"
    if origin in (tuple, list, frozenset, set):
        return _list(inside)
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    return _WORDS.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _list(inside: tuple[Any, ...]) -> str:
    if len(inside) == 2 and inside[1] is not ...:
        return f"two of: {_type(inside[0])}"
    if len(inside) == 3:
        return f"three of: {_type(inside[0])}"
    return f"list of {_type(inside[0])}"


def _bounds(constraints: Collection[Any]) -> list[str]:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    return [
        f"{sign} {getattr(one, name):g}"
        for one in constraints
        for name, sign in signs.items()
        if isinstance(getattr(one, name, None), int | float)
    ]


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    return _value(field.get_default(call_default_factory=True))


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "`true`" if value else "`false`"
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, tuple | list):
        return f"`[{', '.join(map(_plain, value))}]`"
    if isinstance(value, dict):
        return f"`{{{', '.join(f'{key}: {_plain(inner)}' for key, inner in value.items())}}}`"
    return f"`{_plain(value)}`" if value != "" else "empty"


def _plain(value: Any) -> str:
    """As YAML writes it."""
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_plain, value))}]"
    return f"{value:g}" if isinstance(value, float) else str(value)
