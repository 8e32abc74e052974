"""The bundle: one folder with everything that inference needs, and the only interface between training and inference.

::

    bundle/
      med_transfer.json           BundleRecord: classes, preprocessing, operating point, provenance
      models/model.safetensors    weights of all fold models; no pickle anywhere
      configs/metadata.json       MONAI bundle metadata
      configs/inference.json      MONAI bundle config: network_def, predictor, run
      docs/README.md              model card
      signature/                  signature over every file, if the bundle was signed
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
