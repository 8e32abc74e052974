"""Inference reads the records it needs, but nothing that trains, evaluates, reports or computes statistics."""

import subprocess
import sys

import pytest

TRAINS_OR_EVALUATES = (
    *("evaluation", "finetuning", "labelling", "pretraining", "report", "selection", "tuning"),
    *("api", "cli"),
)
MAX_FILES = 178  # the processor module counts, which `import med_transfer` loads


def imported_by(module: str) -> set[str]:
    """Modules of ours, without ``med_transfer.``, that a fresh interpreter has imported after ``module``."""
    alone = "from med_transfer.backbones.monai_alone import monai_alone\nwith monai_alone():"  # 4 s less
    code = f"import sys\n{alone}\n    import {module}\nprint('\\n'.join(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    names = {name.partition(".")[2] for name in done.stdout.split() if name.startswith("med_transfer.")}
    return names - {"backbones.monai_alone"}


@pytest.fixture(scope="module")
def of_predictor():
    return imported_by("med_transfer.inference.predictor")


def test_the_predictor_imports_no_room_that_trains_or_evaluates(of_predictor):
    assert "bundle.record" in of_predictor
    assert [name for name in sorted(of_predictor) if name.partition(".")[0] in TRAINS_OR_EVALUATES] == []


def test_of_metrics_the_predictor_imports_records_alone(of_predictor):
    computing = {name for name in of_predictor if name.startswith("metrics.")} - {"metrics.records"}
    assert {name for name in computing if not name.startswith("metrics.records.")} == set()


def test_the_predictor_imports_few_files(of_predictor):
    assert len(of_predictor) <= MAX_FILES


def test_records_of_metrics_import_nothing_that_computes():
    of_metrics = {name for name in imported_by("med_transfer.metrics.records.metrics") if name.startswith("metrics.")}
    assert {name for name in of_metrics if not name.startswith("metrics.records")} == {"metrics.config"}
