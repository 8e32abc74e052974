"""Transfer learning for CT and other volumetric scans, with honest per-class sensitivity. Research use only.

>>> import med_transfer as mt
>>> run = mt.finetune("cohort.csv", out="run")            # doctest: +SKIP
>>> mt.load_bundle(run.bundle).predict("scan.nii.gz")     # doctest: +SKIP
"""

import lazy_loader

from med_transfer.processor import name_unknown_user, settle_threads

__version__ = "0.1.0"

settle_threads()
name_unknown_user()

__getattr__, _, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
