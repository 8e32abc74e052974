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

from med_transfer.bundle.files import (
    BUNDLE_FOLDER,
    RECORD_FILE,
    WEIGHTS_FILE,
    bundle_folder,
    load_network,
    read_record,
    read_whole,
    run_folder,
    save_bundle,
    versions,
)
from med_transfer.bundle.record import (
    BackboneRecord,
    BundleRecord,
    HeldOut,
    InputEnvelope,
    Provenance,
    TransferRecord,
)

__all__ = [
    "BUNDLE_FOLDER",
    "RECORD_FILE",
    "WEIGHTS_FILE",
    "BackboneRecord",
    "BundleRecord",
    "HeldOut",
    "InputEnvelope",
    "Provenance",
    "TransferRecord",
    "bundle_folder",
    "load_network",
    "read_record",
    "read_whole",
    "run_folder",
    "save_bundle",
    "versions",
]
