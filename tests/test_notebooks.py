"""The notebooks are what their scripts say, and run from top to bottom on phantoms.

They are stored without output: pictures and figures depend on the machine, and here every change runs them anew.
"""

import runpy
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

pytest.importorskip("jupytext", reason="needs the extra [notebook]")
FOLDER = Path(__file__).parents[1] / "notebooks"
build = runpy.run_path(str(FOLDER / "build.py"))
SCRIPTS = build["scripts"]()
PICTURES = {"image/png", "image/svg+xml", "text/html"}


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
def test_notebook_is_what_its_script_says(script):
    stored = script.with_suffix(".ipynb").read_text(encoding="utf-8")
    assert stored == build["text"](script), "run: make notebooks"
    assert all(not cell.outputs for cell in nbformat.reads(stored, as_version=4).cells if cell.cell_type == "code")


def test_every_notebook_has_a_script():
    assert [path.stem for path in sorted(FOLDER.glob("*.ipynb"))] == [path.stem for path in SCRIPTS]
    assert len(SCRIPTS) == 8


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """What the notebooks share: a cohort and a trained run, which the first to need them makes."""
    return tmp_path_factory.mktemp("notebooks")


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # the kernel is a process of its own; its client's warnings are not ours
def test_notebook_runs(script, work, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_WORK", str(work))
    monkeypatch.delenv("MED_TRANSFER_COHORT", raising=False)
    notebook = build["notebook"](script)
    NotebookClient(notebook, timeout=250, resources={"metadata": {"path": str(work)}}).execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = {kind for output in outputs for kind in output.get("data", {})}
    assert shown & PICTURES or script.stem.startswith(("04", "07", "08"))
