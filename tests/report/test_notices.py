from dataclasses import replace

import numpy as np
import pytest
from report_samples import Page, metrics_of, sample, write
from simulated_scores import findings, three_classes

from med_transfer.evaluation.evaluate import _abstained
from med_transfer.metrics.config import EvaluationConfig
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.domain import Domain, Spread
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.metrics import Abstained, Repeats
from med_transfer.page import ENGLISH
from med_transfer.predictions.record import Prediction
from med_transfer.report.evidence import Evidence
from med_transfer.report.sections.first_screen_answers import brief, figures_of_the_run
from med_transfer.report.sections.first_screen_next import next_steps
from med_transfer.report.sections.first_screen_notices import notices


def by_title(metrics):
    return {notice.title: notice for notice in notices(Evidence(metrics, sample().run))}


def test_a_baseline_that_is_not_beaten_is_a_warning():
    data = three_classes(signal=0.3)
    better = three_classes(signal=3)
    shown = by_title(metrics_of(data, baselines={"handcrafted": better.probabilities}))
    assert shown["The network is worse than the handcrafted baseline"].level == "warning"
    metrics = metrics_of(better)
    shown = by_title(metrics)
    assert shown["The network beats the handcrafted baseline"].level == "good"
    unsure = metrics.baselines["handcrafted"].macro_auc_gain.model_copy(update={"value": 0.02, "ci95": (-0.01, 0.05)})
    doubtful = metrics.baselines["handcrafted"].model_copy(update={"macro_auc_gain": unsure})
    shown = by_title(metrics.model_copy(update={"baselines": {"handcrafted": doubtful}}))
    notice = shown["The network is not shown to beat the handcrafted baseline"]
    assert notice.level == "warning"
    assert "+0.020 (95 % CI −0.010 to +0.050)" in notice.text


def with_lead(value, limits):
    """The notice on the handcrafted baseline for a lead with its interval: title and text."""
    metrics = sample().metrics
    baseline = metrics.baselines["handcrafted"]
    lead = baseline.macro_auc_gain.model_copy(
        update={"value": value, "ci95": limits, "reason": "" if limits else "few"}
    )
    changed = {"handcrafted": baseline.model_copy(update={"macro_auc_gain": lead})}
    shown = by_title(metrics.model_copy(update={"baselines": changed}))
    return next((title, notice.text) for title, notice in shown.items() if "handcrafted baseline" in title)


def test_a_network_behind_the_baseline_is_called_worse_only_beyond_chance():
    """Of a lead of -0.010, -0.200 to +0.180, it was said that the network is no better."""
    title, text = with_lead(-0.01, (-0.2, 0.18))
    assert title == "The network does not beat the handcrafted baseline"
    assert "The interval includes 0, so neither is shown to be better." in text
    title, text = with_lead(0.0, None)
    assert title == "The network does not beat the handcrafted baseline"
    assert "includes 0" not in text
    assert with_lead(-0.1, (-0.18, -0.02))[0] == "The network is worse than the handcrafted baseline"


@pytest.mark.parametrize(
    ("of_auc", "of_sensitivity", "said"),
    [
        ((-0.02, 0.1), (-0.05, 0.1), "no difference was shown"),
        ((0.001, 0.15), (-0.05, 0.1), "A 95 % interval excludes 0, which is not enough for a verdict"),
        ((-0.1, 0.05), (-0.2, -0.001), "A 95 % interval excludes 0, which is not enough for a verdict"),
        ((0.05, 0.2), (-0.3, -0.1), "better in one measure and the same network trained from scratch in the other"),
    ],
)
def test_without_a_verdict_on_transfer_the_sentence_holds_for_the_intervals_beside_it(of_auc, of_sensitivity, said):
    """It said that no difference was shown, also beside two intervals that showed opposite ones."""
    metrics = sample().metrics
    gain = metrics.transfer_gain
    auc, sensitivity = (
        estimate.model_copy(update={"value": sum(limits) / 2, "ci95": limits})
        for estimate, limits in ((gain.macro_auc, of_auc), (gain.balanced_sensitivity, of_sensitivity))
    )
    changed = gain.model_copy(update={"verdict": "none", "macro_auc": auc, "balanced_sensitivity": sensitivity})
    notice = by_title(metrics.model_copy(update={"transfer_gain": changed}))["No gain from transfer was shown"]
    assert said in notice.text
    assert ("no difference was shown" in notice.text) == (of_auc[0] < 0 and of_sensitivity[1] > 0)


def test_with_too_few_patients_for_a_verdict_on_transfer_it_says_so():
    metrics = sample().metrics
    few = metrics.transfer_gain.model_copy(update={"verdict": "none", "n_patients": 6})
    notice = by_title(metrics.model_copy(update={"transfer_gain": few}))["No gain from transfer was shown"]
    assert "There are fewer than 7 patients, too few to show a gain or harm." in notice.text


def test_failures_and_few_scans_are_warnings():
    data = three_classes(30)
    failed = [Prediction("s", status="failed", reason="truncated")]
    shown = by_title(metrics_of(data, failed=failed))
    assert "truncated (1 scan)" in shown["1 of 31 scans gave no prediction"].text
    few = [f"{name} ({n})" for name, n in zip(data.labels.names, data.truth.sum(0), strict=True) if n < 10]
    assert ", ".join(few) in shown["Too few scans to trust a rate"].text


def test_predictions_that_abstain_are_counted_and_the_others_measured():
    metrics = metrics_of(three_classes())
    some = Abstained(n=7, above=0.95, balanced_accuracy=metrics.balanced_accuracy)
    notice = by_title(metrics.model_copy(update={"abstained": some}))["Some predictions abstain"]
    assert f"7 of {metrics.n_scans} predictions abstain" in notice.text
    assert "than 95% of held-out scans" in notice.text
    assert f"balanced accuracy {metrics.balanced_accuracy.value:.1%} (".replace("%", " %") in notice.text
    strict = by_title(metrics.model_copy(update={"abstained": some.model_copy(update={"above": 0.998})}))
    assert "than 99.8% of held-out scans" in strict["Some predictions abstain"].text
    none = some.model_copy(update={"n": 0})
    assert "Some predictions abstain" not in by_title(metrics.model_copy(update={"abstained": none}))


def test_a_class_that_is_never_called_is_a_warning_even_where_transfer_helped():
    data = three_classes()
    probabilities = data.probabilities * [1, 1e-6, 1]
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    squashed = type(data)(data.truth, probabilities, data.patients, data.labels)
    name = data.labels.names[1]
    assert by_title(metrics_of(squashed, transfer_gain=None, baselines={}))[f"Never called: {name}"].level == "warning"
    assert not any(title.startswith("Never called") for title in by_title(sample().metrics))


def test_probabilities_of_few_patients_and_a_run_without_test_patients_are_said():
    metrics = metrics_of(three_classes())
    few = "Probabilities are calibrated on few patients"
    none_kept = "Development evidence only: no patients were held out as a test set"
    assert not {few, none_kept} & by_title(metrics).keys()
    known = {"calibrated_on": {"healthy": 30, "benign": 4, "malignant": 9}, "out_of_fold": True}
    shown = by_title(metrics.model_copy(update=known))
    assert (shown[few].level, shown[none_kept].level) == ("warning", "warning")
    assert "benign (4), malignant (9). With fewer than 10 of a class" in shown[few].text
    assert "They describe single networks" in shown[none_kept].text
    steps = next_steps(replace(sample(), metrics=metrics.model_copy(update=known)), ENGLISH)
    assert "med-transfer evaluate RUN OTHER.csv -o OUT" in steps[-1]


def test_of_a_repeated_cross_validation_the_first_screen_says_how_far_the_splits_lie_apart():
    repeats = Repeats(n=3, macro_auc=[0.74, 0.79, None], balanced_accuracy=[0.7, 0.62, 0.66])
    metrics = metrics_of(three_classes()).model_copy(update={"out_of_fold": True, "repeats": repeats})
    evidence = replace(sample(), metrics=metrics)
    first, *_ = notices(evidence)
    assert first.title.startswith("Development evidence only")
    assert "the mean of 3 networks that were not trained on it" in first.text
    figures = {name: beneath for name, _, beneath in figures_of_the_run(evidence, ENGLISH)}
    assert figures["Macro AUC"].endswith("; range over repeats 0.740 to 0.790")
    assert figures["Balanced accuracy"].endswith("; range over repeats 62.0 to 70.0")
    assert "each predicted by the mean of 3 networks" in dict(brief(evidence, ENGLISH))["Evaluated on"]
    of_first_repeat = "Both networks are of the first repeat: only there was one trained from scratch."
    (told,) = [notice.text for notice in notices(evidence) if "Transferred minus scratch" in notice.text]
    assert told.endswith(of_first_repeat)
    assert of_first_repeat not in str(notices(replace(evidence, metrics=metrics_of(three_classes()))))


def test_of_cross_validated_scans_the_methods_say_that_intervals_are_wider(tmp_path):
    data = three_classes(60)
    for number, out_of_fold in enumerate((False, True)):
        metrics = metrics_of(data, known={"out_of_fold": out_of_fold})
        auc = metrics.classes["benign"].auc
        text = Page(write(tmp_path / f"{number}.html", replace(sample(), metrics=metrics))).text
        assert ("wider by the root of 2" in auc.method) == out_of_fold
        assert ("intervals of AUC and of its differences are then made wider by the root of 2" in text) == out_of_fold


@pytest.mark.parametrize("data", [three_classes(), findings()], ids=["classes", "findings"])
def test_a_mean_over_classes_says_which_it_is_without(data):
    """Of test scans without one class, balanced accuracy and macro AUC are those of the others."""
    beneath = {name: text for name, _, text in figures_of_the_run(Evidence(metrics_of(data), sample().run), ENGLISH)}
    assert "without" not in str(beneath)
    chosen = ~data.truth[:, 1]
    truth, scores = data.truth[chosen], data.probabilities[chosen]
    rest = replace(data, truth=truth, probabilities=scores, patients=data.patients[: len(truth)])
    metrics = metrics_of(rest)
    own = metrics.classes.values()
    assert metrics.macro_auc.value == pytest.approx(
        np.mean([one.auc.value for one in own if one.auc.value is not None])
    )
    beneath = {name: text for name, _, text in figures_of_the_run(Evidence(metrics, sample().run), ENGLISH)}
    for name in ("Balanced accuracy", "Macro AUC"):
        assert beneath[name].endswith(f"; without {data.labels.names[1]}")


def test_of_one_class_alone_balanced_accuracy_is_its_sensitivity_and_there_is_no_auc():
    data = three_classes(60)
    chosen = data.truth[:, 0]
    one = replace(
        data, truth=data.truth[chosen], probabilities=data.probabilities[chosen], patients=data.patients[: chosen.sum()]
    )
    metrics = metrics_of(one, baselines={}, transfer_gain=None)
    shown = {name: text for name, _, text in figures_of_the_run(Evidence(metrics, sample().run), ENGLISH)}
    assert shown["Balanced accuracy"].endswith("; without benign, malignant")
    assert shown["Macro AUC"] == "no class has both cases and other scans"


def test_no_more_patients_are_asked_for_than_a_wide_interval_needs():
    """For a width of 0.8, it was said that three patients are needed, now eight."""
    data = three_classes(24)
    wide = metrics_of(data, config=EvaluationConfig(interval_width=0.8))
    few = {name: one.sample_size["sensitivity"] for name, one in wide.classes.items() if one.n_patients < 10}
    assert few
    assert all(size.n_needed_at_worst <= size.n_patients for size in few.values())
    assert not [step for step in next_steps(Evidence(wide, sample().run), ENGLISH) if "Collect more patients" in step]
    narrow = next_steps(Evidence(metrics_of(data), sample().run), ENGLISH)
    assert [step for step in narrow if "Collect more patients" in step]


def test_patients_of_a_class_that_nobody_has_are_asked_for_too():
    """Of a cohort without a malignant case, it was said how many more benign ones are needed."""
    data = three_classes(24)
    chosen = ~data.truth[:, 2]
    rest = replace(
        data, truth=data.truth[chosen], probabilities=data.probabilities[chosen], patients=data.patients[: chosen.sum()]
    )
    steps = " ".join(next_steps(Evidence(metrics_of(rest), sample().run), ENGLISH))
    assert "381 patients with malignant (now 0)" in steps


def test_scans_without_a_prediction_are_repaired_for_another_evaluation_where_a_bundle_was_evaluated():
    """It was advised to train again, which an evaluation of a finished bundle does not need."""
    metrics = metrics_of(three_classes(30), failed=[Prediction("s", status="failed", reason="truncated")])
    (step, *_) = next_steps(Evidence(metrics, sample().run), ENGLISH)
    assert step.endswith("repair or replace them, and train again.")
    (step, *_) = next_steps(Evidence(metrics.model_copy(update={"domain": a_domain(metrics)}), sample().run), ENGLISH)
    assert step.endswith("repair or replace them, and evaluate again.")


def a_domain(metrics):
    share = metrics.classes[metrics.labels[0]].sensitivity
    spread = Spread(n=30, low=0, quartile_1=0.2, median=0.5, quartile_3=0.8, high=1)
    return Domain(
        outside_envelope=share,
        outside_by_axis={},
        novelty=spread,
        out_of_distribution=share,
        abstain_above=None,
        abstained=None,
        prevalence={},
    )


def test_a_finding_that_few_scans_lack_has_a_specificity_of_few():
    """Only the scans with a finding were counted: of 4 scans without one, nothing was said."""
    data = findings(60)
    truth = data.truth.copy()
    truth[:, 0] = np.arange(60) >= 4
    name = data.labels.names[0]
    text = by_title(metrics_of(replace(data, truth=truth)))["Too few scans to trust a rate"].text
    assert f"without {name} (4)" in text
    assert "without" not in str(by_title(metrics_of(three_classes(60))).get("Too few scans to trust a rate"))


def test_copies_across_the_split_are_named_by_row():
    metrics = metrics_of(three_classes(30))
    title = "Possible duplicates across the split: 12"
    assert title not in by_title(metrics)
    notice = by_title(metrics.model_copy(update={"altered_copies": [(5, 20 + n) for n in range(12)]}))[title]
    assert notice.level == "warning"
    assert "rows 5 and 20, 5 and 21" in notice.text
    assert "5 and 29... of the table" in notice.text


def test_an_auc_whose_interval_holds_one_half_is_not_called_worse_than_chance():
    metrics = metrics_of(three_classes())
    name = metrics.labels[0]

    def with_auc(value, limits):
        auc = metrics.classes[name].auc.model_copy(update={"value": value, "ci95": limits, "reason": "few"})
        classes = metrics.classes | {name: metrics.classes[name].model_copy(update={"auc": auc})}
        return by_title(metrics.model_copy(update={"classes": classes}))

    assert f"Worse than chance: {name}" in with_auc(0.3, (0.2, 0.4))
    for limits in ((0.3, 0.68), None):
        shown = with_auc(0.49, limits)
        assert f"Worse than chance: {name}" not in shown
        assert f"Not shown to be better than chance: {name}" in shown


def test_a_lead_without_interval_is_not_said_to_have_one_that_includes_0():
    metrics = metrics_of(three_classes())
    gain = metrics.baselines["handcrafted"].macro_auc_gain
    alone = gain.model_copy(update={"value": 0.1, "ci95": None, "reason": "too few patients"})
    baseline = metrics.baselines["handcrafted"].model_copy(update={"macro_auc_gain": alone})
    shown = by_title(metrics.model_copy(update={"baselines": {"handcrafted": baseline}}))
    text = shown["The network is not shown to beat the handcrafted baseline"].text
    assert "includes 0" not in text
    assert (
        "the uncertainty of this lead cannot be estimated. Model minus baseline: macro AUC +0.100 (too few patients)."
        in text
    )


def test_where_every_prediction_abstains_there_is_no_figure_of_the_others():
    metrics = metrics_of(three_classes())
    none = Estimate(value=None, ci95=None, method="every prediction abstains")
    all_abstain = Abstained(n=metrics.n_scans, above=0.95, balanced_accuracy=none)
    text = by_title(metrics.model_copy(update={"abstained": all_abstain}))["Some predictions abstain"].text
    assert text.endswith("balanced accuracy undefined (every prediction abstains).")
    without = all_abstain.model_copy(update={"balanced_accuracy": none.model_copy(update={"value": 0.5})})
    text = by_title(metrics.model_copy(update={"abstained": without}))["Some predictions abstain"].text
    assert text.endswith("balanced accuracy 50.0 %.")


def test_of_the_scans_with_an_answer_it_is_said_which_classes_they_lack():
    """Where every malignant scan abstained, the balanced accuracy of the others rose without a word."""
    data = three_classes(60)
    predictions = LabelledPredictions.of(data.truth, data.probabilities, data.patients, data.labels)
    answers = [
        Prediction(f"s{k}", abstained=bool(malignant), abstained_because="novelty" if malignant else "")
        for k, malignant in enumerate(data.truth[:, 2])
    ]
    abstained = _abstained(predictions, answers, 0.95)
    assert (abstained.n, abstained.absent) == (data.truth[:, 2].sum(), ["malignant"])
    metrics = metrics_of(data).model_copy(update={"abstained": abstained})
    assert by_title(metrics)["Some predictions abstain"].text.endswith("; without malignant.")


def test_many_scans_of_few_patients_are_few():
    data = three_classes(90)
    patients = [f"p{n}" if not has else "one" for n, has in enumerate(data.truth[:, 2])]
    metrics = metrics_of(type(data)(data.truth, data.probabilities, patients, data.labels))
    name, n = data.labels.names[2], int(data.truth[:, 2].sum())
    assert n >= 10
    shown = by_title(metrics)
    assert f"however many scans each has: {name} (1)." in shown["Too few patients to trust a rate"].text
    assert f"patients with {name} (now 1)" in " ".join(next_steps(Evidence(metrics, sample().run), ENGLISH))
    assert "Too few patients to trust a rate" not in by_title(metrics_of(data))
