"""Each glossary term has one tooltip, at its first use, in either language; it opens without a script."""

from dataclasses import replace

import pytest
from report_samples import Page, sample, write

from med_transfer.page.glossary import glossary, with_tooltips


def test_only_the_first_use_outside_of_headings_links_and_figures_is_marked():
    inside = (
        "<h2>AUC</h2><a href='#x'>AUC</a><svg viewBox='0'><text>AUC</text></svg><p>The macro AUC and the AUC; an "
        "Aucuba; <b title='prevalence'>prevalence</b> and <i>PPV</i>, NPV &lt;b&gt;, Out-of-fold</p>"
    )
    page = with_tooltips(f'<header>AUC</header><main id="content">{inside}</main><footer>AUC</footer>', "en")
    found = Page(page)
    assert [attrs["popovertarget"] for attrs in found.having("button")] == [
        "word-auc-macro-auc",
        "word-prevalence",
        "word-ppv-npv",
        "word-out-of-fold",
    ]
    assert '<p>The <button type="button" class="term" popovertarget="word-auc-macro-auc"' in page
    assert ">macro AUC</button> and the AUC; an Aucuba;" in page
    assert "<b title='prevalence'><button" in page
    assert page.index("</main>") > page.index('<div id="word-ppv-npv" class="meaning" popover>')
    assert page.startswith("<header>AUC</header>")
    assert page.endswith("</main><footer>AUC</footer>")


def test_a_word_within_the_name_of_a_file_or_setting_is_not_marked():
    words = "inspect COHORT.csv, runs/cohort, cohort=1; the cohort."
    page = with_tooltips(f'<main id="content"><p>{words}</p></main>', "en")
    assert "<p>inspect COHORT.csv, runs/cohort, cohort=1; the <button" in page


@pytest.mark.parametrize("language", ["en", "zh-TW"])
def test_a_report_has_one_tooltip_a_word_with_its_meaning(tmp_path, language):
    given = replace(sample(), run=replace(sample().run, language=language))
    page = Page(write(tmp_path / "report.html", given))
    targets = [attrs["popovertarget"] for attrs in page.having("button")]
    meanings = [attrs["id"] for attrs in page.having("div") if "popover" in attrs]
    assert len(targets) == len(set(targets)) > 10
    assert targets == meanings
    assert all(attrs["title"] and "](" not in attrs["title"] for attrs in page.having("button"))
    word = next(word for word in glossary() if word.en == "specificity")
    assert word.meaning(language) in page.text
