"""A command loads MONAI without the parts that it does not use; other code finds everything."""

import subprocess
import sys

CODE = """
import importlib, sys, threading, time
from med_transfer.backbones.monai_alone import UNUSED, monai_alone

sys.modules["rfc3987_syntax"] = None  # to load jsonschema's grammar of addresses takes two seconds

def meanwhile():
    while not getattr(getattr(sys.modules.get("monai"), "__spec__", None), "_initializing", False):
        time.sleep(0.001)
    import pandas  # by another thread, not by MONAI

with monai_alone():
    import jsonschema
    del sys.modules["jsonschema"]
    thread = threading.Thread(target=meanwhile)
    thread.start()
    import monai.networks.nets.resnet, monai.transforms
    thread.join()
    assert {name for name in UNUSED if name in sys.modules} == {"pandas"}
    import skimage.measure, sklearn.metrics  # as our own modules do
for name in UNUSED:  # as timm and Ray do, when they are needed
    importlib.import_module(name)
"""


def test_monai_loads_none_of_it_and_others_load_all():
    subprocess.run([sys.executable, "-c", CODE], check=True, timeout=500)


def test_after_a_command_imports_are_as_they_were(command):
    before = list(sys.meta_path)
    assert command("--version").code == 0
    assert sys.meta_path == before
