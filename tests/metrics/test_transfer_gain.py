import numpy as np
import pytest

from med_transfer.errors import UsageError
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.transfer_gain import _verdict, transfer_gain
from med_transfer.predictions.labels import Labels

LABELS = Labels(("benign", "malignant"))
FINDINGS = Labels(("effusion", "nodule"), multilabel=True)
PATIENTS = [f"p{i}" for i in range(100)]
TRUTH = np.eye(2, dtype=bool)[np.arange(100) % 2]


def network(signal, seed):
    """Probabilities of a network whose logit separates the classes by ``signal`` standard deviations."""
    logit = signal * (TRUTH[:, 1] - 0.5) + np.random.default_rng(seed).normal(size=100)
    malignant = 1 / (1 + np.exp(-logit))
    return np.stack([1 - malignant, malignant], axis=1)


@pytest.mark.parametrize(
    ("transferred", "scratch", "verdict"), [(3.0, 0.5, "gain"), (0.5, 3.0, "harm"), (1.0, 1.0, "none")]
)
def test_the_verdict_follows_the_networks(transferred, scratch, verdict):
    gain = transfer_gain(LabelledPredictions.of(TRUTH, network(transferred, 1), PATIENTS, LABELS), network(scratch, 2))
    assert gain.verdict == verdict
    assert gain.n_patients == 100
    for estimate in (gain.macro_auc, gain.balanced_sensitivity):
        assert estimate.ci95[0] <= estimate.value <= estimate.ci95[1]
    assert "corrected for looking at two measures" in gain.method


def test_a_network_has_no_gain_over_itself():
    same = network(1.0, 1)
    gain = transfer_gain(LabelledPredictions.of(TRUTH, same, PATIENTS, LABELS), same, n_boot=200)
    assert (gain.verdict, gain.macro_auc.value, gain.macro_auc.ci95) == ("none", 0, (0, 0))


@pytest.mark.parametrize(("n", "verdict"), [(4, "none"), (40, "gain")])
def test_an_auc_of_1_over_a_network_without_an_answer_has_the_width_of_few_patients(n, verdict):
    truth = TRUTH[:n]
    perfect = LabelledPredictions.of(truth, np.where(truth, 0.8, 0.2), PATIENTS[:n], LABELS)
    gain = transfer_gain(perfect, np.full((n, 2), 0.5), n_boot=300)
    assert gain.macro_auc.value == 0.5
    assert gain.macro_auc.ci95[0] < 0.5 == gain.macro_auc.ci95[1]
    assert gain.verdict == verdict


def test_two_networks_without_an_error_are_not_shown_to_be_equal():
    truth, rng = TRUTH[:8], np.random.default_rng(0)
    ours, theirs = (np.where(truth, 0.8, 0.2) + shift * [1, -1] for shift in rng.uniform(-0.1, 0.1, (2, 8, 1)))
    gain = transfer_gain(LabelledPredictions.of(truth, ours, PATIENTS[:8], LABELS), theirs, n_boot=300)
    assert gain.macro_auc.value == 0
    assert gain.macro_auc.ci95[0] < -0.2
    assert gain.macro_auc.ci95[1] > 0.2


def test_changing_sides_changes_the_sign_and_the_verdict():
    strong, weak = network(3.0, 1), network(0.5, 2)
    there, back = (
        transfer_gain(LabelledPredictions.of(TRUTH, a, PATIENTS, LABELS), b, n_boot=300)
        for a, b in ((strong, weak), (weak, strong))
    )
    assert (there.verdict, back.verdict) == ("gain", "harm")
    assert there.macro_auc.value == -back.macro_auc.value
    assert there.macro_auc.ci95 == pytest.approx(tuple(-limit for limit in back.macro_auc.ci95[::-1]))


def test_pairing_finds_a_small_difference_that_two_separate_intervals_would_hide():
    scratch = network(1.0, 1)
    logit = np.log(scratch[:, 1] / scratch[:, 0]) + 0.6 * (TRUTH[:, 1] - 0.5)
    better = np.stack([1 / (1 + np.exp(logit)), 1 / (1 + np.exp(-logit))], axis=1)
    gain = transfer_gain(LabelledPredictions.of(TRUTH, better, PATIENTS, LABELS), scratch)
    assert gain.verdict == "gain"
    assert gain.macro_auc.value < 0.15


def test_repeated_scans_of_a_patient_are_no_new_evidence():
    transferred, scratch = network(1.6, 1), network(1.0, 2)
    once = transfer_gain(LabelledPredictions.of(TRUTH, transferred, PATIENTS, LABELS), scratch)
    truth, transferred, scratch = (np.repeat(a, 5, axis=0) for a in (TRUTH, transferred, scratch))
    patients = [p for p in PATIENTS for _ in range(5)]
    often = transfer_gain(LabelledPredictions.of(truth, transferred, patients, LABELS), scratch)
    np.testing.assert_allclose(often.macro_auc.ci95, once.macro_auc.ci95)


def test_few_false_verdicts_when_there_is_no_difference():
    verdicts = [
        transfer_gain(
            LabelledPredictions.of(TRUTH, network(1.0, s), PATIENTS, LABELS), network(1.0, s + 1000), n_boot=200
        ).verdict
        for s in range(60)
    ]
    assert verdicts.count("none") >= 50


@pytest.mark.parametrize(
    ("signs", "verdict"),
    [({1}, "gain"), ({0, 1}, "gain"), ({0}, "none"), ({-1, 1}, "none"), ({-1, 0}, "harm"), ({-1}, "harm")],
)
def test_measures_that_contradict_each_other_give_no_verdict(signs, verdict):
    assert _verdict(signs) == verdict


def test_findings():
    truth = np.random.default_rng(0).random((100, 2)) < 0.4
    gain = transfer_gain(
        LabelledPredictions.of(truth, truth * 0.6 + 0.2, PATIENTS, FINDINGS), np.full((100, 2), 0.5), n_boot=200
    )
    assert gain.verdict == "gain"
    assert gain.macro_auc.value == pytest.approx(0.5)


def test_one_class_alone_cannot_be_compared():
    truth = np.eye(2, dtype=bool)[np.zeros(100, dtype=int)]
    gain = transfer_gain(LabelledPredictions.of(truth, network(1.0, 1), PATIENTS, LABELS), network(1.0, 2), n_boot=50)
    assert gain.macro_auc.value is None
    assert "no class has both cases and other scans" in gain.macro_auc.reason


def test_arrays_of_different_length_are_refused():
    with pytest.raises(UsageError, match=r"probabilities: shape \(99, 2\); expected \(100, 2\)"):
        transfer_gain(LabelledPredictions.of(TRUTH, network(1.0, 1), PATIENTS, LABELS), network(1.0, 2)[:99])
