"""Which values can be those of a scan."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from med_transfer.errors import UnusableVoxels
from med_transfer.scans.voxel_checks import hounsfield_doubt, narrow, require_usable


@given(arrays.arrays(np.float64, (2, 3, 4), elements=st.floats(-40000, 40000, width=32)))
def test_narrowing_keeps_every_value(values):
    narrowed = narrow(values)
    np.testing.assert_array_equal(narrowed, values)
    whole = bool((values == np.rint(values)).all() and values.min() >= -32768 and values.max() <= 32767)
    assert narrowed.dtype == (np.int16 if whole else np.float32)


def test_a_value_too_large_is_refused_not_wrapped():
    with pytest.raises(UnusableVoxels, match=r"scan: 1 of 2 voxels are NaN or infinite"):
        require_usable(narrow(np.array([[[1e300, 0.5]]])), "scan")


def test_constant_is_refused():
    with pytest.raises(UnusableVoxels, match=r"scan: every voxel is -1024; expected an image\.$"):
        require_usable(np.full((2, 2, 2), -1024, np.int16), "scan")


@pytest.mark.parametrize(("shape", "doubted"), [((4, 32, 32), True), ((4, 31, 64), False), ((4, 64, 31), False)])
def test_a_crop_narrow_in_rows_or_in_columns_may_have_a_border_denser_than_its_middle(shape, doubted):
    voxels = np.full(shape, -900.0)
    voxels[:, [0, -1]] = voxels[:, :, [0, -1]] = 300.0  # bone around lung
    assert ("look inverted" in hounsfield_doubt(voxels)) == doubted
