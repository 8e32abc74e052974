"""The page of an inspection: what it states, shows and omits."""

from __future__ import annotations

import base64
import io
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
from dicom_series import as_image, hounsfield, write_series
from hospital_export import export_series, leaks
from matplotlib.image import imread

from med_transfer.errors import OutputError, ScanNotFound
from med_transfer.scans import Provenance, Region, Verdict, Volume, survey
from med_transfer.scans.inspection.histogram import histogram
from med_transfer.scans.inspection.page import (
    ScanSummary,
    refused,
    shown_path,
    summarise_series,
    summarise_volume,
    write_inspection,
    write_picture,
)

VOID = {"meta", "img", "path", "rect", "line", "br"}


class Page(HTMLParser):
    """Tags in order, text, and whether every tag is closed where it should be."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.source = path.read_text(encoding="utf-8")
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self._open: list[str] = []
        self.feed(self.source)
        assert self._open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self._open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def inspected(folder: Path, out: Path, **options) -> Page:
    found = survey(folder)
    looks = [summarise_series(one, shown_path(one.path, folder), view=True) for one in found.series]
    write_inspection(out, "my scans", looks, found.ignored, folder, **options)
    return Page(out)


def body(shape=(20, 40, 40), inside=40, lung=None) -> np.ndarray:
    """A cylinder of tissue in air, on request with lungs."""
    voxels = np.full(shape, -1000, np.int16)
    j, i = np.mgrid[: shape[1], : shape[2]]
    radius = np.hypot(j - shape[1] / 2, i - shape[2] / 2)
    voxels[:, radius < shape[1] * 0.4] = inside
    if lung is not None:
        voxels[:, radius < shape[1] * 0.25] = lung
    return voxels


def look(voxels: np.ndarray, modality: str = "CT", region: Region | None = None) -> ScanSummary:
    volume = Volume(voxels, np.diag([1.0, 1.0, 2.0, 1.0]), Provenance(Path("x"), "dicom", modality=modality))
    return summarise_volume(ScanSummary("x", {}, Verdict()), volume, region, view=True)


@pytest.fixture
def mixed(tmp_path) -> Path:
    """A good series, one with a gap, a NIfTI file, text, and a damaged file."""
    folder = tmp_path / "scans"
    write_series(folder / "good", hounsfield((6, 20, 24)), series_uid="1.2.3", Manufacturer="<b>ACME & sons</b>")
    write_series(folder / "gap", hounsfield((5, 7, 9)), offsets=[0, 1, 2, 4, 5])
    SimpleITK.WriteImage(as_image(body(), np.diag([1.0, 1.0, 2.0, 1.0])), folder / "a.nii.gz")
    for name in ("notes.txt", "readme.txt"):
        (folder / name).write_text("hello")
    (folder / "bad.nii.gz").write_bytes(b"\x1f\x8b" + bytes(range(200)))
    return folder


def test_page_tells_of_every_series_and_every_file(mixed, tmp_path):
    page = inspected(mixed, tmp_path / "page.html", n_files=15)
    assert [a["href"] for a in page.all("a")] == ["#content", "#s1", "#s2", "#s3"]
    assert "Series 3 in 15 files Usable 2" in page.text
    assert "Other files 3 1 of them damaged" in page.text
    assert "1 slice missing: gap 5.00 mm between slices 3 and 4, others 2.50 mm" in page.text
    assert "notes.txt and 1 more readme.txt 2 not an image file" in page.text
    assert "bad.nii.gz 1 damaged truncated or corrupt NIfTI file" in page.text
    assert "24 × 20 × 6 0.70 × 0.90 × 2.50 axial, LPS" in page.text
    assert "<b>ACME & sons</b>" in page.text  # as text: it did not become a tag
    assert str(tmp_path) not in page.source


def test_page_needs_no_network_and_no_script(mixed, tmp_path):
    page = inspected(mixed, tmp_path / "page.html")
    assert not re.search(r"https?://|<script|@import|url\(", page.source)
    assert all(str(image["src"]).startswith("data:image/jpeg;base64,") for image in page.all("img"))


def test_every_rule_of_the_style_ends(mixed, tmp_path):
    """A bracket that is missing takes what stands after it out of the page's style, and no browser says so."""
    style = re.search(r"<style>(.*?)</style>", inspected(mixed, tmp_path / "page.html").source, re.DOTALL)[1]
    assert style.count("{") == style.count("}")


def test_page_can_be_read_aloud(mixed, tmp_path):
    page = inspected(mixed, tmp_path / "page.html")
    assert page.all("html") == [{"lang": "en"}]
    alts = [str(image["alt"]) for image in page.all("img")]
    assert len(set(alts)) == 6
    assert "Axial plane of good, A at the top, R on the left, L on the right, P at the bottom" in alts
    assert all(header["scope"] in ("col", "row") for header in page.all("th"))
    assert all(svg["role"] == "img" and svg["aria-label"] for svg in page.all("svg"))
    names = {span["id"] for span in page.all("span") if "id" in span}
    assert {article["aria-labelledby"] for article in page.all("article")} == names


def test_the_page_in_chinese_leaves_no_english(mixed, tmp_path):
    source = inspected(mixed, tmp_path / "page.html", n_files=15, language="zh-TW").source
    body = re.sub(r"<style>.*?</style>", "", source, flags=re.DOTALL)
    said = " ".join([re.sub(r"<[^>]*>", " ", body), *re.findall(r'(?:alt|aria-label)="([^"]*)"', body)])
    said = said.replace("my scans", "").replace("ACME &amp; sons", "")
    english = r"\b(?:and|of|the|no|in|at|series|kind|files|accept|reject|damaged|window|stated|median|axial|plane)\b"
    assert re.findall(english, said) == []
    for words in ("採用", "退回", "窗寬", "橫切面", "中位數", "不是掃描的檔案", "切片 3 與 4 之間 5.00 mm", "損毀"):
        assert words in said, words


def test_equal_input_gives_an_equal_page(mixed, tmp_path):
    assert inspected(mixed, tmp_path / "a.html").source == inspected(mixed, tmp_path / "b.html").source


@pytest.mark.parametrize("axes", ["LPS", "RAI", "LIP", "PIR", "SAL", "IRA"])
def test_pictures_on_the_page_show_the_patient_the_right_way_round(tmp_path, axes):
    """Blocks in the middle planes, to the left, to the front and to the head, through file, page and JPEG."""
    voxels = np.full((16, 20, 24), -1000, np.int16)
    for at in ((8, 4, 18), (13, 10, 18), (13, 4, 12)):
        voxels[tuple(slice(n - 1, n + 2) for n in at)] = 1000
    scan = SimpleITK.DICOMOrient(as_image(voxels, np.diag([1.5, 2.0, 3.0, 1.0])), axes)
    SimpleITK.WriteImage(scan, tmp_path / "scan.nrrd")
    page = inspected(tmp_path / "scan.nrrd", tmp_path / "page.html")
    found = []
    for image in page.all("img"):
        data = base64.b64decode(str(image["src"]).split(",")[1])
        grey = imread(io.BytesIO(data), format="jpeg")[..., 0]
        row, column = np.unravel_index(grey.argmax(), grey.shape)
        found.append((str(image["alt"])[:3], column > grey.shape[1] / 2, row < grey.shape[0] / 2))
    assert found == [("Axi", True, True), ("Cor", True, True), ("Sag", False, True)]


def test_nothing_of_the_patient_on_the_page(tmp_path):
    export_series(tmp_path / "scans/one")
    export_series(tmp_path / "scans/two", n_slices=2)  # rejected
    page = inspected(tmp_path / "scans", tmp_path / "page.html")
    assert leaks(page.source) == []
    assert "contrast agent stated" in page.text


# what is shown of the voxels


@pytest.mark.parametrize(
    ("voxels", "modality", "window"),
    [
        (body(), "CT", "Soft tissue window, width 400, level 40 HU"),
        (body(lung=-850), "CT", "Lung window, width 1500, level -600 HU"),
        (np.random.default_rng(0).normal(-800, 60, (8, 20, 20)).astype(np.int16), "CT", "Lung window"),  # a crop
        (body(), "", "Soft tissue window"),
        (body() + 1024, "CT", "Window from 24 to 1064"),  # a lost intercept: a window in HU would show nothing
        (body(inside=500) + 1000, "MR", "Window from 0 to 1500"),
    ],
)
def test_window_is_chosen_and_stated(voxels, modality, window):
    view = look(voxels, modality).view
    assert view is not None
    assert view.window.startswith(window)


def test_region_is_drawn_and_one_beside_the_scan_is_called_so():
    inside = look(body(), region=Region((20, 20, 20), (10, 12, 14))).view
    outside = look(body(), region=Region((200, 20, 20), (10, 12, 14))).view
    assert inside is not None
    assert outside is not None
    assert inside.region == "10 x 12 x 14 mm"
    assert outside.region == "10 x 12 x 14 mm, and its middle lies outside this scan"
    assert all(plane.box for plane in inside.planes)


def test_histogram_agrees_with_numpy():
    values = np.random.default_rng(0).normal(40, 30, 100_000)
    found = histogram(values, hounsfield=True)
    counts, edges = np.histogram(values, bins=135, range=(-1100, 1600))
    corners = np.array(found.outline).reshape(135, 2, 2)  # of each bin, the left and the right
    np.testing.assert_allclose(corners[..., 0], (np.stack([edges[:-1], edges[1:]], axis=1) + 1100) / 2700, atol=1e-3)
    np.testing.assert_array_equal(corners[:, 0, 1], corners[:, 1, 1])
    decades = np.log10(np.maximum(counts, 1) / counts.sum())
    np.testing.assert_allclose(corners[:, 0, 1], np.where(counts > 0, -decades / 5, 1), atol=1e-3)
    peak = min(found.outline, key=lambda point: point[1])
    soft = next(tissue for tissue in found.tissues if tissue[0] == "soft tissue")
    assert soft[1] <= peak[0] <= soft[2]
    assert [(words, round(y, 9)) for y, words in found.shares] == [
        ("10 %", 0.2),
        ("1 %", 0.4),
        ("0.1 %", 0.6),
        ("0.01 %", 0.8),
    ]
    assert {words: round(2700 * x - 1100, 6) for x, words in found.ticks} == {
        f"{hu}": hu for hu in (-1000, -500, 0, 500, 1000, 1500)
    }
    limits = {name: (round(2700 * low - 1100), round(2700 * high - 1100)) for name, low, high in found.tissues}
    assert limits == {"air": (-1000, -1000), "fat": (-120, -80), "soft tissue": (0, 80), "bone": (300, 1600)}
    assert "median 40 HU" in found.spoken


@pytest.mark.parametrize("values", [np.zeros(10), np.array([0.0, 1e-3]), np.arange(70000.0), np.array([-5.0, 3e9])])
def test_histogram_of_any_values(values):
    found = histogram(values, hounsfield=False)
    assert found.tissues == ()
    assert 2 <= len(found.ticks) <= 9
    assert all(0 <= number <= 1 for point in found.outline for number in point)


# files


def test_page_appears_whole_or_not_at_all(mixed, tmp_path):
    (tmp_path / "taken").mkdir()
    with pytest.raises(OutputError, match=r"taken: cannot be written"):
        inspected(mixed, tmp_path / "taken")
    assert not list((tmp_path / "taken").iterdir())


def test_no_picture_without_a_usable_series(tmp_path):
    with pytest.raises(ScanNotFound, match=r"no usable series to draw"):
        write_picture(refused(ScanSummary("x", {}, Verdict()), "why"), tmp_path / "p.png")
    assert not list(tmp_path.iterdir())


def test_shown_path(tmp_path):
    assert shown_path(tmp_path / "a/b", tmp_path) == "a/b"
    assert shown_path(tmp_path, tmp_path) == tmp_path.name
    assert shown_path(Path("/elsewhere/x"), tmp_path) == "/elsewhere/x"
