"""``inspect`` and ``index`` as a user types them, on a hospital's export."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from command_line import read_rows, write_rows
from hospital_export import export_series, leaks
from matplotlib.image import imread

ACCEPTED, SOME, USAGE, NOTHING = 0, 1, 2, 3


@pytest.fixture
def export(tmp_path) -> Path:
    """One study: soft and sharp kernel, and two slices that are no volume."""
    for number, (kernel, n_slices) in enumerate([("B30f", 6), ("B70f", 6), ("B80f", 2)], start=1):
        uids = {"StudyInstanceUID": "1.2.3", "SeriesInstanceUID": f"1.2.3.{number}"}
        export_series(tmp_path / "export" / kernel, n_slices, ConvolutionKernel=kernel, **uids)
    (tmp_path / "export/letter.txt").write_text("Dear colleague,")
    return tmp_path / "export"


@pytest.fixture
def rules(tmp_path) -> Path:
    path = tmp_path / "rules.yaml"
    path.write_text("require:\n  - description: secretseries\nprefer:\n  - kernel: ^B3\n")
    return path


# index


def test_index_lists_one_series_a_study(command, export, rules, tmp_path):
    outcome = command("index", export, "-o", tmp_path / "c/cohort.csv", "--series-rules", rules)
    assert outcome.code == SOME
    assert outcome.out.splitlines() == [
        "1 series listed, 1 not chosen, 0 without a label, 1 rejected, 1 other file; 15 files in all",
        str(tmp_path / "c/cohort.csv"),
        f"{tmp_path}/c/cohort.quality.csv: every series, with its verdict and reason",
        f"{tmp_path}/c/patients.key: the key of the patients' pseudonyms; keep it secret, and reuse it for the "
        "next index of these patients",
        "next: write a sheet with a column label, and run the same command with --labels SHEET",
    ]
    (row,) = read_rows(tmp_path / "c/cohort.csv")
    assert (row["series_uid"], row["scan"]) == ("1.2.3.1", "../export/B30f")
    assert row["choice"] == "chosen: prefers kernel B30f over kernel B70f of series 1.2.3.2"
    written = "".join(path.read_text() for path in (tmp_path / "c").iterdir())
    assert leaks(written + outcome.out + outcome.err) == []


def test_index_speaks_json(command, export, tmp_path):
    outcome = command("index", export, "-o", tmp_path / "cohort.csv", "--json")
    counts = {"n_listed": 2, "n_not_chosen": 0, "n_unlabelled": 0, "n_rejected": 1, "n_ignored": 1, "n_files": 15}
    assert {name: value for name, value in json.loads(outcome.out).items() if name.startswith("n_")} == counts


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("require:\n - kernal: x\n", "require.0.kernal: no such key"),
        ("prefer:\n - kernel: '('\n", "a regular expression"),
    ],
)
def test_index_refuses_wrong_rules_before_it_looks(command, export, rules, tmp_path, text, found):
    rules.write_text(text)
    outcome = command("index", export, "-o", tmp_path / "cohort.csv", "--series-rules", rules)
    assert (outcome.code, outcome.out) == (USAGE, "")
    assert found in outcome.err
    assert not (tmp_path / "cohort.csv").exists()


# inspect


def test_inspect_writes_one_page_and_a_picture(command, export, tmp_path):
    outcome = command("inspect", export, "--html", tmp_path / "p/page.html", "--picture", tmp_path / "p/planes.png")
    assert (outcome.code, outcome.err) == (SOME, "")
    assert outcome.out.count("spacing_mm   2.000 x 2.000 x 2.500") == 2
    assert "2 slices, fewer than 3" in outcome.out
    page = (tmp_path / "p/page.html").read_text()
    assert page.count("<article") == 3
    assert page.count("<img") == 6
    assert imread(tmp_path / "p/planes.png").ndim == 3
    assert leaks(page + outcome.out) == []


def test_inspect_draws_no_png_under_another_name(command, export, tmp_path):
    outcome = command("inspect", export, "--picture", tmp_path / "planes.jpg")
    assert (outcome.code, outcome.err) == (2, "error: --picture: found planes.jpg; expected the name of a .png file.\n")
    assert not (tmp_path / "planes.jpg").exists()


def test_inspect_limits_the_pictures_not_the_verdicts(command, export, tmp_path):
    command("inspect", export, "--html", tmp_path / "page.html", "--limit", 1)
    page = (tmp_path / "page.html").read_text()
    assert (page.count("<article"), page.count("<img")) == (3, 3)
    command("inspect", export, "--html", tmp_path / "page.html", "--limit", 0, "--picture", tmp_path / "planes.png")
    assert (tmp_path / "planes.png").exists()


def test_inspect_a_table_draws_its_regions(command, export, tmp_path):
    region = {"roi_x_mm": "4", "roi_y_mm": "0", "roi_z_mm": "10", "roi_size_mm": "8"}
    good = {"scan": "export/B30f", "series_uid": "1.2.3.1", "label": "benign", **region}
    far = {**good, "scan": "export/B70f", "series_uid": "1.2.3.2", "roi_x_mm": "400"}
    bad = {**good, "scan": "export/B80f", "series_uid": "1.2.3.3"}
    table = write_rows(tmp_path / "cohort.csv", [good, far, bad])
    outcome = command("inspect", table, "--html", tmp_path / "page.html", "--json")
    assert outcome.code == SOME
    first, _, last = json.loads(outcome.out)["series"]
    assert (first["row"], first["label"], first["verdict"], first["kind"]) == ("2", "benign", "accept", "dicom CT")
    assert last["verdict"].startswith("reject: export/B80f: 2 slices, fewer than 3")
    page = (tmp_path / "page.html").read_text()
    assert "row 2: export/B30f" in page
    assert "Region of interest: 8 x 8 x 8 mm<" in page
    assert "8 x 8 x 8 mm, and its middle lies outside this scan" in page
    assert page.count('class="box"') == 6
    assert leaks(page + outcome.out) == []
    assert str(tmp_path / "export") not in page


def test_inspect_a_table_whose_mask_is_gone_still_shows_the_scan(command, export, tmp_path):
    row = {"scan": "export/B30f", "series_uid": "1.2.3.1", "mask": "gone.nii.gz"}
    outcome = command("inspect", write_rows(tmp_path / "cohort.csv", [row]), "--html", tmp_path / "page.html")
    assert outcome.code == NOTHING
    assert "reject: region of interest: gone.nii.gz: no such file" in outcome.out
    assert (tmp_path / "page.html").read_text().count("<img") == 3


def test_inspect_with_a_gap_limit(command, export):
    min((export / "B30f").iterdir()).unlink()  # the file names carry no order: a slice somewhere
    without, within = (command("inspect", export / "B30f", *more) for more in ([], ["--max-gap-mm", 5]))
    assert (without.code, within.code) in ((NOTHING, ACCEPTED), (ACCEPTED, ACCEPTED))
    assert "verdict      reject" not in within.out


def test_help_of_both_is_quick_and_loads_nothing_heavy():
    for name in ("inspect", "index"):
        code = (
            f"import sys\nfrom med_transfer.cli.app import main\nsys.argv = ['med-transfer', '{name}', '--help']\n"
            "try:\n    main()\nexcept SystemExit as stop:\n    assert not stop.code\n"
            "assert not {'torch', 'monai', 'numpy', 'pydicom', 'matplotlib'} & set(sys.modules)"
        )
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240, check=False)
        assert (done.returncode, done.stderr) == (0, "")
        assert "--max-gap-mm" in done.stdout
