"""The curve of a pretraining, and when it no longer improves, by hand."""

from __future__ import annotations

import pytest
import torch

from med_transfer.pretraining.config import StopConfig
from med_transfer.pretraining.training_state import LOG_STEPS, TrainingState, draw_curve


def test_the_curve_has_the_mean_losses_of_so_many_steps_and_of_those_before_a_measurement():
    state = TrainingState()
    for step in range(LOG_STEPS + 2):
        state.add({"loss": torch.tensor(float(step)), "place": torch.tensor(2.0)})
    state.seconds = 1.5
    again = TrainingState.from_json(state.to_json())  # as a resumed run finds it
    again.measured({"explained": 0.25}, "explained", None)
    assert again.curve == [
        {"step": LOG_STEPS, "seconds": 0.0, "loss": (LOG_STEPS - 1) / 2, "place": 2.0},
        {"step": LOG_STEPS + 2, "seconds": 1.5, "loss": LOG_STEPS + 0.5, "place": 2.0},
        {"step": LOG_STEPS + 2, "seconds": 1.5, "measured": {"explained": 0.25}},
    ]


@pytest.mark.parametrize(
    ("figures", "gained", "ended"),
    [
        ((0.5, 0.75, 1.0, 0.75), (True, False, True, False), False),  # a gain equal to the minimum does not count
        ((0.5, 0.5, 0.25), (True, False, False), True),
        ((0.5, 0.25, 1.0, 1.0), (True, False, True, False), False),  # patience restarts
        ((0.0, -0.5, None), (True, False, True), False),  # what was not measured is kept
    ],
)
def test_the_best_is_kept_and_patience_ends_the_training(figures, gained, ended):
    state, stop = TrainingState(), StopConfig(patience=2, least_gain=0.25)
    measured = [{"explained": value} if value is not None else {} for value in figures]
    assert tuple(state.measured(one, "explained", stop) for one in measured) == gained
    assert state.ended == ended


def test_another_figure_is_not_held_against_the_best_so_far():
    """As of a probe that was added to a run that went on."""
    state, stop = TrainingState(), StopConfig(patience=2)
    assert state.measured({"explained": 0.9}, "explained", stop)
    assert not state.measured({"explained": 0.8}, "explained", stop)
    state = TrainingState.from_json(state.to_json())
    assert state.measured({"explained": 0.8, "probe_auc": 0.6}, "probe_auc", stop)
    assert not state.ended
    assert state.measured({"explained": 0.8, "probe_auc": 0.7}, "probe_auc", stop)


def test_the_figure_of_other_scans_is_not_held_against_the_best_so_far():
    """As of a probe on another cohort; an older version did not write down on which scans it was measured."""
    state, stop = TrainingState(best=0.9, without_gain=1, best_of="probe_auc"), StopConfig(patience=2)
    assert not state.measured({"probe_auc": 0.7}, "probe_auc", stop, "one")
    state = TrainingState.from_json(TrainingState(best=0.9, without_gain=1, best_of="probe_auc one").to_json())
    assert state.measured({"probe_auc": 0.7}, "probe_auc", stop, "other")
    assert (state.best, state.without_gain, state.ended) == (0.7, 0, False)
    assert not state.measured({"probe_auc": 0.6}, "probe_auc", stop, "other")


def test_the_curve_is_drawn_of_what_there_is(tmp_path):
    """Where all slabs held out are alike, a measurement has no figure."""
    curve = [{"step": 0, "measured": {}}, {"step": 50, "loss": 0.5}, {"step": 60, "measured": {"auc": 0.75}}]
    for length in range(4):
        draw_curve(curve[:length], "auc", tmp_path / f"{length}.png")
        assert (tmp_path / f"{length}.png").read_bytes().startswith(b"\x89PNG")
