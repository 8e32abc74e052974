"""The notebooks match their scripts, and run from top to bottom on phantoms.

They are stored without output: pictures and figures depend on the machine, and every change runs them again here.
"""

import os
import runpy
from pathlib import Path

import nbformat
import pytest
from jupyter_client.manager import KernelManager
from nbclient import NotebookClient

pytest.importorskip("jupytext", reason="needs the extra [notebook]")
FOLDER = Path(__file__).parents[1] / "notebooks"
build = runpy.run_path(str(FOLDER / "build.py"))
SCRIPTS = build["scripts"]()
# Nothing that another has left is there; of the grammar and of the hashes as in conftest.py; half the usual patients.
BEFORE = """%reset -f
import sys
sys.modules.setdefault("rfc3987_syntax")
from med_transfer.api import datasets
from med_transfer.cohorts import hashed_names
hashed_names._LOG2_COST = 10
datasets._PHANTOMS = datasets._PHANTOMS.model_copy(update={"patients_per_class": 6})
del sys, datasets, hashed_names"""
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
def kernel(tmp_path_factory):
    """One for all, emptied before each; in it a folder that they share: a cohort, a trained run.

    To start one and to import what the package needs takes longer than most notebooks.
    """
    work = tmp_path_factory.mktemp("notebooks")
    environment = {name: value for name, value in os.environ.items() if name != "MED_TRANSFER_COHORT"}
    manager = KernelManager(kernel_name="python3")
    manager.start_kernel(cwd=str(work), env=environment | {"MED_TRANSFER_WORK": str(work)})
    yield manager
    manager.shutdown_kernel(now=True)
    manager.cleanup_resources()


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("default")  # the kernel is a process of its own; its client's warnings are not ours
def test_notebook_runs(script, kernel):
    notebook = build["notebook"](script)
    notebook.cells.insert(0, nbformat.v4.new_code_cell(BEFORE))
    client = NotebookClient(notebook, km=kernel, timeout=500)
    client.execute()
    client.kc.stop_channels()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert not [output for output in outputs if output.output_type == "error"]
    shown = {kind for output in outputs for kind in output.get("data", {})}
    assert shown & PICTURES or script.stem.startswith(("04", "08"))


@pytest.mark.filterwarnings("default")
def test_a_notebook_shows_bars_unasked(kernel):
    words = "patients_per_class=1, scans_per_patient=(1, 1), shape=(8, 32, 32)"
    cell = nbformat.v4.new_code_cell(
        "from pathlib import Path\nfrom med_transfer.phantoms import PhantomConfig, write_cohort\n"
        f"_ = write_cohort(Path('bars'), PhantomConfig({words}))"
    )
    client = NotebookClient(nbformat.v4.new_notebook(cells=[cell]), km=kernel, timeout=500)
    client.execute()
    client.kc.stop_channels()
    assert "writing scans" in str(cell.outputs)
    assert "3/3" in str(cell.outputs) or "widget-view" in str(cell.outputs)
