"""Finished runs made of known predictions: which scans are compared, what differs, and what the page says."""

from __future__ import annotations

import html
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
from chinese import ENGLISH_SENTENCE
from sklearn.metrics import recall_score
from statsmodels.stats.contingency_tables import mcnemar
from statsmodels.stats.multitest import multipletests

from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.cohorts import Case, Cohort, CohortLock, Split, SplitConfig, split_cohort
from med_transfer.errors import FolderInUse, UsageError
from med_transfer.evaluation.comparison import compare_runs
from med_transfer.evaluation.comparison.forest import _axis, forest
from med_transfer.evaluation.comparison.report import (
    as_markdown,
    as_page,
    interval_sentences,
    method_of,
    names_of,
    scans_sentence,
    write_comparison,
)
from med_transfer.metrics.comparison import paired_difference
from med_transfer.metrics.compute_metrics import compute_metrics
from med_transfer.metrics.intervals import PatientBootstrap
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.fusion import FusionMetrics
from med_transfer.metrics.records.metrics import Bootstrap, Metrics, Repeats
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.by_repeat import OfRepeat, write_by_repeat
from med_transfer.predictions.labels import Labels
from med_transfer.predictions.record import Prediction
from med_transfer.predictions.table import PredictionTable

LABELS = Labels(("cyst", "mass <b>", "normal"))
N = 45
TRUTH = np.eye(3, dtype=bool)[np.arange(N) % 3]


def model(skill: float, seed: int) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(N, 3)) + skill * TRUTH
    return np.exp(logits) / np.exp(logits).sum(1, keepdims=True)


def write_run(
    folder: Path,
    probabilities: np.ndarray,
    scans: range = range(N),
    truth: np.ndarray = TRUTH,
    labels: Labels = LABELS,
    point: OperatingPoint | None = None,
    source: str = "",
) -> Path:
    """The three files that a comparison reads, for the test scans at these positions.

    Patients and voxels differ between sources: two tables whose scans have the same paths.
    """
    names = [labels.names[k] for k in truth.argmax(1)]
    cases = tuple(Case(scan=f"s{i:02d}", path=Path(f"s{i}"), patient=f"{source}p{i}", label=names[i]) for i in scans)
    cohort = Cohort(cases, labels)
    split = Split(tuple(range(len(cases))), ())
    folder.mkdir(parents=True)
    CohortLock.of(cohort, [(f"{source}{i}",) for i in scans], split, SplitConfig()).write(folder / "cohort.lock.json")
    chosen = list(scans)
    compute_metrics(
        LabelledPredictions.of(truth[chosen], probabilities[chosen], cohort.patients, labels, point),
        resampling=Bootstrap(n_boot=50),
    ).save(folder / "metrics.json")
    with PredictionTable(folder / "predictions.csv", labels) as table:
        for i in scans:
            by_name = dict(zip(labels.names, probabilities[i].tolist(), strict=True))
            called = labels.names[probabilities[i].argmax()]
            table.append(Prediction(f"s{i:02d}", f"{source}p{i}", probabilities=by_name, predicted=called))
        table.finish()
    return folder


def write_fused_run(folder: Path, image: np.ndarray, fused: np.ndarray, report: Literal["image", "fused"]) -> Path:
    """A run with both kinds of probabilities, whose metrics are of the kind that it reports."""
    write_run(folder, fused if report == "fused" else image)
    told = FusionMetrics(
        use=["network", "handcrafted"],
        columns=[],
        report=report,
        n_scans=N,
        n_patients=N,
        n_fitted=90,
        n_fitted_patients=90,
        inverse_penalty=1.0,
    )
    Metrics.load(folder / "metrics.json").model_copy(update={"fusion": told}).save(folder / "metrics.json")
    (folder / "predictions.csv").unlink()
    with PredictionTable(folder / "predictions.csv", LABELS, fused=True) as table:
        for i in range(N):
            by_name = [dict(zip(LABELS.names, row[i].tolist(), strict=True)) for row in (image, fused)]
            table.append(Prediction(f"s{i:02d}", f"p{i}", probabilities=by_name[0], fused=by_name[1]))
        table.finish()
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    """A weak run, a strong one, and one of the strong kind that lacks ten of the test scans."""
    return [
        write_run(tmp_path / "weak", model(0.3, 1)),
        write_run(tmp_path / "strong", model(3.0, 2)),
        write_run(tmp_path / "fewer", model(3.0, 3), range(10, N)),
    ]


def test_differences_are_the_evaluations_own(runs):
    _, strong, _ = compare_runs(runs, seed=3, n_boot=200)
    first = LabelledPredictions.of(TRUTH, model(0.3, 1), [f"p{i}" for i in range(N)], LABELS)
    expected = paired_difference(first.scored_by(model(3.0, 2)), first, PatientBootstrap(first.patients, 200, 3))
    assert strong.macro_auc is not None
    assert strong.macro_auc.value == pytest.approx(expected.macro_auc.value, abs=1e-5)
    assert strong.macro_auc.ci95 == pytest.approx(expected.macro_auc.ci95, abs=1e-5)
    assert strong.balanced_sensitivity == expected.balanced_accuracy
    assert strong.sensitivity == expected.sensitivity
    assert "Newcombe" in strong.sensitivity["cyst"].method
    assert strong.macro_auc.excludes_zero == 1
    assert strong.delong is not None
    assert strong.mcnemar is not None
    assert (strong.delong.p_holm or 1) < 0.001
    assert (strong.mcnemar.p_holm or 1) < 0.001


def test_each_run_is_called_at_its_own_operating_point(tmp_path):
    """The same probabilities twice: the reference calls cysts from a probability of 0.2, the other run masses."""
    p, own = model(0.8, 1), TRUTH.argmax(1)
    reference, other = [
        write_run(tmp_path / name[:4], p, point=OperatingPoint(rule="class_threshold", thresholds={name: 0.2}))
        for name in LABELS.names[:2]
    ]
    before = np.where(p[:, 0] >= 0.2, 0, (p * [0, 1, 1]).argmax(1))
    after = np.where(p[:, 1] >= 0.2, 1, (p * [1, 0, 1]).argmax(1))
    gained = recall_score(own, after, average=None) - recall_score(own, before, average=None)
    assert abs(gained).min() > 0.05  # else the points would not show
    found = compare_runs([reference, other], n_boot=50)[1]
    assert [one.value for one in found.sensitivity.values()] == pytest.approx(gained)
    assert found.balanced_sensitivity is not None
    assert found.balanced_sensitivity.value == pytest.approx(gained.mean())
    right = [[((after == own) == a) & ((before == own) == b) for b in (True, False)] for a in (True, False)]
    assert found.mcnemar is not None
    assert found.mcnemar.p_value == pytest.approx(mcnemar(np.sum(right, axis=-1), exact=True).pvalue)


def test_p_values_are_corrected_for_the_number_of_runs_as_by_statsmodels(tmp_path):
    skills = (0.6, 1.0, 1.4, 0.8)  # the reference, and three runs that are better by more or less
    runs = [write_run(tmp_path / f"{n}", model(skill, n)) for n, skill in enumerate(skills)]
    _, *three = compare_runs(runs, margin=0.1, n_boot=50)
    for name in ("delong", "mcnemar", "delong_margin"):
        tests = [getattr(one, name) for one in three]
        p_values = [test.p_value for test in tests]
        expected = multipletests(p_values, method="holm")[1]
        assert [test.p_holm for test in tests] == pytest.approx(expected)
        assert max(expected / p_values) > 1.5  # not the same without a correction
    alone = compare_runs(runs[:2], n_boot=50)[1].delong
    assert alone is not None
    assert alone.p_holm == alone.p_value


def test_a_run_that_is_given_twice_is_one_comparison(runs, monkeypatch):
    """As by runs/* beside a name. Each copy counted in the correction of the p values."""
    once = compare_runs(runs, n_boot=50)
    monkeypatch.chdir(runs[0].parent)
    again = compare_runs([*runs, runs[0], Path(runs[-1].name)], n_boot=50)
    assert [one.run for one in again] == [one.run for one in once] == runs
    assert [one.delong and one.delong.p_holm for one in again] == [one.delong and one.delong.p_holm for one in once]
    with pytest.raises(UsageError, match="1 run; expected at least two"):
        compare_runs([runs[0], runs[0]])


def test_any_run_can_be_the_reference(runs):
    weak_first, against_strong = compare_runs(runs[:2]), compare_runs(runs[:2], reference=runs[1])
    assert [one.run for one in against_strong] == [runs[1], runs[0]]
    there, back = weak_first[1].macro_auc, against_strong[1].macro_auc
    assert there is not None
    assert back is not None
    assert back.value == pytest.approx(-(there.value or 0))
    assert back.ci95 == pytest.approx(tuple(-limit for limit in reversed(there.ci95 or ())))


def test_only_shared_scans_are_compared_and_the_count_is_said(runs):
    result = compare_runs(runs)
    assert [(one.n_shared, one.n_reference, one.metrics.n_scans) for one in result] == [
        (N, N, N),
        (N, N, N),
        (N - 10, N, N - 10),
    ]
    sentence = "each run is compared only on those that it shares with the reference: strong 45 of 45, fewer 35 of 45"
    assert sentence in scans_sentence(result)
    assert scans_sentence(result[:2]) == "All runs were tested on the same 45 scans."


def test_runs_that_do_not_belong_together_are_refused(runs, tmp_path):
    with pytest.raises(UsageError, match="1 run; expected at least two to compare"):
        compare_runs(runs[:1])
    apart = (
        write_run(tmp_path / "apart", model(1, 4), range(10)),
        write_run(tmp_path / "rest", model(1, 4), range(20, N)),
    )
    with pytest.raises(
        UsageError, match="rest: no test scan in common with .*apart; expected the same cohort and split"
    ):
        compare_runs(list(apart))
    relabelled = write_run(tmp_path / "relabelled", model(1, 4), truth=np.roll(TRUTH, 1, axis=1))
    with pytest.raises(UsageError, match="45 shared test scans have another label than in .*weak, the first is s00"):
        compare_runs([runs[0], relabelled])
    other = write_run(tmp_path / "other", model(1, 4), labels=Labels(("a", "b", "c")))
    with pytest.raises(UsageError, match="classes a, b, c; expected cyst, mass <b>, normal"):
        compare_runs([runs[0], other])


def test_scans_of_other_patients_under_the_same_paths_are_not_compared(runs, tmp_path):
    """As of two hospitals' tables with the paths case_001.nii.gz and so on. They were paired by path."""
    elsewhere = write_run(tmp_path / "elsewhere", model(1, 4), source="other-")
    with pytest.raises(UsageError, match="45 shared test scans are of another patient than in .*weak, the first is s"):
        compare_runs([runs[0], elsewhere])


def test_other_voxels_under_the_same_path_and_patient_are_told(runs, tmp_path):
    """Two cohorts may number their patients alike; the same scans may also have been processed differently."""
    other = write_run(tmp_path / "other", model(1, 4), range(5, N))
    lock = other / "cohort.lock.json"
    cohort = CohortLock.read(lock)
    cases = tuple(
        case.model_copy(update={"content_hash": "processed"}) if number < 30 else case
        for number, case in enumerate(cohort.cases)
    )
    processed = cohort.model_copy(update={"cases": cases})
    processed.model_copy(update={"cohort_hash": processed.computed_hash()}).write(lock)
    told = "other: 30 of the 40 shared scans have the reference's path and patient, but other voxels."
    result = compare_runs([runs[0], runs[1], other], n_boot=50)
    assert [one.n_other_images for one in result] == [0, 0, 30]
    assert told in scans_sentence(result)
    assert "other voxels" not in scans_sentence(result[:2])
    assert result[2].as_record()["n_other_images"] == 30
    assert "體素" in as_page(result, "zh-TW")


@pytest.mark.parametrize("report", ["image", "fused"])
def test_the_probabilities_that_a_run_reports_are_compared(tmp_path, report):
    image, fused, weak = model(0.3, 1), model(3.0, 2), write_run(tmp_path / "weak", model(0.3, 5))
    run = write_fused_run(tmp_path / "both", image, fused, report)
    first = LabelledPredictions.of(TRUTH, model(0.3, 5), [f"p{i}" for i in range(N)], LABELS)
    shown = fused if report == "fused" else image
    expected = paired_difference(first.scored_by(shown), first, PatientBootstrap(first.patients, 200))
    result = compare_runs([weak, run], n_boot=200)
    found = result[1]
    assert found.macro_auc == expected.macro_auc
    assert found.sensitivity == expected.sensitivity
    assert found.reported == {"image": "network", "fused": "fused"}[report]
    assert ("<small>fused model</small>" in as_page(result)) == (report == "fused")
    own, of_reference = found.metrics.macro_auc.value, result[0].metrics.macro_auc.value
    assert own - of_reference == pytest.approx(found.macro_auc.value)


def test_a_run_that_reports_what_its_table_lacks_is_refused(tmp_path):
    weak, run = write_run(tmp_path / "weak", model(0.3, 5)), tmp_path / "both"
    write_fused_run(run, model(0.3, 1), model(3.0, 2), "fused")
    (run / "predictions.csv").write_bytes((weak / "predictions.csv").read_bytes())
    with pytest.raises(UsageError, match="45 test scans without fused probabilities; expected one for every scan"):
        compare_runs([weak, run])


def test_a_stated_margin_gives_every_difference_a_verdict(runs, tmp_path):
    weak, strong, fewer = compare_runs(runs, margin=0.05, n_boot=200)
    back = compare_runs([runs[1], runs[0]], margin=0.05, n_boot=200)[1].as_record()["non_inferiority"]
    assert isinstance(back, dict)
    assert back["macro_auc"]["verdict"] == "inferior"
    assert strong.as_record()["non_inferiority"]["macro_auc"]["verdict"] == "superior"
    assert weak.as_record()["non_inferiority"] is None
    for one in (strong, fewer):
        assert one.delong_margin is not None
        assert one.delong_margin.p_value < one.delong.p_value
        assert one.delong_margin.p_holm >= one.delong_margin.p_value
    write_comparison([weak, strong, fewer], tmp_path / "out")
    with sole_writer(tmp_path / "out"), pytest.raises(FolderInUse):
        write_comparison([weak], tmp_path / "out")
    record = json.loads((tmp_path / "out/compare.json").read_text())
    assert record["runs"][1]["margin"] == 0.05
    assert set(record["runs"][1]["non_inferiority"]["sensitivity"]) == set(LABELS.names)
    assert "stated before the test scans were seen" in record["method"]
    page, table = (tmp_path / "out/compare.html").read_text(), (tmp_path / "out/compare.md").read_text()
    for text in (page, table):
        assert "Non-inferiority with a margin of 0.05" in text
        assert "superior: the whole interval lies above 0" in text
    assert page.count('<line class="margin"') == 2 * (2 + 3)


def test_without_a_margin_nothing_is_said_of_it(runs):
    result = compare_runs(runs[:2])
    assert "on-inferiority" not in as_page(result) + as_markdown(result)
    assert result[1].as_record()["non_inferiority"] is None
    with pytest.raises(UsageError, match="margin: 5; expected a difference between 0 and 1"):
        compare_runs(runs, margin=5)


def test_the_axis_shows_the_margin_also_where_no_interval_reaches_it(tmp_path):
    one, two = write_run(tmp_path / "one", model(3.0, 1)), write_run(tmp_path / "two", model(3.0, 1))
    result = compare_runs([one, two], margin=0.2)
    drawn = forest(result, names_of(result))
    assert drawn.margin_at is not None
    assert 0 <= drawn.margin_at == pytest.approx(0.5 - 0.2 / drawn.limit / 2)


def test_runs_are_named_by_what_tells_them_apart(tmp_path):
    one, two = write_run(tmp_path / "a/run", model(1, 1)), write_run(tmp_path / "b/run", model(1, 2))
    assert names_of(compare_runs([one, two])) == ["a/run", "b/run"]


class Page(HTMLParser):
    """Opened elements, and whatever would be loaded from elsewhere."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in ("src", "href", "xlink:href")]


def test_the_page_is_one_file_with_every_difference(runs):
    result = compare_runs(runs)
    text, page = as_page(result), Page()
    page.feed(text)
    assert page.links == ["#content"]
    assert "script" not in page.tags
    assert "@import" not in text
    assert "url(" not in text
    assert page.tags.count("rect") == 2 * (2 + 3)  # two runs, two overall measures and three classes
    assert "mass &lt;b&gt;" in text
    assert "<b>, " not in text
    assert "a choice made on test scans" in text
    assert text == as_page(compare_runs(runs))


def test_a_reason_that_all_runs_share_is_given_once(runs):
    first, *others = compare_runs(runs, n_boot=200)
    why = "some patients have several scans"
    without = {"p_value": None, "p_holm": None, "reason": why, "found": ""}
    untested = [
        replace(
            other,
            **{name: getattr(other, name).model_copy(update=without) for name in ("delong", "mcnemar")},
            sensitivity={
                name: Estimate(value=0.0, ci95=None, method="", reason="every resample agrees")
                for name in other.sensitivity
            },
        )
        for other in others
    ]
    page = as_page([first, *untested])
    assert page.count(f"No test is given: {why}.") == page.count(why) == 1
    assert page.count("every resample agrees") == len(LABELS.names)
    assert "McNemar, exact" not in page
    assert "未提供檢定：" in as_page([first, *untested], "zh-TW")
    assert "No test is given" not in as_page([first, untested[0], others[1]])


def test_the_page_in_chinese_leaves_no_english_sentence_and_has_the_same_figures(runs):
    result = compare_runs(runs, margin=0.05, n_boot=200)
    english, chinese = as_page(result), as_page(result, "zh-TW")
    text = re.sub(r"<style>.*?</style>|<[^>]*>", " ", chinese, flags=re.DOTALL)
    assert ENGLISH_SENTENCE.findall(text) == []
    for words in ("各次執行並列比較", "參考：", "不劣性", "McNemar 精確檢定", "次中有", "信賴區間都在 −0.05 以上"):
        assert words in text, words
    assert sorted(re.findall(r"[+−]0\.\d\d\b", chinese)) == sorted(re.findall(r"[+−]0\.\d\d\b", english))
    assert "−0.05" in english
    assert not re.search(r"(?<![\w.-])-\d", text)  # one minus sign for all numbers


def test_the_forest_draws_every_interval_inside_its_axis(runs):
    result = compare_runs(runs)
    drawn = forest(result, names_of(result))
    assert [group.measure for group in drawn.groups][:2] == ["Macro AUC", "Balanced accuracy"]
    for row in (row for group in drawn.groups for row in group.rows):
        assert row.at is not None
        assert 0 <= (row.low if row.low is not None else row.at) <= row.at
        assert row.at <= (row.high if row.high is not None else row.at) <= 1
        assert row.at == pytest.approx(0.5 + (row.estimate.value or 0) / drawn.limit / 2)
    shares, values = zip(*drawn.ticks, strict=True)
    assert (shares[0], shares[-1], values[-1]) == pytest.approx((0, 1, drawn.limit))
    assert 3 <= len(values) <= 7  # legible
    assert 0 in [round(value, 9) for value in values]


def test_each_drawing_of_the_page_is_its_rows(runs):
    """Square and bar are where the row's difference and interval are on the axis; the colour follows the side of 0."""
    result = compare_runs(runs, margin=0.05, n_boot=200)
    drawn, page = forest(result, names_of(result)), as_page(result)
    rows = [row for group in drawn.groups for row in group.rows]
    drawings = re.findall(r"<tr class=\"run\">(.*?)</tr>", page, re.DOTALL)

    def place(value: float) -> str:
        return f"{50 + 50 * value / drawn.limit:.2f}%"

    for row, drawing in zip(rows, drawings, strict=True):
        value, (low, high) = row.estimate.value, row.estimate.ci95 or (None, None)
        assert f'<th scope="row">{row.run}</th>' in drawing
        assert re.findall(r'<svg x="([^"]*)" y="50%"', drawing) == [place(value)]
        bars = [(place(low), place(high))] if low is not None else []
        assert re.findall(r'class="interval" x1="([^"]*)" x2="([^"]*)"', drawing) == bars
        assert re.findall(r'class="margin" x1="([^"]*)"', drawing) == [place(-0.05)]
        assert re.findall(r'class="zero" x1="([^"]*)"', drawing) == ["50.00%"]
        side = "better" if (low or 0) > 0 else "worse" if (high or 0) < 0 else ""
        assert re.findall(r'aria-label="[^"]*" class="(\w+)"', drawing) == ([side] if side else [])
    ticks = re.findall(r'<text x="([^"]*)" y="20"[^>]*>([^<]*)<', page)
    assert [at for at, _ in ticks] == [place(float(value.replace("−", "-"))) for _, value in ticks]


@pytest.mark.parametrize("largest", [0.003, 0.06, 0.061, 0.14, 0.31, 0.6, 0.75, 1.0, 1.6, 3.2])
def test_the_axis_reaches_the_farthest_limit_by_a_few_round_steps(largest):
    """An interval of very few patients reaches beyond 1."""
    estimates = [Estimate(value=None, ci95=None, method=""), Estimate(value=0.0, ci95=(-largest, 0.001), method="")]
    limit, step = _axis(estimates, margin=0.0)
    assert largest <= limit <= largest + step
    steps = round(limit / step)
    assert limit == pytest.approx(steps * step)
    assert steps <= max(3, round(2 * limit))  # beyond 1.5, halves
    assert float(f"{step:.1g}") == step or step == 0.25


def test_three_files_are_written(runs, tmp_path):
    result = compare_runs(runs)
    write_comparison(result, tmp_path / "out")
    record = json.loads((tmp_path / "out/compare.json").read_text())
    assert record["runs"] == json.loads(json.dumps([one.as_record() for one in result]))
    assert record["runs"][1]["mcnemar"]["p_holm"] >= record["runs"][1]["mcnemar"]["p_value"]
    assert (tmp_path / "out/compare.html").read_text() == as_page(result)
    table = (tmp_path / "out/compare.md").read_text()
    assert table == as_markdown(result)
    found = result[1].macro_auc
    assert found is not None
    assert re.search(rf"\| strong \| 45 \| Macro AUC \| \{found.value:+.2f} \(", table)


def write_cross_validated(folder: Path, repeats: list[np.ndarray], seed: int = 0) -> Path:
    """A run without test scans; each repeat is divided by the next seed, and its calls are the second probability's."""
    write_run(folder, np.mean(repeats, axis=0))
    cohort = Cohort(tuple(Case(f"s{i:02d}", Path(f"s{i}"), f"p{i}", LABELS.names[i % 3]) for i in range(N)), LABELS)
    config = SplitConfig(folds=3, test_fraction=0, repeats=len(repeats), seed=seed)
    split = split_cohort(cohort, config)
    CohortLock.of(cohort, [()] * N, split, config).write(folder / "cohort.lock.json")
    told = Repeats(n=len(repeats), macro_auc=[0.5] * len(repeats), balanced_accuracy=[0.5] * len(repeats))
    known = {"out_of_fold": True, "repeats": told if len(repeats) > 1 else None}
    Metrics.load(folder / "metrics.json").model_copy(update=known).save(folder / "metrics.json")
    rows = [
        OfRepeat(f"s{i:02d}", "", number, 0, LABELS.names[np.argsort(said[i])[-2]], said[i].tolist())
        for number, said in enumerate(repeats, start=1)
        for i in range(N)
    ]
    if len(repeats) > 1:
        write_by_repeat(folder / "predictions_by_repeat.csv", LABELS.names, rows)
    return folder


@pytest.mark.parametrize("series", ["", "1.2.3"])
def test_runs_of_several_regions_a_scan_are_refused(tmp_path, series):
    """Neither the table nor the lock says which region a row is of: truth would be that of another one."""
    runs = []
    for name, seed in (("one", 1), ("two", 2)):
        folder = write_run(tmp_path / name, model(3.0, seed))
        two = tuple(Case("s", Path("s"), "p", label, series, (x, 0, 0), 9.0) for x, label in enumerate(LABELS.names))
        lock = CohortLock.of(Cohort(two, LABELS), [("a",)] * 3, Split((0, 1, 2), ()), SplitConfig())
        lock.write(folder / "cohort.lock.json")
        (folder / "predictions.csv").unlink()
        with PredictionTable(folder / "predictions.csv", LABELS) as table:
            for row in model(3.0, seed)[:3]:
                by_name = dict(zip(LABELS.names, row.tolist(), strict=True))
                table.append(Prediction("s", "p", series_uid="1.2.3", probabilities=by_name, predicted="cyst"))
            table.finish()
        runs.append(folder)
    with pytest.raises(UsageError, match="3 rows are of 1 scan") as refused:
        compare_runs(runs)
    assert "one region a scan" in str(refused.value)


def test_cross_validated_runs_are_paired_by_repeat_and_fold(tmp_path):
    repeats = [model(2.0, seed) for seed in range(3)]
    others = [model(1.0, seed) for seed in range(10, 13)]
    first = write_cross_validated(tmp_path / "first", repeats)
    alike = write_cross_validated(tmp_path / "alike", others)
    once = write_cross_validated(tmp_path / "once", others[:1])
    elsewhere = write_cross_validated(tmp_path / "elsewhere", others, seed=50)
    compared = compare_runs([first, alike, once, elsewhere], n_boot=50)
    assert [comparison.pairing for comparison in compared[1:]] == ["folds", "first repeat", "other folds"]
    mean = LabelledPredictions.of(TRUTH, np.mean(repeats, axis=0), [f"p{i}" for i in range(N)], LABELS)
    for comparison, ours, theirs in (
        (compared[1], np.mean(repeats, axis=0), np.mean(others, axis=0)),
        (compared[2], repeats[0], others[0]),
    ):
        expected = paired_difference(
            mean.scored_by(theirs), mean.scored_by(ours), PatientBootstrap(mean.patients, 50, 0)
        )
        assert comparison.macro_auc is not None
        assert comparison.macro_auc.value == pytest.approx(expected.macro_auc.value, abs=1e-5)
    second = np.argsort(repeats[0], axis=1)[:, -2]
    called = (
        recall_score(TRUTH.argmax(1), others[0].argmax(1), average="macro"),
        recall_score(TRUTH.argmax(1), second, average="macro"),
    )
    assert compared[2].balanced_sensitivity is not None
    assert compared[2].balanced_sensitivity.value == pytest.approx(called[0] - called[1])
    said = scans_sentence(compared)
    assert "alike: cross-validated in the reference's folds" in said
    fewer = scans_sentence([compared[0], replace(compared[1], n_shared=N - 9)])
    assert "alike: cross-validated, with the shared scans in the reference's folds" in fewer
    assert "once: cross-validated with a different number of repeats from the reference" in said
    assert "elsewhere: cross-validated in different folds from the reference" in said
    assert [test.p_value for comparison in compared for test in comparison.tests] == [None] * 6
    assert "not given where a patient has several scans or a run was cross-validated" in method_of(compared)


def test_a_cross_validated_run_is_compared_by_its_own_calls(tmp_path):
    """Each scan was called by thresholds from other patients, and not by the bundle's."""
    run = write_cross_validated(tmp_path / "run", [model(2.0, 0)])
    point = OperatingPoint(rule="class_threshold", thresholds={LABELS.names[0]: 0.001}, chosen_on="validation")
    Metrics.load(run / "metrics.json").model_copy(update={"operating_point": point}).save(run / "metrics.json")
    other = write_cross_validated(tmp_path / "other", [model(2.0, 0)])
    assert compare_runs([run, other], n_boot=50)[1].balanced_sensitivity.value == 0


def test_intervals_of_each_run_are_said_to_be_computed_as_they_were(tmp_path):
    runs = [write_run(tmp_path / name, model(2.0, seed)) for seed, name in enumerate(("first", "second", "third"))]
    first, second, third = compare_runs(runs, n_boot=50)
    (of_all,) = interval_sentences([first, second, third])
    assert of_all.startswith("Intervals: ")
    assert third.macro_auc is not None
    other = replace(third, macro_auc=third.macro_auc.model_copy(update={"method": "jackknife"}))
    of_second, of_third = interval_sentences([first, second, other])
    assert of_second == of_all.replace("Intervals:", "Intervals of second:")
    assert of_third.startswith("Intervals of third: jackknife; sensitivities: ")
    assert of_third in html.unescape(as_page([first, second, other]))
