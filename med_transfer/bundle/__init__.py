"""The bundle: everything that inference needs, in one folder, and the only place where training meets inference.

::

    bundle/
      med_transfer.json           BundleRecord: classes, preprocessing, operating point, provenance
      models/model.safetensors    weights of all fold models; no pickle anywhere
      configs/metadata.json       MONAI bundle metadata
      configs/inference.json      MONAI bundle config: network_def, predictor, run
      docs/README.md              model card
      signature/                  of every file, where whoever made it signed it
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
