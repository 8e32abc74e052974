"""Values at the bounds of a config's keys, as its schema states them."""

from __future__ import annotations

import math
from collections.abc import Collection
from typing import Any

import numpy as np
from pydantic import BaseModel

LARGEST = 1e30  # for numbers without a bound


def corners(schema: dict[str, Any]) -> list:
    """Values at the bounds of a key, by its JSON schema; all choices if there are few."""
    if "anyOf" in schema:
        return [value for part in schema["anyOf"] for value in corners(part)]
    if "enum" in schema:
        return schema["enum"]
    kind = schema.get("type")
    if kind in ("number", "integer"):
        low, high = schema.get("minimum", schema.get("exclusiveMinimum", -LARGEST)), schema.get("maximum", LARGEST)
        low = math.nextafter(low, math.inf) if "exclusiveMinimum" in schema else low
        high = math.nextafter(schema["exclusiveMaximum"], 0) if "exclusiveMaximum" in schema else high
        return [int(low), int(high)] if kind == "integer" else [low, high]
    if "prefixItems" in schema:
        return [list(values) for values in zip(*map(corners, schema["prefixItems"]), strict=True)]
    return {"boolean": [False, True], "null": [None]}.get(str(kind), [schema.get("default", [])])


def drawn(
    model: type[BaseModel], random: np.random.Generator, share: float, without: Collection[str] = ()
) -> dict[str, Any]:
    """A share of the keys of a section, each at one of its corners."""
    keys = model.model_json_schema()["properties"].items()
    values = {key: corners(schema) for key, schema in keys if key not in {"name", *without}}
    return {key: found[random.integers(len(found))] for key, found in values.items() if random.random() < share}
