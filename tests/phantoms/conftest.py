import shutil

import pytest


@pytest.fixture
def dcmdump() -> str:
    """Path of dcmtk's dcmdump."""
    path = shutil.which("dcmdump")
    if path is None:
        pytest.skip("dcmdump (dcmtk) is not installed")
    return path
