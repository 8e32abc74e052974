"""The code blocks of README and docs: their content, whether they are run or only checked, and why."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")), ROOT / "docker/README.md"]
_BLOCK = re.compile(
    r"(?:^ *<!-- checked, not run: (?P<reason>.+?) -->\n\n)?^ *```(?P<language>\w*)\n(?P<code>.*?)^ *```$",
    re.MULTILINE | re.DOTALL,
)


@dataclass(frozen=True)
class Block:
    """One fenced block.

    Attributes:
        page: path relative to the repository.
        number: among the blocks of the page's language, from 0.
        reason: why it is only checked; empty for one that is run.
    """

    page: str
    language: str
    number: int
    code: str
    reason: str

    def __str__(self) -> str:
        return f"{self.page}-{self.language}-{self.number}: {f'not run, {self.reason}' if self.reason else 'run'}"

    def commands(self) -> list[str]:
        """Its lines, those that go on joined, comments left out, and a loop's variable 0."""
        text = self.code.replace("\\\n", " ").replace("$s", "0")
        lines = [shlex.join(shlex.split(line, comments=True)) for line in text.splitlines()]
        return [line for line in lines if line]


def blocks(language: str | None = None) -> list[Block]:
    """Every block of every page, or those of one language."""
    found, counts = [], {}
    for page in PAGES:
        name = page.relative_to(ROOT).as_posix()
        for match in _BLOCK.finditer(page.read_text(encoding="utf-8")):
            key = name, match["language"]
            counts[key] = counts.get(key, -1) + 1
            found.append(Block(name, match["language"], counts[key], match["code"], match["reason"] or ""))
    return [block for block in found if language is None or block.language == language]


def block(page: str, language: str, number: int = 0) -> Block:
    """One of them."""
    return next(b for b in blocks(language) if (b.page, b.number) == (page, number))
