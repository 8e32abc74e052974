"""What the page says of subgroups and shortcuts, on the first screen and in their sections."""

import numpy as np
from report_samples import Page, evidence, metrics_of, sample, write
from simulated_scores import THREE, three_classes

from med_transfer.evaluation.shortcut_metrics import ACQUISITION_BASELINE
from med_transfer.evaluation.shortcuts import Development, fit_acquisition
from med_transfer.report.evidence import Evidence
from med_transfer.report.sections.first_screen_trust import trust_notices

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
    calls = np.where(np.array(COLUMNS["site"])[:, None] == "north", DATA.truth * 0.8 + 0.2 / 3, DATA.probabilities)
    guessed = np.random.default_rng(1).permutation(DATA.probabilities)
    calls = np.where(np.array(COLUMNS["site"])[:, None] == "north", calls, guessed)
    return type(DATA)(DATA.truth, calls, DATA.patients, DATA.labels)


def with_acquisition(tied):
    """Metrics with a kernel that goes with the class, or with nothing."""
    names = np.array(["B31f", "B60f", "LUNG"])
    kernels = names[DATA.truth.argmax(axis=1)] if tied else np.random.default_rng(0).choice(names, 240)
    facts = [{"kernel": str(kernel), "file_format": "dicom"} for kernel in kernels]
    development = Development(facts[:120], DATA.truth[:120], DATA.patients[:120], THREE)
    probabilities, shortcuts = fit_acquisition(development, facts, n_boot=100)
    metrics = metrics_of(DATA, baselines={ACQUISITION_BASELINE: probabilities})
    return metrics.model_copy(update={"shortcuts": shortcuts})


def test_subgroups_that_differ_stand_on_the_first_screen_and_others_are_no_proof_of_equality(tmp_path):
    metrics = metrics_of(unequal(), subgroups=COLUMNS)
    (notice,) = by_title(metrics).values()
    assert notice.title == "Not equally good for all: subgroups of site differ"
    low, high = (metrics.subgroups["site"][site].balanced_accuracy.value for site in ("south", "north"))
    assert f"from {100 * low:.1f} % (south) to {100 * high:.1f} % (north)" in notice.text
    page = Page(write(tmp_path / "report.html", evidence(unequal(), metrics)))
    assert "They differ beyond chance." in page.text
    assert "No difference was shown, which is no proof of equality: the smallest subgroup compared has 120" in page.text
    assert "Nothing: fewer than two subgroups of at least 10 patients." in page.text
    assert "B (4): too few patients" in page.text
    assert "permuted within true class" in page.text
    tables = tmp_path / "report_files" / "tables"
    assert (tables / "subgroups-2-site.csv").exists()
    assert "site,north; south,0.00049975" in (tables / "subgroups-tests.csv").read_text()


def test_a_report_without_subgroups_says_nothing_of_them(tmp_path):
    page = Page(write(tmp_path / "report.html", evidence(DATA, metrics_of(DATA))))
    assert "Subgroups" not in page.text
    assert "Shortcuts" not in page.text


def test_a_shortcut_is_a_warning_that_names_the_fact(tmp_path):
    metrics = with_acquisition(tied=True)
    notice = by_title(metrics)["How the scans were made gives the label away"]
    assert notice.level == "warning"
    assert "Strongest: kernel." in notice.text
    assert "macro AUC 1.000" in notice.text
    page = Page(write(tmp_path / "report.html", evidence(DATA, metrics)))
    assert "Acquisition alone" in page.text
    assert "The same in every development scan: file_format." in page.text


def test_a_clean_cohort_is_not_warned_of_and_its_figures_are_shown(tmp_path):
    metrics = with_acquisition(tied=False)
    assert by_title(metrics) == {}
    assert "120 development scans of 120 patients" in Page(write(tmp_path / "r.html", evidence(DATA, metrics))).text
