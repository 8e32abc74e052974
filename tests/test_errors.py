"""Errors: form of a message, transfer between processes, the tree as its docstring draws it."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from med_transfer import errors
from med_transfer.errors import MedTransferError

ALL = [kind for _, kind in inspect.getmembers(errors, inspect.isclass) if issubclass(kind, MedTransferError)]


def test_message_has_its_four_parts_in_one_line():
    error = errors.GeometryRejected(
        "gap 5.0 mm\nbetween slices 41 and 42",
        where="series 1.2",
        expected="even spacing",
        action="Export the series again.",
    )
    assert str(error) == (
        "series 1.2: gap 5.0 mm between slices 41 and 42; expected even spacing. Export the series again."
    )


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({}, "found it."),
        ({"where": "label"}, "label: found it."),
        ({"expected": "two."}, "found it; expected two."),
        ({"action": "Add one"}, "found it. Add one."),
    ],
)
def test_absent_parts_leave_no_trace(parts, message):
    assert str(MedTransferError("found it", **parts)) == message


def test_a_missing_package_names_the_extra_that_brings_it():
    error = errors.not_installed("optuna", "tune", "med-transfer tune", instead="do without")
    assert str(error) == (
        "med-transfer tune: package optuna is not installed. Run: pip install 'med-transfer[tune]'; or do without."
    )


@pytest.mark.parametrize("kind", ALL)
def test_survives_pickling(kind):
    error = kind("found", where="here", expected="that", action="Do this")
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is kind
    assert str(copy) == str(error)
    assert (copy.found, copy.where, copy.expected, copy.action) == ("found", "here", "that", "Do this")


def test_docstring_draws_the_tree():
    drawn, path = {}, []
    for line in (errors.__doc__ or "").splitlines():
        if match := re.match(r"^ {4}([│├└─ ]*)([A-Z]\w+)", line):
            depth = len(match[1]) // 4
            path[depth:] = [match[2]]
            drawn[match[2]] = path[depth - 1] if depth else "Exception"
    assert drawn == {kind.__name__: kind.__base__.__name__ for kind in ALL}


@pytest.mark.parametrize(
    ("kind", "code"), [(errors.UsageError, 2), (errors.ScanError, 1), (errors.ScanNotFound, 2), (errors.NothingDone, 3)]
)
def test_exit_codes(kind, code):
    assert kind.exit_code == code


def test_usage_errors_all_exit_with_two():
    assert {kind.exit_code for kind in ALL if issubclass(kind, errors.UsageError)} == {2}
