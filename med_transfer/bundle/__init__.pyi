from .files import (
    BUNDLE_FOLDER,
    WEIGHTS_FILE,
    bundle_folder,
    read_record,
    read_whole,
    run_folder,
    versions,
)
from .network import load_network
from .record import RECORD_FILE, BackboneRecord, BundleRecord, HeldOut, InputEnvelope, Provenance, TransferRecord
from .saving import save_bundle

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
