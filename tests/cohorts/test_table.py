import re
from pathlib import Path

import numpy as np
import pytest

from med_transfer.cohorts import Cohort
from med_transfer.cohorts.case import ROI_COLUMNS
from med_transfer.errors import CohortError, MissingLabel
from med_transfer.predictions.labels import Labels

ROWS = "scan,patient,label\na.nii.gz,007,low\nb.nii.gz,8,high\nc.nii.gz,8,low\n"


def table(folder: Path, text: str | bytes) -> Path:
    """A cohort.csv beside the files a.nii.gz ... d.nii.gz and m.nii.gz."""
    for name in "abcdm":
        (folder / f"{name}.nii.gz").touch()
    path = folder / "cohort.csv"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_rows_become_cases(tmp_path):
    cohort = Cohort.read(table(tmp_path, ROWS))
    assert [case.scan for case in cohort.cases] == ["a.nii.gz", "b.nii.gz", "c.nii.gz"]
    assert cohort.patients == ("007", "8", "8")
    assert cohort.labels == Labels(("high", "low"))
    assert cohort.truth.tolist() == [[False, True], [True, False], [False, True]]
    assert cohort.counts() == {"high": (1, 1), "low": (2, 2)}
    assert [case.path for case in cohort.cases] == [tmp_path / f"{name}.nii.gz" for name in "abc"]
    assert [case.row for case in cohort.cases] == [2, 3, 4]


def test_commas_in_a_column_s_name_do_not_separate_columns(tmp_path):
    text = 'scan;patient;label;"size, in mm, of the largest, or\nonly, lesion"\na.nii.gz;1;x;3\nb.nii.gz;2;y;4\n'
    (first, _) = Cohort.read(table(tmp_path, text)).cases
    assert dict(first.columns) == {"size, in mm, of the largest, or\nonly, lesion": "3"}


@pytest.mark.parametrize(
    ("column", "meant"),
    [
        *(("Split", "split"), ("MASK", "mask"), ("Mask name", "mask_name"), ("SeriesUID", "series_uid")),
        *(("roi_x", "roi_x_mm"), ("ROI size [mm]", "roi_size_mm")),
    ],
)
@pytest.mark.parametrize("labelled", [True, False])
def test_a_column_that_would_be_passed_over_for_its_spelling_is_refused(tmp_path, column, meant, labelled):
    text = ROWS.replace("label\n", f"label,{column}\n").replace("low\n", "low,1\n").replace("high\n", "high,1\n")
    with pytest.raises(
        CohortError, match=rf"cohort\.csv: column '{re.escape(column)}' would be .*Rename '.*' to '{meant}'"
    ):
        Cohort.read(table(tmp_path, text), labelled=labelled)


def test_patients_and_findings_that_would_be_passed_over_for_their_spelling_are_refused(tmp_path):
    with pytest.raises(CohortError, match=r"cohort\.csv: .*Rename 'Patient' to 'patient'"):
        Cohort.read(table(tmp_path, "scan,Patient\na.nii.gz,1\n"), labelled=False)
    text = "scan,patient,label_a,Label_b\na.nii.gz,1,0,1\nb.nii.gz,2,1,0\n"
    with pytest.raises(CohortError, match=r"cohort\.csv: .*Rename 'Label_b' to 'label_b'"):
        Cohort.read(table(tmp_path, text))
    assert Cohort.read(table(tmp_path, text), labelled=False).cases[0].columns == {"Label_b": "1"}


def test_two_byte_order_marks_are_no_part_of_the_first_column_s_name(tmp_path):
    assert len(Cohort.read(table(tmp_path, ("\ufeff" + ROWS).encode("utf-8-sig")))) == 3


def test_subset_keeps_the_classes(tmp_path):
    subset = Cohort.read(table(tmp_path, ROWS)).subset([2, 0])
    assert [case.scan for case in subset.cases] == ["c.nii.gz", "a.nii.gz"]
    assert subset.labels.names == ("high", "low")
    assert subset.counts() == {"high": (0, 0), "low": (2, 2)}


def test_findings(tmp_path):
    text = "scan,patient,label_nodule,label_effusion\na.nii.gz,1,1,0\nb.nii.gz,2,1,1\nc.nii.gz,3,0,0\n"
    cohort = Cohort.read(table(tmp_path, text))
    assert cohort.labels == Labels(("effusion", "nodule"), multilabel=True)
    assert [case.label for case in cohort.cases] == [{"nodule"}, {"nodule", "effusion"}, frozenset()]
    assert cohort.truth.tolist() == [[False, True], [True, True], [False, False]]


def test_one_finding_alone_is_present_or_not(tmp_path):
    text = "scan,patient,label_nodule\na.nii.gz,1,1\nb.nii.gz,2,0\nc.nii.gz,3,1\n"
    for given in (None, Labels(("nodule",), multilabel=True)):
        cohort = Cohort.read(table(tmp_path, text), labels=given)
        assert cohort.labels == Labels(("nodule",), multilabel=True)
        assert cohort.truth.tolist() == [[True], [False], [True]]
        assert cohort.counts() == {"nodule": (2, 2)}


def test_regions_masks_and_other_columns(tmp_path):
    text = (
        "scan,series_uid,patient,label,roi_x_mm,roi_y_mm,roi_z_mm,roi_size_mm,mask,split,sex,age\n"
        "a.nii.gz,1.2.3,1,x,-10.5,20,3e1,40,,train,F,63\n"
        "b.nii.gz,,2,y,,,,,m.nii.gz,test,M,\n"
    )
    first, second = Cohort.read(table(tmp_path, text)).cases
    assert (first.roi_centre_mm, first.roi_size_mm, first.mask) == ((-10.5, 20.0, 30.0), 40.0, None)
    assert (first.series_uid, first.split, first.columns) == ("1.2.3", "train", {"sex": "F", "age": "63"})
    assert (second.roi_centre_mm, second.roi_size_mm, second.mask) == (None, None, tmp_path / "m.nii.gz")


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_spreadsheet_dialects_read_alike(tmp_path, delimiter, newline, encoding):
    text = "scan,patient,label,\na.nii.gz, 007 , low ,\n,,,\nb.nii.gz,8,höher,\n\n"  # with spreadsheet artefacts
    cohort = Cohort.read(table(tmp_path, text.replace(",", delimiter).replace("\n", newline).encode(encoding)))
    assert cohort.patients == ("007", "8")
    assert [case.row for case in cohort.cases] == [2, 4]
    assert cohort.labels.names == ("höher", "low")


def test_between_semicolons_the_comma_is_the_decimal_sign(tmp_path):
    text = (
        "scan;patient;label;roi_x_mm;roi_y_mm;roi_z_mm;roi_size_mm;age;note\n"
        "a.nii.gz;1,5;x,1;-10,5;20;3;40,25;63,5;1,2,3\n"
        "b.nii.gz;2;y;;;;;;\n"
    )
    first = Cohort.read(table(tmp_path, text)).cases[0]
    assert (first.patient, first.label, first.roi_centre_mm, first.roi_size_mm) == ("1,5", "x,1", (-10.5, 20, 3), 40.25)
    assert first.columns == {"age": "63.5", "note": "1,2,3"}
    by_tabs = text.replace(";", "\t")
    assert Cohort.read(table(tmp_path, by_tabs)).cases[0] == first
    with pytest.raises(CohortError, match=r"cohort\.csv: row 2 has roi_x_mm '-10,500'"):  # or are these thousands?
        Cohort.read(table(tmp_path, by_tabs.replace("-10,5", "-10,500")))


@pytest.mark.parametrize("first", ["sep=;\n", "SEP=;\r\n"])
def test_a_first_line_that_tells_a_spreadsheet_the_delimiter(tmp_path, first):
    cohort = Cohort.read(table(tmp_path, first + "scan;patient;label;age\na.nii.gz;1;x;6,5\nb.nii.gz;2;y;7\n"))
    assert [case.row for case in cohort.cases] == [3, 4]
    assert cohort.cases[0].columns == {"age": "6.5"}


def columns_of(tmp_path, *cells: str) -> list[dict[str, str]]:
    """Of a table with these cells in a column ``age``, with tabs, which read as with commas and quotes."""
    rows = [
        f"{name}.nii.gz\t{name}\t{'xy'[n % 2]}\t{cell}" for n, (name, cell) in enumerate(zip("abc", cells, strict=True))
    ]
    tabs = "\n".join(["scan\tpatient\tlabel\tage", *rows]) + "\n"
    quoted = "".join(",".join(f'"{cell}"' for cell in line.split("\t")) + "\n" for line in tabs.splitlines())
    read = [[dict(case.columns) for case in Cohort.read(table(tmp_path, text)).cases] for text in (tabs, quoted)]
    assert read[0] == read[1]
    return [columns["age"] for columns in read[0]]


def test_a_column_of_numbers_with_a_comma_is_one_of_numbers(tmp_path):
    assert columns_of(tmp_path, "63,5", "7", "-0,25") == ["63.5", "7", "-0.25"]
    assert columns_of(tmp_path, "63,5", "", "NA") == ["63.5", "", "NA"]
    for cells in (("1,234", "987", "2,345"), ("63,5", "old", "7"), ("1,2,3", "4", "5"), ("6.5", "7", "8")):
        assert columns_of(tmp_path, *cells) == list(cells)  # thousands, words, lists, points


def test_quoted_values_may_hold_commas_and_line_breaks(tmp_path):
    text = 'scan,patient,label,note\na.nii.gz,1,x,"one, two\nthree"\nb.nii.gz,2,y,\nd.nii.gz,2,,\n'
    with pytest.raises(MissingLabel, match=r"cohort\.csv: row 5 \(d\.nii\.gz\) has no label"):
        Cohort.read(table(tmp_path, text))


def test_one_scan_may_have_several_regions(tmp_path):
    header = "scan,patient,label,roi_x_mm,roi_y_mm,roi_z_mm,roi_size_mm\n"
    cohort = Cohort.read(table(tmp_path, header + "a.nii.gz,1,x,0,0,0,20\na.nii.gz,1,y,50,0,0,20\n"))
    assert len(cohort) == 2
    with pytest.raises(CohortError, match=r"rows 2 and 3 are the same scan and region \(\./a\.nii\.gz\)"):
        Cohort.read(table(tmp_path, header + "a.nii.gz,1,x,0,0,0,20\n./a.nii.gz,1,y,0,0,0.0,20\n"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "the table is empty"),
        ("\n\n", "the table is empty"),
        ("scan,patient,label\n", "a header and no rows"),
        (
            "Scan,patient,label\nx,1,a\n",
            r"no column 'scan'; expected it among Scan, patient, label\. Rename 'Scan' to 'scan'",
        ),
        ("scan,label\nx,a\n", r"no column 'patient'; expected it among scan, label\. Add a column 'patient'"),
        ("scan,patient,lable\nx,1,a\n", r"no column 'label'.*Rename 'lable' to 'label'"),
        ("scan,patient,label,label\nx,1,a,a\n", "column 'label' appears twice"),
        ("scan,patient,label\na.nii.gz,1,x,9\n", r"row 2 has 4 values; expected 3, as many as the header"),
        ("scan,patient,label\na.nii.gz,1\n", "row 2 has 2 values"),
        ("scan,patient,label,\na.nii.gz,1,x,9\n", "row 2 has a value in a column without a name"),
        ('scan,patient,label\na.nii.gz,1,"x"y\n', "row 2 is not valid CSV"),
        ("scan,patient,label\n,1,x\n", "row 2 has no scan"),
        ("scan,patient,label\na.nii.gz,,x\n", "row 2 has no patient; expected a value in every row"),
        ("scan,patient,label\na.nii.gz,1,x\nb.nii.gz,NA,y\n", r"row 3 has no patient \(NA\)"),
        ("scan,patient,label\na.nii.gz,1.23457E+11,x\n", r"row 2 has no patient \(1\.23457E\+11\); .* has rounded"),
        ("scan,patient,label\na.nii.gz,1.2345678901234568e+16,x\n", r"row 2 has no patient .* has rounded"),
        (ROWS.replace("high", "a;b"), "class name 'a;b'; expected one line without ';'"),
        (ROWS.replace("high", '"a\nb"'), r"class name 'a\\nb'; expected one line .*Give the class another name"),
        (ROWS.replace("high", "low"), r"every row has label 'low'; expected at least two classes"),
        (
            "scan,patient,label\n" + "".join(f"{n}.nii.gz,{n},{n / 7:.2f}\n" for n in range(12)),
            "12 different numbers as labels in 12 rows; expected one class of a few a scan.*measurements, convert them "
            "to classes",
        ),
        (ROWS + "d.nii.gz,9,High\n", "classes 'High' and 'high' differ only in case"),
        (
            ROWS.replace("low", "L\u00e9sion") + "d.nii.gz,9,Le\u0301sion\n",
            r"look alike: 'Le\\u0301sion', 'L\\xe9sion'",
        ),
        (ROWS + "d.nii.gz,9,high\u200b\n", r"look alike: 'high', 'high\\u200b'"),
        (ROWS + "./a.nii.gz,9,high\n", r"rows 2 and 5 are the same scan and region"),
        ("scan,patient,label,label_x\na.nii.gz,1,x,1\n", "columns label and label_x; expected either"),
        ("scan,patient,label_b;c\na.nii.gz,1,1\nb.nii.gz,2,0\n", "class name 'b;c'; expected one line without ';'"),
        ("scan,patient,label_\na.nii.gz,1,1\n", "column 'label_' names no finding"),
        ("scan,patient,label_x\na.nii.gz,1,maybe\n", r"row 2 has label_x 'maybe'; expected 0 or 1 \(false or"),
        ("scan,patient,label_x\na.nii.gz,1,1\nb.nii.gz,1,1\n", "finding 'x' is present in 2 of 2 scans"),
        ("scan,patient,label,split\na.nii.gz,1,x,training\n", r"row 2 has split 'training'; expected train, val, test"),
        ("scan,patient,label,roi_x_mm,roi_z_mm\na,1,x,1,2\n", "region column roi_y_mm, roi_size_mm is missing"),
    ],
)
def test_unusable_tables(tmp_path, text, message):
    with pytest.raises(CohortError, match=rf"cohort\.csv: .*{message}"):
        Cohort.read(table(tmp_path, text))


def test_many_numbered_classes_are_classes_where_each_has_scans(tmp_path):
    rows = "".join(f"{n}.nii.gz,{n},{n % 12}\n" for n in range(24))
    for n in range(24):
        (tmp_path / f"{n}.nii.gz").touch()
    assert len(Cohort.read(table(tmp_path, "scan,patient,label\n" + rows)).labels) == 12


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("1,2,,4", "row 2 has roi_z_mm ''; expected a number in mm, in all four region columns or in none"),
        ("1,left,3,4", "row 2 has roi_y_mm 'left'; expected a number in mm"),
        ("1,2,nan,4", "row 2 has roi_z_mm 'nan'"),
        ("1,2,inf,4", "row 2 has roi_z_mm 'inf'"),
        ("1,2,3,0", "row 2 has roi_size_mm '0'; expected a size above 0 mm"),
    ],
)
def test_unusable_regions(tmp_path, values, message):
    text = f"scan,patient,label,roi_x_mm,roi_y_mm,roi_z_mm,roi_size_mm\na.nii.gz,1,x,{values}\nb.nii.gz,2,y,,,,\n"
    with pytest.raises(CohortError, match=rf"cohort\.csv: .*{message}"):
        Cohort.read(table(tmp_path, text))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("scan,patient,label\na.nii.gz,1,höher\n".encode("latin-1"), r"row 2 is not UTF-8 text.*CSV UTF-8"),
        (ROWS.encode("utf-16"), "row 1 is not UTF-8 text"),
        (b"PK\x03\x04...", "is an Excel workbook; expected CSV"),
    ],
)
def test_other_encodings_are_refused(tmp_path, content, message):
    with pytest.raises(CohortError, match=rf"cohort\.csv: .*{message}"):
        Cohort.read(table(tmp_path, content))


@pytest.mark.parametrize(
    "again", ["ann-7", "ANN-7", "Ann-\uff17", "Ann-\u00ad7", "Ann\u20137", "Ann\u22127", "Ann\u20117"]
)
def test_a_patient_under_two_spellings_would_be_on_two_sides_of_a_split(tmp_path, again):
    text = f"scan,patient,label\na.nii.gz,Ann-7,x\nb.nii.gz,Ben,y\nc.nii.gz,{again},x\n"
    with pytest.raises(
        CohortError, match=r"cohort\.csv: rows 2 and 4 have patients that differ only in case"
    ) as refused:
        Cohort.read(table(tmp_path, text))
    assert "nn" not in str(refused.value).replace(str(tmp_path), "").casefold()


@pytest.mark.parametrize("again", ["12.0", "0012", "0012.0", "\uff11\uff12"])
def test_patient_12_under_another_spelling_of_the_number_is_refused(tmp_path, again):
    with pytest.raises(
        CohortError, match=r"cohort\.csv: rows 2 and 3 have patients that differ only in case, spaces, .*zeros"
    ):
        Cohort.read(table(tmp_path, f"scan,patient,label\na.nii.gz,12,x\nb.nii.gz,{again},y\n"))


def test_zeros_within_a_name_tell_patients_apart(tmp_path):
    for first, second in (("P7", "P007"), ("0", "00x"), ("1-01", "1-1"), ("10", "1")):
        Cohort.read(table(tmp_path, f"scan,patient,label\na.nii.gz,{first},x\nb.nii.gz,{second},y\n"))


def test_absent_table(tmp_path):
    with pytest.raises(CohortError, match=r"none\.csv: No such file"):
        Cohort.read(tmp_path / "none.csv")


def test_missing_labels_are_counted(tmp_path):
    text = "scan,patient,label\na.nii.gz,1,x\nb.nii.gz,2,\nc.nii.gz,3, \n"
    with pytest.raises(
        MissingLabel, match=r"cohort\.csv: row 3 \(b\.nii\.gz\) has no label \(2 rows in all\)\. Fill the label"
    ):
        Cohort.read(table(tmp_path, text))
    with pytest.raises(MissingLabel, match=r"cohort\.csv: row 2 \(a\.nii\.gz\) has no label\."):
        Cohort.read(table(tmp_path, "scan,patient,label_x,label_y\na.nii.gz,1,1,\n"))


def test_absent_scans_are_counted_and_five_are_named(tmp_path):
    text = "scan,patient,label\n" + "".join(f"absent{n}.nii.gz,secret{n},{'xy'[n % 2]}\n" for n in range(7))
    with pytest.raises(
        MissingLabel, match=r"cohort\.csv: 7 of 8 scan paths do not exist: row 2 \(.*absent0\.nii\.gz\)"
    ) as raised:
        Cohort.read(table(tmp_path, text + "a.nii.gz,p,x\n"))
    assert "absent4" in str(raised.value)
    assert "absent5" not in str(raised.value)
    assert "and 2 more" in str(raised.value)
    assert "secret" not in str(raised.value)


@pytest.mark.parametrize("row", ["{}.nii,1,x,", "a.nii.gz,1,x,{}.nii"])
def test_a_path_that_no_file_can_have_is_an_absent_one(tmp_path, row):
    text = f"scan,patient,label,mask\n{row.format('n' * 300)}\nb.nii.gz,2,y,\n"
    with pytest.raises(MissingLabel, match=r"cohort\.csv: 1 of . (scan|mask) paths do not exist"):
        Cohort.read(table(tmp_path, text))


def test_absent_mask(tmp_path):
    text = "scan,patient,label,mask\na.nii.gz,1,x,absent.nii.gz\nb.nii.gz,2,y,m.nii.gz\n"
    with pytest.raises(MissingLabel, match=r"cohort\.csv: 1 of 2 mask paths do not exist: row 2 \(.*absent\.nii\.gz\)"):
        Cohort.read(table(tmp_path, text))


def test_a_bundle_fixes_the_class_order(tmp_path):
    labels = Labels(("middle", "low", "high"))
    cohort = Cohort.read(table(tmp_path, ROWS.replace("high", "low")), labels=labels)
    assert cohort.labels is labels
    assert np.array_equal(cohort.truth, np.tile([False, True, False], (3, 1)))


@pytest.mark.parametrize(
    ("labels", "text", "message"),
    [
        (Labels(("a", "low")), ROWS, r"row 3, class 'high' is not in both.*expected the bundle's a, low"),
        (
            Labels(("low", "high"), multilabel=True),
            ROWS,
            r"the table has one label a scan; expected findings low, high",
        ),
        (Labels(("x", "y")), "scan,patient,label_x\na.nii.gz,1,1\n", r"the table has label_<finding> columns"),
        (Labels(("x", "y"), multilabel=True), "scan,patient,label_x\na.nii.gz,1,1\n", r"finding 'y' is not in both"),
        (Labels(("x",), multilabel=True), "scan,patient,label_z\na.nii.gz,1,1\n", r"finding 'z' is not in both"),
    ],
)
def test_a_table_of_other_classes_than_the_bundle(tmp_path, labels, text, message):
    with pytest.raises(CohortError, match=rf"cohort\.csv: .*{message}"):
        Cohort.read(table(tmp_path, text), labels=labels)


def test_table_for_prediction(tmp_path):
    text = "scan,label,sex\nabsent.nii.gz,,F\na.nii.gz,unheard-of,M\n"
    cohort = Cohort.read(table(tmp_path, text), labels=Labels(("x", "y")), labelled=False)
    assert [(case.patient, case.label, case.columns) for case in cohort.cases] == [
        ("", None, {"sex": "F"}),
        ("", None, {"sex": "M"}),
    ]
    with pytest.raises(MissingLabel, match=r"cohort\.csv: row 2 \(absent\.nii\.gz\) has no label"):
        _ = cohort.truth


@pytest.mark.parametrize("missing", ["NaN", "nan", "NA", "n/a", "#N/A", "<NA>", "null"])
def test_a_missing_label_is_no_class(tmp_path, missing):
    with pytest.raises(
        MissingLabel, match=r"cohort\.csv: (row 3 \(b\.nii\.gz\) has no label; |row 3 \(b\.nii\.gz\) has no label\.)"
    ):
        Cohort.read(table(tmp_path, ROWS.replace("high", missing)))


@pytest.mark.parametrize("missing", ["NA", "nan", "<NA>", "NULL"])
def test_what_r_and_pandas_write_for_nothing_is_nothing_in_every_column(tmp_path, missing):
    optional = ("series_uid", "mask", "mask_name", "split", *ROI_COLUMNS, "scan_late", "series_uid_late")
    header = ",".join(("scan", "patient", "label", *optional))
    nothing = ",".join([missing] * len(optional))
    text = f"{header}\na.nii.gz,1,x,{nothing}\nb.nii.gz,2,y,{nothing}\n"
    cases = Cohort.read(table(tmp_path, text)).cases
    assert cases == Cohort.read(table(tmp_path, text.replace(missing, ""))).cases
    assert (cases[0].mask, cases[0].roi_size_mm, cases[0].split, cases[0].scan_in("scan_late")) == (
        None,
        None,
        "",
        None,
    )


def test_whole_numbers_that_pandas_wrote_as_decimals(tmp_path):
    text = ROWS.replace("low", "0.0").replace("high", "1.0")
    assert Cohort.read(table(tmp_path, text)).labels.names == ("0", "1")
    assert Cohort.read(table(tmp_path, text), labels=Labels(("0.0", "1.0"))).cases[0].label == "0.0"  # an old bundle's
    findings = "scan,patient,label_nodule\na.nii.gz,1,1.0\nb.nii.gz,2,0.0\n"
    assert [case.label for case in Cohort.read(table(tmp_path, findings)).cases] == [{"nodule"}, frozenset()]
    with pytest.raises(CohortError, match=r"cohort\.csv: row 3 has label_nodule '0\.5'; expected 0 or 1"):
        Cohort.read(table(tmp_path, findings.replace("0.0", "0.5")))


@pytest.mark.parametrize(("present", "absent"), [("TRUE", "FALSE"), ("True", "false"), ("yes", "No")])
def test_findings_as_a_spreadsheet_writes_what_is_true(tmp_path, present, absent):
    findings = f"scan,patient,label_nodule\na.nii.gz,1,{present}\nb.nii.gz,2,{absent}\n"
    assert [case.label for case in Cohort.read(table(tmp_path, findings)).cases] == [{"nodule"}, frozenset()]


def test_a_misspelt_label_is_no_class_of_its_own(tmp_path):
    rows = [("solid", 4), ("soild", 1), ("grade-1", 4), ("grade-2", 1), ("none", 3)]
    labels = [label for label, n in rows for _ in range(n)]
    text = "scan,patient,label\n" + "".join(f"s{n}.nii.gz,{n},{label}\n" for n, label in enumerate(labels))
    for n in range(len(labels)):
        (tmp_path / f"s{n}.nii.gz").touch()
    with pytest.raises(
        CohortError, match=r"cohort\.csv: row 6 has label 'soild'; expected 'solid' perhaps.*Did you mean solid\?"
    ):
        Cohort.read(table(tmp_path, text))
    correct = Cohort.read(table(tmp_path, text.replace("soild", "solid")))
    assert correct.labels.names == ("grade-1", "grade-2", "none", "solid")
    with pytest.raises(CohortError, match=r"cohort\.csv: row 6, class 'soild' is not in both.*Did you mean solid\?"):
        Cohort.read(table(tmp_path, text), labels=correct.labels)
