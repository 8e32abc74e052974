import os
from collections import Counter
from dataclasses import replace

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from med_transfer.errors import OutputError, UsageError
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.origins import digest
from med_transfer.predictions.record import Prediction
from med_transfer.predictions.table import PredictionTable

LABELS = Labels(("high", "low"))
OK = Prediction("b.nii.gz", "007", "1.2", "1.2.3", "ok", "", {"high": 0.1, "low": 0.9}, "low", False, 0.25, 1.5)
ROWS = [
    replace(OK, prediction_set="{}"),
    Prediction("a.nii.gz", "8", status="failed", reason="UnreadableScan: cut off, at 5", seconds=0.125),
    replace(
        OK,
        scan="a.nii.gz",
        patient="8",
        series_uid="2",
        probabilities={"high": 1 / 3, "low": 2 / 3},
        abstained=True,
        abstained_because="novelty;outside_noise",
        novelty=None,
        seconds=2.0,
        prediction_set="high;low",
    ),
    Prediction('=cmd|"x",\n.nii.gz', "ö", status="rejected", reason="gap of 10 mm"),
]
text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)
predictions = st.builds(
    Prediction,
    scan=text,
    patient=text,
    series_uid=text,
    status=st.sampled_from(["ok", "rejected", "failed"]),
    reason=text.map(lambda words: " ".join(words.split())),
    probabilities=st.just({}) | st.floats(0, 1).map(lambda p: {"high": p, "low": 1 - p}),
    abstained=st.booleans(),
    novelty=st.none() | st.floats(0, 1),
    prediction_set=st.sampled_from(["", "{}", "low", "high;low"]),
    seconds=st.integers(0, 10**6).map(lambda ms: ms / 1000),
)


def in_order(rows):
    return sorted(rows, key=lambda p: (p.scan, p.series_uid))


def write(path, rows, labels=LABELS):
    with PredictionTable(path, labels) as table:
        for row in rows:
            table.append(row)
        table.finish()
    return path


def test_a_row_is_on_the_disk_whole_before_the_next_one_comes(tmp_path, monkeypatch):
    """A power cut takes what the system has not written: all that was appended is synced, and nothing came after."""
    synced, fsync = [], os.fsync

    def watched(descriptor):
        fsync(descriptor)
        synced.append((os.fstat(descriptor).st_ino, os.fstat(descriptor).st_size))

    monkeypatch.setattr(os, "fsync", watched)
    with PredictionTable(tmp_path / "p.csv", LABELS) as table:
        for row in ROWS:
            table.append(row)
            now = (tmp_path / "p.csv").stat()
            assert synced[-1] == (now.st_ino, now.st_size)


def test_columns_are_the_documented_ones(tmp_path):
    frame = pd.read_csv(write(tmp_path / "p.csv", ROWS), dtype={"patient": str})
    assert list(frame) == (
        [
            "scan",
            "patient",
            "study_uid",
            "series_uid",
            "status",
            "reason",
            "predicted",
            "prediction_set",
            "p_high",
            "p_low",
            "abstained",
            "abstained_because",
            "novelty",
            "seconds",
        ]
    )
    assert frame.abstained.dtype == bool
    assert frame.patient.tolist()[-1] == "007"
    assert frame.p_low.tolist()[2:] == [2 / 3, 0.9]
    assert frame.seconds.tolist() == [0.0, 0.125, 2.0, 1.5]


def test_a_scan_named_like_a_formula_is_quoted_and_read_without(tmp_path):
    path = write(tmp_path / "p.csv", ROWS)
    assert sum(line.startswith("\"'=cmd") for line in path.read_text().splitlines()) == 1
    assert "=cmd" in {row.scan[:4] for row in PredictionTable.load(path)}


def test_rows_read_back_sorted(tmp_path):
    assert PredictionTable.load(write(tmp_path / "p.csv", ROWS)) == in_order(ROWS)


@settings(max_examples=20)
@given(st.lists(predictions, max_size=5))
def test_any_row_reads_back(tmp_path_factory, rows):
    path = write(tmp_path_factory.mktemp("p") / "p.csv", rows)
    assert sorted(map(repr, PredictionTable.load(path))) == sorted(map(repr, rows))


def test_a_table_from_before_abstention_told_why_is_read(tmp_path):
    path = write(tmp_path / "p.csv", ROWS)
    frame = pd.read_csv(path, dtype=str, keep_default_na=False).drop(columns="abstained_because")
    frame.to_csv(path, index=False, lineterminator="\n")
    assert PredictionTable.load(path) == in_order([replace(row, abstained_because="") for row in ROWS])


def test_every_row_is_on_disk_at_once(tmp_path):
    with PredictionTable(tmp_path / "p.csv", LABELS) as table:
        assert PredictionTable.load(tmp_path / "p.csv") == []
        for count, row in enumerate(ROWS, start=1):
            table.append(row)
            assert PredictionTable.load(tmp_path / "p.csv") == ROWS[:count]


def test_a_run_killed_anywhere_ends_with_the_same_table(tmp_path):
    whole = write(tmp_path / "whole.csv", ROWS).read_bytes()
    path = tmp_path / "p.csv"
    with PredictionTable(path, LABELS) as table:
        header = path.stat().st_size
        for row in ROWS:
            table.append(row)
    content = path.read_bytes()
    for cut in range(header, len(content) + 1, 3):
        path.write_bytes(content[:cut])
        with PredictionTable(path, LABELS) as table:
            for row in ROWS:
                if row not in PredictionTable.load(path):
                    table.append(row)
            table.finish()
        assert path.read_bytes() == whole, f"cut at byte {cut}"


def test_only_the_rows_that_are_asked_for_are_kept(tmp_path):
    with PredictionTable(write(tmp_path / "p.csv", ROWS), LABELS) as table:
        assert len(table.lines) == len(ROWS)
        table.finish(Counter([digest(table.lines[0]), digest(table.append(OK))]))
    assert PredictionTable.load(tmp_path / "p.csv") == in_order([in_order(ROWS)[0], OK])


def test_a_file_name_that_is_not_utf8(tmp_path):
    name = os.fsdecode(b"caf\xe9.nii")
    assert PredictionTable.load(write(tmp_path / "p.csv", [Prediction(name)]))[0].scan == name


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", r"p\.csv: columns \(none\); expected scan, patient, .*Choose another output folder"),
        ("scan,label\na,b\n", r"columns scan, label; expected scan, patient"),
        (None, r"columns .*p_other.*; expected .*p_high, p_low"),
    ],
)
def test_another_table_is_not_overwritten(tmp_path, content, message):
    path = tmp_path / "p.csv"
    if content is None:
        write(path, [], Labels(("other", "low")))
    else:
        path.write_text(content)
    before = path.read_bytes()
    with pytest.raises(UsageError, match=message):
        PredictionTable(path, LABELS)
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("old", "new"), [(b",ok,", b",good,"), (b",true,", b",maybe,"), (b"0.9", b"x"), (b",8,", b",8,,")]
)
def test_a_damaged_row_is_named(tmp_path, old, new):
    path = write(tmp_path / "p.csv", ROWS)
    path.write_bytes(path.read_bytes().replace(old, new))
    with pytest.raises(UsageError, match=r"p\.csv: row \d is damaged"):
        PredictionTable.load(path)


@pytest.mark.parametrize("fused", [False, True])
def test_a_table_from_before_there_were_prediction_sets_is_read_and_gone_on_with(tmp_path, fused):
    path = tmp_path / "p.csv"
    with PredictionTable(path, LABELS, fused=fused) as table:
        for row in ROWS:
            table.append(row)
        table.finish()
    frame = pd.read_csv(path, dtype=str, keep_default_na=False)
    frame.drop(columns="prediction_set").to_csv(path, index=False)
    without = [replace(row, prediction_set="") for row in in_order(ROWS)]
    assert PredictionTable.load(path) == without
    with PredictionTable(path, LABELS, fused=fused) as table:
        table.append(ROWS[0])
    assert PredictionTable.load(path) == [*without, ROWS[0]]


def test_absent_table(tmp_path):
    with pytest.raises(UsageError, match=r"p\.csv: No such file"):
        PredictionTable.load(tmp_path / "p.csv")


def test_class_of_another_bundle(tmp_path):
    table = PredictionTable(tmp_path / "p.csv", LABELS)
    with table, pytest.raises(UsageError, match="^scans/a: a prediction of class 'other'; expected high, low"):
        table.append(Prediction("scans/a", probabilities={"other": 1.0}))


def test_no_place_to_write(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"p\.csv: cannot be written"):
        PredictionTable(tmp_path / "file" / "p.csv", LABELS)


def test_full_disk_leaves_whole_rows(tmp_path):
    resource = pytest.importorskip("resource")
    signal = pytest.importorskip("signal")
    path = tmp_path / "p.csv"
    with PredictionTable(path, LABELS) as table:
        table.append(ROWS[0])
        limits, handler = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + 10, limits[1]))
        try:
            with pytest.raises(OutputError, match=r"p\.csv: cannot be written: .*Free disk space"):
                table.append(ROWS[1])
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
            signal.signal(signal.SIGXFSZ, handler)
        table.append(ROWS[2])
    assert PredictionTable.load(path) == [ROWS[0], ROWS[2]]


def test_fused_probabilities_have_columns_of_their_own_and_resume(tmp_path):
    fused = replace(ROWS[0], fused={"high": 0.25, "low": 0.75})
    lacking = replace(ROWS[2], reason="not fused: column age is not given")
    path = tmp_path / "p.csv"
    with PredictionTable(path, LABELS, fused=True) as table:
        table.append(fused)  # and killed before the second row
    with PredictionTable(path, LABELS, fused=True) as table:
        assert len(table.lines) == 1
        table.append(lacking)
        table.finish()
    assert path.read_text().startswith(
        "scan,patient,study_uid,series_uid,status,reason,predicted,prediction_set,p_high,p_low,fused_p_high,fused_p_low,abstained,"
    )
    assert PredictionTable.load(path) == in_order([fused, lacking])
    with pytest.raises(UsageError, match=r"expected .*p_low, abstained.*Choose another output folder"):
        PredictionTable(path, LABELS)


def test_series_of_one_scan_are_in_the_order_of_their_uids_whichever_came_first(tmp_path):
    rows = [replace(ROWS[0], series_uid=uid, patient=patient) for uid, patient in (("2", "a"), ("10", "b"), ("1", "c"))]
    for in_turn in (rows, rows[::-1]):
        found = PredictionTable.load(write(tmp_path / f"{in_turn[0].series_uid}.csv", in_turn))
        assert [(one.series_uid, one.patient) for one in found] == [("1", "c"), ("10", "b"), ("2", "a")]
