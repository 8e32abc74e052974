"""Every sentence of the pages has its translation, with the same placeholders, and no catalogue has more."""

import ast
import re
import string
from dataclasses import replace
from pathlib import Path

import pytest
from jinja2 import nodes
from report_samples import Page, evidence, metrics_of, sample, summary, write
from simulated_scores import three_classes

import med_transfer
from med_transfer.bundle import BackboneRecord, BundleRecord, InputEnvelope, Provenance
from med_transfer.bundle.model_card import model_card_rows
from med_transfer.config import load_config
from med_transfer.metrics.reasons import no_case
from med_transfer.metrics.records.sentence import Sentence
from med_transfer.model.calibration import PredictionSets, TemperatureScaling
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.page import LANGUAGES, environment
from med_transfer.page.language import Catalogue, catalogue_path, sentence, translator
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.report.run_summary import participant_flow
from med_transfer.report.sections import SECTIONS as ALL_SECTIONS
from med_transfer.report.writing import report_translator

PACKAGE = Path(med_transfer.__file__).parent
SECTIONS = PACKAGE / "report" / "sections"
TRANSLATED = [language for language in LANGUAGES if language != "en"]
NAMES = sorted(module.__name__.rpartition(".")[2] for module in ALL_SECTIONS)


def in_module(path):
    calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    named = [call for call in calls if isinstance(call.func, ast.Name) and call.func.id in {"t", "sentence"}]
    return {call.args[0].value for call in named if isinstance(call.args[0], ast.Constant)}


def in_template(path):
    calls = environment().parse(path.read_text()).find_all(nodes.Call)
    named = [call for call in calls if isinstance(call.node, nodes.Name) and call.node.name == "t"]
    assert all(isinstance(call.args[0], nodes.Const) for call in named), f"{path.name}: t() of something not constant"
    return {call.args[0].value for call in named}


def sentences(paths):
    return {text for path in paths for text in (in_module(path) if path.suffix == ".py" else in_template(path))}


def of_section(name):
    """Its module, its template where it has one, and the modules that begin with its name."""
    return sentences([SECTIONS / f"{name}.py", *SECTIONS.glob(f"{name}_*.py"), *SECTIONS.glob(f"{name}.html.jinja")])


def catalogue(place, language):
    return load_config(Catalogue, catalogue_path(place, language)).root


def shared(language):
    return catalogue(PACKAGE / "page" / "layout", language) | catalogue(PACKAGE / "report" / "report", language)


def placeholders(text):
    return sorted(name for _, name, _, _ in string.Formatter().parse(text) if name is not None)


@pytest.mark.parametrize("language", TRANSLATED)
@pytest.mark.parametrize("name", NAMES)
def test_a_section_is_translated(name, language):
    own, used = catalogue(SECTIONS / name, language), of_section(name)
    assert used - set(own) - set(shared(language)) == set(), "not translated"
    assert set(own) - used == set(), "translated, but never said"
    assert set(own) & set(shared(language)) == set(), "translated for all sections already"


@pytest.mark.parametrize("language", TRANSLATED)
@pytest.mark.parametrize(
    ("place", "paths"),
    [
        ("page/layout", [PACKAGE / "page" / "layout.html.jinja"]),
        (
            "report/report",
            [
                *(PACKAGE / "report").glob("*.py"),
                *(PACKAGE / "report").glob("*.jinja"),
                SECTIONS / "__init__.py",
            ],
        ),
    ],
)
def test_what_sections_share_is_translated(place, paths, language):
    assert sentences(paths) - set(shared(language)) == set()
    everywhere = set().union(*map(of_section, NAMES)) | sentences(paths)
    assert set(catalogue(PACKAGE / place, language)) - everywhere == set(), "translated, but never said"


@pytest.mark.parametrize("language", TRANSLATED)
def test_the_preview_is_translated(language):
    folder, planes = PACKAGE / "finetuning" / "preview", PACKAGE / "scans" / "inspection" / "planes.html.jinja"
    own, used = catalogue(folder / "page", language), sentences([*folder.glob("*.py"), *folder.glob("*.jinja"), planes])
    assert used - set(own) - set(shared(language)) == set(), "not translated"
    assert set(own) - used == set(), "translated, but never said"
    assert set(own) & set(shared(language)) == set(), "translated for all sections already"


@pytest.mark.parametrize("language", TRANSLATED)
def test_the_summary_of_predictions_is_translated(language):
    folder = PACKAGE / "inference"
    own, used = (
        catalogue(folder / "summary", language),
        sentences([folder / "summary.py", folder / "summary.html.jinja"]),
    )
    layout = set(catalogue(PACKAGE / "page" / "layout", language))
    assert used - set(own) - layout == set(), "not translated"
    assert set(own) - used == set(), "translated, but never said"
    assert set(own) & layout == set(), "translated for all pages already"


def sentences_of_records():
    """Templates of every Sentence in the package; those of the review page are in a catalogue of its own."""
    calls = [
        node
        for path in PACKAGE.rglob("*.py")
        if "review" not in path.parts
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "Sentence"
    ]
    assert all(isinstance(call.args[0], ast.Constant) for call in calls), "Sentence() of something not constant"
    said = (PACKAGE / "model" / name for name in ("operating_point.py", "calibration/calibrators.py"))
    return {call.args[0].value for call in calls}.union(*map(in_module, said))


@pytest.mark.parametrize("language", TRANSLATED)
def test_what_records_hold_is_translated(language):
    own = set(catalogue(PACKAGE / "report" / "reasons", language))
    assert sentences_of_records() - own == set(), "not translated"
    assert own - sentences_of_records() == set(), "translated, but never said"


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.zh_TW.yaml")), ids=lambda path: path.name)
def test_a_translation_keeps_the_placeholders(path):
    for english, translated in load_config(Catalogue, path).root.items():
        assert placeholders(english) == placeholders(translated), english
        assert translated.strip(), english


def test_a_sentence_without_translation_stays_english():
    assert translator("zh-TW")("No one has said {this} yet", this="that") == "No one has said that yet"
    assert sentence("marked") == "marked"


def test_a_sentence_that_a_record_holds_is_said_in_the_readers_language_with_its_values():
    t = report_translator("zh-TW")
    assert t.said(no_case("nodule")) == "測試掃描中沒有類別 nodule 的掃描"
    assert t("undefined ({reason})", reason=no_case("nodule")) == "無法定義（測試掃描中沒有類別 nodule 的掃描）"
    assert t.said("a plain string") == "a plain string"


def test_values_are_escaped_in_a_template():
    page = environment().from_string('{{ t("{name} is", name=name) }}')
    assert page.render(name="<b>") == "&lt;b&gt; is"


def test_the_report_in_chinese_says_what_the_english_one_says(tmp_path):
    english = sample()
    chinese = type(english)(**vars(english) | {"run": type(english.run)(**vars(english.run) | {"language": "zh-TW"})})
    page = Page(write(tmp_path / "report.html", chinese))
    assert page.having("html")[0]["lang"] == "zh-TW"
    for words in ("僅供研究使用，非醫療器材", "靈敏度", "特異度", "陽性預測值", "校準", "信賴區間", "遷移學習有幫助"):
        assert words in page.text
    assert f"{100 * english.metrics.macro_auc.value:.0f}"[:2] in page.text


def record():
    """Of a bundle with everything that its model card says in sentences."""
    return BundleRecord(
        classes=("benign", "malignant"),
        multilabel=False,
        operating_point=OperatingPoint(rule="balanced_argmax", thresholds={"benign": 0.4, "malignant": 0.6}),
        preprocessing=PreprocessingConfig.model_validate({"shape": (16, 16, 16), "spacing_mm": (3, 2, 2)}),
        backbone=BackboneRecord(name="resnet18-w32", pooled_stages=(-1,), licence="MIT", source="none"),
        n_fold_models=2,
        calibration=TemperatureScaling(temperature=1.5, n=30),
        prediction_sets=PredictionSets(coverage=0.9, thresholds=(0.3, 0), n_patients=(40, 5)),
        input_envelope=InputEnvelope(spacing_mm_low=(1, 1, 1), spacing_mm_high=(2, 2, 5), n_scans=9),
        trained_on=Provenance(cohort_hash="c", patient_hashes=(), content_hashes=()),
    )


# Four English words in a row, beyond names of classes and columns, ids, papers and commands to type.
ENGLISH_SENTENCE = re.compile(r"(?:\b[A-Za-z][a-z'-]+\b[ ,;:.]+){3,}\b[a-z][a-z'-]+\b")


def test_no_english_sentence_is_left_in_the_chinese_page(tmp_path):
    """With subgroups, shortcuts, a flow, a bundle's model card, and all that is left out for saying nothing."""
    data = three_classes()
    metrics = metrics_of(data, subgroups={"age": [float(30 + k % 50) for k in range(120)], "site": ["a", "b"] * 60})
    point = OperatingPoint(rule="balanced_argmax", thresholds=dict.fromkeys(data.labels.names, 0.3))
    nothing = {"abstention": metrics.abstention[:1], "operating_point": point}
    run = summary(
        data,
        flow=participant_flow(data.patients, ["train", "val", "test"] * 40, ["gone"]),
        question=Sentence("Which of {names}?", names="benign, malignant"),
        split=Sentence("not at all: {why}", why=Sentence("no fact differs between the scans")),
        model_card=model_card_rows(record()),
    )
    run = replace(run, language="zh-TW", backbone="resnet18-w32")
    given = evidence(data, metrics.model_copy(update=nothing), run=run, curves=())
    page = Page(write(tmp_path / "report.html", given))
    named = [words for words in page.words if ENGLISH_SENTENCE.search(words)]
    assert named == []
    assert "是 benign, malignant 中的哪一種？" in page.text
    assert "溫度縮放（1.50），於 30 次驗證掃描" in page.text
