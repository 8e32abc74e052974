"""Write each notebook from its script (``make notebooks``): deterministic, without output."""

from __future__ import annotations

from pathlib import Path

import jupytext
import nbformat

FOLDER = Path(__file__).parent
KERNEL = {"display_name": "Python 3", "language": "python", "name": "python3"}


def scripts() -> list[Path]:
    """The notebooks' scripts, in reading order."""
    return sorted(FOLDER.glob("[0-9]*.py"))


def notebook(script: Path) -> nbformat.NotebookNode:
    """The script as a notebook. Cell ids are cell numbers, so that a diff shows only what changed."""
    made = jupytext.read(script, fmt="py:percent")
    made.metadata = nbformat.NotebookNode(kernelspec=KERNEL, language_info={"name": "python"})
    made.nbformat, made.nbformat_minor = 4, 5
    for number, cell in enumerate(made.cells):
        cell.id, cell.metadata = f"cell-{number:02d}", nbformat.NotebookNode()
    return made


def text(script: Path) -> str:
    """The notebook as its file's content."""
    return nbformat.writes(notebook(script)) + "\n"


if __name__ == "__main__":
    for path in scripts():
        path.with_suffix(".ipynb").write_text(text(path), encoding="utf-8")
