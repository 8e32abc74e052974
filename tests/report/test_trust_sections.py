"""The page on subgroups and shortcuts, on the first screen and in their sections."""

import re
from dataclasses import replace

import numpy as np
from report_samples import Page, evidence, metrics_of, sample, write
from simulated_scores import THREE, three_classes

from med_transfer.cohorts.acquisition import NUMBER_FACTS, TEXT_FACTS
from med_transfer.metrics.compute_metrics import compute_metrics
from med_transfer.metrics.domain import AcquiredScans, domain_of, profile_of
from med_transfer.metrics.labelled_predictions import LabelledPredictions
from med_transfer.metrics.records.domain import Overlap
from med_transfer.metrics.records.fusion import FusionMetrics
from med_transfer.metrics.records.metrics import Bootstrap
from med_transfer.metrics.records.shortcuts import ACQUISITION_BASELINE
from med_transfer.metrics.shortcuts import Development, fit_acquisition
from med_transfer.page import ENGLISH
from med_transfer.predictions.labels import Labels
from med_transfer.report.acquisition_name import acquisition_name
from med_transfer.report.evidence import Evidence
from med_transfer.report.sections.first_screen import section
from med_transfer.report.sections.first_screen_trust import trust_notices
from med_transfer.report.writing import report_translator

DATA = three_classes(240)
COLUMNS = {
    "sex": ["f", "m"] * 120,
    "site": np.where(np.random.default_rng(7).random(240) < 0.5, "north", "south").tolist(),
    "scanner": ["A"] * 236 + ["B"] * 4,
}


def by_title(metrics):
    return {notice.title: notice for notice in trust_notices(Evidence(metrics, sample().run))}


def unequal():
    """Right for everyone in the north, as good as guessing in the south."""
    probabilities = np.where(
        np.array(COLUMNS["site"])[:, None] == "north", DATA.truth * 0.8 + 0.2 / 3, DATA.probabilities
    )
    guessed = np.random.default_rng(1).permutation(DATA.probabilities)
    probabilities = np.where(np.array(COLUMNS["site"])[:, None] == "north", probabilities, guessed)
    return type(DATA)(DATA.truth, probabilities, DATA.patients, DATA.labels)


def with_acquisition(tied):
    """Metrics with a kernel that goes with the class, or with nothing."""
    names = np.array(["B31f", "B60f", "LUNG"])
    kernels = names[DATA.truth.argmax(axis=1)] if tied else np.random.default_rng(0).choice(names, 240)
    facts = [{"kernel": str(kernel), "file_format": "dicom"} for kernel in kernels]
    development = Development(facts[:120], DATA.truth[:120], DATA.patients[:120], THREE)
    probabilities, shortcuts = fit_acquisition(development, facts)
    metrics = metrics_of(DATA, baselines={ACQUISITION_BASELINE: probabilities})
    return metrics.model_copy(update={"shortcuts": shortcuts})


def test_subgroups_that_differ_stand_on_the_first_screen_and_others_are_no_proof_of_equality(tmp_path):
    metrics = metrics_of(unequal(), subgroups=COLUMNS)
    (notice,) = by_title(metrics).values()
    assert notice.title == "Performance differs between subgroups of site"
    low, high = (metrics.subgroups["site"][site].balanced_accuracy.value for site in ("south", "north"))
    assert f"from {100 * low:.1f} % (south) to {100 * high:.1f} % (north)" in notice.text
    page = Page(write(tmp_path / "report.html", evidence(unequal(), metrics)))
    assert "They differ beyond chance." in page.text
    assert "No difference was shown, which does not prove equality: the smallest subgroup compared has 120" in page.text
    left_out = page.text[page.text.index("Not shown, for lack of content:") :]
    assert "Subgroups of scanner (fewer than two subgroups of at least 10 patients)" in left_out
    assert "permuted within true class" in page.text
    tables = tmp_path / "report_files" / "tables"
    assert {path.name for path in tables.glob("subgroups-*")} == {
        "subgroups-tests.csv",
        "subgroups-1-sex.csv",
        "subgroups-2-site.csv",
    }
    assert "site,north; south,0.00049975" in (tables / "subgroups-tests.csv").read_text()
    none = metrics.model_copy(update={"subgroup_tests": {"scanner": metrics.subgroup_tests["scanner"]}})
    page = Page(write(tmp_path / "none.html", evidence(unequal(), none.model_copy(update={"subgroups": {}}))))
    assert "Subgroups (scanner: fewer than two subgroups of at least 10 patients)" in page.text
    assert not any(attrs.get("id") == "subgroups" for attrs in page.having("section"))


def test_a_subgroup_that_lacks_a_class_is_compared_by_the_classes_that_both_have(tmp_path):
    """As a kind of finding is among the patients who have one."""
    malignant = np.flatnonzero(DATA.truth[:, 2])
    kind = np.full(240, "no", dtype=object)
    kind[malignant[::2]] = "yes"
    probabilities = DATA.truth * 0.8 + 0.2 / 3
    probabilities[malignant[::2]] = [0.6, 0.3, 0.1]
    wrong = type(DATA)(DATA.truth, probabilities, DATA.patients, DATA.labels)
    metrics = metrics_of(wrong, subgroups={"kind": kind.tolist()})
    (notice,) = by_title(metrics).values()
    assert notice.text.startswith("Sensitivity, malignant ranges from 0.0 % (yes) to 100.0 % (no); p = ")
    page = Page(write(tmp_path / "report.html", evidence(wrong, metrics)))
    assert "without healthy, benign" in page.text


def test_a_finding_that_only_one_subgroup_has_is_reported_where_its_specificity_differs(tmp_path):
    site = np.repeat(["north", "south"], 40)
    truth = (np.arange(80) < 20)[:, None]
    probabilities = np.where(truth | (site == "south")[:, None], 0.9, 0.1)
    patients = [f"p{n}" for n in range(80)]
    predictions = LabelledPredictions.of(truth, probabilities, patients, Labels(("emphysema",), multilabel=True))
    metrics = compute_metrics(predictions, subgroups={"site": site.tolist()}, resampling=Bootstrap(n_boot=50))
    notice = by_title(metrics)["Performance differs between subgroups of site"]
    assert notice.text == "No class has a sensitivity in more than one of them; p = 0.0005, corrected for all columns."
    page = Page(write(tmp_path / "report.html", Evidence(metrics, sample().run)))
    assert notice.text in page.text


def test_of_the_fused_model_the_lead_over_the_acquisition_is_its_own():
    """The figure is of the model that the page reports; it was called the network's."""
    metrics = with_acquisition(tied=True)
    fusion = FusionMetrics(
        use=["network"],
        columns=[],
        report="fused",
        n_scans=1,
        n_patients=1,
        n_fitted=1,
        n_fitted_patients=1,
        inverse_penalty=1.0,
    )
    for given, model in ((None, "network"), (fusion, "fused model")):
        shown = trust_notices(Evidence(metrics.model_copy(update={"fusion": given}), sample().run))
        (text,) = [notice.text for notice in shown if "gives the label away" in notice.title]
        assert f"The {model}'s lead over it is " in text


def test_the_methods_do_not_call_scans_test_scans_that_were_seen_in_training(tmp_path):
    overlap = Overlap(n_scans=240, n_patients=240, seen_scans=31, seen_patients=30)
    metrics = with_domain(np.full(240, 0.99))
    for seen, words in ((None, "test scans only."), (overlap, "evaluated scans, 31 of which were seen")):
        given = evidence(DATA, metrics.model_copy(update={"overlap": seen}))
        text = Page(write(tmp_path / "report.html", given)).text
        assert f"All rates on this page are from the {words}" in text


def test_a_report_without_subgroups_says_nothing_of_them(tmp_path):
    page = Page(write(tmp_path / "report.html", evidence(DATA, metrics_of(DATA))))
    assert "Subgroups" not in page.text
    assert "Shortcuts" not in page.text


def test_a_shortcut_is_a_warning_that_names_the_fact(tmp_path):
    metrics = with_acquisition(tied=True)
    notice = by_title(metrics)["How the scans were acquired gives the label away"]
    assert notice.level == "warning"
    assert "Strongest: reconstruction kernel." in notice.text
    assert "macro AUC of 1.000" in notice.text
    source = write(tmp_path / "report.html", evidence(DATA, metrics))
    assert '<tr class="total"><th scope="row">All together' in source
    page = Page(source)
    assert "Acquisition alone" in page.text
    assert "The same in every scan that it was fitted to: file format." in page.text
    assert {"kernel", "All together"} <= {row.split(",")[0] for row in _rows(tmp_path, "shortcuts-facts")}
    chinese = evidence(DATA, metrics)
    page = Page(write(tmp_path / "zh.html", replace(chinese, run=replace(chinese.run, language="zh-TW"))))
    assert "所有用於擬合的掃描皆相同：檔案格式。" in page.text
    assert "影響最大的參數：重建核。" in page.text


def _rows(folder, table):
    return (folder / "report_files" / "tables" / f"{table}.csv").read_text("utf-8-sig").splitlines()


def test_every_acquisition_parameter_has_a_name_in_each_language():
    for fact in (*TEXT_FACTS, *NUMBER_FACTS):
        english, chinese = (acquisition_name(fact, report_translator(language)) for language in ("en", "zh-TW"))
        assert "_" not in english
        assert re.search("[一-鿿]", chinese), fact
    assert acquisition_name("of_another_version", ENGLISH) == "of_another_version"


def test_of_another_cohort_it_is_said_that_the_small_models_were_fitted_within_it(tmp_path):
    far = with_domain(np.full(240, 0.99))
    metrics = with_acquisition(tied=True).model_copy(update={"domain": far.domain})
    within = "It was fitted within this cohort: each patient was predicted by a model fitted to the other patients."
    assert by_title(metrics)["How the scans were acquired gives the label away"].text.endswith(within)
    page = Page(write(tmp_path / "report.html", evidence(DATA, metrics)))
    assert "cross-validated by patient on these 120 scans of 120 patients" in page.text
    assert "The bundle does not contain the scans that it was developed on" in page.text


def test_a_clean_cohort_is_not_warned_of_and_its_figures_are_shown(tmp_path):
    metrics = with_acquisition(tied=False)
    assert by_title(metrics) == {}
    assert "120 development scans of 120 patients" in Page(write(tmp_path / "r.html", evidence(DATA, metrics))).text


def with_domain(novelty, training=True):
    """Metrics of an external cohort that lies so far."""
    facts = [{"kernel": "LUNG", "n_slices": 90.0}] * 240
    here = profile_of(DATA.truth, THREE.names, DATA.patients, facts)
    domain = domain_of(
        AcquiredScans(np.ones((240, 1, 3)), novelty, facts, DATA.patients, DATA.truth),
        here,
        envelope_mm=([(1, 1, 1)], [(1, 1, 1)]),
        training=here if training else None,
        abstain_above=0.9,
    )
    return metrics_of(DATA).model_copy(update={"domain": domain})


def test_a_cohort_that_lies_far_is_a_warning_and_what_is_not_known_is_said(tmp_path):
    near, far = with_domain(np.linspace(0, 1, 240)), with_domain(np.full(240, 0.99), training=False)
    assert by_title(near)["This cohort is not shown to lie far from the training cohort"].level == "neutral"
    notice = by_title(far)["This cohort lies far from the training cohort"]
    assert notice.level == "warning"
    assert notice.text.startswith("100.0 % of the scans (95 % CI 98.4 to 100.0) are out-of-distribution (novelty above")
    page = Page(write(tmp_path / "report.html", evidence(DATA, far)))
    for words in ("Distance from the training cohort", "LUNG 100%", "not known", "Above the limit at which the bundle"):
        assert words in page.text
    assert "LUNG 100%" in Page(write(tmp_path / "report.html", evidence(DATA, near))).text


def test_scans_seen_in_training_are_the_first_notice():
    overlap = Overlap(n_scans=240, n_patients=240, seen_scans=31, seen_patients=30, seen_by_source=4)
    metrics = with_domain(np.full(240, 0.99)).model_copy(update={"overlap": overlap})
    first = section(Evidence(metrics, sample().run), ENGLISH).values["limits"][0]
    assert first.title == "31 of 240 scans were seen in training: these figures do not describe new patients"
    assert first.text == (
        "They come from 30 of the 240 patients. 4 of them were used to train or pretrain the source network."
    )
