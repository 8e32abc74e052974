"""The power law recovers what was planted, never decreases, stays in bounds; the forecast says when it cannot tell."""

from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import brentq

from med_transfer.errors import UsageError
from med_transfer.labelling.curve_samples import CurveSamples, SubsetPredictions, curve_samples
from med_transfer.labelling.label_forecast import forecast
from med_transfer.labelling.learning_curve import PowerLaw, fit_power_law
from med_transfer.labelling.report import sentence
from med_transfer.metrics.binomial import wilson
from med_transfer.predictions.labels import Labels

SIZES = np.array([6.0, 10, 17, 28, 47, 80])
PLANTED = PowerLaw(smallest=6, start=0.4, asymptote=0.95, rate=0.6)
TARGET = 0.88


def simulated(seed: int, law: PowerLaw, n: int = 400, repeats: int = 4) -> SubsetPredictions:
    """Patients of two classes, called rightly as often as the law says; half by what they are, half by luck."""
    rng = np.random.default_rng(seed)
    truth = np.zeros((n, 2), dtype=bool)
    truth[: n // 2, 0], truth[n // 2 :, 1] = True, True
    difficulty, own = rng.random(n), truth.argmax(1)
    probabilities = np.zeros((repeats, len(SIZES), n, 2))
    for of_repeat in probabilities:
        for size, of_size in zip(SIZES, of_repeat, strict=True):
            right = np.where(rng.random(n) < 0.5, difficulty, rng.random(n)) < law.at(size)
            of_size[np.arange(n), np.where(right, own, 1 - own)] = 1
    learned = np.tile(SIZES, (repeats, 1))
    patients = tuple(f"p{number}" for number in range(n))
    return SubsetPredictions(
        np.stack([learned, learned], -1), 2 * learned, probabilities, truth, patients, Labels(("a", "b"))
    )


def samples_of(law: PowerLaw, noise: float = 0.01, seed: int = 0, labelled: int = 100) -> CurveSamples:
    rng = np.random.default_rng(seed)
    draws = np.clip(law.at(SIZES) + noise * rng.normal(size=(60, len(SIZES))), 0, 1)
    return CurveSamples("nodule", SIZES, law.at(SIZES), draws, labelled)


laws = st.builds(
    lambda start, share, rate: PowerLaw(6.0, start, start + share * (1 - start), rate),
    st.floats(0.1, 0.8),
    st.floats(0.2, 0.98),
    st.floats(0.2, 1.5),
)


@settings(max_examples=30)
@given(laws)
def test_planted_parameters_are_found(law):
    found = fit_power_law(SIZES, law.at(SIZES))
    assert found.start == pytest.approx(law.start, abs=1e-3)
    assert found.at(SIZES) == pytest.approx(law.at(SIZES), abs=1e-3)
    assert found.at(4 * SIZES[-1]) == pytest.approx(law.at(4 * SIZES[-1]), abs=0.01)


@settings(max_examples=30)
@given(st.lists(st.floats(0, 1), min_size=6, max_size=6))
def test_whatever_was_measured_the_curve_never_falls_and_stays_within_bounds(values):
    curve = fit_power_law(SIZES, values)
    foretold = curve.at(np.geomspace(SIZES[0], 1e6, 200))
    assert (np.diff(foretold) >= -1e-12).all()
    assert foretold.min() >= 0
    assert foretold.max() <= 1
    assert 0 <= curve.start <= curve.asymptote <= 1


def test_surer_points_count_more():
    values = PLANTED.at(SIZES)
    values[0] += 0.2
    errors = np.full(6, 0.01)
    errors[0] = 1.0
    assert fit_power_law(SIZES, values, errors).at(SIZES[1:]) == pytest.approx(PLANTED.at(SIZES[1:]), abs=0.005)


@given(laws, st.floats(0.05, 0.95))
def test_needed_is_where_the_curve_crosses(law, share):
    target = law.start + share * (law.asymptote - law.start)
    needed = law.needed(target)
    if needed < 1e12:
        assert needed == pytest.approx(brentq(lambda n: float(law.at(n)) - target, 6.0, 1e13), rel=1e-3)
    assert law.needed(law.asymptote) == math.inf
    assert law.needed(law.start) == law.smallest


@pytest.mark.parametrize(
    ("sizes", "values", "errors", "message"),
    [
        ([5, 10], [0.5, 0.6], None, "2 sizes, 2 values, 2 errors; expected as many of each, at least 3"),
        ([5, 5, 10], [0.5, 0.6, 0.7], None, "sizes that do not rise"),
        ([5, 8, 10], [0.5, 1.2, 0.7], None, "a performance outside 0 to 1"),
        ([5, 8, 10], [0.5, math.nan, 0.7], None, "a performance outside 0 to 1"),
        ([5, 8, 10], [0.5, 0.6, 0.7], [1, 0, 1], "a standard error that is not above 0"),
    ],
)
def test_points_that_are_no_curve_are_refused(sizes, values, errors, message):
    with pytest.raises(UsageError, match=f"^learning curve: .*{message}"):
        fit_power_law(sizes, values, errors)


# Forecasts


def test_interval_covers_the_planted_number_in_most_simulations():
    """95 % is promised; 20 simulations with 17 hits or more happen in 98 of 100 such series."""
    covered, bounded = 0, 0
    for seed in range(20):
        samples = curve_samples(simulated(seed, PLANTED, n=2000), "sensitivity", 80, seed)[0]
        found = forecast(samples, TARGET)
        planted = (PLANTED.needed(TARGET) / SIZES[-1] - 1) * samples.labelled
        assert found.interval is not None
        low, high = found.interval
        covered += low is not None and low <= planted and (high is None or planted <= high)
        bounded += high is not None
    assert covered >= 17
    assert bounded >= 5  # intervals that end nowhere would always cover


def test_without_noise_the_number_is_the_planted_one():
    found = forecast(samples_of(PLANTED, noise=0.0), TARGET)
    assert found.outcome == "forecast"
    assert found.more == pytest.approx((PLANTED.needed(TARGET) / 80 - 1) * 100, abs=2)
    assert found.share_reaching == 1
    assert found.interval == (found.more, found.more)


def test_a_target_that_is_reached_needs_no_more():
    found = forecast(samples_of(PLANTED), 0.75)
    assert (found.outcome, found.more, found.interval) == ("reached", None, (0, 0))
    assert found.now[0] == pytest.approx(PLANTED.at(80), abs=0.005)


def test_three_patients_without_an_error_do_not_make_a_performance_certain():
    """It was said: sensitivity is 1.00 (1.00 to 1.00) with the present 3 patients; the target is reached."""
    certain = CurveSamples("nodule", SIZES, np.ones(6), np.ones((60, 6)), 3)
    found = forecast(certain, 0.85)
    assert found.outcome == "reached"
    assert found.now == pytest.approx((1.0, *wilson(3, 3)), abs=1e-6)
    said = sentence(found, "sensitivity")
    assert "is 1.00 (0.44 to 1.00) with the present 3 labelled patients of this class" in said
    assert said.endswith("the target of 0.85 is reached, but the interval reaches below it.")


def test_what_is_nearly_the_target_is_not_said_to_be_it():
    """It was said that 0.85 is not foreseen, since the curve levels off at 0.85."""
    found = forecast(samples_of(replace(PLANTED, asymptote=0.8496, rate=2.0), noise=0.0), 0.85)
    assert found.outcome == "out of reach"
    said = sentence(found, "sensitivity")
    assert re.search(r"levels off at 0\.84\d+; now sensitivity is 0\.84", said)


def test_beyond_the_multiple_no_number_is_given():
    needed = PLANTED.needed(0.93) / 80
    near, far = forecast(samples_of(PLANTED), 0.93, needed * 1.3), forecast(samples_of(PLANTED), 0.93, needed / 1.3)
    assert near.outcome == "forecast"
    assert (far.outcome, far.more) == ("out of reach", None)
    assert "the curve is below 0.93 with" in far.reason


def test_above_the_asymptote_it_says_where_the_curve_levels_off():
    found = forecast(samples_of(replace(PLANTED, asymptote=0.8, rate=1.0), noise=0.003), 0.9)
    assert (found.outcome, found.more) == ("out of reach", None)
    assert found.reason == "the curve levels off at 0.80"
    assert found.share_reaching < 0.1


def test_too_few_points_to_say():
    whole = samples_of(PLANTED)
    three = replace(whole, patients=SIZES[:3], values=whole.values[:3], draws=whole.draws[:, :3])
    assert forecast(three, TARGET).reason == "3 sizes of training set; a curve of 3 parameters takes at least 4"
    narrow = replace(whole, patients=np.linspace(50, 80, 6))
    assert "from 50 to 80 patients, less than 2 times as many" in forecast(narrow, TARGET).reason
    nobody = replace(whole, draws=np.full_like(whole.draws, np.nan))
    assert forecast(nobody, TARGET).reason == "too few patients of nodule to judge by"
    assert {forecast(one, TARGET).outcome for one in (three, narrow, nobody)} == {"too few points"}


def test_targets_and_multiples_out_of_range_are_refused():
    with pytest.raises(UsageError, match="target 1.0; expected a performance above 0 and below 1"):
        forecast(samples_of(PLANTED), 1.0)
    with pytest.raises(UsageError, match="multiple 1.0; expected above 1, at most 1000"):
        forecast(samples_of(PLANTED), 0.9, 1.0)
    with pytest.raises(UsageError, match="multiple inf; expected above 1, at most 1000"):
        forecast(samples_of(PLANTED), 0.9, math.inf)


def test_unknown_measure():
    with pytest.raises(UsageError, match="measure 'f1'; expected one of sensitivity, macro_auc"):
        curve_samples(simulated(0, PLANTED, n=40), "f1")
