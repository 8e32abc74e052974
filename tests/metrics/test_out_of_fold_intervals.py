"""Intervals of cross-validated patients are widened: of AUCs by the root of 2, of sensitivities by a fifth."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from simulated_scores import three_classes

from med_transfer.metrics.comparison import paired_difference
from med_transfer.metrics.compute_metrics import KnownFigures, compute_metrics
from med_transfer.metrics.domain import AcquiredScans, domain_of, profile_of
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.measures import balanced_accuracy
from med_transfer.metrics.records.metrics import Bootstrap
from med_transfer.predictions.labels import Labels

FEW_DRAWS = Bootstrap(n_boot=50)


def test_the_interval_of_every_auc_is_wider_by_the_root_of_two():
    data, other = three_classes(signal=1), three_classes(signal=0.5)
    sites = {"site": ["a", "b"] * (len(data.patients) // 2) + ["a"] * (len(data.patients) % 2)}
    of_test, out_of_fold = (
        compute_metrics(
            LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels),
            KnownFigures(out_of_fold=apart),
            baselines={"handcrafted": other.probabilities},
            subgroups=sites,
            resampling=FEW_DRAWS,
        )
        for apart in (False, True)
    )
    pairs = [(of_test.macro_auc, out_of_fold.macro_auc)]
    pairs += [(of_test.classes[name].auc, out_of_fold.classes[name].auc) for name in of_test.labels]
    pairs += [(of_test.baselines["handcrafted"].macro_auc, out_of_fold.baselines["handcrafted"].macro_auc)]
    pairs += [
        (of_test.subgroups["site"][site].macro_auc, out_of_fold.subgroups["site"][site].macro_auc) for site in "ab"
    ]
    for before, now in pairs:
        assert now.value == before.value
        expected = now.value + 2**0.5 * (np.array(before.ci95) - now.value)
        assert now.ci95 == pytest.approx(np.clip(expected, 0, 1))
        assert (
            now.method
            == f"{before.method}; wider by the root of 2, because cross-validated networks share training patients"
        )
    before, now = (metrics.baselines["handcrafted"].macro_auc_gain for metrics in (of_test, out_of_fold))
    assert now.ci95 == pytest.approx(now.value + 2**0.5 * (np.array(before.ci95) - now.value))


def test_what_is_cross_validated_within_an_external_cohort_is_wider_and_the_bundles_own_figure_is_not():
    data, other = three_classes(signal=1), three_classes(signal=0.5)
    spacing, facts = np.ones((len(data.patients), 1, 3)), [{}] * len(data.patients)
    here = profile_of(data.truth, data.labels.names, data.patients, facts)
    envelope = ([(1, 1, 1)], [(1, 1, 1)])
    novelty = np.zeros(len(data.patients))
    domain = domain_of(
        AcquiredScans(spacing, novelty, facts, data.patients, data.truth),
        here,
        envelope_mm=envelope,
        training=None,
        abstain_above=None,
    )
    baselines = {"handcrafted": other.probabilities, "prevalence": np.tile(data.truth.mean(axis=0), (len(spacing), 1))}
    predictions = LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels)
    own, external = (
        compute_metrics(predictions, known, baselines=baselines, resampling=FEW_DRAWS)
        for known in (KnownFigures(), KnownFigures(domain=domain))
    )
    assert external.macro_auc == own.macro_auc
    assert external.baselines["prevalence"] == own.baselines["prevalence"]
    for figure in ("macro_auc", "macro_auc_gain"):
        before, now = (getattr(metrics.baselines["handcrafted"], figure) for metrics in (own, external))
        assert now.ci95 == pytest.approx(now.value + 2**0.5 * (np.array(before.ci95) - now.value))


def test_the_intervals_of_sensitivities_are_wider_by_a_fifth():
    data, other = three_classes(signal=1), three_classes(signal=0.5)
    of_test = [LabelledPredictions.of(d.truth, d.probabilities, d.patients, d.labels) for d in (data, other)]
    out_of_fold = [replace(predictions, out_of_fold=True) for predictions in of_test]
    bootstrap = PatientBootstrap(data.patients, 50, 0)
    pairs = [[balanced_accuracy(first) for first, _ in (of_test, out_of_fold)]]
    pairs += [[paired_difference(*both, bootstrap).balanced_accuracy for both in (of_test, out_of_fold)]]
    pairs += [[paired_difference(*both[::-1], bootstrap).balanced_accuracy for both in (of_test, out_of_fold)]]
    for before, now in pairs:
        assert now.ci95 == pytest.approx(now.value + 1.2 * (np.array(before.ci95) - now.value))
        assert (
            now.method == f"{before.method}; wider by a fifth, because cross-validated networks share training patients"
        )
    assert pairs[2][1].ci95[0] < 0  # a difference may be below 0


def test_what_has_no_spread_or_no_value_stays():
    truth, patients = np.eye(2, dtype=bool)[np.arange(8) % 2], [f"p{i}" for i in range(8)]
    one_answer = LabelledPredictions.of(truth, np.full((8, 2), 0.5), patients, Labels(("a", "b")))
    known = KnownFigures(out_of_fold=True)
    assert compute_metrics(one_answer, known, resampling=FEW_DRAWS).macro_auc.ci95 == (0.5, 0.5)
    one_class = LabelledPredictions.of(truth[::2], np.full((4, 2), 0.5), patients[::2], Labels(("a", "b")))
    assert compute_metrics(one_class, known, resampling=FEW_DRAWS).macro_auc.value is None
