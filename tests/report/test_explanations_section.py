"""The report on its maps."""

from dataclasses import replace

import pytest
from report_samples import CHECKS, MISSES, Page, sample, write


def page_of(tmp_path, **changes):
    return Page(write(tmp_path / "report.html", replace(sample(), **changes)))


def test_maps_come_with_their_checks_and_with_a_warning_of_what_they_are_not(tmp_path):
    page = page_of(tmp_path)
    for words in (
        "Where the network looked does not prove why it answered so.",
        "Drop in probability when the strongest part of the map (at most 5 % of the input) is hidden 0.31",
        "Rank correlation with the map of random weights 0.12",
        "4 × 3 × 3",
        "elsewhere is hidden 0.00",
        "Misses and confident errors",
        "Row 7 of predictions.csv",
        "Planes through the strongest point of the map.",
    ):
        assert words in page.text
    (image,) = page.having("img")
    assert image["alt"].startswith("Axial, coronal and sagittal plane of the scan in row 7")
    assert "Do not interpret them" not in page.text
    assert "not clearly more important" not in page.text


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"correlation": 0.51}, "hardly depend on what the network learned"),
        ({"n_no_better": 3}, "In 3 of 5 maps, the strongest part is not clearly more important to the answer"),
    ],
)
def test_maps_that_fail_a_check_are_warned_of(tmp_path, changes, words):
    assert words in page_of(tmp_path, map_checks=replace(CHECKS, **changes)).text


def test_maps_of_attention_are_called_so(tmp_path):
    text = page_of(tmp_path, map_checks=replace(CHECKS, method="attention")).text
    assert "Attention (Ilse et al. 2018). Mean over the networks. Hiding the strongest part should" in text
    assert "the slices or tiles with the greatest weight in the network's answer, whatever the class" in text
    assert "Grad-CAM" not in text


def test_maps_out_of_fold_are_of_one_network_each(tmp_path):
    metrics = sample().metrics.model_copy(update={"out_of_fold": True})
    text = page_of(tmp_path, metrics=metrics).text
    assert "Grad-CAM (Selvaraju et al. 2017). Hiding the strongest part should" in text
    assert "Mean over the networks" not in text


def test_maps_that_are_all_empty_have_no_figures(tmp_path):
    empty = replace(CHECKS, n_empty=6, drop=None, random_drop=None, correlation=None, hidden_share=None, n_no_better=0)
    page = page_of(tmp_path, map_checks=empty)
    assert "Rank correlation with the map of random weights –" in page.text
    assert "not clearly more important" not in page.text


def test_without_maps_nothing_is_said_of_them(tmp_path):
    page = page_of(tmp_path, map_checks=None, misses=())
    assert "Where the network looked" not in page.text
    assert "Misses and confident errors" not in page.text


def test_an_empty_map_is_said_to_be_empty(tmp_path):
    words = "Nothing in the map supports this class."
    assert words in page_of(tmp_path, misses=[replace(MISSES[0], empty=True)]).text
    assert words not in page_of(tmp_path).text


def test_a_map_that_fails_its_own_check_is_small_and_says_so(tmp_path):
    words = "This map fails its own check: do not interpret it."
    page = page_of(tmp_path, misses=[replace(MISSES[0], doubtful=True, slices=True), MISSES[0]])
    assert page.text.count(words) == 1
    assert [figure.get("class") for figure in page.having("figure")].count("doubtful") == 1
    first, second = page.having("img")
    assert first["alt"].startswith("Neighbouring slices of the scan in row 7")
    assert second["alt"].startswith("Axial, coronal and sagittal plane")
    assert "For scans with few slices, neighbouring slices." in page.text
    alike = page_of(tmp_path, map_checks=replace(CHECKS, correlation=0.51))  # as a record from before maps had doubts
    assert alike.text.count(words) == 1


def test_misses_and_confident_errors_are_counted(tmp_path):
    """It said that half are misses, also where all were, or one of three."""
    text = page_of(tmp_path, misses=[MISSES[0], replace(MISSES[0], kind="miss"), MISSES[0]]).text
    n_misses = 1 + 2 * (MISSES[0].kind == "miss")
    assert f"Misses: {n_misses}, taken class by class, lowest probability first." in text
    assert f"The most confident of the other wrong calls: {3 - n_misses}." in text


def test_each_kind_of_place_is_named_once(tmp_path):
    two = [MISSES[0], replace(MISSES[0], through="region"), MISSES[0]]
    text = page_of(tmp_path, misses=two).text
    assert text.count("Planes through the strongest point of the map.") == 1
    assert text.count("Planes through the middle of the region of interest.") == 1
