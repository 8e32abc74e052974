"""Reasons why a measure or its interval is undefined, shared by several measures."""

from __future__ import annotations

from med_transfer.errors.sentence import Sentence

EVALUATED_SCANS = Sentence("the evaluated scans")
VALIDATION_SCANS = Sentence("the validation scans")
SCANS_CALLED = Sentence("the scans called")

NO_CLASS_WITH_BOTH = Sentence("no class has both cases and other scans")
SOME_CLASS_MISSING = Sentence("no interval: some class is missing from most resamples, there are too few patients")
CLASS_MISSING = Sentence("no interval: most resamples lack the class, there are too few patients")
CLASS_OR_REST_MISSING = Sentence("no interval: most resamples lack the class or the rest, there are too few patients")
ONE_ANSWER = Sentence("every scan gets the same answer")
DRAWS_AGREE = Sentence("every bootstrap draw agrees")


def no_case(name: str, scans: str = EVALUATED_SCANS) -> Sentence:
    """Return the reason that no scan has the class."""
    return Sentence("no scan of class {name} among {scans}", name=name, scans=scans)


def no_other(name: str, scans: str = EVALUATED_SCANS) -> Sentence:
    """Return the reason that every scan has the class."""
    return Sentence("no scan of another class than {name} among {scans}", name=name, scans=scans)


def none_called(name: str) -> Sentence:
    """Return the reason that no scan was called this class."""
    return Sentence("no evaluated scan was called {name}", name=name)


def all_called(name: str) -> Sentence:
    """Return the reason that every scan was called this class."""
    return Sentence("every evaluated scan was called {name}", name=name)
