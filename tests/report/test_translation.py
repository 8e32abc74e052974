"""Every sentence of the pages has its translation, with the same placeholders, and no catalogue has extra ones."""

import ast
import functools
import re
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from chinese import ENGLISH_SENTENCE, ENGLISH_WORD
from jinja2 import nodes
from report_samples import Page, evidence, metrics_of, sample, summary, write
from simulated_scores import three_classes

import med_transfer
from med_transfer import errors
from med_transfer.bundle import BackboneRecord, BundleRecord, InputEnvelope, Provenance
from med_transfer.bundle.model_card import model_card_rows
from med_transfer.bundle.record import TransferRecord
from med_transfer.config import load_config
from med_transfer.errors import GeometryRejected, ScanError, UnreadableScan
from med_transfer.errors.sentence import Sentence
from med_transfer.metrics.grouping import group_column
from med_transfer.metrics.reasons import no_case
from med_transfer.metrics.records.metrics import Abstained, Failed
from med_transfer.model.calibration import PredictionSets, TemperatureScaling
from med_transfer.model.calibration.calibrate import calibrate
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.page import LANGUAGES, environment
from med_transfer.page.glossary import glossary
from med_transfer.page.language import Catalogue, catalogue_path, sentence, translator
from med_transfer.predictions.labels import Labels
from med_transfer.preprocessing import PreprocessingConfig
from med_transfer.report.run_summary import participant_flow
from med_transfer.report.sections import SECTIONS as ALL_SECTIONS
from med_transfer.report.subgroup_name import subgroup_name
from med_transfer.report.writing import report_translator
from med_transfer.scans.verdict import grid_verdict, require_usable_series

PACKAGE = Path(med_transfer.__file__).parent
ONE_WORD = ["abstention", "augmentation", "backbone", "balanced accuracy", "baseline", "bundle", "calibration"]
ONE_WORD += ["cohort", "development scans", "early stopping", "from scratch", "negative transfer", "novelty"]
ONE_WORD += ["operating point", "out-of-distribution", "prediction set", "prevalence", "sensitivity", "spacing"]
ONE_WORD += ["specificity", "subgroup", "transfer gain"]
SECTIONS = PACKAGE / "report" / "sections"
TRANSLATED = [language for language in LANGUAGES if language != "en"]
NAMES = sorted(module.__name__.rpartition(".")[2] for module in ALL_SECTIONS)


def test_lists_are_joined_by_the_comma_of_the_language():
    by_comma = [path.name for path in SECTIONS.glob("*.py") if re.search(r'(?<!t\()", "\)?\.join', path.read_text())]
    assert by_comma == []


def test_balanced_accuracy_has_no_second_name():
    """The report called one measure balanced accuracy in its tables and balanced sensitivity in its warnings."""
    texts = {path.name: path.read_text(encoding="utf-8").lower() for path in PACKAGE.rglob("*.zh_TW.yaml")}
    assert [name for name, text in texts.items() if "balanced sensitivity" in text] == []


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


@pytest.mark.parametrize("language", TRANSLATED)
def test_the_comparison_is_translated(language):
    folder = PACKAGE / "evaluation" / "comparison"
    own, used = catalogue(folder / "compare", language), sentences([*folder.glob("*.py"), *folder.glob("*.jinja")])
    assert used - set(own) - set(shared(language)) == set(), "not translated"
    assert set(own) - used == set(), "translated, but never said"
    assert set(own) & set(shared(language)) == set(), "translated for all sections already"


@pytest.mark.parametrize("language", TRANSLATED)
def test_the_inspection_is_translated(language):
    folder, command = PACKAGE / "scans" / "inspection", PACKAGE / "cli" / "inspect.py"
    own, used = catalogue(folder / "page", language), sentences([*folder.glob("*.html.jinja"), command])
    layout = set(catalogue(PACKAGE / "page" / "layout", language))
    assert used - set(own) - layout == set(), "not translated"
    assert set(own) - used == set(), "translated, but never said"


SCAN_ERRORS = {name for name, kind in vars(errors).items() if isinstance(kind, type) and issubclass(kind, ScanError)}


@functools.cache
def calls_in(room):
    """Calls that make sentences, each with the path; the review page has a catalogue of its own."""
    paths = [path for path in (PACKAGE / room).rglob("*.py") if "review" not in path.parts]
    texts = ((path, path.read_text()) for path in paths)
    names = {"Sentence", *SCAN_ERRORS}
    made = [(path, text) for path, text in texts if any(name in text for name in names)]  # to parse all takes seconds
    nodes = ((path, node) for path, text in made for node in ast.walk(ast.parse(text)))
    calls = ((path, node) for path, node in nodes if isinstance(node, ast.Call) and isinstance(node.func, ast.Name))
    return [(path, call) for path, call in calls if call.func.id in names]


def parts_of_error(call):
    """What a call that makes a ScanError says, each alternative."""
    if call.func.id not in SCAN_ERRORS:
        return []
    said = [*call.args[:1], *(word.value for word in call.keywords if word.arg in ("expected", "action"))]
    return [one for part in said for one in ((part.body, part.orelse) if isinstance(part, ast.IfExp) else (part,))]


@functools.cache
def reasons_of(room):
    """Templates of every Sentence that a room makes, and the texts without values that its scan errors are made of."""
    own = [call.args[0] for _, call in calls_in(room) if call.func.id == "Sentence"]
    assert all(isinstance(template, ast.Constant) for template in own), "Sentence() of something not constant"
    plain = [part for _, call in calls_in(room) for part in parts_of_error(call) if isinstance(part, ast.Constant)]
    said = ("operating_point.py", "calibration/calibrators.py") if room == "model" else ()
    return {node.value for node in own + plain if node.value}.union(
        *(in_module(PACKAGE / room / name) for name in said)
    )


ROOMS = [path.name for path in sorted(PACKAGE.iterdir()) if path.is_dir() and path.name != "cli"]  # a terminal's words


@pytest.mark.parametrize("language", TRANSLATED)
@pytest.mark.parametrize("room", filter(reasons_of, ROOMS))
def test_every_reason_of_a_room_is_translated(room, language):
    own = set(catalogue(PACKAGE / room / "reasons", language))
    assert reasons_of(room) - own == set(), "not translated"
    assert own - reasons_of(room) == set(), "translated, but never said"


@pytest.mark.parametrize("language", TRANSLATED)
def test_a_reason_is_said_in_one_way_by_all_rooms(language):
    said = {}
    for path in PACKAGE.glob(catalogue_path(Path("*/reasons"), language).as_posix()):
        for english, translated in load_config(Catalogue, path).root.items():
            assert said.setdefault(english, translated) == translated, path


def test_no_reason_is_finished_where_it_is_found():
    """An f-string is English for good."""
    early = [
        f"{path.relative_to(PACKAGE)}:{part.lineno}"
        for room in ROOMS
        for path, call in calls_in(room)
        for part in parts_of_error(call)
        if isinstance(part, ast.JoinedStr | ast.BinOp)
    ]
    assert early == []


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.zh_TW.yaml")), ids=lambda path: path.name)
def test_a_translation_keeps_the_placeholders(path):
    for english, translated in load_config(Catalogue, path).root.items():
        assert placeholders(english) == placeholders(translated), english
        assert translated.strip(), english


@pytest.mark.parametrize("path", sorted(PACKAGE.rglob("*.zh_TW.yaml")), ids=lambda path: path.name)
def test_a_term_has_the_chinese_word_of_the_glossary(path):
    """Commands, file names, quoted folders and placeholders keep the English word."""
    chinese = {word.en: word.zh_tw for word in glossary()}
    for english, translated in load_config(Catalogue, path).root.items():
        for term in ONE_WORD:
            if re.search(rf"(?<![\w'/{{]){term}(?!\w*\.csv)", english, re.IGNORECASE):
                assert chinese[term] in translated, (term, english)


def test_a_sentence_without_translation_stays_english():
    assert translator("zh-TW")("No one has said {this} yet", this="that") == "No one has said that yet"
    assert sentence("marked") == "marked"


def test_a_sentence_that_a_record_holds_is_said_in_the_readers_language_with_its_values():
    t = report_translator("zh-TW")
    assert t.translated(no_case("nodule")) == "受評掃描中沒有類別 nodule 的掃描"
    assert t("undefined ({reason})", reason=no_case("nodule")) == "無法定義（受評掃描中沒有類別 nodule 的掃描）"
    assert t.translated("a plain string") == "a plain string"


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


def calibration_note():
    """Of eight patients, who are too few for vector scaling, and for much of any."""
    truth = np.eye(2, dtype=bool)[[0, 1] * 4]
    patients = [f"p{k}" for k in range(8)]
    logits = np.where(truth, 1.0, 0.0) + np.arange(8)[:, None] / 10
    return calibrate(logits, truth, patients, Labels(("benign", "malignant")), "vector").calibrator.note


def record():
    """Of a bundle with everything that its model card says in sentences."""
    return BundleRecord(
        classes=("benign", "malignant"),
        multilabel=False,
        operating_point=OperatingPoint(rule="balanced_argmax", thresholds={"benign": 0.4, "malignant": 0.6}),
        preprocessing=PreprocessingConfig.model_validate({"shape": (16, 16, 16), "spacing_mm": (3, 2, 2)}),
        backbone=BackboneRecord(name="resnet18-w32", pooled_stages=(-1,), licence="MIT", source="none"),
        n_fold_models=2,
        calibration=TemperatureScaling(temperature=1.5, n=30, note=calibration_note()),
        transfer=TransferRecord(strategy="full", align="coral", mapping="autoencoder", n_unlabelled=7),
        prediction_sets=PredictionSets(coverage=0.9, thresholds=(0.3, 0), n_patients=(40, 5)),
        input_envelope=InputEnvelope(spacing_mm_low=(1, 1, 1), spacing_mm_high=(2, 2, 5), n_scans=9),
        trained_on=Provenance(cohort_hash="c", patient_hashes=(), content_hashes=()),
        n_similar_cases=18,
    )


def unreadable():
    return UnreadableScan("truncated pixels", where="a.dcm", action="Export the series again, or remove the file")


def rejected():
    with pytest.raises(GeometryRejected) as caught:
        require_usable_series(grid_verdict((9, 9, 9, 3), np.eye(4), placed=True), "scan")
    return caught.value


@pytest.mark.parametrize(
    ("column", "values", "expected"),
    [
        ("age", [*range(30, 90), ""], ["未滿 40", "40 至 49", "50 至 59", "60 至 69", "70 至 79", "80 以上", "未知"]),
        (
            "slice_thickness_mm",
            np.linspace(0.5, 9, 99),
            ["1.5 mm 以下", "大於 1.5 至 2.5 mm", "大於 2.5 至 5 mm", "大於 5 mm"],
        ),
        ("pixel_spacing_mm", np.linspace(0.5, 1.1, 60), ["未滿 0.7 mm", "0.7 至未滿 0.9 mm", "0.9 mm 以上"]),
        ("dose", np.linspace(-1, 2, 60), ["未滿 0", "0 至未滿 1", "1 以上"]),
        ("site", [*"aaaaaaaaaabbbbbbbbbb", "c", "d"], ["a", "b", "其他"]),
    ],
)
def test_a_subgroup_is_named_in_chinese(column, values, expected):
    texts = [str(value) for value in values]
    found = group_column(column, texts, [f"p{k}" for k in range(len(texts))]).order
    assert [subgroup_name(name, report_translator("zh-TW")) for name in found] == expected
    assert [subgroup_name(name, report_translator("en")) for name in found] == list(found)


def test_the_highest_band_of_an_older_run_has_its_unit_by_the_number():
    assert subgroup_name("5.125 or more mm", report_translator("en")) == "5.125 mm or more"
    assert subgroup_name("5.125 or more mm", report_translator("zh-TW")) == "5.125 mm 以上"


# The sample's own names, words of a config, commands to type, and terms that Chinese readers know in English.
KEPT = {"benign", "malignant", "healthy", "site", "clinic"}
KEPT |= {"auto", "autoencoder", "coral", "full", "temperature", "vector"}
KEPT |= {"budget", "bundle", "evaluate", "inspect", "labels", "predict", "torch"}
KEPT |= {"bootstrap", "logit"}


def test_no_english_sentence_is_left_in_the_chinese_page(tmp_path):
    """With subgroups, shortcuts, a flow, a bundle's model card, and all that is left out for saying nothing."""
    data = three_classes()
    baselines = dict.fromkeys(("handcrafted", "prevalence", "acquisition", "clinic"), data.probabilities)
    sites = [("a", "b", "other", "")[k % 4] for k in range(120)]
    subgroups = {"age": [float(30 + k % 50) for k in range(120)], "site": sites}
    metrics = metrics_of(data, baselines=baselines, subgroups=subgroups)
    point = OperatingPoint(rule="balanced_argmax", thresholds=dict.fromkeys(data.labels.names, 0.3))
    failed = Failed(n=3, reasons={error.problem: n for n, error in enumerate((unreadable(), rejected()), 1)})
    nothing = {"abstention": metrics.abstention[:1], "operating_point": point, "failed": failed}
    reasons = {"novelty": 12, "outside_plane": 2}
    nothing["abstained"] = Abstained(n=14, above=0.95, balanced_accuracy=metrics.balanced_accuracy, reasons=reasons)
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
    words = {word for text in page.words for word in ENGLISH_WORD.findall(text)}
    assert words - KEPT == set()
    assert "（新穎度：12、outside_plane：2）" in page.text
    assert "百分位數拔靴法" in page.text
    assert "人工特徵 盛行率 取像參數 clinic" in page.text
    assert "9 x 9 x 9 x 3 的陣列含 3 個立體影像，而非一個；應為：一個規則的 CT、MR 或 PT 立體影像。" in page.text
    assert "是 benign, malignant 中的哪一種？" in page.text
    assert "溫度縮放（1.50），於 30 次驗證掃描；以 temperature 取代 vector：類別 'benign' 有 4 位驗證病人" in page.text
    assert "以 coral 對齊" in page.text
