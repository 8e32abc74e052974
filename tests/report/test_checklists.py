"""The checklists are complete, filled in only from the record, and in both languages."""

import csv
import dataclasses
import re
from pathlib import Path

import pytest
from report_samples import Page, evidence, sample, summary, write
from simulated_scores import three_classes

import med_transfer.report.sections as sections
from med_transfer.config import load_config
from med_transfer.metrics.records.domain import Overlap
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.metrics import Abstained, GeneralisationGap
from med_transfer.page import ENGLISH
from med_transfer.page.language import Catalogue, catalogue_path
from med_transfer.report.evidence import Evidence
from med_transfer.report.run_summary import participant_flow
from med_transfer.report.sections.checklists import NAMES, read_checklist, section
from med_transfer.report.sections.checklists_answers import ANSWERS

FOLDER = Path(sections.__file__).parent
DATA = three_classes()
NUMBERS = {"stard-ai-2025": "19", "tripod-ai-2024": "24", "claim-2024": "32"}


def bare():
    """A run of which nothing is known but the figures."""
    return Evidence(sample().metrics.model_copy(update={"transfer_gain": None, "baselines": {}}), summary(DATA))


def rows(given, name):
    table = next(candidate for candidate in section(given, ENGLISH).tables if candidate.name == name)
    return {row[0].text: [cell.text for cell in row[1:]] for row in table.cells}


def test_every_item_of_the_published_lists_is_there_in_order():
    sub = {"15": "abcd", "16": "abc", "17": "ab", "26": "ab", "40": "ab"}
    stard = [f"{n}{letter}" for n in range(1, 41) for letter in sub.get(str(n), [""])]
    sub = {
        "3": "abc",
        "5": "ab",
        "6": "abc",
        "8": "abc",
        "9": "abc",
        "12": "abcdefg",
        "18": "abcdef",
        "20": "abc",
        "23": "ab",
        "27": "abc",
    }
    tripod = [f"{n}{letter}" for n in range(1, 28) for letter in sub.get(str(n), [""])]
    claim = [str(n) for n in range(1, 45)]
    for name, numbers in zip(NAMES, (stard, claim, tripod), strict=True):
        assert [item.number for item in read_checklist(name).items] == numbers


@pytest.mark.parametrize("name", NAMES)
def test_items_are_short_translated_and_answered_by_something_that_exists(name):
    for item in read_checklist(name).items:
        assert len(item.en) <= 95
        assert re.search("[\u4e00-\u9fff]", item.zh_tw)
        assert not item.answer or item.answer in ANSWERS
        assert item.answer or not item.whole, f"item {item.number} cannot be whole without an answer"


def test_every_answer_is_asked_for():
    asked = {item.answer for name in NAMES for item in read_checklist(name).items}
    assert asked - {""} == set(ANSWERS)


@pytest.mark.parametrize(
    "number", ["1", "5", "6", "9", "12", "16a", "16b", "17b", "27", "32", "33", "35", "36", "37", "38", "39"]
)
def test_what_no_run_can_know_is_for_the_author(number):
    assert rows(sample(), "stard-ai-2025")[number][1:] == ["for the author", ""]


def test_what_this_run_does_not_prove_is_for_the_author():
    given = rows(bare(), "stard-ai-2025")
    for number in ("3", "14", "15b", "21", "23", "24", "29"):  # no model card, no flow, no subgroups, no other cohort
        assert (number != "3") == (given[number][1] == "for the author"), number
    assert rows(bare(), "claim-2024")["26"][1] == "for the author"


def test_nothing_is_said_twice_in_an_answer():
    transfer = ("Transfer", "linear_probe")
    given = Evidence(sample().metrics, dataclasses.replace(summary(DATA), model_card=[transfer], config=[transfer]))
    assert rows(given, "claim-2024")["25"][2].count("Transfer: linear_probe") == 1


def test_numbers_come_from_the_metrics():
    metrics = sample().metrics
    given = rows(sample(), "stard-ai-2025")
    for name, class_metrics in metrics.classes.items():
        assert (
            f"{name} {100 * class_metrics.sensitivity.value:.1f} % [{100 * class_metrics.sensitivity.ci95[0]:.1f} to"
            in given["31"][2]
        )
        assert f"{name} {100 * metrics.prevalence[name]:.0f} %" in given["28"][2]
    assert "200 draws, seed 0" in given["18"][2]
    assert given["30"][1:] == ["from the run", "'Confusion matrix' on this page"]
    assert rows(sample("findings"), "stard-ai-2025")["30"][2].startswith("A two-by-two table")


def test_a_class_without_scans_has_an_undefined_sensitivity():
    metrics = sample().metrics
    name = metrics.labels[0]
    absent = Estimate(value=None, ci95=None, method="", reason="no scan")
    classes = metrics.classes | {name: metrics.classes[name].model_copy(update={"sensitivity": absent})}
    shown = dataclasses.replace(sample(), metrics=metrics.model_copy(update={"classes": classes}))
    given = rows(shown, "stard-ai-2025")
    assert given["31"][2].startswith(f"Sensitivity: {name} undefined, ")


def test_a_training_run_says_how_it_was_divided_and_a_judged_bundle_does_not():
    parts = ["train", "val", "test"] * 40
    for splits, status in ((parts, "in part"), (["test"] * 120, "for the author")):
        run = summary(DATA, flow=participant_flow(DATA.patients, splits, ["x"]))
        given = rows(evidence(DATA, sample().metrics, run=run), "stard-ai-2025")
        assert given["15b"][1] == status
        assert "121 scans" in given["24"][2]


def test_abstentions_and_what_is_out_of_fold_are_not_called_otherwise():
    metrics = sample().metrics
    calls = {number: rows(sample(), name)[number][2] for name, number in NUMBERS.items()}
    assert calls["19"] == "Every scan that could be read was called; none was left undecided"
    assert calls["24"] == "None: the network that was evaluated is the one in the bundle"
    abstained = Abstained(n=5, above=0.995, balanced_accuracy=metrics.balanced_accuracy, reasons={"novelty": 5})
    gap = GeneralisationGap(
        training_sensitivity=0.9, validation_sensitivity=0.8, training_loss=0.1, validation_loss=0.2, limit=0.2
    )
    changes = {"abstained": abstained, "out_of_fold": True, "generalisation_gap": gap}
    run = summary(DATA, flow=participant_flow(DATA.patients, ["train"] * 120, []))
    given = evidence(DATA, metrics.model_copy(update=changes), run=run)
    calls = {number: rows(given, name)[number][2] for name, number in NUMBERS.items()}
    assert calls["19"].startswith(
        "5 of 120 predictions abstain; all rates include the calls that the network would have made"
    )
    assert calls["24"].endswith("called by networks that were not trained on it, not by the bundle's networks together")
    assert calls["32"].startswith("Cross-validated within the cohort, on this page")
    for name in ("stard-ai-2025", "claim-2024", "tripod-ai-2024"):
        assert not [answer for *_, answer in rows(given, name).values() if re.search(r"\b[Tt]est scans", answer)]


def test_failures_are_analysed_where_wrong_calls_are_shown():
    given = rows(sample(), "claim-2024")["39"]
    assert given[1:] == ["in part", "1 wrong calls with pictures in 'Misses and confident errors'"]
    assert rows(bare(), "claim-2024")["39"][1] == "for the author"


def test_an_overlap_is_not_hidden():
    overlap = Overlap(n_scans=120, n_patients=80, seen_scans=7, seen_patients=5)
    metrics = sample().metrics.model_copy(update={"overlap": overlap})
    given = rows(evidence(DATA, metrics), "claim-2024")
    assert given["20"][2] == "Not disjoint: 7 of 120 scans were seen in training"


def test_the_page_folds_them_away_and_the_files_hold_them(tmp_path):
    page = Page(write(tmp_path / "report.html", sample()))
    assert len(page.having("details")) == len(page.having("summary"))
    assert len([attrs for attrs in page.having("details") if attrs.get("class") != "part"]) == 3
    counted = re.search(r"CLAIM 2024: (\d+) items from the run, (\d+) in part, (\d+) for the author", page.text)
    assert sum(map(int, counted.groups())) == 44
    text = (tmp_path / "report_files" / "tables" / "checklists-tripod-ai-2024.csv").read_text(encoding="utf-8-sig")
    assert len(list(csv.DictReader(text.splitlines()))) == 52


def test_sections_are_called_by_their_titles():
    titles = {}
    for path in FOLDER.glob("*.zh_TW.yaml"):
        titles |= load_config(Catalogue, path).root
    for english, chinese in load_config(Catalogue, catalogue_path(FOLDER / "checklists", "zh-TW")).root.items():
        for title in re.findall(r"'([A-Z][a-z ]+)'", english):
            assert f"「{titles[title]}」" in chinese, english


def test_a_chinese_page_asks_in_chinese(tmp_path):
    chinese = dataclasses.replace(sample(), run=dataclasses.replace(sample().run, language="zh-TW"))
    page = Page(write(tmp_path / "report.html", chinese))
    assert "倫理審查核准，或無需核准的理由" in page.text
    assert "由作者填寫" in page.text
