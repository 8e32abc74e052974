"""The notebooks are what their scripts say, and run from top to bottom on phantoms, one after the other.

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


@pytest.mark.timeout(900)
@pytest.mark.filterwarnings("default")  # the kernel is a process of its own; its client's warnings are not ours
def test_all_notebooks_run(tmp_path, monkeypatch):
    """In one kernel, whose names are forgotten in between, and one folder of work: as someone reads them in order."""
    monkeypatch.setenv("MED_TRANSFER_WORK", str(tmp_path))
    monkeypatch.delenv("MED_TRANSFER_COHORT", raising=False)
    everything, notebooks = nbformat.v4.new_notebook(), [build["notebook"](script) for script in SCRIPTS]
    for notebook in notebooks:
        everything.cells += [nbformat.v4.new_code_cell("%reset -f"), *notebook.cells]
    for number, cell in enumerate(everything.cells):
        cell.id = f"cell-{number:03d}"
    NotebookClient(everything, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    seen = iter(everything.cells)
    for script, notebook in zip(SCRIPTS, notebooks, strict=True):
        next(seen)
        cells = [cell for cell in (next(seen) for _ in notebook.cells) if cell.cell_type == "code"]
        outputs = [output for cell in cells for output in cell.outputs]
        assert not [output for output in outputs if output.output_type == "error"], script.stem
        shown = {kind for output in outputs for kind in output.get("data", {})}
        assert shown & PICTURES or script.stem.startswith("08"), f"{script.stem} shows no picture"
