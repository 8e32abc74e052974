"""Parallel pretrainings give the same numbers as sequential ones, and leave nothing behind when stopped."""

from __future__ import annotations

import json
import logging
import os
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from med_transfer.errors import BackboneError, UsageError
from med_transfer.pretraining import CropConfig, PretrainingConfig, SourceScan, SourceScans
from med_transfer.pretraining.side_by_side import Pretraining, in_threads, n_parallel, pretrain_each
from med_transfer.scans.isolation.scan_worker import ScanWorker

SHAPE = (4, 32, 32)


@pytest.fixture
def two_threads():
    with in_threads(2):
        yield


def heads() -> SourceScans:
    rng = np.random.default_rng(0)
    voxels = [rng.normal(35, 6, (6, 40, 40)).astype(np.int16) for _ in range(3)]
    return SourceScans(tuple(SourceScan(v, (30.0, 160.0, 160.0), f"{n}", f"p{n}") for n, v in enumerate(voxels)))


def pretraining(out: Path, seed: int = 0, **changes) -> Pretraining:
    config = PretrainingConfig(
        **(
            {
                "method": "painted_lesions",
                "backbone": "slices-efficientnet-lite0",
                "weights": "random",
                "input_shape": SHAPE,
                "windows_hu": [(0, 80), (-20, 180), (-800, 2000)],
                "crops": CropConfig(shape=SHAPE, slab=4),
                "validation_scans": 0,
                "batch": 2,
                "steps": 4,
                "seed": seed,
            }
            | changes
        )
    )
    return Pretraining(heads, heads().content_hashes, config, out)


def jobs(folder: Path, **changes) -> list[Pretraining]:
    return [pretraining(folder / str(seed), seed, **changes) for seed in range(2)]


def children() -> set[int]:
    """Processes that serve this one."""
    tasks = Path("/proc/self/task").iterdir()
    pids = {int(pid) for task in tasks for pid in (task / "children").read_text().split()}
    return {pid for pid in pids if b"isolation" in Path(f"/proc/{pid}/cmdline").read_bytes()}


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for the child in /proc")
def test_side_by_side_and_in_turn_are_the_same_training_also_of_one_whose_process_is_killed(
    two_threads, tmp_path, caplog, monkeypatch
):
    """One pair for both: to start its processes takes longer than to train it. What is killed goes on in this one."""
    told, killed, loaded, answer = [], [], [], ScanWorker._answer

    def listen(stage, done, total, note=""):
        told.append((stage, done, total, note))

    def kill_one(self, *given):
        """Once it has its work, not when somebody looks: on a busy machine it may be done by then."""
        loaded.append(Path(f"/proc/{self._child.process.pid}/maps").read_text())
        if not killed:
            killed.append(self._child.process.pid)
            os.kill(self._child.process.pid, signal.SIGKILL)
        return answer(self, *given)

    monkeypatch.setattr(ScanWorker, "_answer", kill_one)
    with caplog.at_level(logging.WARNING):
        pretrain_each(jobs(tmp_path / "side"), 1, listen)
    of_killed = "an encoder's process ended before its pretraining did, which continues in this process"
    assert caplog.messages.count(of_killed) == 1
    assert all("libtorch" in libraries for libraries in loaded)
    unneeded = ("torchvision", "rpds", "sklearn", "pandas", "matplotlib")  # of MONAI what a command loads; no figures
    assert not [name for name in unneeded if name in "".join(loaded)]
    with in_threads(1):
        pretrain_each(jobs(tmp_path / "turn"), 1)
    for seed in range(2):
        side, turn = (load_file(tmp_path / how / f"{seed}/encoder.safetensors") for how in ("side", "turn"))
        assert side.keys() == turn.keys()
        assert all(torch.equal(side[name], turn[name]) for name in turn)
        assert json.loads((tmp_path / f"side/{seed}/curve.json").read_text())["curve"][-1]["step"] == 4
    of_both = [entry for entry in told if entry[0] == "pretraining 2 encoders"]
    assert 0 < of_both[-1][1] <= of_both[-1][2] == 8
    assert {note for *_, note in of_both} == {"2 at once"}


@pytest.mark.parametrize(("count", "threads", "expected"), [(2, 1, 2), (5, 1, 2), (1, 2, 1), (3, 4, 1)])
def test_as_many_at_once_as_the_threads_allow(two_threads, count, threads, expected):
    assert n_parallel(count, threads) == expected


def test_a_debugger_gets_no_child(two_threads, monkeypatch):
    monkeypatch.setenv("MED_TRANSFER_READ_IN_PROCESS", "1")
    assert n_parallel(2, 1) == 1


def test_threads_are_given_back(two_threads, tmp_path):
    pretrain_each([pretraining(tmp_path, steps=1)], 1)
    assert torch.get_num_threads() == 2


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for the child in /proc")
def test_ctrl_c_ends_them_all_and_nothing_begins_any_more(two_threads, tmp_path):
    begun = children()

    def press(stage, done, total, note=""):
        raise KeyboardInterrupt

    endless = [pretraining(tmp_path / str(seed), seed, steps=100_000) for seed in range(4)]
    with pytest.raises(KeyboardInterrupt):
        pretrain_each(endless, 1, press)
    assert children() <= begun
    assert not (tmp_path / "3").exists()


def test_what_is_wrong_with_one_is_raised_here(two_threads, tmp_path):
    pretrain_each([pretraining(tmp_path / "1", seed=7, steps=1)], 1)
    with pytest.raises(BackboneError, match="another"):
        pretrain_each(jobs(tmp_path, steps=2), 1)


def test_one_that_is_finished_is_found_without_its_scans_and_one_of_others_is_refused(tmp_path):
    def refused():
        pytest.fail("nothing is learned any more")

    job = replace(pretraining(tmp_path, steps=1), scans=refused)
    (made,) = pretrain_each([pretraining(tmp_path, steps=1)], 1)
    assert pretrain_each([job, job], 1) == [made, made]
    assert (made.folder, made.n_scans) == (tmp_path, 3)
    with pytest.raises(BackboneError, match="checkpoint of another run"):
        pretrain_each([replace(job, content_hashes=("0", "1", "3"))], 1)
    with pytest.raises(BackboneError, match="checkpoint of another run"):
        pretrain_each([replace(job, config=job.config.model_copy(update={"learning_rate": 0.5}))], 1)
    encoder = made.encoder.read_bytes()
    made.encoder.write_bytes(encoder[:-9])
    with pytest.raises(UsageError, match="encoder.safetensors: is damaged; .* Remove checkpoint.pt beside it"):
        pretrain_each([job], 1)
    made.encoder.write_bytes(encoder)
    (tmp_path / "checkpoint.pt").write_bytes((tmp_path / "checkpoint.pt").read_bytes()[:-900])
    with pytest.raises(UsageError, match="checkpoint.pt: is damaged"):
        pretrain_each([job], 1)
