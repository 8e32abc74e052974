"""Each method learns its task on unseen scans, changes the encoder, and ends the same after a kill."""

from __future__ import annotations

import json
import os
import signal
from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny import METHODS, curve, measured, tiny_config, tiny_method, tiny_student, tiny_training

from med_transfer.backbones import load_backbone
from med_transfer.errors import BackboneError, CohortError, ConfigError, UsageError
from med_transfer.pretraining import CropConfig, Pretrained, SourceScans
from med_transfer.pretraining.checkpoint import save_checkpoint
from med_transfer.pretraining.loop import half_precision_state
from med_transfer.pretraining.methods.contrastive import different_places
from med_transfer.pretraining.methods.losses import nt_xent
from med_transfer.pretraining.source.crops import Crops
from med_transfer.pretraining.source.source_gap import extract_source_features

LEARNING = {"steps": 60, "batch": 16, "learning_rate": 5e-3, "probe": {"every_steps": 60}}


@pytest.fixture(autouse=True)
def _one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_masked_autoencoding_is_better_than_the_mean_of_what_is_visible(chest, tmp_path):
    settings = LEARNING | {"steps": 90, "learning_rate": 1e-2, "probe": {"every_steps": 45}}
    tiny_training("masked_autoencoding", chest, tmp_path, **settings).run()
    assert measured(tmp_path)[-1]["explained"] > 0.2
    last = [entry for entry in curve(tmp_path) if "loss" in entry][-1]
    assert last["loss"] < 0.9 * last["mean_predictor"]


@pytest.mark.parametrize("loss", ["simclr", "vicreg"])
def test_contrastive_features_find_the_other_crop_of_the_same_place(chest, tmp_path, loss):
    crops = CropConfig(shape=(8, 16, 16), scans_per_batch=2, size_mm=(30, 50), large=0)
    tiny_training("contrastive", chest, tmp_path, contrastive={"loss": loss}, crops=crops, **LEARNING).run()
    found = measured(tmp_path)[-1]
    assert found["retrieval"] > 5 * found["chance"]
    if loss == "simclr":
        losses = [entry["loss"] for entry in curve(tmp_path) if "loss" in entry]
        assert losses[-1] < losses[0]


def test_labels_are_predicted_better_than_by_chance_in_patients_not_seen(labelled, tmp_path):
    crops = CropConfig(shape=(8, 16, 16), size_mm=(28, 40), shift_mm=4.0)
    tiny_training("labels", labelled, tmp_path, validation_scans=4, crops=crops, **LEARNING).run()
    found = measured(tmp_path)[-1]
    assert found["accuracy"] > 0.8
    assert found["log_likelihood"] > -0.6  # chance: log 0.5


def test_masks_are_found_in_patients_not_seen(labelled, tmp_path):
    crops = CropConfig(shape=(8, 16, 16), size_mm=(28, 40))
    method = tiny_method("masks", labelled, validation_scans=3, crops=crops)
    untrained = method.eval().quality(method.encoder.eval())["dice"]
    tiny_training("masks", labelled, tmp_path, validation_scans=3, crops=crops, **LEARNING).run()
    assert measured(tmp_path)[-1]["dice"] > max(0.3, 3 * untrained)


def test_what_was_painted_is_read_from_crops_not_seen(chest, tmp_path):
    crops = CropConfig(shape=(8, 16, 16), scans_per_batch=2, size_mm=(28, 40))
    tiny_training("painted_nodules", chest, tmp_path, crops=crops, **LEARNING | {"batch": 32}).run()
    start, end = measured(tmp_path)
    assert start["explained"] < 0.05
    assert end["explained_density"] > 0.2
    assert end["kind_accuracy"] > max(0.3, start["kind_accuracy"])  # chance: a fifth
    place = [entry["place"] for entry in curve(tmp_path) if "place" in entry]
    assert place[-1] < place[0]


@pytest.mark.parametrize(("kinds", "nodule"), [((1, 1e-9, 1e-9, 1e-9), 1), ((1, 1, 1, 1), 1e-6)])
def test_facts_that_do_not_vary_among_the_crops_kept_out_do_not_count(chest, kinds, nodule):
    """All nodules solid, or none: the mean of what is explained would be infinite, or no number, for ever."""
    scenes = {"lung": 1, "nodule": (nodule, nodule), "kinds": kinds, "radius_mm": (5, 15)}
    method = tiny_method("painted_nodules", chest, batch=4, lung_scenes=scenes)
    with torch.no_grad():
        figures = method.eval().quality(method.encoder.eval())
    assert np.isfinite(list(figures.values())).all()
    varying = {"size", "density", "unevenness", "elongation"} if nodule == 1 else set()
    assert {name.removeprefix("explained_") for name in figures if "explained_" in name} == varying
    assert ("explained" in figures) == bool(varying)


def test_statistics_are_measured_again_without_a_second_source_on_the_device(chest, monkeypatch):
    method = tiny_method("masked_autoencoding", chest)
    monkeypatch.setattr(method, "sampler", None)
    before = method.crops.random.get_state()
    first, second = (method.finished(method.encoder).state_dict() for _ in range(2))
    assert all(value.equal(second[name]) for name, value in first.items())
    assert method.crops.random.get_state().equal(before)


def test_nothing_to_paint_is_refused_before_anything_is_read():
    for scenes in (None, {"nodule": (0, 0)}):
        with pytest.raises(ValidationError, match="painted_nodules needs lung_scenes with a probability of nodules"):
            tiny_config("painted_nodules", lung_scenes=scenes)


@pytest.mark.parametrize("method", METHODS)
def test_a_killed_run_ends_like_one_that_was_not(chest, labelled, tmp_path, method):
    source = labelled if method in ("labels", "masks") else chest
    often = method == "contrastive"  # a checkpoint after every step, else only with the measurement after the seventh
    settings = {"steps": 14, "batch": 4, "checkpoint_seconds": 0 if often else 1e6, "probe": {"every_steps": 7}}
    whole = tiny_training(method, source, tmp_path / "whole", **settings)
    whole.run()

    def killed(stage: str, done: int, total: int, note: str = "") -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        try:
            tiny_training(method, source, tmp_path / "killed", progress=killed, **settings).run()
        finally:
            os._exit(1)  # on any error: a second pytest on the first one's pipes would be worse
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = torch.load(tmp_path / "killed/checkpoint.pt", weights_only=True)
    assert json.loads(left["course"])["step"] == (9 if often else 7)

    steps = []
    resumed = tiny_training(method, source, tmp_path / "killed", lambda stage, done, *_: steps.append(done), **settings)
    resumed.run()
    assert steps == [10, 14]
    for ours, theirs in ((resumed.method, whole.method), (resumed.average, whole.average)):
        for name, value in theirs.state_dict().items():
            assert torch.equal(ours.state_dict()[name], value), name
    assert curve(tmp_path / "killed") == curve(tmp_path / "whole")
    written, expected = (load_file(tmp_path / run / "encoder.safetensors") for run in ("killed", "whole"))
    assert all(torch.equal(written[name], value) for name, value in expected.items())
    start = tiny_student().state_dict()
    assert not torch.allclose(written["blocks.0.0.weight"].float(), start["blocks.0.0.weight"], atol=1e-3)


def test_a_finished_run_is_left_as_it_is(chest, tmp_path):
    tiny_training("contrastive", chest, tmp_path).run()
    before = {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()}
    tiny_training("contrastive", chest, tmp_path).run()
    assert {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in tmp_path.iterdir()} == before


def test_ctrl_c_saves_the_step_before_it_stops(chest, tmp_path):
    def pressed(stage: str, done: int, total: int, note: str = "") -> None:
        if done == 10:
            signal.raise_signal(signal.SIGINT)

    handler = signal.getsignal(signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        tiny_training("contrastive", chest, tmp_path, pressed, steps=20).run()
    assert signal.getsignal(signal.SIGINT) is handler
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    assert json.loads(state["course"])["step"] == 10


def test_a_checkpoint_of_another_run_or_a_damaged_one_is_refused(chest, tmp_path):
    tiny_training("distillation", chest, tmp_path).run()
    with pytest.raises(BackboneError, match="checkpoint of another run; expected the same source scans"):
        tiny_training("distillation", chest, tmp_path, seed=1).run()
    with pytest.raises(BackboneError, match="checkpoint of another run"):
        tiny_training("distillation", SourceScans(chest.scans[1:]), tmp_path).run()
    state = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    of_gpu = {name: torch.zeros(16, dtype=torch.uint8) for name in state["chance"][0]}  # as CUDA's generators are
    torch.save(state | {"device": "cuda", "chance": [of_gpu]}, tmp_path / "checkpoint.pt")
    with pytest.raises(BackboneError, match="checkpoint of another run; expected .* kind of device"):
        tiny_training("distillation", chest, tmp_path).run()
    (tmp_path / "checkpoint.pt").write_bytes(b"PK\x03\x04 cut short")
    with pytest.raises(UsageError, match="checkpoint.pt: is damaged; .* Remove it, and the same command"):
        tiny_training("distillation", chest, tmp_path).run()


def test_a_checkpoint_of_a_version_with_fewer_settings_is_gone_on_from(chest, tmp_path):
    tiny_training("contrastive", chest, tmp_path, steps=2).run()
    checkpoint = tmp_path / "checkpoint.pt"
    state = torch.load(checkpoint, weights_only=True)
    config, *others = json.loads(state["settings"])
    del config["gradient_clip"], config["contrastive"]["shift"]
    torch.save(state | {"settings": json.dumps([config, *others], sort_keys=True)}, checkpoint)
    before = checkpoint.read_bytes()
    tiny_training("contrastive", chest, tmp_path, steps=2).run()
    assert checkpoint.read_bytes() == before  # it is finished, and left unchanged
    for changes in ({"gradient_clip": 0.5}, {"contrastive": {"embedding": 16, "shift": 0.5}}):
        with pytest.raises(BackboneError, match="checkpoint of another run"):
            tiny_training("contrastive", chest, tmp_path, steps=2, **changes).run()


@pytest.mark.parametrize("forms", [{"blob": 1.0}, {"blob": 0.35}])
def test_forms_that_are_left_out_are_no_settings_of_an_older_version(chest, tmp_path, forms):
    asked = {"steps": 1, "validation_scans": 0, "painted_lesions": {"forms": forms}}
    tiny_training("painted_lesions", chest, tmp_path, **asked).run()
    tiny_training("painted_lesions", chest, tmp_path, **asked).run()
    with pytest.raises(BackboneError, match="checkpoint of another run"):
        tiny_training("painted_lesions", chest, tmp_path, **asked | {"painted_lesions": {}}).run()


def test_killed_while_its_end_is_written_a_pretraining_has_its_curve(chest, tmp_path, monkeypatch):
    def killed(folder, state):
        save_checkpoint(folder, state)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("med_transfer.pretraining.loop.save_checkpoint", killed)
        with pytest.raises(KeyboardInterrupt):
            tiny_training("contrastive", chest, tmp_path, steps=1).run()
    tiny_training("contrastive", chest, tmp_path, steps=1).run()
    made = Pretrained(tmp_path, "resnet18-w8", 1, 0)
    assert (made.record["steps"], made.record["curve"][-1]["step"]) == (1, 1)
    changed = made.curve.read_text().replace('"crops_seen": 8', '"crops_seen": 9')
    for damaged in ("{", '["x"]', '{"steps": 1}', changed):
        made.curve.write_text(damaged)
        with pytest.raises(UsageError, match="curve.json: is damaged"):
            _ = made.record


def test_a_damaged_encoder_of_a_finished_pretraining_is_refused(chest, tmp_path):
    training = tiny_training("distillation", chest, tmp_path)
    encoder = training.run()
    for damaged in (encoder.read_bytes()[:-9], b""):
        encoder.write_bytes(damaged)
        with pytest.raises(UsageError, match="encoder.safetensors: is damaged; .* Remove checkpoint.pt beside it"):
            extract_source_features(training.method, encoder)


def test_the_best_encoder_of_a_stopped_pretraining_that_is_lost_is_told(chest, tmp_path, caplog):
    def stopped(stage: str, done: int, total: int, note: str = "") -> None:
        if done == 10:
            signal.raise_signal(signal.SIGINT)

    asked = {"steps": 20, "probe": {"every_steps": 5}, "stop_when": {"patience": 50, "least_gain": 9}}
    with pytest.raises(KeyboardInterrupt):
        tiny_training("contrastive", chest, tmp_path, stopped, **asked).run()
    encoder = tmp_path / "encoder.safetensors"
    for lost in (encoder.read_bytes()[:-9], None):
        encoder.unlink()
        if lost:
            encoder.write_bytes(lost)
        training = tiny_training("contrastive", chest, tmp_path, **asked)
        assert training._restore()
        assert training.state.best is None
        assert "the best one so far is lost" in caplog.text
        caplog.clear()
    tiny_training("contrastive", chest, tmp_path, **asked).run()
    with safe_open(encoder, "pt") as file:
        assert file.metadata()["steps"] == "15"


def test_a_number_that_has_changed_in_what_a_pretraining_left_is_no_other_encoder(chest, tmp_path):
    tiny_training("contrastive", chest, tmp_path, steps=1).run()
    for name, words in (("checkpoint.pt", "Remove it, and"), ("encoder.safetensors", "Remove checkpoint.pt beside it")):
        whole = (tmp_path / name).read_bytes()
        changed = bytearray(whole)
        changed[len(whole) // 2] ^= 1
        (tmp_path / name).write_bytes(changed)
        with pytest.raises(UsageError, match=f"{name}: is damaged; .* {words}"):
            tiny_training("contrastive", chest, tmp_path, steps=1).run()
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "encoder.safetensors").unlink()
    with pytest.raises(UsageError, match=r"encoder.safetensors: cannot be read \(No such file"):
        tiny_training("contrastive", chest, tmp_path, steps=1).run()


def test_a_checkpoint_made_with_other_masks_or_labels_is_refused(labelled, tmp_path):
    tiny_training("distillation", labelled, tmp_path).run()
    first, *others = labelled.scans
    for change in ({"mask": first.mask // 2}, {"label": "solid"}, {"centre": (1.0, 2.0, 3.0)}):
        changed = SourceScans((replace(first, **change), *others), labelled.labels)
        with pytest.raises(BackboneError, match="checkpoint of another run; expected .* the same labels and masks"):
            tiny_training("distillation", changed, tmp_path).run()
    tiny_training("distillation", SourceScans(tuple(reversed(labelled.scans)), labelled.labels), tmp_path).run()


def test_lung_scenes_are_painted_where_they_are_asked_for(chest):
    plain, painted = (tiny_method("distillation", chest, **more) for more in ({}, {"lung_scenes": {"lung": 1}}))
    assert not torch.equal(plain.draw(), painted.draw())
    assert set(painted.generators()) - set(plain.generators()) == {"scenes"}


def test_the_file_remembers_what_it_came_from(labelled, tmp_path):
    training = tiny_training("distillation", SourceScans(labelled.scans[::-1], labelled.labels), tmp_path)
    training.run()
    with safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        record = file.metadata()
        dtypes = {name: file.get_tensor(name).dtype for name in file.keys()}  # noqa: SIM118 (no mapping)
    assert json.loads(record["source_scans"]) == sorted(labelled.content_hashes)
    assert json.loads(record["source_lock"])["patient_hashes"] == [f"patient-{n}" for n in range(8)]
    assert record["teacher_sha256"] == "0" * 64
    assert json.loads(record["steps"]) == 4
    assert dtypes["blocks.0.0.weight"] == torch.float16
    assert dtypes["blocks.0.1.running_var"] == torch.float32


def test_a_transformer_is_read_again_with_its_tables_of_positions(tmp_path):
    """They are whole numbers up to 2196, and no fp16 holds all of these."""
    fresh = load_backbone("swin-btcv", scratch=True).encoder
    save_file(half_precision_state(fresh), tmp_path / "encoder.safetensors")
    loaded = load_backbone("swin-btcv", tmp_path / "encoder.safetensors")
    assert loaded.report.matched_share == 1
    table = "layers1.0.blocks.0.attn.relative_position_index"
    torch.testing.assert_close(loaded.encoder.state_dict()[table], fresh.state_dict()[table])


def test_the_budget_can_be_wall_time(chest, tmp_path):
    training = tiny_training("contrastive", chest, tmp_path, steps=None, minutes=0.01)
    training.run()
    assert training.state.seconds >= 0.6
    assert training.state.step >= 1


def test_a_training_that_diverges_leaves_no_more_than_the_start(chest, tmp_path):
    with pytest.raises(ConfigError, match=r"the gradient is not finite at step \d+; .* Lower learning_rate"):
        tiny_training("masked_autoencoding", chest, tmp_path, steps=30, learning_rate=1e30).run()
    assert {path.name for path in tmp_path.iterdir()} == {"encoder.safetensors"}
    with safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        assert json.loads(file.metadata()["steps"]) == 0


def test_stops_when_nothing_is_gained_and_keeps_the_best(chest, tmp_path):
    settings = {"steps": 40, "probe": {"every_steps": 2}, "stop_when": {"patience": 3, "least_gain": 1.0}}
    training = tiny_training("masked_autoencoding", chest, tmp_path, **settings)
    training.run()
    assert training.state.step == 6  # the measurement of the start is the best, three more gain nothing
    with safe_open(tmp_path / "encoder.safetensors", "pt") as file:
        assert json.loads(file.metadata()["steps"]) == 0
    assert (tmp_path / "curve.png").read_bytes().startswith(b"\x89PNG")
    start, *_, end = [entry["measured"] for entry in training.state.curve if "measured" in entry]
    assert Pretrained(tmp_path, "tiny", 1, 0).measured == start != end  # those of the encoder that was kept


def test_hidden_blocks_are_whole_and_as_many_as_asked_for(chest):
    method = tiny_method("masked_autoencoding", chest)
    hidden = method._hidden(5, torch.Generator().manual_seed(0))
    blocks = hidden.reshape(5, 2, 4, 2, 4, 2, 4).permute(0, 1, 3, 5, 2, 4, 6).flatten(4)
    assert torch.equal(blocks.amin(-1), blocks.amax(-1))
    assert (blocks.amax(-1).sum((1, 2, 3)) == round(0.6 * 8)).all()


def test_the_network_does_not_see_what_is_hidden(chest):
    method = tiny_method("masked_autoencoding", chest).eval()
    x, hidden = method.draw()
    seen = []
    method.encoder.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    method._errors(x, hidden, method.encoder)
    method._errors(torch.where(hidden > 0, torch.rand_like(x), x), hidden, method.encoder)
    torch.testing.assert_close(seen[0], seen[1])


def test_the_finished_encoder_has_the_statistics_of_whole_crops(chest, tmp_path):
    training = tiny_training("masked_autoencoding", chest, tmp_path, steps=2)
    training.run()
    finished = training.method.finished(training.average)
    first = finished.blocks[0]
    sampler = training.method.sampler(training.method.context.training, seed=1)
    inputs = [training.method.windowed(sampler.batch(8).hu, degraded=False) for _ in range(2)]
    means = torch.stack([first[0](x).mean((0, 2, 3, 4)) for x in inputs]).mean(0)
    torch.testing.assert_close(first[1].running_mean, means)


def test_nt_xent_agrees_with_the_formula():
    torch.manual_seed(0)
    z = torch.randn(6, 4)
    comparable = torch.ones(3, 3, dtype=torch.bool)
    comparable[0, 1] = comparable[1, 0] = False  # crops 0 and 1 show one place
    loss, _ = nt_xent(z, 0.5, comparable)
    unit = z / z.norm(dim=1, keepdim=True)
    terms = []
    for i in range(6):
        partner = (i + 3) % 6
        others = [
            k for k in range(6) if k != i and (k == partner or {i % 3, k % 3} == {0, 2} or {i % 3, k % 3} == {1, 2})
        ]
        likeness = {k: torch.exp(unit[i] @ unit[k] / 0.5) for k in others}
        terms.append(-torch.log(likeness[partner] / sum(likeness.values())))
    torch.testing.assert_close(loss, torch.stack(terms).mean())


def test_neighbours_in_one_scan_are_no_negatives():
    centre = torch.tensor([[0.0, 0, 0], [5, 0, 0], [100, 0, 0], [0, 0, 0]])
    size = torch.full((4, 3), 40.0)
    crops = Crops(
        torch.zeros(4, 1, 1, 1, 1), size, torch.zeros(4, dtype=torch.bool), torch.tensor([0, 0, 0, 1]), centre
    )
    apart = different_places(crops)
    assert apart.tolist() == [
        [False, False, True, True],
        [False, False, True, True],
        [True, True, False, True],
        [True, True, True, False],
    ]


def test_what_a_method_needs_is_said(chest):
    with pytest.raises(CohortError, match="the source has no labels; expected a cohort.csv with a label column"):
        tiny_method("labels", chest)
    with pytest.raises(CohortError, match="no scan has a mask; expected a mask in the rows"):
        tiny_method("masks", chest)
    with pytest.raises(ConfigError, match="validation_scans: 3 source scans of 3 patients, 3 of them for validation"):
        tiny_method("contrastive", chest, validation_scans=3)


def test_validation_keeps_whole_patients_out(labelled):
    twice = SourceScans(labelled.scans + tuple(scan for scan in labelled.scans))
    training, validation = twice.split(3)
    assert len(validation) == 4
    assert not set(training.patient_hashes) & set(validation.patient_hashes)
    assert twice.split(0) == (twice, None)


def test_a_config_that_cannot_work_is_refused():
    for changes, message in (
        ({"steps": None}, "exactly one of minutes and steps"),
        ({"minutes": 1}, "exactly one of minutes and steps"),
        ({"input_shape": (8, 12, 12)}, "must divide"),
        ({"masked_autoencoding": {"block": 8}}, "true divisor"),
        ({"validation_scans": 0, "stop_when": {}}, "something to measure"),
    ):
        with pytest.raises(ValueError, match=message):
            tiny_config("masked_autoencoding", **changes)
