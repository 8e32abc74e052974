"""A real Ray cluster of two nodes: the same results as without it, whatever happens to it."""

import importlib.util
import json
import os
import signal
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import small_network
from command_line import TINY, read_rows, settings
from small_run_data import small_config, small_run_data, source_of
from tiny_bundle import tiny_bundle, write_scan

from med_transfer.errors import MissingExtra, UsageError
from med_transfer.finetuning.folds import train_folds
from med_transfer.finetuning.on_cluster import folds_of_run, train_on
from med_transfer.inference import BatchSettings, load_bundle
from med_transfer.inference.on_cluster import OnCluster
from med_transfer.progress import silent
from med_transfer.runtimes import cluster as cluster_module
from med_transfer.runtimes.cluster import TaskLost, cluster
from med_transfer.scans.isolation.limits import GIB, SECONDS, ReadLimits
from med_transfer.scans.search.links import FOLLOW
from med_transfer.tuning import TuneConfig
from med_transfer.tuning.deadline import Deadline
from med_transfer.tuning.inner_folds import without_test_scans
from med_transfer.tuning.search import Search

pytestmark = pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs the extra ray")
MEMORY = 80 << 20  # the minimum that Ray accepts


@pytest.fixture(scope="module")
def nodes():
    """Two, on the loopback device alone, without dashboard and statistics."""
    words = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0", "RAY_USAGE_STATS_ENABLED": "0", "RAY_BACKEND_LOG_LEVEL": "fatal"}
    before = signal.getsignal(signal.SIGTERM)  # which Ray takes
    with pytest.MonkeyPatch.context() as patch:
        for name, text in words.items():
            patch.setenv(name, text)
        from ray.cloudpickle import register_pickle_by_value
        from ray.cluster_utils import Cluster

        for module in (sys.modules[__name__], small_network):  # no machine has these files
            register_pickle_by_value(module)
        of_head = {"num_cpus": 1, "include_dashboard": False, "object_store_memory": MEMORY}
        started = Cluster(initialize_head=True, head_node_args=of_head)
        started.add_node(num_cpus=1, object_store_memory=MEMORY)
        yield started
        started.shutdown()
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="module")
def machines(nodes):
    with cluster(nodes.address) as connected:
        yield connected


def handled_signals():
    (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("SigCgt:"))
    bits = int(line.split()[1], 16)
    return {number for number in signal.Signals if bits >> (number - 1) & 1}


def test_sigterm_is_heard_while_connected_and_afterwards(nodes):
    """Ray takes it, and at its end leaves it to the system, which ends the process without a word."""
    before = signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        ours = signal.getsignal(signal.SIGTERM)
        with cluster(nodes.address):
            assert signal.getsignal(signal.SIGTERM) is ours
        assert signal.getsignal(signal.SIGTERM) is ours
        assert {signal.SIGTERM, signal.SIGINT} <= handled_signals()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_another_cluster_than_the_connected_one_is_refused(machines, nodes):
    """Its address was ignored, and the jobs ran on the cluster that Ray was connected to."""
    with cluster(nodes.address), cluster():
        pass
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with pytest.raises(UsageError, match="already connected to the Ray cluster") as refused, cluster(address):
            pass
    assert f"--ray-address {address}" in str(refused.value)
    assert machines.n_machines == 2


def rows_of(out):
    return [{**row, "seconds": ""} for row in read_rows(out / "predictions.csv")]


def on_which(job, shared):
    if job == "fatal":
        os.kill(os.getpid(), 9)
    if job == "refused":
        raise UsageError(shared)
    if job == "broken":
        raise ValueError(f"{shared}. Only three of four arrived.\nThe file is whole.")
    return os.getpid()


def test_a_run_whose_folds_are_trained_on_the_cluster_has_the_same_metrics(
    command, cohort_csv, finished, machines, tmp_path
):
    outcome = command("finetune", cohort_csv, "-o", tmp_path / "run", *settings(*TINY), "--engine", "ray")
    assert outcome.code == 0, outcome.err
    here, there = (json.loads((run / "metrics.json").read_text()) for run in (tmp_path / "run", finished.folder))
    accesses = [metrics["test_set_access"].pop("n") for metrics in (here, there)]  # other tests look at the shared run
    assert accesses[0] == 1
    assert here == there


@pytest.mark.parametrize("strategy", ["lp_ft", "linear_probe"])
def test_folds_of_every_repeat_are_trained_there_once_and_are_those_of_one_machine(machines, tmp_path, strategy):
    splits = small_run_data(0.12, 15, 0, members=2).split, small_run_data(0.12, 15, 0, members=3).split
    run_data = small_run_data(0.12, 15, 0, members=3)  # 10 and 5 scans in batches of 3: one is alone in the last
    run_data = replace(run_data, split=replace(run_data.split, further=(splits[0],)))
    config, source = small_config(strategy, training={"epochs": 1, "batch_size": 3}), source_of("sees")
    folds = folds_of_run(run_data, config, source, tmp_path / "there")
    assert [len(of_one.folders) for of_one in folds] == [3, 2]
    told = []
    train_on(machines, folds, tmp_path, lambda *words: told.append(words[1:3]))
    assert told == [(n, 5) for n in range(1, 6)]
    train_on(machines, folds, tmp_path, lambda *words: told.append(words))
    assert len(told) == 5  # nothing is left to do
    for repeat, split in enumerate(run_data.split.repeats, start=1):
        of_repeat = replace(run_data, split=split)
        there, here = (
            train_folds(of_repeat, config, source, tmp_path / place, silent, repeat=repeat)
            for place in ("there", "here")
        )
        np.testing.assert_array_equal(there.validation, here.validation)
        assert [model.history for model in there.fold_models] == [model.history for model in here.fold_models]


def test_trials_whose_folds_are_trained_on_the_cluster_are_those_of_one_machine(machines, tmp_path):
    pytest.importorskip("optuna")
    base = small_config(training={"epochs": 3, "monitor": "macro_auc"})
    space = {"strategies": ["full"], "regularise": [], "learning_rate": [1e-4, 1e-1]}
    tuning = {"space": space, "startup_trials": 2, "prune_after_trials": 2, "prune_after_epochs": 1}
    config = TuneConfig.model_validate(base.model_dump() | {"tuning": tuning})
    run_data = without_test_scans(small_run_data(0.3, 16, 6, members=2))
    found = []
    for place, where in (("here", None), ("there", machines)):
        search = Search(run_data, source_of("sees"), config, ["full"], tmp_path / place, Deadline(None))
        search.machines = where
        found.append([replace(trial, seconds=0.0) for trial in search.run(6).trials])
    assert found[0] == found[1]
    assert "pruned" in {trial.state for trial in found[0]}


def test_a_machine_reads_scans_by_the_settings_of_whoever_asks_it(monkeypatch):
    """And not by those that it was started with."""
    for name in (SECONDS, GIB, FOLLOW):
        monkeypatch.delenv(name, raising=False)
    asks = cluster_module.Caller()
    monkeypatch.setenv(SECONDS, "1")
    monkeypatch.setenv(GIB, "0.5")
    monkeypatch.setenv(FOLLOW, "1")
    read_by = cluster_module._run(lambda *_: (ReadLimits.from_environment(), os.environ[FOLLOW]), "job", None, asks, 1)
    assert read_by == ((ReadLimits(), ""), [])


def test_a_machine_that_is_lost_in_the_middle_costs_no_scan(machines, nodes, tmp_path):
    scans = tmp_path / "scans"
    for number in range(14):
        write_scan(scans / f"{number:02d}.nii.gz", number)
    (scans / "05.nii.gz").write_bytes(b"\x1f\x8bnothing")
    (scans / "09.nii.gz").write_bytes((scans / "08.nii.gz").read_bytes())
    predictor = load_bundle(tiny_bundle(tmp_path / "bundle", n=3, shared=True), "cpu")
    assert predictor.record.encoders == (0, 0, 0)
    predictor.predict_folder(scans, tmp_path / "undisturbed")
    lost = []

    def disturb(stage, done, total, note=""):
        if done == 4 and not lost:
            lost.append(nodes.worker_nodes.copy().pop())
            nodes.remove_node(lost[0], allow_graceful=False)

    outcome = predictor.predict_folder(
        scans, tmp_path / "out", disturb, BatchSettings(engine=OnCluster(machines, predictor, scans))
    )
    assert lost
    assert (outcome.n_ok, outcome.n_failed) == (13, 1)
    assert rows_of(tmp_path / "out") == rows_of(tmp_path / "undisturbed")
    assert "no prediction" in (tmp_path / "out/run.log").read_text()


def test_a_job_that_ends_every_process_is_given_up_and_an_error_of_ours_comes_back(machines, monkeypatch):
    monkeypatch.setattr("med_transfer.runtimes.cluster._ATTEMPTS", 2)  # one process each, with its own imports
    results = dict(machines.each(on_which, ["fatal", "sound"], "none"))
    assert isinstance(results["fatal"], TaskLost)
    assert results["sound"] != os.getpid()
    with pytest.raises(UsageError, match="as it was"):
        list(machines.each(on_which, ["refused"], "as it was"))
    with pytest.raises(UsageError, match=r"cannot do its part \(ValueError: version 2.1 is too old\); expected "):
        list(machines.each(on_which, ["broken"], "version 2.1 is too old"))
    with pytest.raises(UsageError, match="no machine of the cluster gives 64 cores to its work, the largest 1"):
        list(machines.each(on_which, ["sound"], "", cores=64))


def test_jobs_are_drawn_only_as_far_ahead_as_they_may_be_in_flight(machines):
    drawn = []

    def jobs():
        for number in range(8):
            drawn.append(number)
            yield f"sound {number}"

    for taken, _ in enumerate(machines.each(on_which, jobs(), "", max_in_flight=2)):
        assert len(drawn) <= taken + 2
    assert drawn == list(range(8))


def test_a_machine_without_the_folder_is_named(machines, tmp_path):
    predictor = load_bundle(tiny_bundle(tmp_path / "bundle"), "cpu")
    write_scan(tmp_path / "scans/1.nii.gz")
    engine = OnCluster(machines, predictor, tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=f"machine {socket.gethostname()}: .*elsewhere is not there; expected scans, "):
        predictor.predict_folder(tmp_path / "scans", tmp_path / "out", settings=BatchSettings(engine=engine))


@pytest.mark.parametrize("address", ["127.0.0.1:9", "nowhere.invalid:6379"])
def test_an_address_that_does_not_answer_is_said_soon(address, command, tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz")
    began = time.monotonic()
    outcome = command(
        "predict", tiny_bundle(tmp_path / "b"), scan, "-o", tmp_path / "o", "--engine", "ray", "--ray-address", address
    )
    assert outcome.code == 2
    assert f"--ray-address {address}: no Ray cluster there (" in outcome.err
    assert "Start one with: ray start --head; or use --engine local." in outcome.err
    assert time.monotonic() - began < 200


def test_without_ray_its_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(MissingExtra, match=r"package ray is not installed. Run: pip install 'med-transfer\[ray\]'; or"):
        cluster().__enter__()
