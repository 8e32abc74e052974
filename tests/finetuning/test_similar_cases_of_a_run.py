"""The development scans that a run's bundle may show: only on request, and how reliable they are."""

import io
import shutil

import numpy as np
import pytest
from command_line import TINY, settings
from PIL import Image

from med_transfer.bundle.similar_cases import SIMILAR_CASES_FILE, load_similar_cases
from med_transfer.cohorts import Cohort
from med_transfer.finetuning.similar_cases import same_label
from med_transfer.inference import Predictor

FOLDS = [np.arange(30) % 3 == fold for fold in range(3)]


@pytest.mark.parametrize(("apart", "expected"), [(8.0, 1.0), (0.0, None)])
def test_scans_of_a_label_that_lie_together_have_it_from_their_neighbours(apart, expected):
    random = np.random.default_rng(0)
    classes = random.permutation(np.repeat([0, 1, 1], 10))
    truth = np.eye(2, dtype=bool)[classes]
    features = [random.normal(size=(30, 5)) + apart * classes[:, None] for _ in FOLDS]
    same, chance = same_label(features, truth, np.arange(30), FOLDS)
    pairs = [[classes[one] == classes[~fold] for one in np.flatnonzero(fold)] for fold in FOLDS]
    assert chance == pytest.approx(np.mean([of_scan.mean() for of_fold in pairs for of_scan in of_fold]))
    assert same == expected or (expected is None and abs(same - chance) < 0.25)


def test_it_is_the_model_without_a_scan_that_judges_its_neighbours():
    """Each model knows its own training scans by heart, and nothing of the others."""
    classes = np.arange(30) // 3 % 2
    features = []
    for fold in FOLDS:
        of_one = np.random.default_rng(1).normal(size=(30, 5))
        of_one[~fold] += 50 * classes[~fold][:, None]
        features.append(of_one)
    same, _ = same_label(features, np.eye(2, dtype=bool)[classes], np.arange(30), FOLDS)
    assert same < 0.8


def test_a_finished_run_is_given_them_and_rid_of_them_without_training(command, cohort_csv, finished, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished.folder, run)
    assert not (run / "bundle" / SIMILAR_CASES_FILE).exists()
    weights = (run / "bundle" / "models" / "model.safetensors").read_bytes()
    outcome = command("finetune", cohort_csv, "-o", run, *settings(*TINY, "similar_cases=true"))
    assert outcome.code == 0, outcome.err
    assert (run / "bundle" / "models" / "model.safetensors").read_bytes() == weights
    predictor, cases = Predictor(run, "cpu"), load_similar_cases(run / "bundle")
    _is_its_own_neighbour(predictor, Cohort.read(cohort_csv), cases)
    assert 0 < cases.same_label[1] < 1
    for picture in cases.pictures:
        shown = np.asarray(Image.open(io.BytesIO(picture)).convert("L"))
        assert shown.shape[1] > shown.shape[0]
        assert shown.std() > 5  # not all of one grey
    assert "holds pictures of" in (run / "bundle" / "docs" / "README.md").read_text()
    assert command("finetune", cohort_csv, "-o", run, *settings(*TINY)).code == 0
    assert not (run / "bundle" / SIMILAR_CASES_FILE).exists()


def _is_its_own_neighbour(predictor, cohort, cases):
    """A development scan, predicted, finds itself, with its label; the patients of the test are not among them."""
    found = []
    for case in cohort.cases:
        nearest = predictor.predict(case.path, series_uid=case.series_uid).similar[0]
        if nearest.similarity > 0.999:
            found.append(nearest.number)
            assert nearest.label == case.label
    assert sorted(found) == list(range(len(cases.patients)))
    assert len(cases.patients) == predictor.record.n_similar_cases < len(cohort.cases)
