"""Columns as numbers: missing values, values never seen, columns that reveal the answer."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from made_up_scans import fit, made_up

from med_transfer.config import load_config
from med_transfer.errors import CohortError, ConfigError
from med_transfer.finetuning import FinetuneConfig
from med_transfer.fusion.clinical import Categories, Numbers, learn_column, with_values
from med_transfer.fusion.leaks import leaking_columns

PATIENTS = [f"p{number}" for number in range(6)]


def test_numbers_take_the_median_and_tell_that_they_did():
    column = learn_column("age", ["50", "NA", "70", "", "60", "61.5"], PATIENTS)
    assert column == Numbers(name="age", median=60.75, with_missing=True)
    assert column.features == ("age", "age missing")
    np.testing.assert_array_equal(column.encode_texts(["40", "n/a"]), [[40, 0], [60.75, 1]])
    assert column.trouble("") == ""
    assert column.trouble("old") == "column age is not a number here"
    whole = learn_column("age", ["50", "70", "60", "61", "62", "63"], PATIENTS)
    assert "never lacked one in training" in whole.trouble("")


def test_rare_unseen_and_missing_categories_share_a_level():
    column = learn_column("site", ["a", "a", "b", "b", "c", ""], PATIENTS)
    assert column == Categories(name="site", levels=("a", "b"))
    np.testing.assert_array_equal(
        column.encode_texts(["b", "c", "never seen", ""]), [[0, 1, 0], [0, 0, 1], [0, 0, 1], [0, 0, 1]]
    )


def test_another_spelling_is_no_other_value():
    """It had the level of unknown values: a sex of m was neither M nor F, and nothing said so."""
    column = learn_column("sex", ["M", "M", "F", "F", "M", ""], PATIENTS)
    assert [column.trouble(text) for text in ("M", "", "unknown", "X")] == [""] * 4
    for text in ("m", "m ", "Ｍ"):
        assert column.trouble(text) == "column sex has another spelling here than in training: M"
    with pytest.raises(CohortError, match="^scan 1 and scan 5 have values in column 'sex' that differ only in case"):
        learn_column("sex", ["M", "M", "F", "F", "m", ""], PATIENTS)
    for first, second in (
        ("non-smoker", "non–smoker"),
        ("Crohn's", "Crohn’s"),
        ("−1 to 1", "-1 to 1"),
        ("a", "a\u200b"),
    ):
        with pytest.raises(CohortError, match="that differ only in case, spaces or look-alikes"):
            learn_column("status", [first, first, "b", "b", "b", second], PATIENTS)
        known = learn_column("status", [first, first, "b", "b", "b", "b"], PATIENTS)
        assert "another spelling" in known.trouble(second)
        of_older_versions = Categories(name="status", levels=(first, second))
        assert of_older_versions.trouble(first) == of_older_versions.trouble(second) == ""
    with pytest.raises(CohortError, match="^row 3 and row 4 have values in column 'site'"):
        learn_column("site", ["a", "St. Mary", "St.  Mary"], PATIENTS[:3], ["row 2", "row 3", "row 4"])


def test_none_is_a_value_among_words_and_missing_among_numbers():
    contrast = learn_column("contrast", ["none", "none", "iv", "iv", "#N/A", ""], PATIENTS)
    assert contrast == Categories(name="contrast", levels=("iv", "none"))
    age = learn_column("age", ["50", "None", "70", "<NA>", "60", "61.5"], PATIENTS)
    assert age == Numbers(name="age", median=60.75, with_missing=True)
    np.testing.assert_array_equal(age.encode_texts(["40", "None"]), [[40, 0], [60.75, 1]])
    assert age.trouble("None") == ""
    assert learn_column("room", ["10_01", "100_1"] * 3, PATIENTS) == Categories(name="room", levels=("100_1", "10_01"))


def test_the_wrong_columns_are_named():
    with pytest.raises(CohortError, match="^cohort.csv: column 'site' has the same value in every development scan"):
        learn_column("site", ["a"] * 6, PATIENTS, where="cohort.csv")
    with pytest.raises(CohortError, match="^cohort.csv: column 'age' has no value in any development scan; expected"):
        learn_column("age", ["", "NA", "?", "", "", ""], PATIENTS, where="cohort.csv")
    rows = [f"row {n}" for n in range(2, 8)]
    with pytest.raises(CohortError, match="^cohort.csv: row 4 has something other than a number in column 'age'"):
        learn_column("age", ["50", "60", "7O", "80", "50", ""], PATIENTS, rows, where="cohort.csv")


def test_a_column_without_any_value_is_as_good_as_not_there():
    assert with_values([{"age": "", "sex": "F"}, {"age": "NA", "sex": ""}]) == [{"sex": "F"}, {"sex": ""}]


def test_what_is_missing_at_prediction_leaves_the_fused_answer_empty():
    data = made_up(missing=0.0)
    fusion = fit(data, "marker", "site", penalty=1.0)
    columns = [dict(row) for row in data.scans.columns]
    del columns[0]["marker"]
    columns[1]["marker"] = ""
    columns[2]["site"] = "nowhere"
    handcrafted = data.scans.handcrafted.copy()
    handcrafted[3, 1] = np.nan
    within = ["roi"] * 4 + ["whole"] + ["roi"] * (len(data.scans) - 5)
    fused = fusion.fuse(replace(data.scans, columns=columns, handcrafted=handcrafted, within=within))
    assert fused.reasons[:5] == [
        "column marker is not given, or empty in every row",
        "column marker has no value here, and never lacked one in training",
        "",
        "handcrafted feature mean_hu is undefined here, and never was in training",
        "handcrafted features were learned within a region of interest, these are of the whole scan",
    ]
    np.testing.assert_array_equal(np.isnan(fused.probabilities).all(axis=1)[:6], [True, True, False, True, True, False])
    alone = fusion.fuse(data.scans)  # a scan's answer does not depend on the others
    np.testing.assert_allclose(fused.probabilities[5:], alone.probabilities[5:], rtol=1e-12)


def test_a_column_that_is_the_answer_or_the_patient_is_named():
    data = made_up(n=60)
    code = data.truth.argmax(1)
    texts = {
        "grade": [str(number + 3) for number in code],
        "score": [f"{number + 0.001 * row}" for row, number in enumerate(code)],
        "code": [f"name-{patient}" for patient in data.patients],
        "number": [patient.removeprefix("p") for patient in data.patients],
        "site": [row["site"] for row in data.scans.columns],
        "marker": [row["marker"] for row in data.scans.columns],
    }
    found = leaking_columns(texts, data.truth, data.patients)
    assert [warning.split()[1] for warning in found] == ["grade", "score", "code", "number"]
    class_or_patient = [("gives away the class" in one, "identifies the patient" in one) for one in found]
    assert class_or_patient == [(True, False)] * 2 + [(False, True)] * 2
    columns = [row | {"grade": grade} for row, grade in zip(data.scans.columns, texts["grade"], strict=True)]
    assert "column grade" in fit(data, "grade", scans=replace(data.scans, columns=columns), penalty=1.0).warnings[0]


@pytest.mark.parametrize(
    ("override", "complaint"),
    [
        ("use=[network]", "it needs network and handcrafted, columns, or both"),
        ("use=[handcrafted, columns]", "it needs network and handcrafted, columns, or both"),
        ("use=[network, columns]", "fusion.use has columns, and fusion.columns names none"),
        ("columns=[age]", "fusion.columns names some, and fusion.use has no columns"),
        ("use=[network, handcrafted, handcrafted]", "names something twice"),
        ("columns=[age, sex, age]", "names something twice"),
        ("colums=[age]", "no such key; expected fusion.columns perhaps"),
        ("penalty=-1", "found -1"),
    ],
)
def test_a_config_that_makes_no_sense_is_refused(override, complaint):
    with pytest.raises(ConfigError, match=complaint):
        load_config(FinetuneConfig, None, [f"fusion.{override}"])


def test_off_by_default():
    assert FinetuneConfig().fusion is None
    assert load_config(FinetuneConfig, None, ["fusion.use=[network, handcrafted]", "fusion=null"]).fusion is None
