"""Which weights are available, and the wording of a recommendation."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from med_transfer.backbones import find_backbone, load_backbone
from med_transfer.backbones.networks.resnet import medicalnet
from med_transfer.errors import BackboneError, UnknownBackbone, WeightsNotFound
from med_transfer.finetuning.config import BackboneConfig, FinetuneConfig
from med_transfer.selection import selecting
from med_transfer.selection.candidates import find_candidates
from med_transfer.selection.reasons import choose_backbone_to_try, recommend
from med_transfer.selection.record import BackboneScore, Cost, DomainGap, LayerScore


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_BACKBONES", str(tmp_path / "store"))
    (tmp_path / "store").mkdir()
    return tmp_path / "store"


@pytest.fixture
def stored(store):
    """MedicalNet's smallest in the user's folder, with random values."""
    file = store / "medicalnet-resnet10.safetensors"
    state = medicalnet(10).state_dict()
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file)
    return file


def test_what_lies_in_the_users_folder_is_found_by_name(stored):
    (candidate,) = find_candidates(["medicalnet-resnet10"]).ready
    assert (candidate.name, candidate.weights) == ("medicalnet-resnet10", None)
    assert candidate.sha256 == load_backbone("medicalnet-resnet10", stored).sha256
    loaded = candidate.network.load()
    assert torch.equal(loaded.state_dict()["conv1.weight"], load_backbone("medicalnet-resnet10").encoder.conv1.weight)


def test_a_weights_file_is_opened_once_and_its_network_is_kept_no_longer_than_it_is_used(random_weights, tmp_path):
    own = tmp_path / "own.safetensors"
    own.write_bytes(random_weights.read_bytes())
    (candidate,) = find_candidates([], [("resnet18-w8", own)]).ready
    own.unlink()
    expected = load_backbone("resnet18-w8", random_weights).encoder.state_dict()
    loaded = candidate.network.load()
    assert not loaded.training
    assert all(torch.equal(tensor, expected[name]) for name, tensor in loaded.state_dict().items())
    with pytest.raises(WeightsNotFound):
        candidate.network.load()


def test_the_same_weights_twice_are_one_candidate(random_weights, tmp_path):
    copy = tmp_path / "copy.safetensors"
    copy.write_bytes(random_weights.read_bytes())
    ready = find_candidates([], [("resnet18-w8", random_weights), ("resnet18-w8", copy)]).ready
    assert [candidate.weights for candidate in ready] == [random_weights]


def test_the_control_is_the_network_that_a_run_from_scratch_starts_from(random_weights):
    (candidate,) = find_candidates([], [("resnet18-w8", random_weights)]).ready
    control = candidate.control(seed=4)
    expected = load_backbone("resnet18-w8", scratch=True, seed=4).encoder.state_dict()
    assert all(torch.equal(tensor, expected[name]) for name, tensor in control.load().state_dict().items())
    assert len({candidate.network.key, control.key, candidate.control(seed=5).key}) == 3


def test_a_given_file_that_fits_nothing_is_an_error(store, random_weights):
    with pytest.raises(UnknownBackbone, match="unknown backbone 'resnet'"):
        find_candidates([], [("resnet", random_weights)])
    with pytest.raises(BackboneError, match=r"random\.safetensors: .*Choose the backbone that this file was made for"):
        find_candidates([], [("resnet10", random_weights)])


def test_damaged_weights_of_the_folder_are_left_out_with_their_reason(store, random_weights, monkeypatch):
    """Only where everything at hand was asked for; by its name it is an error."""
    (store / "medicalnet-resnet10.safetensors").write_bytes(b"damaged")
    with pytest.raises(BackboneError, match=r"medicalnet-resnet10\.safetensors: truncated or damaged"):
        find_candidates(["medicalnet-resnet10"])
    only = {"medicalnet-resnet10": find_backbone("medicalnet-resnet10")}
    monkeypatch.setattr("med_transfer.selection.candidates.backbones", lambda: only)  # Astra would take its time
    found = find_candidates(None, [("resnet18-w8", random_weights)])
    assert [candidate.spec.name for candidate in found.ready] == ["resnet18-w8"]
    assert "truncated or damaged" in found.left_out["medicalnet-resnet10"]


# The words

START = BackboneConfig(name="astra")


def layer(macro_auc, log_me=0.0, standard_error=0.03):
    return LayerScore((3,), 256, macro_auc, standard_error, 0.5, 0.6, 0.5, log_me, 1.0, -1.0, 10.0)


def score(name, macro_auc, gain, log_me=0.0, activations=10.0, **changes):
    best, random = layer(macro_auc, log_me), layer(macro_auc - gain)
    gap = DomainGap(None, None, None, None, None, None, None, "nothing is known")
    one = BackboneScore(
        name,
        "astra",
        None,
        "",
        "MIT",
        True,
        best,
        (best,),
        random,
        (random,),
        gain,
        0.04,
        None,
        gap,
        Cost(1.0, 10.0, activations, "cpu"),
    )
    return replace(one, **changes)


def test_the_first_that_beats_its_random_weights_is_recommended():
    name, reason = recommend([score("same", 0.9, 0.03), score("good", 0.8, 0.2)], 50, START)
    assert name == "good"
    assert "good, stage 3: a linear probe on its frozen features reaches macro AUC 0.80 (standard error 0.03)" in reason
    assert "+0.20 (standard error 0.04) against 0.60 of the same network with random weights" in reason
    assert "same stands before it but does not beat its own random weights." in reason


@pytest.mark.parametrize("gain", [0.2, 0.0])
def test_the_weights_are_ranked_as_published_even_if_the_config_pretrains_them_which_is_said(gain):
    said = (
        "The ranking is of the weights before the pretraining on this cohort that the config asks for "
        "(backbone.pretrain: painted_lesions); after it, another backbone may be better."
    )
    ranking = [score("a", 0.8, gain)]
    pretraining = BackboneConfig(name="astra", pretrain="painted_lesions")
    name, reason = recommend(ranking, 50, pretraining)
    plain_name, plain_reason = recommend(ranking, 50, START)
    assert (name, reason) == (plain_name, f"{plain_reason} {said}")


def test_what_decided_a_tie_is_said():
    evidence = [score("a", 0.79, 0.2, log_me=-0.3), score("b", 0.8, 0.2, log_me=-0.305)]
    _, by_evidence = recommend(evidence, 200, START)
    behind = "b (0.80) is within a standard error of the best; "
    assert f"{behind}LogME decided, -0.300 against -0.305 a scan." in by_evidence
    _, by_cost = recommend([score("a", 0.79, 0.2, activations=5), score("b", 0.8, 0.2, activations=9)], 50, START)
    assert (
        f"{behind}LogME does not tell them apart either (0.000 against 0.000 a scan), and cost decided: 5 MiB of "
        "activations a scan against 9 MiB." in by_cost
    )
    _, by_neither = recommend(evidence, 199, START)
    assert f"{behind}LogME (-0.300 against -0.305 a scan) and cost put it behind." in by_neither
    _, clear = recommend([score("a", 0.9, 0.2), score("b", 0.8, 0.2)], 50, START)
    assert "within a standard error" not in clear


def test_none_is_recommended_when_none_beats_its_random_weights():
    ranking = [score("a", 0.8, 0.04, backbone="resnet18-w8"), score("b", 0.7, -0.03), score("c", 0.7, -0.1)]
    name, reason = recommend(ranking, 50, START)
    assert name is None
    assert "No pretrained backbone beats its own random weights" in reason
    assert "more than a standard error. Nor is it shown that they are worth nothing: `finetune` from b (where" in reason
    assert "Closest: a, +0.04 (standard error 0.04) against 0.76" in reason


@pytest.mark.parametrize(
    ("gain_of_start", "weights", "found"),
    [(-0.03, None, "start"), (-0.04, None, "start"), (-0.03, "of/ones/own", "first"), (-0.05, None, "first")],
)
def test_nothing_shown_is_no_reason_to_leave_where_the_config_starts(gain_of_start, weights, found):
    others = [score(name, 0.8, gain, backbone="resnet18-w8") for name, gain in (("short", -0.1), ("first", 0.02))]
    ranking = [*others, score("start", 0.7, gain_of_start, weights=weights)]
    attempt = choose_backbone_to_try(ranking, START)
    assert attempt is not None
    assert attempt.name == found
    _, reason = recommend(ranking, 50, START)
    why = "where the config starts" if found == "start" else "the first that may help"
    assert f"`finetune` from {found} ({why}) with `--on-harm fallback`" in reason


def test_what_falls_short_of_its_random_weights_is_no_open_question():
    ranking = [score("a", 0.8, -0.05), score("b", 0.7, -0.1)]
    name, reason = recommend(ranking, 50, START)
    assert name is None
    assert choose_backbone_to_try(ranking, START) is None
    assert "more than a standard error, and all fall short of them by more than that" in reason
    assert "Train from scratch, gather more scans" in reason


def test_weights_as_good_as_random_ones_do_not_fall_short_of_them():
    """Of a gain of 0, without error where both networks tell all scans apart, it was said that it falls short."""
    ranking = [score("a", 1.0, 0.0, gain_standard_error=0.0)]
    assert choose_backbone_to_try(ranking, START) is ranking[0]
    _, reason = recommend(ranking, 50, START)
    assert "Nor is it shown that they are worth nothing" in reason


def test_a_gain_is_written_with_the_decimals_that_show_the_verdict():
    """Recommended for a gain above its error, it read +0.00 (standard error 0.00)."""
    small = score("small", 0.9967, 0.0041, gain_standard_error=0.0039)
    _, reason = recommend([small], 50, START)
    assert "reaches macro AUC 0.997 " in reason
    assert "+0.0041 (standard error 0.0039)" in reason
    assert small.gain_in_words == ("+0.0041", "0.0039")
    assert score("large", 0.9, 0.2).gain_in_words == ("+0.20", "0.04")
    assert score("none", 0.9, 0.0, gain_standard_error=0.0).gain_in_words == ("+0.00", "0.00")


def test_a_licence_without_commercial_use_is_said():
    _, reason = recommend([score("a", 0.9, 0.2, licence="CC BY-NC 4.0", commercial_use=False)], 50, START)
    assert reason.endswith("Its licence (CC BY-NC 4.0) allows no commercial use.")


def test_what_nobody_named_and_would_take_hours_on_a_processor_is_left_out(monkeypatch):
    monkeypatch.setattr(selecting.torch.cuda, "is_available", lambda: False)
    found = find_candidates(["med-transfer-small", "tiles-med-transfer-small"])
    config = FinetuneConfig.model_validate(
        {"input": {"region": "whole", "shape": [16, 64, 64], "spacing_mm": [2, 1, 1]}}
    )
    assert selecting.affordable(found, config, 1).ready == found.ready
    kept = selecting.affordable(found, config, 10_000_000)
    assert [candidate.name for candidate in kept.ready] == ["med-transfer-small"]
    assert re.fullmatch(
        r"it would take about [\d.]+ h for 10000000 scans .* name it .*", kept.left_out["tiles-med-transfer-small"]
    )
