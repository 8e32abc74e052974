"""Every notebook from its script: ``make notebooks``. The same script gives the same file, without output."""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def scripts() -> list[Path]:
    """In the order in which they are read."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def notebook(script: Path) -> nbformat.NotebookNode:
    """Cells are named by their number, so that a change shows as what it is."""
    made = jupytext.read(script, fmt="py:percent")
    made.metadata = nbformat.NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    made.nbformat, made.nbformat_minor = 4, 5
    for number, cell in enumerate(made.cells):
        cell.id, cell.metadata = f"cell-{number:02d}", nbformat.NotebookNode()
    return made


def text(script: Path) -> str:
    """As it is stored."""
    return nbformat.writes(notebook(script)) + "\n"


if __name__ == "__main__":
    for path in scripts():
        path.with_suffix(".ipynb").write_text(text(path), encoding="utf-8")
