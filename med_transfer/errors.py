"""Every error that med_transfer raises on purpose.

::

    MedTransferError
    ├── UsageError
    │   ├── ConfigError
    │   │   ├── UnknownKey
    │   │   └── TrainingDiverged
    │   ├── CohortError
    │   │   ├── MissingLabel
    │   │   ├── TooFewPatients
    │   │   └── PatientLeak
    │   ├── BackboneError
    │   │   ├── UnknownBackbone
    │   │   ├── MissingExtra
    │   │   ├── WeightsNotFound
    │   │   ├── WeightsMismatch
    │   │   ├── UnsafeWeights
    │   │   └── LicenceNotAccepted
    │   ├── BundleError
    │   └── FolderInUse
    ├── ScanError
    │   ├── ScanNotFound
    │   ├── NotAScan
    │   ├── UnreadableScan
    │   ├── ScanAborted
    │   ├── MissingCodec
    │   ├── AmbiguousScan
    │   ├── GeometryRejected
    │   ├── InputRejected
    │   │   └── OrganNotFound
    │   ├── UnusableVoxels
    │   └── NoAnswer
    ├── OutputError
    └── NothingDone

A message is one line that says what was found, where, what was expected and what to do. It never holds
a patient's name, identifier or date; series UIDs and file paths stay in local messages. Characters that would
command a terminal, which a file's name or header may hold, are written out.
"""

from __future__ import annotations

import re

# Controls (C0 but tab and newline, DEL, C1), marks that reverse the direction of text, and halves of no character.
_COMMANDING = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """The text with every character that moves, colours or reverses it written out, as in ``\\x1b[2J``."""
    return _COMMANDING.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


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

    @property
    def problem(self) -> str:
        """The message without the place."""
        problem = f"{self.found}; expected {self.expected}" if self.expected else self.found
        problem = problem.rstrip(".") + "."
        if self.action:
            problem += f" {self.action.rstrip('.')}."
        return printable(" ".join(problem.split()))

    def _message(self) -> str:
        return printable(" ".join(f"{self.where}: {self.problem}".split())) if self.where else self.problem

    def __reduce__(self):
        """Rebuild from the parts, so that an error survives a trip between worker processes."""
        return (_rebuild, (type(self), self.found, self.where, self.expected, self.action))


def _rebuild(kind: type[MedTransferError], found: str, where: str, expected: str, action: str) -> MedTransferError:
    return kind(found, where=where, expected=expected, action=action)


class UsageError(MedTransferError):
    """The command, a config or an input table is wrong: exit code 2."""

    exit_code = 2


class ConfigError(UsageError):
    """A config value is out of range or of the wrong type."""


class UnknownKey(ConfigError):
    """A config key that does not exist; names the nearest known one."""


class TrainingDiverged(ConfigError):
    """A network became NaN or infinite while it learned."""


class CohortError(UsageError):
    """The cohort table cannot be used."""


class MissingLabel(CohortError):
    """A scan without a label, or a label without a scan."""


class TooFewPatients(CohortError):
    """A class has too few patients for the split that was asked for."""


class PatientLeak(CohortError):
    """One patient, or one identical scan, on both sides of a split."""


class BackboneError(UsageError):
    """The backbone cannot be built or its weights cannot be used."""


class UnknownBackbone(BackboneError):
    """No backbone has this name."""


class MissingExtra(BackboneError):
    """An optional package that is needed here is not installed."""


def not_installed(package: str, extra: str, where: str, *, instead: str = "") -> MissingExtra:
    """What is said, of every optional package in the same words, where one is missing.

    Args:
        package: as pip knows it.
        extra: of this project, which brings it.
        where: what asked for it.
        instead: what does without it, as in ``use --runtime torch``.
    """
    action = f"Run: pip install 'med-transfer[{extra}]'" + (f"; or {instead}" if instead else "")
    return MissingExtra(f"package {package} is not installed", where=where, action=action)


class WeightsNotFound(BackboneError):
    """No weights where they were looked for, or none given."""


class WeightsMismatch(BackboneError):
    """Too few encoder tensors matched."""


class UnsafeWeights(BackboneError):
    """A file that would run code, or whose hash is not the pinned one."""


class LicenceNotAccepted(BackboneError):
    """Weights under a restricted licence that was not accepted by name."""


class BundleError(UsageError):
    """A bundle folder is incomplete or inconsistent."""


class FolderInUse(UsageError):
    """Another run writes to the same folder."""


class ScanError(MedTransferError):
    """One scan cannot be used; a batch records it and goes on."""


class ScanNotFound(ScanError):
    """Nothing there, or nothing in it that is an image."""

    exit_code = 2


class NotAScan(ScanError):
    """The file is something else than its name says."""


class UnreadableScan(ScanError):
    """Truncated or corrupt."""


class ScanAborted(ScanError):
    """Took too much time or memory, crashed what reads it, or failed as nobody foresaw; a resumed run tries again."""


class MissingCodec(ScanError):
    """Compressed in a way that no installed package decodes."""


class AmbiguousScan(ScanError):
    """Several series where one is expected."""


class GeometryRejected(ScanError):
    """The slices do not form one regular volume."""


class InputRejected(ScanError):
    """A sound scan, but not what the input is made of (modality, channel)."""


class OrganNotFound(InputRejected):
    """The part of the body that the network looks at was not found in the scan."""


class UnusableVoxels(ScanError):
    """NaN, constant, or outside what CT can contain."""


class NoAnswer(ScanError):
    """The network gives NaN for the scan."""


class OutputError(MedTransferError):
    """A result cannot be written (disk full, no permission)."""

    exit_code = 2


class NothingDone(MedTransferError):
    """Every scan failed: exit code 3."""

    exit_code = 3
