"""``labels budget`` from what is typed to what is on disk: both methods, the test scans, the errors."""

from __future__ import annotations

import csv
import functools
import itertools
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from command_line import TINY, locked, read_rows, settings, write_rows
from matplotlib.lines import Line2D
from PIL import Image
from safetensors.torch import save_file

from med_transfer.atomic.sole_writer import LOCK_FILE
from med_transfer.backbones import load_backbone
from med_transfer.cohorts import Cohort, SplitConfig, split_cohort
from med_transfer.config import load_config
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.data_setup import resolve_preprocessing
from med_transfer.finetuning.run import load_source
from med_transfer.labelling import BudgetSettings, finetuned, label_budget
from med_transfer.labelling.budget import without_forecast
from med_transfer.labelling.curve_samples import CurveSamples, curve_samples
from med_transfer.labelling.drawing import curves_figure
from med_transfer.labelling.finetuned import start_of_finetuning
from med_transfer.labelling.label_forecast import Forecast, forecast
from med_transfer.labelling.probe_curve import CurvePlan, probe_curve
from med_transfer.labelling.record import Budget
from med_transfer.labelling.report import sentence
from med_transfer.metrics.binomial import wilson
from med_transfer.selection.candidates import find_candidates
from med_transfer.selection.features import FeatureLibrary

NAME = "resnet18-w8"
INPUT = ("input.shape=[16,16,16]", "input.region=roi", "input.spacing_mm=[2,2,2]")
SMALL = settings(*TINY, *INPUT)
QUICK = ("--repeats", 2, "--smallest", 4, "--sizes", 5)
SPLIT = SplitConfig(folds=2, test_fraction=0.34)
NO_SAY = ("transfer.on_harm=fallback", "fusion.use=[network,handcrafted]", "operating_point.rule=youden")


@pytest.fixture(scope="session")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("budget") / "some.safetensors"
    save_file({name: t.contiguous() for name, t in load_backbone(NAME, seed=3).encoder.state_dict().items()}, path)
    return path


def words(table: Path, out: Path, *more: object) -> list:
    return ["labels", "budget", table, "-o", out, "--backbone", NAME, *more, *SMALL]


@pytest.fixture(scope="session")
def measured(command, cohort_csv, weights, tmp_path_factory):
    """The curves of all 18 patients, in three folds."""
    out = tmp_path_factory.mktemp("budgets") / "probe"
    more = settings("split.test_fraction=0", "split.folds=3")
    return out, command(*words(cohort_csv, out, "--weights", weights, "--target", 0.99, *QUICK), *more)


def test_budget_speaks_of_every_class_and_says_how_it_was_measured(measured):
    out, outcome = measured
    assert outcome.code == 0, outcome.err
    record = json.loads((out / "budget.json").read_text())
    assert [one["name"] for one in record["forecasts"]] == ["ground-glass", "part-solid", "solid"]
    assert {one["outcome"] for one in record["forecasts"]} <= {"reached", "forecast", "out of reach"}
    for one in record["forecasts"]:
        assert one["sentence"] in outcome.out
        assert "sensitivity" in one["sentence"]
        assert one["labelled"] == 6
        assert [point["patients"] for point in one["points"]] == sorted(point["patients"] for point in one["points"])
        assert one["points"][-1]["patients"] == pytest.approx(4)  # two folds of three
        assert one["curve"]["start"] <= one["curve"]["asymptote"] <= 1
        assert (one["more"] is None) == (one["outcome"] != "forecast")
    assert (record["way"], record["n_patients"], record["n_folds"], record["repeats"]) == ("linear probe", 18, 3, 2)
    assert "Measured by linear probes on frozen features" in outcome.out
    assert "covers which of the present patients were used for training and which for evaluation" in record["limits"]
    assert record["limits"] in outcome.out
    assert record["way_means"] in outcome.out
    with Image.open(out / "budget.png") as picture:
        picture.load()
        assert min(picture.size) > 300


def test_no_patient_is_named(measured):
    out, outcome = measured
    assert "texture-00" not in outcome.out + outcome.err + (out / "budget.json").read_text()


def test_macro_auc_is_one_curve_and_python_gives_the_same(command, measured, cohort_csv, weights, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(measured[0] / "cache", out / "cache")
    more = settings("split.test_fraction=0", "split.folds=3")
    asked = (*QUICK, "--weights", weights, "--measure", "macro_auc", "--json")
    outcome = command(*words(cohort_csv, out, *asked), *more)
    (said,) = json.loads(outcome.out)["forecasts"]
    assert (outcome.code, said["name"], said["labelled"]) == (0, "all classes", 18)
    config = FinetuneConfig.model_validate(
        {
            "backbone": {"name": NAME, "weights": weights},
            "input": {"shape": [16, 16, 16], "region": "roi", "spacing_mm": [2, 2, 2]},
            "split": {"folds": 3, "test_fraction": 0},
        }
    )
    settings_ = BudgetSettings(measure="macro_auc", repeats=2, smallest=4, n_sizes=5)
    (found,) = label_budget(Cohort.read(cohort_csv), config, out, settings_).forecasts
    assert [point["value"] for point in said["points"]] == pytest.approx(found.samples.values.tolist())
    assert found.outcome == said["outcome"]


def test_points_are_those_of_the_cached_features(measured, cohort_csv, weights):
    """The curve again from the feature files alone, without the commands."""
    out, _ = measured
    candidate = find_candidates([NAME], [(NAME, weights)]).ready[0]
    config = FinetuneConfig.model_validate({"input": {"shape": [16, 16, 16], "region": "roi", "spacing_mm": [2, 2, 2]}})
    library = FeatureLibrary(out / "cache", resolve_preprocessing(candidate.spec, config))
    cohort = Cohort.read(cohort_csv)
    table = np.array(
        [
            np.concatenate([one.stages[stage] for stage in candidate.spec.pooled_stages])
            for case in cohort.cases
            for one in library.look_up(case, [candidate.network])[1]
        ]
    )
    judged = probe_curve(table, cohort.truth, cohort.patients, cohort.labels, CurvePlan(4, 5, 2, 3))
    record = json.loads((out / "budget.json").read_text())
    by_hand = {curve.name: curve.values for curve in curve_samples(judged, "sensitivity", 20)}
    for one in record["forecasts"]:
        assert [point["value"] for point in one["points"]] == pytest.approx(by_hand[one["name"]].tolist())


def test_nothing_of_a_test_scan_counts(command, cohort_csv, weights, tmp_path):
    """Other labels, other regions: not one figure changes."""
    test, rows = split_cohort(Cohort.read(cohort_csv), SPLIT).test, read_rows(cohort_csv)
    for number, row in enumerate(rows):
        row["scan"] = str(cohort_csv.parent / row["scan"])
        row["split"] = "test" if number in test else "train"
    asked = ("--weights", weights, "--repeats", 2, "--smallest", 3, "--sizes", 4, "--json")
    honest = command(*words(write_rows(tmp_path / "honest.csv", rows), tmp_path / "out", *asked))
    others = {"ground-glass": "solid", "solid": "part-solid", "part-solid": "ground-glass"}
    for number in test:
        rows[number] |= {"label": others[rows[number]["label"]], "roi_x_mm": "999"}
    corrupted = command(*words(write_rows(tmp_path / "corrupted.csv", rows), tmp_path / "out", *asked))
    assert (honest.code, corrupted.code) == (0, 0), corrupted.err
    assert json.loads(honest.out) == json.loads(corrupted.out)
    assert json.loads(honest.out)["n_scans"] == len(rows) - len(test)
    assert len(list((tmp_path / "out/cache/features").iterdir())) == len(rows) - len(test)


@functools.cache
def curve_of(name: str, top: float, n_sizes: int = 6) -> Forecast:
    """The forecast of a made-up curve that rises from 0.35 to ``top``, for a target of 0.8."""
    sizes = np.geomspace(4, 20, n_sizes)
    values = top - (top - 0.35) * (sizes / 4) ** -0.5
    draws = np.clip(values + np.random.default_rng(0).normal(0, 0.05, (40, n_sizes)), 0, 1)
    return forecast(CurveSamples(name, sizes, values, draws, labelled=400), 0.8)


def test_the_figure_says_what_its_axes_lines_and_panels_are():
    found = (curve_of("solid", 0.95), curve_of("$x", 0.6), curve_of("all classes", 1.0, n_sizes=3))
    figure = curves_figure(Budget(BudgetSettings(target=0.8), found, NAME, 60, 70, 3, 10, Path()))
    first, second, third, unused = figure.axes
    assert not unused.get_visible()
    more = sentence(found[0], "sensitivity").partition("about ")[2].partition(" more")[0]
    assert first.get_title() == f"solid: about {more} more labelled patients"
    assert second.get_title() == "$x: not foreseen within 5 times the patients"
    assert third.get_title() == "all classes: no forecast"
    assert first.get_xlabel() == "training patients of this class, in a fold (log scale)"
    assert third.get_xlabel() == "training patients, in a fold (log scale)"
    (legend,) = figure.legends
    assert {text.get_text() for text in legend.get_texts()} == {
        "measured, 95 % interval",
        "95 % interval of the curve",
        "fitted",
        "extrapolated",
        "target 0.8",
        "the curve reaches the target",
    }


def test_a_panel_shows_what_was_measured_its_curve_and_where_that_reaches_the_target():
    found = curve_of("solid", 0.95)
    assert found.curve is not None
    figure = curves_figure(Budget(BudgetSettings(target=0.8), (found,), NAME, 60, 70, 3, 10, Path()))
    (axes,), (legend,) = figure.axes, figure.legends
    lines = {line.get_label(): np.asarray(line.get_xydata()) for line in axes.lines}
    np.testing.assert_allclose(
        lines["measured, 95 % interval"], np.stack([found.samples.patients, found.samples.values], 1)
    )
    present = found.samples.patients[-1]
    for name, (begin, end) in {"fitted": (4, present), "extrapolated": (present, 5 * present)}.items():
        sizes, values = lines[name].T
        assert (sizes[0], sizes[-1]) == pytest.approx((begin, end))
        np.testing.assert_allclose(values, found.curve.at(sizes))
    assert set(lines["target 0.8"][:, 1]) == {0.8}
    (needed,) = set(lines["the curve reaches the target"][:, 0])
    assert found.curve.at(np.array([needed]))[0] == pytest.approx(0.8)
    intervals, band = axes.collections
    low, high = np.percentile(found.samples.draws, [2.5, 97.5], axis=0)
    ends = [np.asarray(path.vertices) for path in intervals.get_paths()]
    np.testing.assert_allclose(ends, np.stack([np.stack([found.samples.patients] * 2), [low, high]], 2).swapaxes(0, 1))
    corners = np.asarray(band.get_paths()[0].vertices)
    at_end = np.percentile([one.at(np.array([5 * present]))[0] for one in found.curves], [2.5, 97.5])
    np.testing.assert_allclose(np.unique(corners[np.isclose(corners[:, 0], 5 * present), 1]), at_end)
    looks = {line.get_label(): (line.get_color(), line.get_linestyle()) for line in axes.lines}
    told = zip(legend.get_texts(), legend.legend_handles, strict=True)
    assert looks == {
        text.get_text(): (handle.get_color(), handle.get_linestyle())
        for text, handle in told
        if isinstance(handle, Line2D)
    }
    assert looks["target 0.8"][0] == looks["the curve reaches the target"][0] != looks["fitted"][0]
    assert len(set(looks.values())) == 5 - (looks["measured, 95 % interval"] == looks["fitted"])
    assert axes.get_xscale() == "log"


def test_the_figures_intervals_are_those_of_the_record_also_where_every_resample_agrees():
    """Three patients who are always called right: a bar without height would show certainty."""
    sizes, ones = np.array([2.0, 3.0, 4.0, 6.0, 8.0]), np.ones((40, 5))
    draws = np.column_stack([np.full(40, np.nan), ones[:, 1:]])
    for given, found in ((ones, 5), (draws, 4)):
        certain = CurveSamples("solid", sizes, given[0], given, labelled=3)
        figure = curves_figure(Budget(BudgetSettings(), (forecast(certain, 0.8),), NAME, 9, 9, 3, 10, Path()))
        drawn = [tuple(path.vertices[:, 1]) for path in figure.axes[0].collections[0].get_paths()]
        recorded = [interval for interval in certain.intervals if interval is not None]
        assert len(recorded) == found
        assert recorded == [pytest.approx(wilson(3, 3))] * found
        assert [limits for limits in drawn if np.isfinite(limits).all()] == recorded


def test_the_figures_legend_covers_no_panel_and_its_ticks_no_other():
    figure = curves_figure(
        Budget(BudgetSettings(), (curve_of("solid", 0.95, n_sizes=30),), NAME, 60, 70, 3, 10, Path())
    )
    figure.draw_without_rendering()
    (axes,), (legend,) = figure.axes, figure.legends
    assert legend.get_window_extent().y1 <= axes.xaxis.label.get_window_extent().y0
    places = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert len(places) > 3
    assert all(left.x1 < right.x0 for left, right in itertools.pairwise(places))


@pytest.mark.parametrize(
    ("more", "interval", "expected"),
    [
        (133, (133, 133), "about 140 more labelled patients of this class (95 % interval 130 to 140)"),
        (1201, (996, 1204), "about 1300 more labelled patients of this class (95 % interval 990 to 1300)"),
        (8, (0, 12), "about 8 more labelled patients of this class (95 % interval 0 to 12)"),
        (101, (99, None), "(95 % interval 99 to more than 5 times those at hand)"),
    ],
)
def test_the_number_is_rounded_up_and_its_limits_outwards(more, interval, expected):
    samples = CurveSamples("solid", np.array([4.0]), np.array([0.6]), np.array([[0.6]]), labelled=20)
    now = (0.6, 0.5, 0.7)
    found = Forecast("solid", 0.9, 5, "forecast", samples, more, interval, share_reaching=1, now=now)
    assert expected in sentence(found, "sensitivity")
    nearly = sentence(replace(found, share_reaching=399 / 400), "sensitivity")
    assert "; 99.8% of the resampled curves get there" in nearly


def test_without_weights_it_says_that_the_runs_start_from_scratch():
    config = FinetuneConfig.model_validate({"backbone": {"name": NAME}, "input": {"region": "whole"}})
    assert start_of_finetuning(config)[0] == f"{NAME}, from scratch"


def test_the_runs_start_from_the_network_of_the_config_with_its_channels_and_pooling(monkeypatch):
    built = []
    monkeypatch.setattr(finetuned, "load_source", lambda config: built.append(load_source(config)) or built[0])
    backbone = {"name": "tiles-resnet18-w32", "instance_pooling": "mean_max"}
    channels = [{"column": "scan"}, {"column": "scan_post"}]
    config = FinetuneConfig.model_validate({"backbone": backbone, "input": {"region": "whole", "channels": channels}})
    _, seen = start_of_finetuning(config)
    assert seen.n_channels == 2
    assert built[0].encoder.instance_pooling == "mean_max"


def test_finetuning_gives_the_curve_of_its_runs_and_resumes(command, cohort_csv, weights, tmp_path):
    """Small subsets are not refused for what has no say in the curve."""
    quick = ("training.epochs=1", "training.epoch_scans=8", "split.kind=holdout", "split.val_fraction=0.5")
    more = ("--weights", weights, "--finetune", "--smallest", 2, "--sizes", 2, "--json")
    asked = words(cohort_csv, tmp_path, *more)
    outcome = command(*asked, *settings(*quick, *NO_SAY))
    assert outcome.code == 0, outcome.err
    record = json.loads(outcome.out)
    assert (record["way"], record["backbone"]) == ("fine-tuning", f"{NAME} ({weights})")
    assert record["way_means"].startswith("Measured by fine-tuning")
    assert "covers which of the present patients were used for evaluation, not which for training" in record["limits"]
    assert {one["outcome"] for one in record["forecasts"]} == {"too few points"}

    rows = read_rows(cohort_csv)
    truth = {row["scan"]: row["label"] for row in rows}
    test = {rows[number]["scan"] for number in split_cohort(Cohort.read(cohort_csv), SPLIT).test}
    runs = sorted((tmp_path / "runs").glob("repeat-*/fold-*/patients-*"))
    largest = max(int(run.name.removeprefix("patients-")) for run in runs)
    answered = {}
    for run in runs:
        assert locked(run, truth)
        assert not locked(run, test)
        if run.name == f"patients-{largest}":
            with (run / "predictions.csv").open(newline="") as file:
                answered |= {row["scan"]: row["predicted"] for row in csv.DictReader(file)}
    assert set(answered) == set(truth) - test
    for one in record["forecasts"]:
        own = [scan for scan in answered if truth[scan] == one["name"]]
        expected = sum(answered[scan] == one["name"] for scan in own) / len(own)
        assert one["points"][-1]["value"] == pytest.approx(expected)

    trained = {path: path.stat().st_mtime_ns for run in runs for path in run.glob("training/*/*")}
    assert trained
    for run in runs:
        written = load_config(FinetuneConfig, run / "config.yaml")
        assert (written.from_scratch_baseline, written.fusion, written.operating_point.rule) == (
            False,
            None,
            "balanced_argmax",
        )
    again = command(*asked, *settings(*quick, *NO_SAY))
    assert again.code == 0, again.err
    assert json.loads(again.out)["forecasts"] == record["forecasts"]
    assert trained == {path: path.stat().st_mtime_ns for run in runs for path in run.glob("training/*/*")}


def test_a_config_that_repeats_its_cross_validation_is_measured_by_fine_tuning_too(cohort_csv):
    split = {"folds": 2, "test_fraction": 0, "repeats": 3}
    config = FinetuneConfig.model_validate({"backbone": {"name": NAME}, "split": split})
    asked = BudgetSettings(finetune=True, smallest=3, n_sizes=2)
    assert [*without_forecast(Cohort.read(cohort_csv), config, asked).values()] == [
        ["ground-glass", "part-solid", "solid"]
    ]


def test_runs_of_a_folder_that_was_moved_go_on_with_its_prepared_scans(tmp_path):
    before, run = tmp_path / "before", Path("runs/repeat-0/fold-1/patients-24")
    finetuned._share_prepared_scans(before / run, before / "runs")
    (before / "runs/prepared/scan").touch()
    moved = before.rename(tmp_path / "moved")
    finetuned._share_prepared_scans(moved / run, moved / "runs")
    assert (moved / run / "prepared/scan").exists()
    link = moved / run / "prepared"
    link.unlink()
    link.symlink_to(tmp_path / "before/runs/prepared")  # as earlier versions did
    finetuned._share_prepared_scans(moved / run, moved / "runs")
    assert (moved / run / "prepared/scan").exists()


def test_where_no_links_can_be_made_each_run_reads_its_own_scans(tmp_path, monkeypatch):
    def refused(*_, **__):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "symlink_to", refused)
    finetuned._share_prepared_scans(tmp_path / "run", tmp_path)
    assert not (tmp_path / "run/prepared").exists()


def test_no_other_job_writes_to_the_folder_until_the_budget_is_written(
    measured, cohort_csv, weights, tmp_path, monkeypatch
):
    shutil.copytree(measured[0] / "cache", tmp_path / "out/cache")
    written = []

    def write(budget):
        assert (budget.folder / LOCK_FILE).exists()
        written.append(budget)

    monkeypatch.setattr("med_transfer.labelling.budget.write_budget", write)
    config = FinetuneConfig.model_validate(
        {
            "backbone": {"name": NAME, "weights": weights},
            "input": {"shape": [16, 16, 16], "region": "roi", "spacing_mm": [2, 2, 2]},
            "split": {"folds": 3, "test_fraction": 0},
        }
    )
    settings_ = BudgetSettings(repeats=2, smallest=4, n_sizes=3, n_draws=20)
    assert [label_budget(Cohort.read(cohort_csv), config, tmp_path / "out", settings_)] == written


# Errors are reported


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("--class", "cystic"), "unknown class 'cystic'; expected one of ground-glass, part-solid, solid"),
        (("--measure", "f1"), "measure 'f1'; expected one of sensitivity, macro_auc"),
        (("--measure", "macro_auc", "--class", "solid"), "classes with measure macro_auc; expected sensitivity"),
        (("--target", 1), "target 1.0; expected above 0 and below 1"),
        (("--target", "nan"), "target nan; expected above 0 and below 1"),
        (("--multiple", 1), "multiple 1.0; expected above 1, at most 1000"),
        (("--multiple", "inf"), "multiple inf; expected above 1, at most 1000"),
        (("--multiple", "nan"), "multiple nan; expected above 1, at most 1000"),
        (("--smallest", 1), "smallest 1; expected at least 2 patients"),
        (("--smallest", 500), "smallest 500; expected a part of the 18 patients in the table"),
        ((), "backbone resnet18-w8 has no published weights"),
        (("--weights", "nowhere.pt"), "nowhere.pt"),
        (
            ("--weights", "a.pt", "--set", "transfer.strategy=scratch"),
            "transfer.strategy scratch with backbone.weights",
        ),
        (("--set", "split.folds=9"), "class 'ground-glass' has 6 patients; expected at least 10"),
    ],
)
def test_wrong_words_are_refused_before_a_scan_is_read(command, cohort_csv, tmp_path, more, message):
    outcome = command(*words(cohort_csv, tmp_path / "out"), *more)
    assert (outcome.code, message in outcome.err) == (2, True), outcome.err
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (("--sizes", 3), "ground-glass, solid: there will be a curve, but no forecast: 3 sizes of training set;"),
        (
            ("--smallest", 9),
            "solid: there will be a curve, but no forecast: the sizes reach from 3 to 4 patients, less",
        ),
    ],
)
def test_that_there_will_be_no_forecast_is_said_before_a_scan_is_read(
    command, cohort_csv, weights, tmp_path, more, reason
):
    asked = ("--weights", weights, *QUICK, *more, "--class", "solid", "--class", "ground-glass", "--json")
    outcome = command(*words(cohort_csv, tmp_path, *asked), *settings("split.test_fraction=0", "split.folds=3"))
    assert outcome.code == 0, outcome.err
    assert f"WARNING: {reason}" in outcome.err.partition("features")[0]
    assert {one["outcome"] for one in json.loads(outcome.out)["forecasts"]} == {"too few points"}


def test_too_few_patients_for_the_smallest_subset(command, cohort_csv, weights, tmp_path):
    outcome = command(*words(cohort_csv, tmp_path / "out", "--weights", weights, "--smallest", 7))
    assert outcome.code == 2
    assert "6 patients to learn from in a fold; expected at least the smallest subset, 7" in outcome.err


def test_a_stage_that_the_backbone_lacks(command, cohort_csv, weights, tmp_path):
    outcome = command(
        *words(cohort_csv, tmp_path / "out", "--weights", weights), *settings("backbone.pooled_stages=[9]")
    )
    assert outcome.code == 2
    assert "backbone.pooled_stages: pooled stages [9]; expected different numbers from -4 to 3 for" in outcome.err
    assert not (tmp_path / "out").exists()


def test_a_source_that_learned_from_these_patients_is_refused(command, cohort_csv, finished, tmp_path):
    outcome = command(*words(cohort_csv, tmp_path / "out", "--weights", finished.folder))
    assert outcome.code == 2
    assert "the source was trained on 12 of these scans or their patients" in outcome.err
    assert not (tmp_path / "out").exists()
