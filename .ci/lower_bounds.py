"""Constraints for pip: the newest patch of the oldest versions that pyproject.toml allows (``make test-minimal``)."""

import re
import sys
import tomllib
from pathlib import Path

BOUND = re.compile(r"^(?P<name>[\w.-]+)(?:\[[^]]*\])?>=(?P<version>[\w.]+)$")


def lower_bounds(pyproject: Path) -> list[str]:
    """``name==version.*``, sorted; if a package has two bounds, the higher one."""
    project = tomllib.loads(pyproject.read_text(encoding="utf-8"))["project"]
    texts = [*project["dependencies"], *(text for extra in project["optional-dependencies"].values() for text in extra)]
    oldest: dict[str, str] = {}
    for found in filter(None, map(BOUND.match, texts)):
        name, version = found["name"].lower(), found["version"]
        oldest[name] = max(oldest.get(name, "0"), version, key=_parts)
    return [f"{name}=={version}.*" for name, version in sorted(oldest.items())]


def _parts(version: str) -> list[int]:
    return [int(part) for part in re.findall(r"\d+", version)]


if __name__ == "__main__":
    sys.stdout.write("\n".join(lower_bounds(Path(__file__).parents[1] / "pyproject.toml")) + "\n")
