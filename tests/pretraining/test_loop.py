"""One step of the loop, its budget and what it reports, by the formulas; the content of a checkpoint."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_training

from med_transfer.model.features import effective_rank
from med_transfer.pretraining.loop import Training
from med_transfer.pretraining.optimisation import learning_rate_share


def weights(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def test_a_step_has_its_rate_its_clipped_gradient_and_its_share_in_the_mean(chest, tmp_path):
    settings = {"steps": 20, "warm_up": 0.1, "learning_rate": 0.02, "gradient_clip": 1e-3, "ema": 0.25}
    training = tiny_training("contrastive", chest, tmp_path, **settings)
    assert not any(module.training for module in training.average.modules())
    for done in range(3):
        before, mean = weights(training.method.encoder), weights(training.average)
        training._step()
        rates = [group["lr"] for group in training.optimizer.param_groups]
        assert rates == pytest.approx([0.02 * learning_rate_share(done / 20, 0.1)] * 2)
        gradients = [p.grad for p in training.method.parameters() if p.grad is not None]
        assert float(torch.cat([g.ravel() for g in gradients]).norm()) == pytest.approx(1e-3, rel=1e-3)
        decay = min(0.25, (done + 1) / (done + 11))  # the first steps count more: the mean soon leaves the start
        for name, now in weights(training.method.encoder).items():
            assert not now.equal(before[name])
            torch.testing.assert_close(weights(training.average)[name], decay * mean[name] + (1 - decay) * now)
    assert training.state.step == 3


@pytest.mark.parametrize(
    ("budget", "step", "seconds", "share"),
    [({"steps": 8}, 2, 1e6, 0.25), ({"steps": None, "minutes": 2.0}, 1000, 30.0, 0.25)],
)
def test_the_budget_is_steps_or_minutes(chest, tmp_path, budget, step, seconds, share):
    training = tiny_training("contrastive", chest, tmp_path, **budget)
    training.state.step, training.state.seconds = step, seconds
    assert training._spent() == pytest.approx(share)


def told(training: Training, *moments: tuple[int, float]) -> list[tuple]:
    said = []
    training.progress = lambda *words: said.append(words)
    for training.state.step, training.state.seconds in moments:
        training._report_progress(torch.tensor(0.12345))
    return said


def test_every_tenth_step_and_the_last_one_are_told(chest, tmp_path):
    training = tiny_training("contrastive", chest, tmp_path, steps=23)
    moments = [(step, 0.0) for step in range(1, 24)]
    assert told(training, *moments) == [("pretraining", done, 23, "loss 0.1235") for done in (10, 20, 23)]


def test_of_a_budget_in_minutes_the_seconds_are_told_and_no_more_than_there_are(chest, tmp_path):
    training = tiny_training("contrastive", chest, tmp_path, steps=None, minutes=1.5)
    moments = ((9, 10.0), (10, 30.4), (11, 40.0), (20, 91.0))
    assert told(training, *moments) == [("pretraining (seconds)", done, 90, "loss 0.1235") for done in (30, 90)]


@torch.no_grad()
def test_the_effective_rank_is_of_crops_as_they_are(chest, tmp_path):
    training = tiny_training("contrastive", chest, tmp_path)
    training.method.eval()
    plain = training.method.windowed(training.method.held_out.hu, degraded=False)
    expected = effective_rank(training.method.pooled(training.method.maps(plain, training.average)))
    assert [training._figures(training.average)["effective_rank"] for _ in range(2)] == [expected] * 2


def test_a_checkpoint_leaves_out_the_teacher_who_never_changes(chest, tmp_path):
    training = tiny_training("distillation", chest, tmp_path)
    training._save(last=False)
    known = set(training.method.state_dict())
    saved = set(torch.load(tmp_path / "checkpoint.pt", weights_only=True)["method"])
    assert known - saved == {name for name in known if name.startswith("teacher.encoder.")} != set()
