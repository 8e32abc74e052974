"""Read YAML: combine a file and ``key=value`` overrides into one validated config, for any pydantic model.

No other module reads YAML. Scalars follow the core schema of YAML 1.2, so that ``1e-4`` is a number, and ``no``,
``010`` and ``2024-01-01`` remain text.
"""

from __future__ import annotations

import contextlib
import copy
import difflib
import logging
import os
import re
import reprlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from operator import attrgetter
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar, get_args

import yaml
from pydantic import BaseModel, ConfigDict, Field, ModelWrapValidatorHandler, ValidationError, model_validator
from pydantic_core import ErrorDetails, InitErrorDetails, PydanticCustomError

from med_transfer.atomic import write_text
from med_transfer.errors import ConfigError, UnknownKey, UsageError, given_path
from med_transfer.errors.sentence import few

log = logging.getLogger(__name__)

Model = TypeVar("Model", bound=BaseModel)
MISSING = object()  # marks an absent key, since None is a value
_NO_SUCH_KEY = "no such key"

_SCALARS = (
    ("null", r"~|null|Null|NULL|", ["~", "n", "N", ""]),
    ("bool", r"true|True|TRUE|false|False|FALSE", list("tTfF")),
    ("int", r"[-+]?(0|[1-9][0-9]*)", list("-+0123456789")),
    ("float", r"[-+]?((0|[1-9][0-9]*)(\.[0-9]*)?|\.[0-9]+)([eE][-+]?[0-9]+)?|[-+]?\.inf|\.nan", list("-+.0123456789")),
)


N_SEEDS = 2**32  # what NumPy's and scikit-learn's generators accept
Location = tuple[int | str, ...]  # of a value in a config: keys, and positions in lists
Seed = Annotated[int, Field(ge=0, lt=N_SEEDS)]


class StrictModel(BaseModel):
    """Frozen; refuses a key that it does not have, and numbers that are infinite, NaN, true or false."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="wrap")
    @classmethod
    def _no_booleans_as_numbers(cls, values: Any, validate: ModelWrapValidatorHandler[Self]) -> Self:
        chosen = validate(values)
        if wrong := list(_taken_for_numbers(values, chosen.model_dump(by_alias=True))):
            kind = PydanticCustomError("boolean", "Input should be a number")
            details = [InitErrorDetails(type=kind, loc=location, input=value) for location, value in wrong]
            raise ValidationError.from_exception_data(cls.__name__, details)
        return chosen


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  declared as PyYAML does

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict:
        keys = set()
        for key in (key for key, _ in node.value if isinstance(key, yaml.ScalarNode)):
            if key.value in keys:
                line = key.start_mark.line + 1
                raise ConfigError(f"key {key.value!r} appears twice", where=f"line {line}", expected="each key once")
            keys.add(key.value)
        return super().construct_mapping(node, deep)


class _Dumper(yaml.SafeDumper):
    yaml_implicit_resolvers: dict = {}  # noqa: RUF012  as in the loader, so that text that looks like a number is quoted


for _tag, _pattern, _first in _SCALARS:
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern})$"), _first)


def load_config(
    model: type[Model], path: Path | None, overrides: Sequence[str] = (), *, base: Mapping[str, Any] | None = None
) -> Model:
    """Read and validate a config.

    A model may define ``renamed_keys``, old to new dotted names, which are accepted with a warning; ``upgrade``, a
    function that changes older values in place; and ``short_forms``, section to key, for which ``section: word`` means
    ``section: {key: word}``. If an override chooses another word for such a section, only settings that both kinds have
    are kept from the file.

    Args:
        model: the pydantic model; it should forbid extra keys.
        path: a YAML file; None to start from ``base``.
        overrides: ``section.key=value`` with the value in YAML, applied in order over the file.
        base: values to start from if there is no file; None for the model's defaults.

    Raises:
        UnknownKey: a key that the model does not have; names the nearest one.
        ConfigError: a missing file, invalid YAML, a duplicate key, or a value of the wrong type or out of range.
        UsageError: the overrides are a single text, or no texts.
    """
    values, overridden = _values(model, path, overrides, base)
    try:
        chosen = model.model_validate(values)
    except ValidationError as error:
        raise _explain(error, model, values, path, overridden) from None
    for location, value in _taken_for_numbers(values, chosen.model_dump(by_alias=True)):
        where = _source_of(_dotted(location, values), path, overridden)
        raise ConfigError(f"found {value}", where=where, expected="a number")
    return chosen


def given_values(model: type[BaseModel], overrides: Sequence[str]) -> dict[str, Any]:
    """The values of the overrides alone, as sections under the keys' present names; not yet validated.

    Raises:
        ConfigError: an override that is not ``key=value`` or whose value is not YAML.
    """
    with _without_warnings():  # loading will warn of renamed keys
        return _values(model, None, overrides, None)[0]


def _values(
    model: type[BaseModel], path: Path | None, overrides: Sequence[str], base: Mapping[str, Any] | None
) -> tuple[dict[str, Any], list[str]]:
    """The values that are validated, and the dotted keys of the overrides."""
    _require_texts(overrides)
    values = copy.deepcopy(dict(base or {})) if path is None else _read(Path(path))
    short_forms = getattr(model, "short_forms", {})
    for section, key in short_forms.items():
        if isinstance(word := value_at(values, section), str):
            set_value(values, section, {key: word})
        _drop_settings_of_another(values, section, key, model, overrides)
    overridden = [_apply(values, text, short_forms) for text in overrides]
    _rename_keys(values, getattr(model, "renamed_keys", {}))
    getattr(model, "upgrade", lambda values: None)(values)
    return values, overridden


def _require_texts(overrides: object) -> None:
    """Raise UsageError unless the overrides are a sequence of texts; a single text is one of its letters."""
    if isinstance(overrides, str):
        raise UsageError(f"overrides {overrides!r}", expected=f"a sequence of them, such as ({overrides!r},)")
    if not isinstance(overrides, Iterable) or not all(isinstance(text, str) for text in overrides):
        raise UsageError(
            f"overrides {reprlib.repr(overrides)}", expected="a sequence of texts, such as ('training.epochs=20',)"
        )


def _taken_for_numbers(values: Any, chosen: Any, location: Location = ()) -> Iterator[tuple[Location, bool]]:
    """Locations of true and false that pydantic took for the numbers 1 and 0, with their values."""
    if isinstance(values, bool):
        if isinstance(chosen, int | float) and not isinstance(chosen, bool):
            yield location, values
        return
    parts: list[tuple[int | str, Any, Any]] = []
    if isinstance(values, Mapping) and isinstance(chosen, Mapping):
        parts = [(name, values[name], chosen[name]) for name in values if name in chosen]
    elif isinstance(values, list | tuple) and isinstance(chosen, list | tuple):
        parts = [(number, *pair) for number, pair in enumerate(zip(values, chosen, strict=False))]
    for name, value, of_chosen in parts:
        yield from _taken_for_numbers(value, of_chosen, (*location, name))


def given_config(model: type[Model], config: object, overrides: Sequence[str] = ()) -> Model:
    """The config passed by a Python caller: a config itself, or the path of a file or None, with overrides.

    Raises:
        UsageError: overrides together with a config, to which they would not apply, or a value of another type.
        UnknownKey, ConfigError: see :func:`load_config`.
    """
    if isinstance(config, model):
        if overrides:
            raise UsageError(
                f"overrides ({few(overrides)}) beside a {model.__name__}",
                expected="overrides over the path of a YAML file or over None",
                action="Set them in the config",
            )
        return config
    if config is not None and not isinstance(config, str | os.PathLike):
        raise UsageError(
            f"a config of type {type(config).__name__}",
            expected=f"a {model.__name__}, the path of a YAML file, or None",
            action=f"{model.__name__}.model_validate(...) makes one of a dict",
        )
    path = None if config is None else given_path(config, "config", "the path of a YAML file, or None")
    return load_config(model, path, overrides)


def refuse_mistyped(model: type[BaseModel], overrides: Sequence[str]) -> None:
    """Check overrides before the config that they apply to is known; conflicts with it are found when it is loaded.

    Raises:
        UnknownKey: a key that the model does not have.
        ConfigError: not ``key=value``, invalid YAML, or a value of the wrong type or out of range.
    """
    try:
        with _without_warnings():  # loading will warn of renamed keys
            load_config(model, None, overrides)
    except ConfigError as error:
        if error.expected or error.found == _NO_SUCH_KEY:  # a key of another strategy has neither
            raise


@contextlib.contextmanager
def _without_warnings() -> Iterator[None]:
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(before)


def dump_config(model: BaseModel, path: Path) -> None:
    """Write a config with all defaults, so that ``load_config`` returns an equal one. Raises OutputError."""
    text = yaml.dump(model.model_dump(mode="json"), Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    write_text(path, text)


def as_typed(value: Any) -> str:
    """A value as one line of YAML, which :func:`parse` reads back as the same value."""
    text = yaml.dump(value, Dumper=_Dumper, default_flow_style=True, sort_keys=False, allow_unicode=True, width=10**6)
    return text.removesuffix("\n").removesuffix("\n...")


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = "is not UTF-8 text" if isinstance(error, UnicodeDecodeError) else error.strerror or "cannot be read"
        raise ConfigError(reason, where=path, expected="a YAML file", action="Check the path") from error
    values = parse(text, str(path))
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(f"found {reprlib.repr(values)}", where=path, expected="keys and values (key: value)")
    return values


def parse(text: str, where: str) -> Any:
    """Parse YAML text. Raises ConfigError, which names the line.

    Args:
        text: YAML.
        where: the source to name in an error.
    """
    try:
        return yaml.load(text, Loader=_Loader)
    except ConfigError as error:
        raise ConfigError(error.found, where=f"{where}, {error.where}", expected=error.expected) from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        problem = getattr(error, "problem", None) or getattr(error, "reason", None) or "cannot be read"
        line = f", line {mark.line + 1}" if mark else ""
        raise ConfigError(f"not valid YAML: {problem}", where=where + line) from error


def _apply(values: dict[str, Any], override: str, short_forms: Mapping[str, str]) -> str:
    """Apply one ``section.key=value`` in place; returns the dotted key."""
    dotted, equals, text = override.partition("=")
    parts = [part.strip() for part in dotted.split(".")]
    if not equals or not all(parts):
        raise ConfigError(f"{override!r}", where="--set", expected="section.key=value")
    value, key = parse(text, f"--set {override}"), ".".join(parts)
    if key in short_forms and isinstance(value, str):
        parts.append(short_forms[key])
    section = values
    for depth, part in enumerate(parts[:-1], start=1):
        if section.get(part) is None:
            section[part] = {}
        section = section[part]
        if not isinstance(section, dict):
            name = ".".join(parts[:depth])
            raise ConfigError(f"{name} is {reprlib.repr(section)}", where=f"--set {override}", expected="a section")
    section[parts[-1]] = value
    return key


def _drop_settings_of_another(
    values: dict[str, Any], section: str, key: str, model: type[BaseModel], overrides: Sequence[str]
) -> None:
    """Remove settings of a file's section that the kind chosen by an override does not have."""
    typed = [override.partition("=")[2] for override in overrides if override.partition("=")[0] == section]
    chosen = parse(typed[-1], f"--set {section}={typed[-1]}") if typed else None
    settings, annotation = value_at(values, section), _annotation_at(model, section)
    kinds = {kind.model_fields[key].default: kind for kind in _models_in(annotation) if key in kind.model_fields}
    if isinstance(settings, dict) and isinstance(chosen, str) and chosen in kinds:
        of_the_files = kinds[settings[key]].model_fields.keys() if settings.get(key) in kinds else set()
        for name in settings.keys() & of_the_files - kinds[chosen].model_fields.keys():  # unknown ones are refused
            log.info("%s.%s is of %s and not of %s", section, name, settings.get(key), chosen)
            del settings[name]


def _annotation_at(model: type[BaseModel], dotted: str) -> Any:
    first, _, rest = dotted.partition(".")
    field = model.model_fields.get(first)
    annotation = field.annotation if field else None
    return _annotation_at(annotation, rest) if rest and isinstance(annotation, type) else annotation


def _rename_keys(values: dict[str, Any], renamed: Mapping[str, str]) -> None:
    """Move values from old to new keys in place; if both are given, the model refuses the old one later."""
    for old, new in renamed.items():
        if value_at(values, new) in (None, MISSING) and (value := pop_value(values, old)) is not MISSING:
            log.warning("config key %s is now called %s", old, new)
            set_value(values, new, value)


def value_at(values: Any, dotted: str) -> Any:
    """The value of a dotted key, or ``MISSING``; the values themselves if the key is empty."""
    for part in dotted.split(".") if dotted else ():
        values = values.get(part, MISSING) if isinstance(values, dict) else MISSING
    return values


def pop_value(values: dict[str, Any], dotted: str) -> Any:
    """Remove and return the value of a dotted key, or ``MISSING``; sections that become empty are removed, too."""
    parents, _, last = dotted.rpartition(".")
    section = value_at(values, parents)
    if not isinstance(section, dict) or last not in section:
        return MISSING
    value = section.pop(last)
    if parents and not section:
        pop_value(values, parents)
    return value


def set_value(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set the value of a dotted key; missing sections are created."""
    *parents, last = dotted.split(".")
    for part in parents:
        values = values.setdefault(part, {})
    values[last] = value


def changed_keys(config: BaseModel, default: BaseModel, keys: Iterable[str]) -> list[str]:
    """Those of the dotted keys whose values differ from the default."""
    return [key for key in keys if attrgetter(key)(config) != attrgetter(key)(default)]


def _explain(
    error: ValidationError, model: type[BaseModel], values: dict, path: Path | None, overridden: Sequence[str]
) -> ConfigError:
    """Explain the first problem and name the keys of the others; unknown keys first, as they may cause the rest."""
    problems = sorted(error.errors(include_url=False), key=lambda problem: problem["type"] != "extra_forbidden")
    first, *others = problems
    key = _dotted(first["loc"], values)
    where = _source_of(key, path, overridden)
    here = [problem for problem in others if _dotted(problem["loc"], values) == key]  # other members of a union
    also = list(dict.fromkeys(_dotted(problem["loc"], values) for problem in others if problem not in here))
    action = f"Look also at {few(also, 5)}" if also else ""
    if first["type"] == "extra_forbidden":
        known, in_any = list(dict.fromkeys(_known_keys(model))), _without_positions(key)
        if in_any in known:  # known in another member of a union; the location says which one this is
            return UnknownKey(f"no such key with {first['loc'][-2]}", where=where, action=action)
        near = _nearest(in_any, known)
        return UnknownKey(_NO_SUCH_KEY, where=where, expected=f"{near} perhaps" if near else "", action=action)
    expected = ", or ".join(dict.fromkeys(filter(None, map(_expected, [first, *here]))))
    return ConfigError(_found(first), where=where, expected=expected, action=action)


def _source_of(key: str, path: Path | None, overridden: Sequence[str]) -> str:
    """Where the value of a key was written: an override, the file, or the key alone; for a section, overrides too."""
    if any(key == one or key.startswith(f"{one}.") for one in overridden):
        return f"--set {key}"
    inside = " and ".join(f"--set {one}" for one in overridden if key and one.startswith(f"{key}."))
    if path is None:
        return inside or key
    place = f"{path}: {key}" if key else str(path)
    return f"{place}, with {inside}" if inside else place


def _found(problem: ErrorDetails) -> str:
    if problem["type"] == "missing" and not _lacks_an_element(problem):
        return "missing"
    if problem["type"] == "value_error" and isinstance(problem["input"], Mapping):
        return problem["msg"].removeprefix("Value error, ")
    if problem["type"] == "union_tag_invalid" and "ctx" in problem:
        return f"found {problem['ctx']['tag']!r}"
    return f"found {reprlib.repr(problem['input'])}"


def _lacks_an_element(problem: ErrorDetails) -> bool:
    """Whether a list is too short; pydantic reports its first absent element as a missing field."""
    return problem["type"] == "missing" and isinstance(problem["loc"][-1], int)


def _expected(problem: ErrorDetails) -> str:
    if _lacks_an_element(problem):
        return "more values"
    if problem["type"] == "too_long" and "ctx" in problem:
        return f"{problem['ctx']['max_length']} values"
    if problem["type"] == "union_tag_invalid" and "ctx" in problem:
        return problem["ctx"]["expected_tags"]
    if problem["type"] == "missing":
        return "a value"
    if problem["type"] in ("tuple_type", "list_type"):
        return "a list"
    if problem["type"] == "string_pattern_mismatch" and "ctx" in problem:
        return f"text that matches {problem['ctx']['pattern']}"
    if problem["type"] in ("model_type", "model_attributes_type", "dict_type"):
        return "a section with keys of its own"
    if problem["type"] == "value_error" and isinstance(problem["input"], Mapping):
        return ""
    text = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    return re.sub(r"^(greater|less)", r"a value \1", text)


def _dotted(location: Location, values: Any) -> str:
    """Pydantic's location without the tags that it adds for unions, as a dotted key."""
    parts = []
    for part in location[:-1]:
        if _holds(values, part):
            values = values[part]
            parts.append(str(part))
    if location and (_holds(values, location[-1]) or isinstance(values, Mapping)):  # the last may be a missing key
        parts.append(str(location[-1]))
    return ".".join(parts)


def _without_positions(key: str) -> str:
    """A dotted key without its positions in lists: ``destinations.port`` of ``destinations.0.port``."""
    return ".".join(part for part in key.split(".") if not part.isdigit())


def _holds(values: Any, part: int | str) -> bool:
    if isinstance(values, Mapping):
        return part in values
    return isinstance(values, list) and isinstance(part, int) and part < len(values)


def _known_keys(model: type[BaseModel], prefix: str = "", inside: tuple[type, ...] = ()) -> Iterator[str]:
    for name, field in model.model_fields.items():
        key = prefix + (field.alias or name)
        yield key
        for section in _models_in(field.annotation):
            if section not in (*inside, model):  # a recursive model would never end
                yield from _known_keys(section, f"{key}.", (*inside, model))


def _models_in(annotation: Any) -> Iterator[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    else:
        for part in get_args(annotation):  # of a union, a list or an annotated type
            yield from _models_in(part)


def _nearest(key: str, keys: Sequence[str]) -> str:
    """The known key most similar to this one, by its last part, then as a whole; empty if none is similar.

    If other sections have a key of this name, all of those are returned.
    """
    leaf = key.rpartition(".")[2]
    elsewhere = [candidate for candidate in keys if candidate.rpartition(".")[2] == leaf]
    if elsewhere:
        return " or ".join(elsewhere)

    def likeness(candidate: str) -> tuple[float, float]:
        return _ratio(leaf, candidate.rpartition(".")[2]), _ratio(key, candidate)

    best = max(keys, key=likeness, default="")
    return best if likeness(best)[0] >= 0.6 else ""


def _ratio(first: str, second: str) -> float:
    return difflib.SequenceMatcher(None, first, second).ratio()
