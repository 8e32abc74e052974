"""Counts, sizes and shapes that are none are refused in words by everything public that takes them."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny_bundle import tiny_bundle, write_scan

import med_transfer as mt
from med_transfer.backbones import InstanceChoice
from med_transfer.errors import GeometryRejected, MedTransferError, UnusableVoxels, UsageError
from med_transfer.explanation.settings import MapSettings
from med_transfer.inference import BatchSettings, ScanWithRegion
from med_transfer.metrics.non_inferiority import checked_margin
from med_transfer.scans import Provenance, Region

NAN, PROVENANCE = math.nan, Provenance(Path("scan.nii"), "nifti")
VOXELS = np.random.default_rng(0).integers(-1000, 1000, (4, 5, 6)).astype(np.int16)
MAP: Any = MapSettings
TILES = "tiles-resnet18-w32"

REFUSED = {
    "channels": (
        lambda value: mt.load_backbone("resnet18-w8", channels=value),
        (0, -1, True, 1.5, NAN, None, "three", 10**9),
    ),
    "seed": (lambda value: mt.load_backbone("resnet18-w8", scratch=True, seed=value), (-1, 1.5, None, "a", 2**70)),
    "weights": (lambda value: mt.load_backbone("resnet18-w8", value), (1, "", np.zeros(3))),
    "pooling": (lambda value: mt.load_backbone(TILES, scratch=True, instances=InstanceChoice(value)), ("nope", 1)),
    "tile_overlap": (
        lambda value: mt.load_backbone(TILES, scratch=True, instances=InstanceChoice(None, value)),
        (-0.1, 0.76, NAN, "a", True),
    ),
    "max_gap_mm": (lambda value: mt.find_series(".", max_gap_mm=value), (-1, NAN, "a", None)),
    "size_mm": (
        lambda value: Region((0.0, 0.0, 0.0), value),
        ((-1, 1, 1), (NAN, 1, 1), (1, 1), ("a", 1, 1), 5, (math.inf, 1, 1)),
    ),
    "centre_mm": (lambda value: Region(value, (1.0, 1.0, 1.0)), ((NAN, 1, 1), (1, 1, 1, 1), "abc", None)),
    "roi_mm": (
        lambda value: ScanWithRegion("scan.nii", roi_mm=value),
        ((1, 2, 3), (1, 2, 3, 0), (1, 2, 3, NAN), (1, 2, 3, -4), "abcd"),
    ),
    "workers": (lambda value: BatchSettings(workers=value), (-1, 0, 1.5, True, "two")),
    "draws": (lambda value: MAP(draws=value), (-1, 1.5, "a", NAN)),
    "hidden": (lambda value: MAP(hidden=value), (-1, NAN, "a")),
    "window_mm": (lambda value: MAP(method="occlusion", window_mm=value), (-1, NAN, "a")),
    "stride_mm": (lambda value: MAP(method="occlusion", stride_mm=value), (-1, NAN, "a")),
    "margin": (checked_margin, (0, 1, NAN, "a", True)),
    "folder": (mt.Run, (3, "", None)),
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, (_, values) in REFUSED.items() for value in values]
)
def test_a_number_out_of_range_is_refused_by_its_name(name, value):
    with pytest.raises(UsageError, match=f"^{name}: .*; expected "):
        REFUSED[name][0](value)


def untyped(of_the_package: Any) -> Any:
    """The same, for arguments of types that it does not name."""
    return of_the_package


def test_numbers_of_numpy_are_numbers():
    two, sizes, folder = np.array([2], np.int32)[0], np.ones(3, np.float32), "folder"
    load_backbone, region, settings, run = map(untyped, (mt.load_backbone, Region, BatchSettings, mt.Run))
    assert load_backbone("resnet18-w8", channels=two, seed=two).spec.input.channels == 2
    assert region(np.zeros(3), sizes).size_mm[0] == 1
    assert settings(workers=two).workers == 2
    assert run(folder).bundle == Path("folder/bundle")


@pytest.mark.parametrize(
    "voxels",
    [VOXELS[0], VOXELS[None], VOXELS[:0], VOXELS.tolist(), VOXELS.astype(str), VOXELS + 1j, VOXELS.astype(object)],
    ids=["plane", "4-D", "empty", "list", "text", "complex", "objects"],
)
def test_what_is_no_volume_is_refused_when_it_is_made(voxels):
    with pytest.raises(UnusableVoxels, match=r"^scan.nii: an .*; expected an array of real numbers \[depth, height"):
        mt.Volume(voxels, np.eye(4), PROVENANCE)


@pytest.mark.parametrize("affine", [np.eye(3), np.zeros((4, 4)), np.full((4, 4), NAN), None], ids=str)
def test_what_is_no_affine_is_refused(affine):
    with pytest.raises(GeometryRejected, match="expected "):
        mt.view_of(mt.Volume(VOXELS, affine, PROVENANCE))


@pytest.mark.parametrize("value", [NAN, math.inf])
def test_a_picture_of_voxels_that_are_no_numbers_is_refused(value):
    voxels = VOXELS.astype(np.float32)
    voxels[0, 0, 0] = value
    with pytest.raises(UnusableVoxels, match="1 of 120 voxels are NaN or infinite"):
        mt.view_of(mt.Volume(voxels, np.eye(4), PROVENANCE))
    no_region: Any = 3
    with pytest.raises(UsageError, match="^region: found an object of type int; expected a Region"):
        mt.view_of(mt.Volume(VOXELS, np.eye(4), PROVENANCE), no_region)


@given(st.lists(st.integers(0, 3), max_size=5), st.sampled_from("?bBhHiIfde?FDUSO"), st.floats(-2, 2) | st.just(NAN))
def test_any_array_is_a_volume_that_can_be_shown_or_is_refused_in_words(shape, kind, scale):
    try:
        volume = mt.Volume(np.zeros(shape, kind), np.diag([scale, 1.0, 1.0, 1.0]), PROVENANCE)
        shown = repr(volume), volume.content_hash, mt.view_of(volume)
    except MedTransferError:
        assert len(shape) != 3 or 0 in shape or kind in "FDUSO" or not abs(scale) > 1e-9
    else:
        assert len(shape) == 3
        assert all(shown)


@pytest.mark.parametrize("overrides", [3, None, (3,), "steps=3"])
def test_overrides_that_are_no_texts_are_refused(overrides, tmp_path):
    with pytest.raises(UsageError, match="overrides .*; expected a sequence"):
        mt.pretrain(tmp_path, out=tmp_path / "out", overrides=overrides)


def test_a_region_of_a_prediction_has_a_size_that_is_none_or_above(tmp_path):
    scan = write_scan(tmp_path / "scan.nii.gz")
    predictor = mt.load_bundle(tiny_bundle(tmp_path / "bundle", region="roi"), "cpu")
    point = Region((0.0, 0.0, 20.0), (0.0, 0.0, 0.0))  # the input has a spacing
    assert predictor.predict(scan, point).status == "ok"
    with pytest.raises(UsageError, match="^size_mm: found"):
        predictor.predict(scan, replace(point, size_mm=(-4.0, 4.0, 4.0)))
