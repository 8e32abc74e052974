"""Every error that med_transfer raises on purpose.

::

    MedTransferError
    ├── UsageError                  exit code 2: the command, a config or an input table is wrong
    │   ├── ConfigError             a config value is out of range or of the wrong type
    │   │   └── UnknownKey          a config key that does not exist; names the nearest known one
    │   ├── CohortError             the cohort table cannot be used
    │   │   ├── MissingLabel        a scan without a label, or a label without a scan
    │   │   ├── TooFewPatients      a class has too few patients for the split that was asked for
    │   │   └── PatientLeak         one patient, or one identical scan, on both sides of a split
    │   ├── BackboneError           the backbone cannot be built or its weights cannot be used
    │   │   ├── UnknownBackbone
    │   │   ├── MissingExtra        an optional package that this backbone or codec needs
    │   │   ├── WeightsNotFound
    │   │   ├── WeightsMismatch     too few encoder tensors matched
    │   │   ├── UnsafeWeights       a file that would run code, or whose hash is not the pinned one
    │   │   └── LicenceNotAccepted  weights under a restricted licence that was not accepted by name
    │   └── BundleError             a bundle folder is incomplete or inconsistent
    ├── ScanError                   one scan cannot be used; a batch records it and goes on
    │   ├── ScanNotFound            nothing there, or nothing in it that is an image
    │   ├── NotAScan                the file is something else than its name says
    │   ├── UnreadableScan          truncated or corrupt
    │   ├── MissingCodec            compressed in a way that no installed package decodes
    │   ├── AmbiguousScan           several series where one is expected
    │   ├── GeometryRejected        the slices do not form one regular volume
    │   ├── InputRejected           a sound scan, but not what the input is made of (modality, channel)
    │   └── UnusableVoxels          NaN, constant, or outside what CT can contain
    ├── OutputError                 a result cannot be written (disk full, no permission)
    └── NothingDone                 exit code 3: every scan failed

A message is one line that says what was found, where, what was expected and what to do. It never holds
a patient's name, identifier or date; series UIDs and file paths stay in local messages.
"""

from __future__ import annotations


class MedTransferError(Exception):
    """Base of the tree: ``where: found; expected ... action``.

    Args:
        found: what was found, in words.
        where: the file, series, column or key concerned.
        expected: what was expected instead.
        action: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, found: str, *, where: object = "", expected: str = "", action: str = "") -> None:
        self.found, self.where, self.expected, self.action = found, str(where), expected, action
        super().__init__(self._message())

    def _message(self) -> str:
        message = f"{self.where}: {self.found}" if self.where else self.found
        if self.expected:
            message += f"; expected {self.expected}"
        message = message.rstrip(".") + "."
        if self.action:
            message += f" {self.action.rstrip('.')}."
        return " ".join(message.split())

    def __reduce__(self):
        """Rebuild from the parts, so that an error survives a trip between worker processes."""
        return (_rebuild, (type(self), self.found, self.where, self.expected, self.action))


def _rebuild(kind: type[MedTransferError], found: str, where: str, expected: str, action: str) -> MedTransferError:
    return kind(found, where=where, expected=expected, action=action)


class UsageError(MedTransferError):
    exit_code = 2


class ConfigError(UsageError):
    pass


class UnknownKey(ConfigError):
    pass


class CohortError(UsageError):
    pass


class MissingLabel(CohortError):
    pass


class TooFewPatients(CohortError):
    pass


class PatientLeak(CohortError):
    pass


class BackboneError(UsageError):
    pass


class UnknownBackbone(BackboneError):
    pass


class MissingExtra(BackboneError):
    pass


class WeightsNotFound(BackboneError):
    pass


class WeightsMismatch(BackboneError):
    pass


class UnsafeWeights(BackboneError):
    pass


class LicenceNotAccepted(BackboneError):
    pass


class BundleError(UsageError):
    pass


class ScanError(MedTransferError):
    pass


class ScanNotFound(ScanError):
    exit_code = 2


class NotAScan(ScanError):
    pass


class UnreadableScan(ScanError):
    pass


class MissingCodec(ScanError):
    pass


class AmbiguousScan(ScanError):
    pass


class GeometryRejected(ScanError):
    pass


class InputRejected(ScanError):
    pass


class UnusableVoxels(ScanError):
    pass


class OutputError(MedTransferError):
    exit_code = 2


class NothingDone(MedTransferError):
    exit_code = 3
