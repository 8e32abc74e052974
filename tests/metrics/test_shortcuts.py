"""A planted shortcut is found and named, a clean cohort is not flagged, on tables of simulated metadata."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score
from sklearn.preprocessing import OneHotEncoder

from med_transfer.metrics import shortcuts as acquisition
from med_transfer.metrics.compute_metrics import compute_metrics
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.metrics import Bootstrap
from med_transfer.metrics.records.shortcuts import ACQUISITION_BASELINE, above_chance
from med_transfer.metrics.shortcuts import Development, cross_validate_acquisition, fit_acquisition
from med_transfer.predictions.labels import Labels

THREE = Labels(("benign", "malignant", "normal"))
PROTOCOLS = {"benign": 1.0, "malignant": 2.5, "normal": 5.0}


def simulated(seed, *, planted=0.0, n=180, scans_per_patient=1):
    """Facts and truth; with probability ``planted`` a scan's slice thickness is that of its class."""
    rng = np.random.default_rng(seed)
    truth = np.repeat(rng.integers(3, size=n // scans_per_patient), scans_per_patient)
    facts = []
    for label in truth:
        tied = rng.random() < planted
        thickness = PROTOCOLS[THREE.names[label]] if tied else rng.choice([1.0, 2.5, 5.0])
        scan = {
            "kernel": str(rng.choice(["B31f", "B60f", "LUNG"])),
            "slice_thickness_mm": float(thickness),
            "pixel_spacing_mm": float(rng.uniform(0.5, 0.9)),
            "n_slices": float(rng.integers(80, 400)),
            "file_format": "dicom",
        }
        facts.append({name: value for name, value in scan.items() if name == "file_format" or rng.random() > 0.05})
    patients = [f"p{number // scans_per_patient}" for number in range(len(truth))]
    return facts, np.eye(3, dtype=bool)[truth], patients


def measured(seed, **options):
    """The test macro AUC of a model fitted on two thirds, and what development says."""
    facts, truth, patients = simulated(seed, **options)
    cut = 2 * len(facts) // 3
    development = Development(facts[:cut], truth[:cut], patients[:cut], THREE)
    probabilities, shortcuts = fit_acquisition(development, facts[cut:], seed)
    metrics = compute_metrics(
        LabelledPredictions.of(truth[cut:], np.full((len(facts) - cut, 3), 1 / 3), patients[cut:], THREE),
        resampling=Bootstrap(n_boot=200, seed=seed),
        baselines={ACQUISITION_BASELINE: probabilities},
    )
    return metrics.baselines[ACQUISITION_BASELINE].macro_auc, shortcuts


@pytest.mark.parametrize("seed", range(5))
def test_a_planted_shortcut_is_found_and_named(seed):
    macro_auc, shortcuts = measured(seed, planted=0.6)
    assert above_chance(macro_auc)
    assert above_chance(shortcuts.macro_auc)
    assert shortcuts.strongest[0] == "slice_thickness_mm"
    assert next(iter(shortcuts.facts)) == "slice_thickness_mm"
    assert shortcuts.constant == ["file_format"]


def test_facts_that_divide_the_scans_alike_are_as_strong_and_others_are_not():
    facts, truth, patients = simulated(0, planted=0.6)
    maker = {"B31f": "A", "B60f": "B", "LUNG": "C"}
    facts = [{"maker": maker.get(scan.get("kernel"), "unknown"), **scan} for scan in facts]
    strong = cross_validate_acquisition(Development(facts, truth, patients, THREE), 0)[1].facts
    assert strong["maker"] == strong["kernel"]
    assert len({estimate.value for estimate in strong.values()}) == len(strong) - 1


def test_numbers_that_differ_from_scan_to_scan_are_not_taken_for_one_another():
    facts, truth, patients = simulated(0, n=90)
    rng, label = np.random.default_rng(0), truth.argmax(axis=1)
    tied, free = label + rng.uniform(0, 0.5, 90), rng.uniform(0, 3, 90)
    facts = [{"tied": float(one), "free": float(other)} for one, other in zip(tied, free, strict=True)]
    strong = cross_validate_acquisition(Development(facts, truth, patients, THREE), 0)[1].facts
    assert strong["tied"].value > 0.9
    assert strong["free"].value < 0.7
    with_gap = cross_validate_acquisition(Development([{}, *facts[1:]], truth, patients, THREE), 0)[1].facts
    assert with_gap["tied"].value > 0.9
    assert with_gap["free"].value < 0.7


def test_the_strength_of_facts_is_cross_validated_and_its_interval_as_wide_as_such_ones_are():
    facts, truth, patients = simulated(0, planted=0.6, n=60)
    shortcuts = cross_validate_acquisition(Development(facts, truth, patients, THREE), 0)[1]
    for estimate in (shortcuts.macro_auc, *shortcuts.facts.values()):
        assert "cross-validated networks share training patients" in estimate.method


def test_a_clean_cohort_is_not_flagged():
    measurements = [measured(seed) for seed in range(100, 112)]
    assert sum(above_chance(macro_auc) for macro_auc, _ in measurements) <= 1  # 2.5 % of them by chance
    assert np.mean([macro_auc.value for macro_auc, _ in measurements]) == pytest.approx(0.5, abs=0.04)
    assert np.mean([shortcuts.macro_auc.value for _, shortcuts in measurements]) == pytest.approx(0.5, abs=0.05)


def test_a_shortcut_that_singles_out_the_middle_of_a_scale_is_found():
    facts, truth, patients = simulated(3)
    for scan, label in zip(facts, truth.argmax(axis=1), strict=True):
        scan["pixel_spacing_mm"] = 0.7 if label == 1 else scan.get("pixel_spacing_mm", 0.5) // 0.4 * 0.4
    _, shortcuts = fit_acquisition(Development(facts, truth, patients, THREE), facts[:2])
    assert shortcuts.facts["pixel_spacing_mm"].value > 0.7


def test_scans_of_one_patient_never_stand_on_both_sides():
    """A fact that is the patient's own number predicts his other scans, and nobody else's."""
    facts, truth, patients = simulated(5, n=160, scans_per_patient=4)
    for scan, patient in zip(facts, patients, strict=True):
        scan["kernel"] = patient
    _, shortcuts = fit_acquisition(Development(facts, truth, patients, THREE), facts[:2])
    assert not above_chance(shortcuts.facts["kernel"])


def test_probabilities_are_those_of_the_facts_of_the_test_scans():
    facts, truth, patients = simulated(1, planted=1.0)
    development = Development(facts[:120], truth[:120], patients[:120], THREE)
    probabilities, shortcuts = fit_acquisition(development, facts[120:])
    assert probabilities.shape == (60, 3)
    assert probabilities.sum(axis=1) == pytest.approx(np.ones(60))
    assert roc_auc_score(truth[120:], probabilities) > 0.95
    assert (shortcuts.n_scans, shortcuts.n_patients) == (120, 120)
    again, _ = fit_acquisition(development, facts[120:])
    assert np.array_equal(again, probabilities)
    odd, _ = fit_acquisition(development, [{}, {"kernel": "never seen", "n_slices": 1e9}])
    assert np.isfinite(odd).all()


def test_several_findings_are_predicted_each_on_its_own():
    rng = np.random.default_rng(0)
    truth = rng.random((150, 2)) < 0.4
    facts = [
        {"kernel": "LUNG" if effusion else "B31f", "n_slices": 100.0 * rng.integers(9)} for effusion in truth[:, 0]
    ]
    labels = Labels(("effusion", "nodule"), multilabel=True)
    development = Development(facts, truth, [f"p{n}" for n in range(150)], labels)
    probabilities, shortcuts = fit_acquisition(development, facts)
    assert roc_auc_score(truth[:, 0], probabilities[:, 0]) == 1
    assert shortcuts.strongest == ["kernel"]


def test_scans_of_which_no_others_are_at_hand_are_judged_by_other_patients():
    """A fact that is the patient's own number says nothing of him; a planted one does."""
    facts, truth, patients = simulated(5, n=160, scans_per_patient=4, planted=0.8)
    judged = Development(facts, truth, patients, THREE)
    probabilities, shortcuts = cross_validate_acquisition(judged)
    assert shortcuts == fit_acquisition(judged, facts[:2])[1]
    assert roc_auc_score(truth, probabilities) == pytest.approx(shortcuts.macro_auc.value)
    assert above_chance(shortcuts.macro_auc)
    own = [{"kernel": patient} for patient in patients]
    probabilities, _ = cross_validate_acquisition(Development(own, truth, patients, THREE))
    assert roc_auc_score(truth, probabilities) < 0.6


def test_where_nothing_differs_or_nobody_can_be_held_out_the_figure_is_undefined():
    same = [{"kernel": "LUNG"}] * 6
    truth = np.eye(3, dtype=bool)[[0, 0, 0, 1, 1, 2]]
    probabilities, shortcuts = fit_acquisition(Development(same, truth, list("abcdef"), THREE), same[:2])
    assert probabilities is None
    assert (shortcuts.macro_auc.value, shortcuts.macro_auc.reason) == (None, "no fact differs between the scans")
    assert (shortcuts.constant, shortcuts.strongest) == (["kernel"], [])
    some = [{"kernel": name} for name in "xyxyxy"]
    probabilities, shortcuts = fit_acquisition(Development(some, truth, list("abcdef"), THREE), some[:2])
    assert probabilities.shape == (2, 3)
    assert shortcuts.macro_auc.reason == "a class has fewer than two patients"


def test_facts_that_tell_nothing_are_named_in_the_same_order_every_time():
    """A set of names comes in another order in every process, and so would metrics.json."""
    facts, truth, patients = simulated(0, n=30)
    constant = [f"fact_{number:02d}" for number in range(20)]
    facts = [dict.fromkeys(reversed(constant), "same") | {"kernel": scan.get("kernel", "LUNG")} for scan in facts]
    _, shortcuts = cross_validate_acquisition(Development(facts, truth, patients, THREE))
    assert shortcuts.constant == constant


@pytest.mark.parametrize("rare", [1, 2, 5])
def test_categories_become_the_columns_that_scikit_learn_makes_of_them(rare):
    """Also where every category is rare, and one of the test scans is new."""
    rng = np.random.default_rng(rare)
    train = np.column_stack([rng.choice(list(names), 30) for names in ("ab", "abcdefgh", "xyz")] + [np.arange(30)])
    test = np.column_stack([rng.choice(list(names), 20) for names in ("abc", "efghij", "x", "0q")])
    encoder = OneHotEncoder(handle_unknown="infrequent_if_exist", min_frequency=rare)
    expected = encoder.fit_transform(train), encoder.transform(test)
    for made, one in zip(acquisition._one_hot(train, test, rare), expected, strict=True):
        np.testing.assert_array_equal(made.toarray(), one.toarray())
