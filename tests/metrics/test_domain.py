"""A cohort compared with the development cohort: what is outside, novel, more frequent, or unknown."""

import numpy as np
import pytest
from scipy.stats import binomtest

from med_transfer.metrics.domain import AcquiredScans, domain_of, profile_of, spread_of
from med_transfer.metrics.records.domain import CohortProfile, Overlap

CLASSES = ("benign", "malignant")
ENVELOPE = ([(0.5, 0.5, 1.0)], [(0.9, 0.9, 2.5)])


def two_classes(malignant):
    return np.array([[not ill, ill] for ill in malignant])


def profile(malignant, facts):
    truth = two_classes(malignant)
    return profile_of(truth, CLASSES, [f"p{n // 2}" for n in range(len(truth))], facts)


DEVELOPMENT = profile(
    [True] * 10 + [False] * 30,
    [{"kernel": "LUNG" if n % 4 else "B31f", "slice_thickness_mm": 1.0 + n % 3} for n in range(40)],
)
FACTS = [{"kernel": "LUNG", "slice_thickness_mm": 2.0}] * 6 + [{"kernel": "FC51", "slice_thickness_mm": 5.0}] * 3 + [{}]
SPACING = np.array([[(0.7, 0.7, 2.0)]] * 7 + [[(0.7, 0.7, 5.0)]] * 2 + [[(0.4, 0.7, 5.0)]])
TEN = [f"p{n}" for n in range(10)]
NOVELTY = np.array([0.1, 0.3, 0.5, 0.5, 0.6, 0.7, 0.8, 0.94, 0.96, 1.0])


def measured(training=DEVELOPMENT, abstain_above=0.9):
    here = profile([True] * 6 + [False] * 4, FACTS)
    scans = AcquiredScans(SPACING, NOVELTY, FACTS, TEN, two_classes([True] * 6 + [False] * 4))
    return domain_of(scans, here, envelope_mm=ENVELOPE, training=training, abstain_above=abstain_above)


def test_scans_outside_are_counted_with_wilson_s_interval():
    domain = measured()
    theirs = binomtest(3, 10).proportion_ci(method="wilson")
    assert domain.outside_envelope.value == 0.3
    assert domain.outside_envelope.ci95 == pytest.approx((theirs.low, theirs.high))
    assert domain.outside_by_axis == {"column": 1, "row": 0, "slice": 3}


def test_novelty_is_told_by_its_spread_and_its_share_above_the_limits():
    domain = measured()
    assert (domain.out_of_distribution.value, domain.abstained.value) == (0.2, 0.3)
    assert (domain.novelty.low, domain.novelty.median, domain.novelty.high) == (0.1, pytest.approx(0.65), 1.0)
    assert measured(abstain_above=None).abstained is None


def test_prevalence_and_acquisition_stand_beside_those_of_training():
    domain = measured()
    malignant = domain.prevalence["malignant"]
    assert (malignant.training, malignant.here.value) == (0.25, 0.6)
    thickness = domain.numbers["slice_thickness_mm"]
    assert (thickness.training.low, thickness.training.high, thickness.here.n) == (1.0, 3.0, 9)
    assert thickness.outside.value == pytest.approx(3 / 9)
    kernel = domain.texts["kernel"]
    assert kernel.training == {"LUNG": 0.75, "B31f": 0.25}
    assert kernel.here == pytest.approx({"LUNG": 2 / 3, "FC51": 1 / 3})
    assert kernel.unseen.value == pytest.approx(3 / 9)


def test_a_value_that_was_too_rare_to_be_kept_is_not_said_to_be_new():
    """The profile keeps the 20 most frequent of 25 kernels, and the scans here have one of the others."""
    facts = [{"kernel": f"K{n % 25:02d}", "slice_thickness_mm": 1.0} for n in range(50)]
    training = profile([True, False] * 25, facts)
    assert "K24" not in training.texts["kernel"]
    here = profile([True, False] * 5, facts[24:25] * 10)
    scans = AcquiredScans(SPACING, NOVELTY, facts[24:25] * 10, TEN, two_classes([True, False] * 5))
    domain = domain_of(scans, here, envelope_mm=ENVELOPE, training=training, abstain_above=None)
    assert domain.texts["kernel"].unseen is None


def test_shares_of_many_values_are_of_all_scans_and_not_of_those_with_a_frequent_one():
    facts = [{"kernel": f"K{n:02d}"} for n in range(30) for _ in range(3)] + [{"kernel": "K00"}] * 10 + [{}] * 2
    both = profile([True, False] * 51, facts)
    patients, truth = [f"p{n}" for n in range(102)], two_classes([True, False] * 51)
    scans = AcquiredScans(np.ones((102, 1, 3)), np.zeros(102), facts, patients, truth)
    kernel = domain_of(scans, both, envelope_mm=ENVELOPE, training=both, abstain_above=None).texts["kernel"]
    assert kernel.here["K00"] == pytest.approx(13 / 100)
    assert kernel.training["K00"] == pytest.approx(13 / 102)  # of all that the profile counted


def test_many_scans_of_two_patients_do_not_show_that_a_cohort_lies_far():
    here, truth = profile([True] * 20 + [False] * 20, [{}] * 40), two_classes([True] * 20 + [False] * 20)
    spacing, novelty = np.full((40, 1, 3), (0.7, 0.7, 2.0)), np.repeat([0.5, 0.99], 20)
    of_forty, of_two = (
        domain_of(
            AcquiredScans(spacing, novelty, [{}] * 40, patients, truth),
            here,
            envelope_mm=ENVELOPE,
            training=DEVELOPMENT,
            abstain_above=None,
        )
        for patients in ([f"p{n}" for n in range(40)], ["a"] * 20 + ["b"] * 20)
    )
    assert of_forty.far
    assert not of_two.far
    assert of_two.out_of_distribution.ci95_cluster[0] < 0.05
    (alone, together) = (one.prevalence["malignant"].here for one in (of_forty, of_two))
    assert alone.ci95_cluster is None
    assert (together.value, together.ci95) == (alone.value, alone.ci95)
    assert together.interval[0] < 0.05 < 0.95 < together.interval[1]


def test_what_an_older_bundle_does_not_remember_is_null():
    domain = measured(training=None)
    assert domain.prevalence["malignant"].training is None
    assert domain.numbers["slice_thickness_mm"].training is None
    assert domain.numbers["slice_thickness_mm"].outside is None
    assert domain.texts["kernel"].unseen is None
    assert domain.outside_envelope.value == 0.3


def test_a_cohort_like_the_training_cohort_is_not_called_far():
    rng = np.random.default_rng(0)
    alike = np.full((200, 1, 3), (0.7, 0.7, 2.0))
    facts = [{}] * 200
    here = profile([True, False] * 100, facts)

    def far(novelty, spacing):
        scans = AcquiredScans(spacing, novelty, facts, [f"p{n}" for n in range(200)], two_classes([True, False] * 100))
        return domain_of(scans, here, envelope_mm=ENVELOPE, training=DEVELOPMENT, abstain_above=None).far

    assert sum(far(rng.random(200), alike) for _ in range(20)) <= 2
    assert far(rng.random(200) ** 0.2, alike)
    assert far(rng.random(200), alike + np.where(np.arange(200) % 5, 0, 3)[:, None, None])


def test_a_profile_counts_and_names_nobody():
    assert DEVELOPMENT.prevalence == {"benign": 0.75, "malignant": 0.25}
    assert (DEVELOPMENT.n_scans, DEVELOPMENT.n_patients) == (40, 20)
    assert DEVELOPMENT.numbers["slice_thickness_mm"] == spread_of([1.0 + n % 3 for n in range(40)])
    assert CohortProfile.model_validate_json(DEVELOPMENT.model_dump_json()) == DEVELOPMENT
    many = profile([True, False] * 30, [{"scanner_model": f"model {n}"} for n in range(60)])
    assert len(many.texts["scanner_model"]) == 20


def test_the_overlap_in_words():
    assert Overlap(n_scans=9, n_patients=5, seen_scans=0, seen_patients=0).sentence == ""
    assert Overlap(n_scans=9, n_patients=5, seen_scans=3, seen_patients=2).sentence == (
        "3 of 9 scans (2 of 5 patients) were seen in training: these figures are not of new patients"
    )
