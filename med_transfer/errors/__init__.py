"""Every error that med_transfer raises on purpose.

::

    MedTransferError
    ├── UsageError
    │   ├── ConfigError
    │   │   ├── UnknownKey
    │   │   └── TrainingDiverged
    │   ├── CohortError
    │   │   ├── MissingLabel
    │   │   ├── DatasetNotFound
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

A message is one line that says what was found, where, what was expected and what to do. It never contains a patient's
name, identifier or date; series UIDs and file paths appear in local messages only. Terminal control characters, which
a file name or header may contain, are escaped.
"""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path

from med_transfer.errors.numbers import counted
from med_transfer.errors.sentence import Sentence

# Control characters (C0 except tab and newline, DEL, C1), bidirectional formatting characters, line and paragraph
# separators, lone surrogates, and the two that XML (a sheet of Excel) cannot hold.
_CONTROL_CHARACTERS = re.compile(
    r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]"
)


def printable(text: str) -> str:
    """Escape every character that would control a terminal or reverse text, as in ``\\x1b[2J``."""
    return _CONTROL_CHARACTERS.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def _on_one_line(text: str) -> str:
    return printable(" ".join(text.split()))


def _tidy(text: Sentence) -> Sentence:
    return text.mapped(_on_one_line) if text.values else Sentence.of(_on_one_line(text).rstrip("."))


class MedTransferError(Exception):
    """Base of the tree: ``where: found; expected ... action``.

    Remedy: catch this one to catch them all.

    Args:
        found: what was found.
        where: the file, series, column or key concerned.
        expected: what was expected instead.
        action: what the user can do about it.
    """

    exit_code = 1

    def __init__(self, found: str, *, where: object = "", expected: str = "", action: str = "") -> None:
        self.found, self.expected, self.action = map(Sentence.of, (found, expected, action))
        self.where = str(where)
        super().__init__(self.message)

    @property
    def advice(self) -> Sentence:
        """The part of the message after ``found``: what was expected, and what to do."""
        expected, action = _tidy(self.expected), _tidy(self.action)
        if expected and action:
            return Sentence("; expected {expected}. {action}.", expected=expected, action=action)
        if expected:
            return Sentence("; expected {expected}.", expected=expected)
        return Sentence(". {action}.", action=action) if action else Sentence(".")

    @property
    def problem(self) -> Sentence:
        """The message without ``where``."""
        return Sentence("{found}{advice}", found=_tidy(self.found), advice=self.advice)

    @property
    def message(self) -> Sentence:
        """The whole message: ``where``, unless it is empty, and the problem."""
        where, problem = _on_one_line(self.where), self.problem
        return Sentence("{where}: {problem}", where=where, problem=problem) if where else problem

    def __reduce__(self):
        """Pickle the parts, so that errors can be passed between worker processes."""
        return (_rebuild, (type(self), self.found, self.where, self.expected, self.action))


def _rebuild(kind: type[MedTransferError], found: str, where: str, expected: str, action: str) -> MedTransferError:
    return kind(found, where=where, expected=expected, action=action)


class UsageError(MedTransferError):
    """The command, a config or an input table is wrong: exit code 2.

    Remedy: nothing was done; correct the command, config or table that the message names and run it again.
    """

    exit_code = 2


def given_path(value: object, where: str, expected: str = "a path") -> Path:
    """Return a path that a caller gave.

    Args:
        value: text or a path, or an object that names one, such as a ``Run``. An empty text is refused: ``Path`` takes
            it for the current folder.
        where: name of the argument.
        expected: what the path should lead to.

    Raises:
        UsageError: the value is no path, or is empty.
    """
    if not isinstance(value, str | os.PathLike):
        raise UsageError(f"found an object of type {type(value).__name__}", where=where, expected=expected)
    path = os.fspath(value)
    if isinstance(path, bytes) or not path.strip():
        raise UsageError(f"found {path!r}", where=where, expected=expected)
    return Path(path)


class ConfigError(UsageError):
    """A config value is out of range or of the wrong type.

    Remedy: correct the key that the message names; reference/settings lists every key with its type and range.
    """


class UnknownKey(ConfigError):
    """A config key that does not exist; names the nearest known one.

    Remedy: use the name that the message suggests, or look it up in reference/settings.
    """


class TrainingDiverged(ConfigError):
    """A network became NaN or infinite while it learned.

    Remedy: lower ``transfer.strategy.learning_rate`` tenfold; on a GPU also try ``training.precision=fp32``.
    """


class CohortError(UsageError):
    """The cohort table cannot be used.

    Remedy: correct the row or column that the message names; data.md says what a table holds.
    """


class MissingLabel(CohortError):
    """A scan without a label, or a label without a scan.

    Remedy: fill in the label, or take the row out; ``index`` lists scans without one in its quality table.
    """


class DatasetNotFound(CohortError):
    """No public data set of this name, or its file cannot be obtained or is not the published one.

    Remedy: ``mt.datasets.names()`` lists them; without a connection put the file that the message names into the
    folder that it names.
    """


class TooFewPatients(CohortError):
    """A class has too few patients for the split that was asked for.

    Remedy: add patients, join classes, or ask for fewer folds (``split.folds``) or no test set
    (``split.test_fraction=0``).
    """


class PatientLeak(CohortError):
    """One patient, or one identical scan, on both sides of a split.

    Remedy: give both rows the same patient or the same split, or take one out; for a source that knows a test patient,
    choose another source or another test set.
    """


class BackboneError(UsageError):
    """The backbone cannot be built or its weights cannot be used.

    Remedy: ``med-transfer backbones show NAME`` says what the backbone needs.
    """


class UnknownBackbone(BackboneError):
    """No backbone has this name.

    Remedy: ``med-transfer backbones list`` shows every name.
    """


class MissingExtra(BackboneError):
    """An optional package that is needed here is not installed.

    Remedy: install the extra that the message names, with pip.
    """


def not_installed(package: str, extra: str, where: str, *, instead: str = "") -> MissingExtra:
    """The error for a missing optional package, in the same words for each.

    Args:
        package: its name for pip.
        extra: the extra of this project that installs it.
        where: what needs it.
        instead: an alternative without it, such as ``use --runtime torch``.
    """
    action = f"Run: pip install 'med-transfer[{extra}]'" + (f"; or {instead}" if instead else "")
    return MissingExtra(f"package {package} is not installed", where=where, action=action)


class WeightsNotFound(BackboneError):
    """No weights where they were looked for, or none given.

    Remedy: ``med-transfer backbones import NAME FILE`` keeps a file that you have; ``--download`` fetches it.
    """


class WeightsMismatch(BackboneError):
    """Too few encoder tensors matched.

    Remedy: the file belongs to another network, or to another version; ``backbones show NAME`` says which file is
    meant.
    """


class UnsafeWeights(BackboneError):
    """A file that would run code, or whose hash is not the pinned one.

    Remedy: fetch the file again from its publisher; convert a pickle to safetensors where it came from.
    """


class LicenceNotAccepted(BackboneError):
    """Weights under a restricted licence that was not accepted by name.

    Remedy: read the licence that the message names, and pass ``--accept-licence`` with its name.
    """


class BundleError(UsageError):
    """A bundle folder is incomplete or inconsistent.

    Remedy: copy the whole bundle folder again from where it was made; a changed bundle is not used.
    """


class FolderInUse(UsageError):
    """Another run writes to the same folder.

    Remedy: wait for the other run to end, or choose another folder.
    """


class ScanError(MedTransferError):
    """One scan cannot be used; a batch records it and goes on.

    Remedy: see the reason of its row in predictions.csv; the other scans are done.
    """


class ScanNotFound(ScanError):
    """Nothing there, or nothing in it that is an image.

    Remedy: check the path; ``med-transfer inspect FOLDER`` shows what is found in it.
    """

    exit_code = 2


class NotAScan(ScanError):
    """The file is not what its name says.

    Remedy: give the scan itself, or rename the file for what it is.
    """


class UnreadableScan(ScanError):
    """Truncated or corrupt.

    Remedy: export the series from the PACS again.
    """


class ScanAborted(ScanError):
    """Took too much time or memory, crashed its reader, or could not be reached; a resumed run tries again.

    Remedy: run the same command again; raise ``--read-seconds`` or ``--read-gib`` for scans that need more.
    """


def unreadable(found: str, error: Exception, *, where: object, action: str = "") -> UnreadableScan | ScanAborted:
    """The error for a file that could not be read because of ``error``.

    ScanAborted where the system failed, for example because a drive is away, so that a resumed run tries again;
    UnreadableScan, with the ``action``, where the content is wrong or the file is not permitted to be read.
    """
    if isinstance(error, OSError) and error.errno not in (None, errno.EACCES, errno.EPERM, errno.EINVAL):
        return ScanAborted(found, where=where)
    return UnreadableScan(found, where=where, action=action)


class MissingCodec(ScanError):
    """Compressed in a way that no installed package decodes.

    Remedy: decompress the series where it came from (``dcmconv``, ``gdcmconv``), or install what the message names.
    """


class AmbiguousScan(ScanError):
    """Several series where one is expected.

    Remedy: name one: a folder with one series, or ``series_uid`` in the table.
    """


class GeometryRejected(ScanError):
    """The slices do not form one regular volume.

    Remedy: export the whole series again; uneven gaps are interpolated where ``input.max_gap_mm`` allows it.
    """


class InputRejected(ScanError):
    """A sound scan, but not what the input is made of (modality, channel).

    Remedy: leave the scan out, or set ``input.modality`` or ``input.channels`` for what it is.
    """


class OrganNotFound(InputRejected):
    """The part of the body that the network looks at was not found in the scan.

    Remedy: look at the scan with ``inspect``; ``input.region=foreground`` looks at the body instead.
    """


class UnusableVoxels(ScanError):
    """NaN, constant, or outside what CT can contain.

    Remedy: look at the scan with ``inspect``; export it again with its rescale slope and intercept.
    """


class NoAnswer(ScanError):
    """The network gives NaN for the scan.

    Remedy: look at the scan with ``inspect``: a value or size far from all others is the usual cause.
    """


class OutputError(MedTransferError):
    """A result cannot be written (disk full, no permission).

    Remedy: free the disk, or choose a folder that you may write to.
    """

    exit_code = 2


class NothingDone(MedTransferError):
    """Every scan failed: exit code 3.

    Remedy: read the reasons in the table that was written: the same one for all scans is usually a wrong path or
    window.
    """

    exit_code = 3

    @classmethod
    def of(cls, n: int, where: object, reason: str, done: str = "used") -> NothingDone:
        """The error that none of ``n`` scans can be ``done``; ``reason`` is the first scan's."""
        found, action = f"none of {counted(n, 'scan')} can be {done}", f"The first reason: {reason}"
        return cls(found, where=where, expected="at least one", action=action)
