"""A sentence is plain text to everyone except a page that renders it in another language."""

import copy
import json
import pickle
from pathlib import Path
from string import Formatter

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

import med_transfer
from med_transfer.errors.sentence import IN_PARTS, Sentence, joined, parts, whole
from med_transfer.metrics.records.estimate import Estimate
from med_transfer.metrics.records.metrics import Failed
from med_transfer.model.calibration import Uncalibrated

ALL = Sentence("all {n}", n=3)
REASON = Sentence("no scan of {name}, {share:.1f} of {what}", name="{braces}", share=0.25, what=ALL)


def test_it_is_a_string_made_of_its_template():
    assert REASON == "no scan of {braces}, 0.2 of all 3"
    assert {str(REASON): 1} == {REASON: 1}
    assert [joined(), joined("", "one"), joined("one", "", "two")] == ["", "one", "one; two"]


def test_a_record_keeps_it_and_writes_text():
    estimate = Estimate(value=None, ci95=None, method="m", reason=REASON)
    assert isinstance(estimate.reason, Sentence)
    assert Estimate.model_validate_json(estimate.model_dump_json()) == estimate
    assert estimate.model_dump(mode="json")["reason"] == str(REASON)


def test_copies_keep_template_and_values():
    for again in (pickle.loads(pickle.dumps(REASON)), copy.deepcopy(REASON)):
        assert (again, again.template, again.values) == (REASON, REASON.template, REASON.values)


def test_its_values_are_said_too():
    said = REASON.translated(lambda template, **values: f"<{template}|{sorted(values)}>")
    assert said == "<no scan of {name}, {share:.1f} of {what}|['name', 'share', 'what']>"


def test_a_sentence_that_is_a_key_is_written_in_parts_and_read_again():
    reason = Sentence("{found}{advice}", found="truncated", advice=". Copy it again.")
    written = Failed(n=2, reasons={reason: 1, "plain": 1}).model_dump_json(context=IN_PARTS)
    again = Failed.model_validate_json(written)
    assert again.reasons == {str(reason): 1, "plain": 1}
    assert next(iter(again.reasons)).template == "{found}{advice}"
    assert again.found == {"truncated": 1, "plain": 1}


def test_a_bundle_has_its_parts_so_that_a_later_report_says_it_too():
    fitted = Uncalibrated(note=REASON)
    assert json.loads(fitted.model_dump_json())["note"]["values"]["what"] == {"template": "all {n}", "values": {"n": 3}}
    again = Uncalibrated.model_validate_json(fitted.model_dump_json())
    assert (again.note, again.note.template) == (REASON, REASON.template)
    assert type(Uncalibrated(note="of an older bundle").note) is str


@pytest.mark.parametrize(
    "template",
    [
        "{a.of.__func__.__globals__}",
        "{a.__class__}",
        "{a[0]}",
        "{a!a}",
        "{n:>99999999999}",
        "{n:{a}}",
        "{n:99}",
        "{0}",
        "{missing}",
        "{a:g}",
        "{",
        "}{a}",
        "{}",
    ],
)
def test_a_template_of_a_file_that_reaches_further_than_its_values_is_text(template):
    value = {"template": template, "values": {"a": parts(ALL), "n": 3}}
    assert whole(value) == template
    assert whole(parts(whole(value))) == template


def test_what_the_program_says_comes_back_from_a_file_as_it_was_said():
    tables = Path(med_transfer.__file__).parent.rglob("*.zh_TW.yaml")
    templates = [template for path in tables for template in yaml.safe_load(path.read_text(encoding="utf-8"))]
    fields = {name for template in templates for _, name, _, _ in Formatter().parse(template) if name}
    assert len(templates) > 500
    for template in templates:
        found = whole({"template": template, "values": dict.fromkeys(fields, 3)})
        assert isinstance(found, Sentence)
        assert found.template == template


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text("{}:.[]!ang0", max_size=12),
        lambda part: st.fixed_dictionaries(
            {
                "template": st.text("{}:.[]!ang0", max_size=12) | part,
                "values": st.dictionaries(st.sampled_from("ang"), part) | part,
            }
        ),
        max_leaves=8,
    )
)
def test_whatever_a_file_holds_is_said_or_left(value):
    found = whole(value)
    assert isinstance(found, str) or found is value
    if isinstance(found, Sentence):
        assert whole(parts(found)) == found
