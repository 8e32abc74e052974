"""Development scans that a bundle shows beside a new one."""

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity
from sklearn.preprocessing import StandardScaler
from tiny_bundle import made_up_cases, tiny_bundle, write_scan

from med_transfer.bundle.model_card import model_card_rows
from med_transfer.bundle.similar_cases import SIMILAR_CASES_FILE, load_similar_cases, similarity
from med_transfer.errors import BundleError
from med_transfer.inference import Predictor
from med_transfer.predictions.record import SimilarCase

RANDOM = np.random.default_rng(0)
CASES, SCANS = ([RANDOM.normal(3, [1.0, 50.0], (n, 2)), RANDOM.normal(size=(n, 7))] for n in (20, 4))


def test_it_is_the_cosine_of_standardised_features_and_the_mean_of_the_networks():
    scalers = [StandardScaler().fit(cases) for cases in CASES]
    expected = np.mean(
        [
            cosine_similarity(scaler.transform(scans), scaler.transform(cases))
            for scaler, scans, cases in zip(scalers, SCANS, CASES, strict=True)
        ],
        axis=0,
    )
    assert np.allclose(similarity(SCANS, CASES), expected)


def test_a_feature_that_is_the_same_in_all_cases_tells_nothing():
    with_one = [np.hstack([rows, np.full((len(rows), 1), 7.0)]) for rows in (SCANS[1], CASES[1])]
    with_one[0][:, -1] = 1e9
    assert np.allclose(similarity([with_one[0]], [with_one[1]]), similarity([SCANS[1]], [CASES[1]]))


def test_a_case_is_nearest_to_itself_and_no_patient_is_shown_twice():
    cases = made_up_cases("bmmbm", patients=(0, 0, 1, 2, 3))
    shown = cases.nearest([cases.features[0][1:2]], ("benign", "malignant"))
    assert shown[0] == SimilarCase(1, "malignant", 1.0)
    alike = similarity([cases.features[0][1:2]], cases.features)[0]
    expected = sorted(range(2, 5), key=lambda number: -alike[number])[:2]
    assert [case.number for case in shown[1:]] == expected
    assert [case.similarity for case in shown] == sorted((case.similarity for case in shown), reverse=True)


def test_a_bundle_gives_what_it_was_given_beside_its_answer_and_says_that_it_does(tmp_path):
    given = made_up_cases()
    bundle = tiny_bundle(tmp_path / "bundle", similar=given)
    there = load_similar_cases(bundle)
    assert np.array_equal(there.features, given.features)
    assert np.array_equal(there.truth, given.truth)
    assert np.array_equal(there.patients, given.patients)
    assert (there.pictures, there.same_label) == (given.pictures, given.same_label)
    predictor, scan = Predictor(bundle, "cpu"), write_scan(tmp_path / "scan.nii.gz")
    answer = predictor.predict(scan)
    assert [case.label for case in answer.similar] == [
        "malignant" if given.truth[case.number, 1] else "benign" for case in answer.similar
    ]
    assert len({given.patients[case.number] for case in answer.similar}) == 3
    assert ("Similar cases", "holds pictures of 4 development scans") in model_card_rows(predictor.record)
    without = Predictor(tiny_bundle(tmp_path / "other"), "cpu")
    assert without.predict(scan).similar == ()
    assert without.predict(scan).probabilities == answer.probabilities


def test_another_or_a_missing_file_is_refused(tmp_path):
    bundle = tiny_bundle(tmp_path / "bundle", similar=made_up_cases())
    (bundle / SIMILAR_CASES_FILE).write_bytes(made_up_cases(seed=1).as_bytes())
    with pytest.raises(BundleError, match="not the ones this bundle was made with"):
        Predictor(bundle, "cpu")
    (bundle / SIMILAR_CASES_FILE).unlink()
    with pytest.raises(BundleError, match="contents are missing"):
        Predictor(bundle, "cpu")
    with pytest.raises(
        BundleError, match=r"similar_cases\.safetensors: similar cases cannot be read .FileNotFoundError"
    ):
        load_similar_cases(bundle)
