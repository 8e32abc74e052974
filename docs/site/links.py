"""What mkdocs does differently for these pages: links that leave docs/ become paths; nav takes a pattern of pages."""

from __future__ import annotations

import logging
import posixpath
import re
from pathlib import Path, PurePosixPath
from typing import Any

log = logging.getLogger("mkdocs.hooks.links")  # a warning fails the strict build
_ROLE = re.compile(r":(?:class|data|func|meth|mod):(?=<code>)")  # a docstring's, before what it names
_LINK = re.compile(r"\[(?P<text>[^\]]*)\]\((?P<target>(?:\.\./)[^)\s]+)\)")


def on_config(config: Any) -> Any:
    """An entry ``Title: folder/*.md`` of nav holds every page of that folder, so that a new one needs no entry."""
    config.nav = _expanded(config.nav, Path(config.docs_dir))
    return config


def _expanded(entry: Any, docs: Path) -> Any:
    if isinstance(entry, list):
        return [_expanded(inner, docs) for inner in entry]
    if isinstance(entry, dict):
        return {title: _expanded(inner, docs) for title, inner in entry.items()}
    return sorted(path.relative_to(docs).as_posix() for path in docs.glob(entry)) if "*" in entry else entry


def on_page_markdown(markdown: str, *, page: Any, config: Any, **_: object) -> str:
    """A link to a config, a test or CONTRIBUTING.md works in a checkout; on the site it is the path, in words."""
    root = Path(config.docs_dir).parent
    folder = PurePosixPath(config.docs_dir).name / PurePosixPath(page.file.src_uri).parent

    def replaced(link: re.Match[str]) -> str:
        path = posixpath.normpath(folder / link["target"].partition("#")[0])
        if path.startswith("docs/"):
            return link[0]
        if not (root / path).exists():
            log.warning("%s links to %s, which is not in the repository", page.file.src_uri, path)
        text = link["text"].strip("`")
        return f"`{path}`" if text in path else f"{link['text']} (`{path}`)"

    return _LINK.sub(replaced, markdown)


def on_page_content(html: str, **_: object) -> str:
    """What docstrings name is shown as code, without the role before it."""
    return _ROLE.sub("", html)
