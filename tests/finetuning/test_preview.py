"""``preview`` shows what training gets, bit for bit, and what it says about it is true."""

from __future__ import annotations

import base64
import html
import io
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import TINY, read_rows, settings, write_rows
from matplotlib.image import imread
from monai.data.meta_tensor import MetaTensor
from monai.data.utils import set_rnd
from whole_bodies import plain_head

import med_transfer as mt
from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.backbones import find_backbone, load_backbone
from med_transfer.cohorts import split_cohort
from med_transfer.cohorts.preparation import read_scans
from med_transfer.config import load_config
from med_transfer.errors import ConfigError, FolderInUse, NothingDone
from med_transfer.finetuning import FinetuneConfig
from med_transfer.finetuning.augmentation import augmentation
from med_transfer.finetuning.batches import FoldData, Part, training_batches, validation_batches
from med_transfer.finetuning.data_setup import prepare_run_data
from med_transfer.finetuning.preview import previewing
from med_transfer.finetuning.preview.facts import cohort_remarks, view_facts
from med_transfer.finetuning.preview.pictures import input_planes, parts_picture
from med_transfer.finetuning.region_choice import choose_region
from med_transfer.preprocessing import Preprocessing, PreprocessingConfig
from med_transfer.progress import silent
from med_transfer.scans import Provenance, Region, Volume, geometry

HEAVY = ("augmentation.strength=2", "augmentation.elastic=1", "augmentation.flips=[0,1,2]")


@pytest.fixture(scope="module", params=["whole", "roi"])
def config(request) -> FinetuneConfig:
    return load_config(FinetuneConfig, None, [*TINY, *HEAVY, f"input.region={request.param}"])


@pytest.fixture(scope="module")
def shown(cohort_csv, config):
    return mt.preview(cohort_csv, config, per_class=1, draws=3)


@pytest.fixture(scope="module")
def run_data(cohort_csv, config, tmp_path_factory):
    """What ``finetune`` prepares of the same table."""
    cohort = mt.Cohort.read(cohort_csv)
    spec = find_backbone(config.backbone.name)
    return prepare_run_data(cohort, choose_region(config, cohort), spec, tmp_path_factory.mktemp("run"), silent)


def position(run_data, row: int) -> int:
    return next(i for i, case in enumerate(run_data.prepared.cohort.cases) if case.row == row)


# The same arrays ----------------------------------------------------------------------------------------------------


def test_the_plain_view_is_what_validation_and_inference_see(shown, run_data, config):
    assert len(shown.scans) == 3
    for scan in shown.scans:
        index = position(run_data, scan.row)
        prepared = run_data.prepared
        batches = validation_batches(prepared.tensors, prepared.cohort.truth, config, run_data.preprocessing)
        assert np.array_equal(scan.plain, batches.dataset[index][0].numpy())
        case = prepared.cohort.cases[index]
        region = Region(case.roi_centre_mm, (case.roi_size_mm,) * 3)
        of_inference = Preprocessing(run_data.preprocessing)(read_scans(case, run_data.preprocessing), region)
        assert np.array_equal(scan.plain, of_inference.numpy())


def test_the_random_views_are_what_training_draws(shown, run_data, config):
    """Of the run's own tensors, by the run's own batches, and by the transforms alone."""
    for scan in shown.scans:
        index, prepared = position(run_data, scan.row), run_data.prepared
        tensor, voxel_mm, truth = prepared.tensors[index], prepared.voxel_mm[index], prepared.cohort.truth[[index]]
        data = FoldData(prepared.cohort.labels, Part([tensor], [voxel_mm], truth))
        torch.manual_seed(config.seed + scan.row)
        batches = training_batches(data, config, run_data.preprocessing, config.seed + scan.row)
        drawn = torch.cat([images for images, _ in batches])
        assert len(drawn) == config.training.epoch_scans
        assert np.array_equal(scan.augmented, drawn[:3].numpy())

        views = augmentation(config.augmentation, run_data.preprocessing.shape, run_data.preprocessing.output_range)
        torch.manual_seed(config.seed + scan.row)
        set_rnd(views, int(torch.empty((), dtype=torch.int64).random_()))  # as MONAI's DataLoader does
        image = MetaTensor(torch.from_numpy(tensor.astype(np.float32)), affine=torch.diag(torch.tensor([*voxel_mm, 1])))
        for view in scan.augmented:
            assert np.array_equal(view, views(image).as_tensor().numpy())
        assert not np.array_equal(scan.augmented[0], scan.augmented[1])


def test_the_same_seed_draws_the_same_views_and_leaves_the_callers_random_numbers_alone(shown, cohort_csv, config):
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    assert mt.preview(cohort_csv, config, per_class=1, draws=3).html() == shown.html()
    assert torch.equal(torch.rand(3), expected)


def test_what_is_drawn_is_the_array(shown):
    """The first picture of the input on the page, decoded, is the middle axial plane of the array in 256 greys."""
    pictures = re.findall(r'class="voxels" src="data:image/png;base64,([^"]+)"', shown.html())
    grey = imread(io.BytesIO(base64.b64decode(pictures[0])), format="png")[..., 0] * 255
    plain = shown.scans[0].plain[0]
    middle = geometry.canonical(plain, geometry.grid_affine("SPL", (1.0, 1.0, 1.0), (0, 0, 0), plain.shape))[0]
    np.testing.assert_array_equal(np.rint(grey), np.rint((middle[round((len(middle) - 1) / 2)] + 1) / 2 * 255))
    assert len(pictures) == 3 * 3 * (1 + 3)


def test_where_training_augments_nothing_nothing_is_shown(cohort_csv, config):
    off = config.model_copy(update={"augmentation": config.augmentation.model_copy(update={"strength": 0.0})})
    plain = mt.preview(cohort_csv, off, per_class=1)
    assert len(plain.scans[0].augmented) == 0
    assert "With this config, nothing is augmented." in plain.html()


# Which scans --------------------------------------------------------------------------------------------------------


def test_no_test_scan_is_shown_and_the_seed_chooses(cohort_csv, config):
    cohort, rows, told = mt.Cohort.read(cohort_csv), {}, []
    kept = {cohort.cases[index].row for index in split_cohort(cohort, config.split).test}
    for seed in (0, 0, 1):
        of_seed = config.model_copy(update={"seed": seed})
        shown = mt.preview(cohort, of_seed, per_class=2, draws=0, progress=lambda *said: told.append(said))
        assert told[-6:] == [("looking at scans", number, 6) for number in range(1, 7)]
        found = [scan.row for scan in shown.scans]
        assert not set(found) & kept
        assert len(found) == len(set(found)) == 6
        assert found == rows.setdefault(seed, found)
        labels = [[scan.label for scan in scans] for scans in shown.classes.values()]
        assert labels == [[name] * 2 for name in cohort.labels.names]
    assert kept
    assert rows[0] != rows[1]


def test_a_scan_with_two_findings_is_shown_once(cohort_csv, config, tmp_path):
    rows = read_rows(cohort_csv)
    for number, row in enumerate(rows):
        row["scan"] = str(cohort_csv.parent / row["scan"])
        del row["label"]
        row["label_a"], row["label_b"] = str(int(number % 3 < 2)), str(int(number % 3 > 0))
    shown = mt.preview(write_rows(tmp_path / "cohort.csv", rows), config, per_class=3, draws=0)
    with sole_writer(tmp_path / "out"), pytest.raises(FolderInUse):
        shown.write(tmp_path / "out")
    found = [scan.row for scan in shown.scans]
    assert len(found) == len(set(found)) == 6
    assert {scan.label for scan in shown.classes["a"]} <= {"a", "a, b"}


# What is said -------------------------------------------------------------------------------------------------------


def facts_of(voxels, spacing, given=None, **options):
    """Of an LPS scan with voxels of ``spacing`` (column, row, slice) mm."""
    volume = Volume(voxels, np.diag([*spacing, 1.0]), Provenance(Path("x"), "nifti"))
    config = PreprocessingConfig(**options)
    grid = Preprocessing(config).grid(volume, given)
    return view_facts({"scan": volume}, grid, config, given)


def tissue(shape=(42, 40, 40), value=40):
    voxels = np.full(shape, -1000, np.int16)
    voxels[:, 4:-4, 4:-4] = value
    return voxels


def test_lost_kept_and_interpolated_axes_are_told():
    depth, height, width = facts_of(tissue(), (2.0, 0.8, 1.0), shape=(10, 40, 80)).axes
    assert (depth.view_mm, depth.voxel_mm, depth.scan_voxel_mm, depth.scan_mm) == pytest.approx((42, 4.2, 1.0, 42))
    assert depth.fate == "a structure thinner than 4.2 mm is lost: 1.0 mm become 4.2 mm"
    assert (depth.name, height.name, width.name) == ("head to foot", "front to back", "left to right")
    assert height.fate == "kept: 0.80 mm"
    assert width.fate == "no detail is gained: 2.0 mm become 1.0 mm by interpolation"


@pytest.mark.parametrize("axes", ["SPL", "LPS", "ARI"])
def test_axes_are_the_patients_however_the_input_lies(axes):
    facts = facts_of(tissue((21, 40, 20)), (1.0, 2.0, 3.0), orientation=axes, shape=(16, 16, 16))
    extents = {"head to foot": (63, 3.0), "front to back": (80, 2.0), "left to right": (20, 1.0)}
    for axis, letter in zip(facts.axes, axes, strict=True):
        assert axis.name == {"S": "head", "I": "head", "P": "front", "A": "front"}.get(letter, "left") + (
            " to foot" if letter in "SI" else " to back" if letter in "PA" else " to right"
        )
        assert (axis.scan_mm, axis.scan_voxel_mm) == pytest.approx(extents[axis.name])


def test_shares_outside_and_padding():
    """20 of 42 slices leave 22 out; 128 slices are padding but for 42."""
    half = facts_of(tissue(), (1, 1, 1), shape=(20, 40, 40), spacing_mm=(1, 1, 1))
    assert (half.outside, half.padding) == pytest.approx((22 / 42, 0))
    assert "52% of the patient is cut off" in half.warnings
    twice = facts_of(tissue(), (1, 1, 1), shape=(128, 40, 40), spacing_mm=(1, 1, 1))
    assert (twice.outside, twice.padding) == pytest.approx((0, 1 - 42 / 128), abs=0.02)
    assert f"mostly padding: {twice.padding:.0%} of the view lies outside the scan" in twice.warnings


def test_a_region_larger_than_the_view_is_cut_off():
    region = Region((20.0, 20.0, 20.0), (32.0, 16.0, 16.0))
    facts = facts_of(tissue(), (1, 1, 1), region, region="roi", shape=(16, 16, 16), spacing_mm=(1, 1, 1))
    assert facts.region_outside == pytest.approx(0.5, abs=0.02)
    assert "50% of the region is cut off" in facts.warnings
    assert not [said for said in facts.warnings if "patient" in said]  # the patient is not what is looked at


def test_a_little_that_lies_outside_is_not_said_to_be_nothing():
    facts = facts_of(tissue(), (1, 1, 1), shape=(42, 40, 40), spacing_mm=(1, 1, 1))
    (channel,) = facts.channels
    few = replace(channel, below=0.0004, above=0.9996)
    said = replace(facts, outside=0.002, padding=0.0001, region_outside=0.9999, channels=(few,)).sentences
    assert "0.2% of the patient in this scan lies outside the view" in said
    assert "0.1% of the view lies outside the scan and is padding" in said
    assert "99.9% of the region lies outside the view" in said
    assert any("0.1% lie below (black) and 99.9% above (white)" in sentence for sentence in said)


def test_clipping_counts_the_patient_and_not_the_air():
    voxels = tissue()
    voxels[:, 4:20, 4:-4] = 300  # half of the tissue
    (channel,) = facts_of(voxels, (1, 1, 1), window_hu=(0, 100), modality="CT", shape=(42, 40, 40)).channels
    assert (channel.below, channel.above) == pytest.approx((0, 0.5), abs=0.03)


def test_of_an_isolated_organ_its_voxels_alone_are_counted():
    """A head of brain and bone: a window that shows all of the brain clips the bone, which is blanked."""
    head, found = plain_head(), {}
    for isolate in (False, True):
        config = PreprocessingConfig(region="brain", isolate=isolate, window_hu=(0, 80), modality="CT")
        (found[isolate],) = view_facts({"scan": head}, Preprocessing(config).grid(head), config, None).channels
    assert found[True].above < 0.03 < 0.1 < found[False].above
    assert "of the organ's voxels in view" in [*found[True].sentences][-1]
    assert "of the patient's voxels in view" in [*found[False].sentences][-1]


def test_squeezed_upsampled_and_flat_are_warned_of():
    facts = facts_of(tissue((12, 40, 40)), (1, 1, 5), shape=(64, 8, 32), modality="CT")
    assert facts.stretch == pytest.approx(5 / (60 / 64))
    assert "squeezed: voxels are 5.3 times as long as wide" in facts.warnings
    assert "upsampled 5.3 times from head to foot: 64 voxels hold the detail of 12" in facts.warnings
    assert "scan: flat, values use 0% of the window" in facts.warnings
    assert (
        "proportions are not kept: a ball of 20 mm becomes 21.3 × 4.0 × 16.0 voxels, which are cubes to the network"
        in (facts.sentences)
    )


def test_what_is_upsampled_along_every_axis_is_one_warning():
    warnings = facts_of(tissue((12, 12, 12)), (4, 4, 5), shape=(64, 64, 64), modality="CT").warnings
    assert [str(one) for one in warnings if "upsampled" in one] == [
        "upsampled 5.3 times from head to foot: 64 voxels hold the detail of 12; also from front to back, left to right"
    ]


def test_proportions_of_slices_are_those_within_a_slice():
    volume = Volume(tissue(), np.diag([1.0, 1.0, 5.0, 1.0]), Provenance(Path("x"), "nifti"))
    config = PreprocessingConfig(shape=(42, 20, 20))
    grid = Preprocessing(config).grid(volume)
    assert view_facts({"scan": volume}, grid, config, None).stretch == pytest.approx(2.5)
    in_slices = view_facts({"scan": volume}, grid, config, None, in_slices=True)
    assert in_slices.sentences[0].startswith("proportions are kept within each slice")


def test_an_mr_taken_for_a_ct_and_a_mixed_table_are_told():
    random = np.random.default_rng(0)
    mr = random.integers(0, 255, (42, 40, 40)).astype(np.int16)
    doubted = facts_of(mr, (1, 1, 1), modality="CT", shape=(16, 16, 16))
    assert any(said.startswith("these are no Hounsfield units, and input.modality is CT") for said in doubted.warnings)
    plain = facts_of(tissue(), (1, 1, 1), modality="CT", shape=(16, 16, 16))
    assert cohort_remarks([plain, plain], ["", ""]) == []
    assert "does the table mix modalities?" in cohort_remarks([plain, doubted], ["", ""])[0]
    assert cohort_remarks([plain, plain], ["CT", "MR"]) == ["the table mixes modalities: CT, MR"]
    long = facts_of(tissue((200, 40, 40)), (1, 1, 1), modality="CT", shape=(16, 16, 16))
    assert [said[:40] for said in cohort_remarks([plain, long], ["", ""])] == [
        "the scans are 42 to 200 mm long from hea",
        "each scan is fitted into the input by it",
    ]


# Slices and tiles ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("axes", ["SPL", "IAR", "LPS"])
def test_tiles_are_outlined_where_they_lie(axes):
    """A bright tile lies within its outline, whichever way the input's axes run."""
    image = np.full((8, 16, 24), -1.0, np.float32)
    tile = (slice(2, 6), slice(6, 12), slice(10, 18))
    image[tile] = 1
    config = PreprocessingConfig(orientation=axes, shape=image.shape)
    for plane in input_planes(image, config, [tile]):
        assert plane.image.any()
        ((left, top, right, bottom),) = plane.grid
        rows, columns = np.nonzero(plane.image)
        height, width = plane.image.shape
        assert (rows.min() / height, (rows.max() + 1) / height) == pytest.approx((top, bottom))
        assert (columns.min() / width, (columns.max() + 1) / width) == pytest.approx((left, right))


def test_parts_are_shown_in_their_order():
    image = np.stack([np.full((30, 400), value, np.float32) for value in (-1, 0, 1)])
    cuts = [(slice(k, k + 1), slice(0, 30), slice(0, 400)) for k in range(3)]
    sheet = parts_picture(image, PreprocessingConfig(shape=(8, 30, 400)), cuts)
    assert sheet.shape == (2 * 32, 2 * 402)
    assert [sheet[0, 0], sheet[0, 402], sheet[32, 0]] == [0, 128, 255]


def test_a_network_of_slices_shows_each_slice(cohort_csv):
    scratch = load_config(
        FinetuneConfig,
        None,
        [*TINY, "backbone.name=slices-resnet18", "input.shape=[10,32,32]", "transfer.strategy=scratch"],
    )
    shown = mt.preview(cohort_csv, scratch, per_class=1, draws=0)
    page = shown.html()
    assert len(shown.cuts) == 10
    assert page.count('<figure class="parts">') == 3
    assert "processes 10 parts one by one" in page
    assert "the middle slice of each; 10 of 10 are shown, and 0 more are empty" in page


def test_a_network_of_tiles_shows_those_that_it_computes(cohort_csv):
    """The parts that are shown are those whose voxels of the map are not zero."""
    own = ("input.shape=[64,96,96]", "input.spacing_mm=[8,8,8]", "input.outside=floor", "transfer.strategy=scratch")
    scratch = load_config(FinetuneConfig, None, [*TINY, "backbone.name=tiles-med-transfer-small", *own])
    (scan, *_) = mt.preview(cohort_csv, scratch, per_class=1, draws=0).scans
    encoder = load_backbone("tiles-med-transfer-small", scratch=True).encoder.eval()
    cuts = encoder.cuts((64, 96, 96))
    assert 0 < len(scan.parts) < len(cuts)
    with torch.no_grad():
        computed = (encoder(torch.from_numpy(scan.plain)[None])[-1][0] != 0).any(dim=0).flatten().tolist()
    assert [cut for cut, something in zip(cuts, computed, strict=True) if something] == list(scan.parts)


# As a user asks for it ----------------------------------------------------------------------------------------------


def test_page_pictures_and_words_of_the_command(command, cohort_csv, tmp_path):
    words = ("preview", cohort_csv, "-o", tmp_path / "out", *settings(*TINY), "--per-class", 1, "--draws", 1)
    outcome = command(*words, "--language", "zh-TW")
    assert outcome.code == 0, outcome.err
    page = (tmp_path / "out" / "preview.html").read_text()
    rows = re.findall(r"^row (\d+), ", outcome.out, re.MULTILINE)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"preview.html", *(f"row-{row}.png" for row in rows)}
    assert len(rows) == 3
    assert not re.search(r"https?://|<script|@import|url\(", page)
    assert page.count("{") == page.count("}")  # every rule of its style ends
    patients = {row["patient"] for row in read_rows(cohort_csv)}
    assert not [name for name in patients if name in page or name in outcome.out]
    assert "網路看到什麼" in page
    assert "What the network sees" not in page


@pytest.fixture(scope="module")
def sagittal(cohort_csv):
    """Of a network whose depth runs from the patient's left to the right."""
    config = load_config(FinetuneConfig, None, [*TINY, "input.orientation=RAS", "input.shape=[16,24,32]"])
    return mt.preview(cohort_csv, config, per_class=1, draws=0)


def test_directions_stand_in_the_order_of_the_inputs_axes(sagittal):
    assert "mm, left to right, front to back, head to foot" in sagittal.html()
    assert "mm，依左右、前後、頭足方向" in sagittal.html("zh-TW")


@pytest.mark.parametrize(
    ("setting", "english", "chinese"),
    [
        ({"region": "roi"}, "the region of interest", "目標區域"),
        ({"region": "whole"}, "the whole scan", "整個掃描"),
        ({"region": "foreground"}, "the body", "身體"),
        ({"region": "brain", "isolate": True}, "the brain and nothing else", "僅腦部"),
    ],
)
def test_what_the_network_looks_at_is_told_in_words(sagittal, setting, english, chinese):
    other = replace(sagittal, preprocessing=sagittal.preprocessing.model_copy(update=setting))
    assert f"<dt>Looks at</dt><dd>{english}<small>input.region: {setting['region']}" in other.html()
    assert f"<dt>觀看範圍</dt><dd>{chinese}<small>" in other.html("zh-TW")


def test_where_no_scan_is_held_out_that_is_said(sagittal):
    everything = replace(sagittal, n_development=sagittal.n_scans)
    assert "of 18 in the table; none is held out for testing" in everything.html()


def test_what_cannot_be_read_is_listed_and_another_scan_shown(command, cohort_csv, tmp_path):
    rows = read_rows(cohort_csv)
    for row in rows:
        row["scan"] = str(cohort_csv.parent / row["scan"])
    names = sorted({row["label"] for row in rows})
    broken = tmp_path / "broken"
    broken.mkdir()
    for number, row in enumerate(row for row in rows if row["label"] == names[0]):
        row["scan"] = str(broken / f"{number}.nii.gz")
        (broken / f"{number}.nii.gz").write_bytes(b"no scan")
    table = write_rows(tmp_path / "cohort.csv", rows)
    outcome = command("preview", table, "-o", tmp_path / "out", *settings(*TINY), "--draws", 0)
    assert outcome.code == 1, outcome.err
    page = (tmp_path / "out" / "preview.html").read_text()
    assert "No scan of this class can be shown." in page
    told = re.findall(r"^not shown: row (\d+), (\S+): (.+)$", outcome.out, re.MULTILINE)
    assert {label for _, label, _ in told} == {names[0]}
    assert len(told) == 4  # all of this class that are not kept for testing
    for _, _, reason in told:
        assert html.escape(reason) in page
        assert "broken" not in reason


def test_what_finetune_refuses_is_refused(command, cohort_csv, tmp_path):
    out = ("-o", tmp_path / "out")
    for override, code, words in (
        ("input.channels=[scan,scan_post]", 2, "no scan in column scan_post"),
        ("backbone.name=resnet99", 2, "unknown backbone 'resnet99'"),
        ("input.modality=MR", 1, "modality CT; expected MR"),  # NIfTI files state none
    ):
        outcome = command("preview", cohort_csv, *out, *settings(*TINY, override), "--draws", 0)
        assert outcome.code == code, outcome.err
        assert words in outcome.out + outcome.err


def test_a_table_of_which_nothing_can_be_used(command, cohort_csv, tmp_path):
    rows = [row | {"scan": f"{number}.nii.gz"} for number, row in enumerate(read_rows(cohort_csv))]
    for row in rows:
        (tmp_path / row["scan"]).write_bytes(b"no scan")
    outcome = command("preview", write_rows(tmp_path / "cohort.csv", rows), "-o", tmp_path / "out", *settings(*TINY))
    assert outcome.code == 3
    assert "none of 12 scans can be used; expected at least one. The first reason:" in outcome.err
    assert not (tmp_path / "out").exists()


def test_where_no_scan_can_be_used_ten_of_a_class_are_enough(cohort_csv, monkeypatch, tmp_path):
    """The reason is told before hundreds of scans are read."""
    monkeypatch.setattr(previewing, "MAX_UNREADABLE", 2)
    rows = [row | {"scan": f"{number}.nii.gz"} for number, row in enumerate(read_rows(cohort_csv))]
    for row in rows:
        (tmp_path / row["scan"]).write_bytes(b"no scan")
    config = load_config(FinetuneConfig, None, TINY)
    with pytest.raises(NothingDone, match="none of 9 scans can be used"):
        mt.preview(write_rows(tmp_path / "cohort.csv", rows), config, per_class=1)


def test_regions_that_the_table_does_not_have_are_refused(cohort_csv, tmp_path):
    """A config that was made for another table."""
    rows = [
        {name: row[name] for name in ("patient", "label")} | {"scan": str(cohort_csv.parent / row["scan"])}
        for row in read_rows(cohort_csv)
    ]
    roi = load_config(FinetuneConfig, None, [*TINY, "input.region=roi"])
    with pytest.raises(ConfigError, match="input.region: roi, and no row of .*cohort.csv has a region"):
        mt.preview(write_rows(tmp_path / "cohort.csv", rows), roi, per_class=1)


def test_a_notebook_shows_the_page_in_a_frame(shown):
    frame = shown._repr_html_()
    (page,) = re.findall(r'^<iframe srcdoc="([^"]*)"', frame)
    assert html.unescape(page) == shown.html()
