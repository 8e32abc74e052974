"""A training that is killed resumes where it was, and ends like an uninterrupted one."""

from __future__ import annotations

import functools
import json
import signal
from pathlib import Path

import pytest
import torch
from command_line import TINY, read_rows, write_rows
from safetensors.torch import load_file, save_file
from small_run_data import small_config, small_run_data, source_of

import med_transfer as mt
from med_transfer.backbones import load_backbone
from med_transfer.errors import UsageError
from med_transfer.finetuning import fold_training
from med_transfer.finetuning.callbacks.checkpoints import ResumeFile, ResumePoint
from med_transfer.finetuning.folds import train_folds
from med_transfer.progress import silent

HOLDOUT = ("split.kind=holdout", "split.val_fraction=0.34")
EPOCHS, STEPS = 3, 2  # 16 scans an epoch, 8 a batch
SETTINGS = (*TINY, f"training.epochs={EPOCHS}", "training.epoch_scans=16")
TRAINED = ("transfer.strategy=auto",)  # not the linear head that is planned for whole scans
FIRST, SECOND = "fine-tuning, fold 1 of 2", "fine-tuning, fold 2 of 2"


@pytest.fixture(autouse=True)
def _state_after_each_epoch(monkeypatch):
    """Instead of once a minute."""
    monkeypatch.setattr(fold_training, "ResumePoint", functools.partial(ResumePoint, seconds=0.0))


class Listener:
    """Remembers the steps of each stage, and presses Ctrl-C at one of them."""

    def __init__(self, stop_at: tuple[str, int] | None = None) -> None:
        self.stop_at, self.steps = stop_at, {}

    def __call__(self, stage: str, done: int, total: int, note: str = "") -> None:
        self.steps.setdefault(stage, []).append(done)
        if (stage, done) == self.stop_at:
            raise KeyboardInterrupt


def killed(cohort: Path, out: Path, stage: str, step: int, overrides: tuple[str, ...] = SETTINGS) -> None:
    with pytest.raises(KeyboardInterrupt):
        mt.finetune(cohort, out=out, overrides=overrides, progress=Listener((stage, step)))


def test_killed_training_goes_on_from_its_last_epoch(cohort_csv, tmp_path):
    handler = signal.getsignal(signal.SIGINT)
    killed(cohort_csv, tmp_path, SECOND, 3 * STEPS - 1)  # in the third epoch of the second fold
    assert signal.getsignal(signal.SIGINT) is handler
    first_fold = tmp_path / "training/fold-0/best.safetensors"
    second_fold = tmp_path / "training/fold-1"
    weights, written = first_fold.read_bytes(), first_fold.stat().st_mtime_ns
    assert (second_fold / fold_training.RESUME_FILE).exists()
    assert not (second_fold / "best.safetensors").exists()
    assert not (tmp_path / "bundle").exists()

    listener = Listener()
    run = mt.finetune(cohort_csv, out=tmp_path, overrides=SETTINGS, progress=listener)
    assert "fine-tuning, fold 1 of 2" not in listener.steps
    assert (first_fold.read_bytes(), first_fold.stat().st_mtime_ns) == (weights, written)
    assert listener.steps[SECOND] == list(range(2 * STEPS + 1, EPOCHS * STEPS + 1))
    for fold in ("fold-0", "fold-1"):
        course = json.loads((tmp_path / "training" / fold / "history.json").read_text())
        assert [row["epoch"] for row in course["history"]] == list(range(EPOCHS))
        assert not (tmp_path / "training" / fold / fold_training.RESUME_FILE).exists()
    assert run.metrics.n_scans == 6
    assert mt.load_bundle(run.bundle).record.n_fold_models == 2


def test_killed_while_reading_and_in_the_first_epoch_ends_as_if_nothing_had_been(cohort_csv, tmp_path):
    one_member, stage = (*SETTINGS, "split.kind=holdout", "split.val_fraction=0.34"), "fine-tuning, fold 1 of 1"
    with pytest.raises(KeyboardInterrupt):
        mt.finetune(cohort_csv, out=tmp_path / "a", overrides=one_member, progress=Listener(("reading scans", 10)))
    kept = {path: path.stat().st_mtime_ns for path in (tmp_path / "a/prepared").iterdir()}
    assert len(kept) == 10
    killed(cohort_csv, tmp_path / "a", stage, 1, one_member)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept

    resumed = mt.finetune(cohort_csv, out=tmp_path / "a", overrides=one_member)
    whole = mt.finetune(cohort_csv, out=tmp_path / "b", overrides=one_member)
    first, second = (load_file(run.folder / "training/fold-0/best.safetensors") for run in (resumed, whole))
    assert all(first[name].equal(second[name]) for name in second)


@pytest.fixture(scope="module")
def some_weights(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("source") / "some.safetensors"
    encoder = load_backbone("resnet18-w8", seed=3).encoder
    save_file({name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}, path)
    return path


@pytest.mark.parametrize(
    ("from_source", "override"),
    [
        (False, "transfer.on_harm=fallback"),
        (False, "training.freeze_norm_statistics=true"),
        (True, "transfer.strategy.stage_decay=1"),
        (True, "training.freeze_norm_statistics=false"),
    ],
)
def test_what_a_run_wrote_does_not_keep_it_from_going_on(cohort_csv, some_weights, tmp_path, from_source, override):
    overrides = (*SETTINGS, "split.kind=holdout", "split.val_fraction=0.34", override)
    overrides += (f"backbone.weights={some_weights}",) if from_source else ()
    for step in (1, 2):
        killed(cohort_csv, tmp_path, "fine-tuning, fold 1 of 1", step, overrides)


def another_source(path: Path, seed: int) -> None:
    encoder = load_backbone("resnet18-w8", seed=seed).encoder
    save_file({name: tensor.contiguous() for name, tensor in encoder.state_dict().items()}, path)


def test_a_source_whose_file_was_replaced_is_another_run(cohort_csv, tmp_path):
    weights, out = tmp_path / "w.safetensors", tmp_path / "out"
    overrides = (*SETTINGS, *TRAINED, f"backbone.weights={weights}", "from_scratch_baseline=false")
    another_source(weights, 1)
    killed(cohort_csv, out, FIRST, 1, overrides)
    another_source(weights, 2)
    with pytest.raises(UsageError, match=r"out: the folder holds a run from another source; .*Choose another -o"):
        mt.finetune(cohort_csv, out=out, overrides=overrides)
    another_source(weights, 1)
    killed(cohort_csv, out, FIRST, 2, overrides)  # the right one back: it goes on


def test_a_finished_run_of_an_earlier_version_tells_its_source_too(cohort_csv, tmp_path):
    weights, out = tmp_path / "w.safetensors", tmp_path / "out"
    overrides = (
        *SETTINGS,
        *TRAINED,
        f"backbone.weights={weights}",
        "from_scratch_baseline=false",
        "training.epochs=1",
        *HOLDOUT,
    )
    another_source(weights, 1)
    mt.finetune(cohort_csv, out=out, overrides=overrides)
    (out / "made_from.json").unlink()
    another_source(weights, 2)
    with pytest.raises(UsageError, match="holds a run from another source"):
        mt.finetune(cohort_csv, out=out, overrides=overrides)


@pytest.mark.parametrize(
    ("spacing", "refusal"),
    [
        ("null", "holds a run on other images or regions; expected .*the scans"),
        ("[2,2,2]", "holds a run on regions of another size, or other masks; expected .*the regions"),  # same tensors
    ],
)
def test_another_region_of_the_same_scans_is_another_run(cohort_csv, tmp_path, spacing, refusal):
    rows = [{**row, "scan": str(cohort_csv.parent / row["scan"])} for row in read_rows(cohort_csv)]
    if "mask" in rows[0]:
        rows = [{**row, "mask": ""} for row in rows]
    table, overrides = (
        write_rows(tmp_path / "cohort.csv", rows),
        (*SETTINGS, "input.region=roi", f"input.spacing_mm={spacing}"),
    )
    killed(table, tmp_path / "out", FIRST, 1, overrides)
    moved = [{**row, "roi_size_mm": str(1.5 * float(row["roi_size_mm"]))} for row in rows]
    with pytest.raises(UsageError, match=refusal):
        mt.finetune(write_rows(table, moved), out=tmp_path / "out", overrides=overrides)
    killed(write_rows(table, rows[::-1]), tmp_path / "out", FIRST, 2, overrides)  # only the order differs


def test_a_bundle_that_is_not_of_a_run_there_is_not_replaced(cohort_csv, tmp_path):
    mine = tmp_path / "bundle/mine.txt"
    mine.parent.mkdir()
    mine.write_text("mine")
    with pytest.raises(UsageError, match="bundle: the folder holds a bundle and no run of it; .* Choose another -o"):
        killed(cohort_csv, tmp_path, FIRST, 2)
    assert mine.read_text() == "mine"


def test_a_damaged_file_of_a_fold_is_named(tmp_path):
    run_data, config = small_run_data(signal=0.7, n=18, n_test=0), small_config("full")
    run = functools.partial(train_folds, run_data, config, source_of("sees"), tmp_path, silent)
    run()
    fold = tmp_path / "fold-0"
    for file in (
        fold / fold_training.WEIGHTS_FILE,
        fold / fold_training.HISTORY_FILE,
        fold / fold_training.RESUME_FILE,
    ):
        whole = file.read_bytes() if file.exists() else b"PK"
        for damaged in (whole[: len(whole) // 2], b"", b'["x"]'):
            file.write_bytes(damaged)
            with pytest.raises(UsageError, match=f"{file.name}: is damaged; .* Remove it, and the same command"):
                run()
        if whole != b"PK":
            flipped = bytearray(whole)
            flipped[-len(whole) // 3] ^= 2  # a number, in the middle of the file
            file.write_bytes(flipped)
            with pytest.raises(UsageError, match=f"{file.name}: is damaged"):
                run()
        file.write_bytes(whole)
        if file.name == fold_training.HISTORY_FILE:  # from here on as if it had been killed
            file.unlink()


def test_a_number_that_has_changed_in_the_state_of_a_training_is_no_other_training(tmp_path):
    state = tmp_path / fold_training.RESUME_FILE
    torch.save({"weights": torch.zeros(1000)}, state)
    assert set(ResumeFile().load_checkpoint(state, weights_only=True)) == {"weights"}
    changed = bytearray(state.read_bytes())
    changed[len(changed) // 2] ^= 1
    state.write_bytes(changed)
    with pytest.raises(UsageError, match="resume.ckpt: is damaged; .* Remove it, and the same command"):
        ResumeFile().load_checkpoint(state, weights_only=True)


@pytest.mark.parametrize("file", [fold_training.WEIGHTS_FILE, fold_training.HISTORY_FILE])
def test_killed_while_a_finished_fold_is_written_nothing_is_learned_again(tmp_path, monkeypatch, file):
    run_data, config = small_run_data(signal=0.7, n=18, n_test=0), small_config("full")
    whole = train_folds(run_data, config, source_of("sees"), tmp_path / "whole", silent).fold_models[0]

    def killing(write):
        def written(path, *content):
            if path.name == file:
                raise KeyboardInterrupt
            write(path, *content)

        return written

    with monkeypatch.context() as patch:
        for name in ("write_bytes", "write_text"):
            patch.setattr(fold_training, name, killing(getattr(fold_training, name)))
        with pytest.raises(KeyboardInterrupt):
            train_folds(run_data, config, source_of("sees"), tmp_path / "killed", silent)
    fold = tmp_path / "killed/fold-0"
    assert (fold / fold_training.RESUME_FILE).exists()
    assert (fold / fold_training.WEIGHTS_FILE).exists() == (file == fold_training.HISTORY_FILE)
    assert not fold_training.is_trained(fold)

    listener = Listener()
    again = train_folds(run_data, config, source_of("sees"), tmp_path / "killed", listener).fold_models[0]
    assert listener.steps == {}
    assert (again.history, again.best_epoch) == (whole.history, whole.best_epoch)
    expected = whole.classifier.state_dict()
    assert all(tensor.equal(expected[name]) for name, tensor in again.classifier.state_dict().items())
    assert not (fold / fold_training.RESUME_FILE).exists()
