from .files import (
    BUNDLE_FOLDER,
    WEIGHTS_FILE,
    bundle_folder,
    load_network,
    read_record,
    read_whole,
    run_folder,
    save_bundle,
    versions,
)
from .record import RECORD_FILE, BackboneRecord, BundleRecord, HeldOut, InputEnvelope, Provenance, TransferRecord

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
