"""A command loads MONAI without what it does not use of it; others find everything."""

import subprocess
import sys

CODE = """
import sys
from med_transfer.cli.monai_alone import UNUSED, monai_alone
with monai_alone():
    import jsonschema  # not asked for by MONAI
    del sys.modules["jsonschema"]
    import med_transfer.inference.predictor
    assert "monai" in sys.modules
    assert UNUSED.isdisjoint(sys.modules), UNUSED & set(sys.modules)
    import jsonschema, torchvision  # as timm and Ray do, when they are needed
"""


def test_monai_loads_neither_and_others_load_both():
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=240)


def test_after_a_command_imports_are_as_they_were(command):
    before = list(sys.meta_path)
    assert command("--version").code == 0
    assert sys.meta_path == before
