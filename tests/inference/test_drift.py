"""Drift: alarms keep their rate while nothing changes, come soon after a change, and the state outlives a run."""

import math
import signal

import numpy as np
import pytest
from command_line import read_rows
from prometheus_client.parser import text_string_to_metric_families
from scipy import stats
from tiny_bundle import tiny_bundle, write_scan

from med_transfer.bundle import InputEnvelope, read_record
from med_transfer.inference import BatchSettings, Predictor, load_bundle
from med_transfer.inference.drift.detector import Detector
from med_transfer.inference.drift.monitor import METRICS_FILE, STATE_FILE, DriftMonitor, _sentence
from med_transfer.inference.drift.state import DriftState
from med_transfer.predictions.origins import RowOrigins
from med_transfer.predictions.record import Prediction
from med_transfer.predictions.table import PredictionTable

EDGES = [n / 50 for n in range(1, 50)]
LIMIT = 1e6


def feed(detector, values, seed=0):
    rng = np.random.default_rng(seed)
    return [n for n, value in enumerate(values, start=1) if detector.add(value, rng)]


def test_p_values_are_uniform_whatever_the_distribution_and_however_few_are_known():
    rng = np.random.default_rng(0)
    values = rng.beta(0.3, 4.0, 3000)  # most of them in one bin
    detector = Detector.of(EDGES, rng.beta(0.3, 4.0, 20), limit=LIMIT)
    p = [detector._p_value(value, rng) for value in values]
    assert stats.kstest(p, "uniform").pvalue > 0.01
    assert abs(np.corrcoef(p[1:], p[:-1])[0, 1]) < 0.05


def test_false_alarms_keep_to_the_stated_rate():
    """The statistic reaches ``limit`` within n values with a chance of at most n / limit: here 0.1, of 200 streams."""
    rng, n, limit = np.random.default_rng(1), 100, 1000.0
    raised = sum(
        bool(feed(Detector.of(EDGES, rng.random(10), two_sided=True, limit=limit), rng.random(n), seed))
        for seed in range(200)
    )
    assert stats.binomtest(raised, 200, n / limit, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize(("low", "high", "how"), [(0.5, 1.0, "rose"), (0.0, 0.5, "fell")])
def test_a_change_is_seen_soon_also_after_a_long_time_without_one(low, high, how):
    rng = np.random.default_rng(2)
    detector = Detector.of(EDGES, two_sided=True, limit=LIMIT)
    alarms = feed(detector, [*rng.random(2000), *rng.uniform(low, high, 100)])
    assert 2000 < alarms[0] < 2060
    assert detector.alarms[0] == (alarms[0], how)
    one_sided = Detector.of(EDGES, limit=LIMIT)
    assert bool(feed(one_sided, [*rng.random(500), *rng.uniform(low, high, 100)])) == (how == "rose")


def test_scans_that_are_strange_from_the_first_one_on_are_told_from_the_development_scans():
    rng = np.random.default_rng(3)
    reference = [(n + 0.5) / 60 for n in range(60)]
    assert feed(Detector.of(EDGES, reference, limit=LIMIT), rng.uniform(0.9, 1.0, 40))
    assert not feed(Detector.of(EDGES, limit=LIMIT), rng.uniform(0.9, 1.0, 40))  # nothing to compare with


@pytest.fixture(scope="module")
def bundle(tmp_path_factory):
    return tiny_bundle(tmp_path_factory.mktemp("bundle"))


@pytest.fixture
def record(bundle):
    envelope = InputEnvelope(
        spacing_mm_low=(1, 1, 1), spacing_mm_high=(2, 2, 5), n_scans=60, false_alarms=0.02, numbers={"noise": (10, 30)}
    )
    return read_record(bundle).model_copy(update={"input_envelope": envelope})


def stream(n, seed=0, noise=20.0):
    """As the table and the reader would give them; every tenth cannot be used."""
    rng = np.random.default_rng(seed)
    for number in range(n):
        p = rng.random()
        facts = {"noise": float(rng.normal(noise, 3))}
        answer = {"predicted": "benign", "probabilities": {"benign": p, "malignant": 1 - p}, "facts": facts}
        yield Prediction("a", status="failed") if number % 10 == 9 else Prediction("a", novelty=rng.random(), **answer)


@pytest.mark.parametrize(("networks", "ranked"), [(1, 12), (3, 60)])
def test_scans_are_compared_with_as_many_as_the_bundle_knew(record, tmp_path, networks, ranked):
    """Fold models have ranked every development scan between them, one network its validation scans, about a fifth."""
    of_some = record.model_copy(update={"n_fold_models": networks})
    quantities = DriftMonitor(of_some, "b", tmp_path).state.quantities
    ranks = np.repeat(np.arange(102), quantities["novelty"].counts)
    assert len(ranks) == ranked
    assert np.ptp(np.diff(ranks)) <= 1
    quantiles = np.linspace(0, 1, 101)  # of the distances that the bundle ranks by; a rank counts those below
    assert ranks.tolist() == np.searchsorted(quantiles, (np.arange(ranked) + 0.5) / ranked).tolist()
    assert quantities["outside"].counts == [58, 2]  # 2 % of 60
    assert (quantities["noise"].edges[0], quantities["noise"].edges[-1]) == (-10, 50)  # a width beyond either limit


def test_a_run_in_parts_ends_with_the_state_of_one_run(record, tmp_path):
    scans = list(stream(60))
    for parts, folder in (([scans], "one"), ([scans[:7], scans[7:40], scans[40:]], "parts")):
        for part in parts:
            monitor = DriftMonitor(record, "b", tmp_path / folder)
            for prediction in part:
                monitor.observe(prediction)
            monitor.save()
    one, parts = ((tmp_path / name / STATE_FILE).read_text() for name in ("one", "parts"))
    assert one == parts
    state = DriftState.model_validate_json(one)
    assert (state.statuses, state.predicted) == ({"ok": 54, "rejected": 0, "failed": 6}, {"benign": 54, "malignant": 0})
    assert state.quantities["noise"].n == 54


def test_a_monitor_goes_on_from_what_another_run_has_kept_by_the_time_it_begins(record, tmp_path):
    """A run that waits for a search of the folder must not write an older state over that of the run before it."""
    waiting, first = DriftMonitor(record, "b", tmp_path), DriftMonitor(record, "b", tmp_path)
    for monitor in (first, waiting):
        monitor.observe(Prediction("a", status="failed"))
        monitor.save()
    assert DriftMonitor(record, "b", tmp_path).state.statuses["failed"] == 2


def test_scans_of_one_study_are_one_value(record, tmp_path):
    """They are alike; one after the other they would look like a move."""
    monitor, rng = DriftMonitor(record, "b", tmp_path), np.random.default_rng(4)
    for number in range(150):
        novelty = rng.random()
        for _ in range(3):
            answer = {"novelty": novelty, "facts": {"noise": 10 + 20 * novelty}, "study_uid": f"1.2.{number}"}
            monitor.observe(Prediction("a", **answer))
    assert monitor.state.statuses["ok"] == 450
    assert monitor.state.quantities["noise"].n == 150
    assert not monitor.moved


def test_another_scanner_is_told_and_where_it_shows(record, tmp_path, caplog):
    monitor = DriftMonitor(record, "b", tmp_path)
    for prediction in [*stream(300), *stream(100, seed=1, noise=40.0)]:
        monitor.observe(prediction)
    assert set(monitor.moved) == {"noise", "outside"}
    assert "moved: noise rose" in caplog.text
    monitor.save()
    assert set(DriftMonitor(record, "b", tmp_path).moved) == {"noise", "outside"}


def test_a_move_is_told_in_plain_digits():
    detector = Detector.of([0.5], limit=LIMIT)
    moved = detector.model_copy(update={"mean": -1023.4, "recent": -900.2, "n_alarms": 1, "alarms": [(5, "rose")]})
    assert _sentence("value_p01", moved) == (
        "value_p01 rose, seen at its value number 5: the mean of all is -1023, of the last ones -900 (1 alarm)"
    )


def test_state_of_another_bundle_or_none_begins_anew_and_says_so(record, tmp_path, caplog):
    monitor = DriftMonitor(record, "b", tmp_path)
    monitor.observe(Prediction("a", status="failed"))
    monitor.save()
    assert DriftMonitor(record, "another", tmp_path).state.statuses["failed"] == 0
    assert "of another bundle; monitoring starts again" in caplog.text
    (tmp_path / STATE_FILE).write_text("{")
    assert DriftMonitor(record, "b", tmp_path).state.statuses["failed"] == 0
    assert "cannot be read" in caplog.text


def samples(text):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_prometheus_reads_it_whatever_a_class_is_called(record, tmp_path):
    names = ("a\\b", 'the "worst"\nof all')
    monitor = DriftMonitor(record.model_copy(update={"classes": names}), "b", tmp_path)
    monitor.observe(Prediction("a", predicted=names[1], novelty=0.5, probabilities=dict.fromkeys(names, 0.5)))
    monitor.save()
    found = samples((tmp_path / METRICS_FILE).read_text())
    assert found["med_transfer_predicted_total", names[1]] == 1
    assert found["med_transfer_drift_mean", "novelty"] == 0.5
    assert not any(math.isnan(value) for value in found.values())


def test_predict_counts_each_scan_once_however_often_it_runs(bundle, command, tmp_path):
    write_scan(tmp_path / "scans/a.nii.gz")
    (tmp_path / "scans/cut.nii.gz").write_bytes(b"\x1f\x8bnothing")
    words = ("predict", bundle, tmp_path / "scans", "-o", tmp_path / "out", "--monitor")
    first = command(*words)
    assert "nothing moved" in first.out
    write_scan(tmp_path / "scans/b.nii.gz", 1)
    command(*words)
    command(*words)
    found = samples((tmp_path / "out" / METRICS_FILE).read_text())
    assert found["med_transfer_scans_total", "ok"] == 2
    state = DriftState.model_validate_json((tmp_path / "out" / STATE_FILE).read_bytes())
    novelty = [float(row["novelty"]) for row in read_rows(tmp_path / "out/predictions.csv") if row["novelty"]]
    assert state.quantities["novelty"].mean == pytest.approx(np.mean(novelty))


def test_scans_whose_rows_are_written_are_counted_when_ctrl_c_ends_the_run(bundle, command, tmp_path, monkeypatch):
    """The next run takes their rows as they are, and would never count them."""
    add = RowOrigins.add

    def add_and_interrupt(origins, *row, **options):
        add(origins, *row, **options)
        if len(origins.path.read_text().splitlines()) == 1 + 3:
            signal.raise_signal(signal.SIGINT)

    for number in range(5):
        write_scan(tmp_path / f"scans/{number}.nii.gz", number)
    words = ("predict", bundle, tmp_path / "scans", "-o", tmp_path / "out", "--monitor", "--workers", 1)
    with monkeypatch.context() as patch:
        patch.setattr(RowOrigins, "add", add_and_interrupt)
        assert command(*words).code == 130
    assert command(*words).code == 0
    found = samples((tmp_path / "out" / METRICS_FILE).read_text())
    assert found["med_transfer_scans_total", "ok"] == 5


def test_a_scan_whose_attempts_fail_again_and_again_counts_once(bundle, tmp_path, monkeypatch):
    predictor, answer = load_bundle(bundle, "cpu"), Predictor.answer
    for number in range(2):
        write_scan(tmp_path / f"scans/{number}.nii.gz", number)

    def odd(self, given, *arguments):
        if given.path.endswith("1.nii.gz"):
            raise ValueError
        return answer(self, given, *arguments)

    def counted():
        monitor = DriftMonitor(predictor.record, predictor.identity, tmp_path / "out")
        predictor.predict_folder(tmp_path / "scans", tmp_path / "out", settings=BatchSettings(observe=monitor.observe))
        monitor.save()
        return monitor.state.statuses, monitor.state.quantities["unusable"].n

    monkeypatch.setattr(Predictor, "answer", odd)
    for _ in range(3):
        assert counted() == ({"ok": 1, "rejected": 0, "failed": 1}, 2)
    monkeypatch.undo()
    assert counted() == ({"ok": 2, "rejected": 0, "failed": 1}, 3)  # an answer at last
    assert counted() == ({"ok": 2, "rejected": 0, "failed": 1}, 3)


@pytest.mark.parametrize("moment", ["answer", "append", "finish"])
def test_a_failed_row_is_gone_before_its_scan_is_tried_again_and_the_attempt_is_not_forgotten(
    bundle, tmp_path, monkeypatch, moment
):
    """Until the run ended, a scan that was tried again had two rows."""
    predictor, answer, out = load_bundle(bundle, "cpu"), Predictor.answer, tmp_path / "out"
    for number in range(2):
        write_scan(tmp_path / f"scans/{number}.nii.gz", number)
    seen: list[str] = []

    def run():
        predictor.predict_folder(
            tmp_path / "scans", out, settings=BatchSettings(observe=lambda one: seen.append(one.scan))
        )

    def odd(self, given, *arguments):
        if given.path.endswith("1.nii.gz"):
            raise ValueError
        return answer(self, given, *arguments)

    def killed(*_, **__):
        raise KeyboardInterrupt

    def append_and_killed(table, prediction, append=PredictionTable.append):
        append(table, prediction)
        raise KeyboardInterrupt

    monkeypatch.setattr(Predictor, "answer", odd)
    run()
    where, function = {
        "answer": (Predictor, killed),
        "append": (PredictionTable, append_and_killed),
        "finish": (RowOrigins, killed),
    }[moment]
    with monkeypatch.context() as patch:
        patch.setattr(where, moment, function)
        with pytest.raises(KeyboardInterrupt):
            run()
    expected = {"answer": ["0.nii.gz"]}.get(moment, ["0.nii.gz", "1.nii.gz"])
    assert [row["scan"] for row in read_rows(out / "predictions.csv")] == expected
    run()
    assert [(row["scan"], row["status"]) for row in read_rows(out / "predictions.csv")] == [
        ("0.nii.gz", "ok"),
        ("1.nii.gz", "failed"),
    ]
    assert seen == ["0.nii.gz", "1.nii.gz"]  # each once, whatever was tried again
    monkeypatch.undo()
    run()
    assert [row["status"] for row in read_rows(out / "predictions.csv")] == ["ok", "ok"]
