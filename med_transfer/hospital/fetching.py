"""Fetch studies on demand from the PACS of node.yaml, as for a trial in shadow mode or a study that was missed."""

from __future__ import annotations

import re
from collections.abc import Callable

from pydicom.uid import UID

from med_transfer.errors import ConfigError, NothingDone, UsageError
from med_transfer.errors.numbers import counted
from med_transfer.hospital.config import NodeConfig
from med_transfer.hospital.incoming import study_id
from med_transfer.hospital.pacs import Fetched, PacsFailed, StudyQuery
from med_transfer.hospital.peers import pacs_of
from med_transfer.hospital.queue import Queue
from med_transfer.scans.dicom.content_verdict import MODALITIES


def study_query(study_uid: str, accession: str, dates: str, modality: str) -> StudyQuery:
    """Build and validate a query. Raises UsageError if it names no study, or may match more than intended."""
    query = StudyQuery(study_uid, accession, dates, modality)
    if not (study_uid or accession or dates):
        raise UsageError("no study is named", where="node fetch", expected="--study, --accession or --dates")
    if study_uid and not UID(study_uid).is_valid:
        raise UsageError("is no UID", where="--study", expected="a StudyInstanceUID, as 1.2.840.113619.2.55")
    if set(accession) & set("*?\\"):
        raise UsageError("has a wildcard", where="--accession", expected="one accession number")
    if dates and not re.fullmatch(r"\d{8}(-\d{8})?", dates):
        raise UsageError(f"found {dates!r}", where="--dates", expected="20260131, or 20260101-20260131")
    if modality not in ("", *MODALITIES):
        raise UsageError(f"found {modality!r}", where="--modality", expected="CT, MR or PT")
    return query


def fetch_studies(
    node: NodeConfig, queue: Queue, query: StudyQuery, max_studies: int, report_line: Callable[[str], None]
) -> tuple[int, int]:
    """Fetch the matching studies; return how many are completely here then, and how many are not.

    Args:
        node: names the PACS; for C-MOVE, the node must be running.
        queue: the node's queue; studies that it has are not fetched again.
        query: which studies.
        max_studies: maximum number of studies to fetch; those that are here do not count, so that the same call again
            fetches the next ones.
        report_line: called with a line on each study, under the short name that status uses.

    Raises:
        ConfigError: node.yaml names no PACS.
        NothingDone: the PACS cannot be queried, or has no such study.
    """
    pacs = pacs_of(node, queue)
    if pacs is None:
        raise ConfigError("no section pacs", where="node.yaml", action="Say there which PACS to ask")
    where = f"the PACS {node.pacs and node.pacs.name}"
    try:
        found = pacs.find(query)
    except PacsFailed as failed:
        raise NothingDone(failed.reason, where=where) from None
    if not found:
        raise NothingDone("has no such study", where=where)
    complete = tried = left = 0
    for study_uid in found:
        name = study_id(study_uid)
        try:
            wanted = pacs.images(study_uid)
            here = wanted <= queue.images_here(name)
            if not here and tried == max_studies:
                left += 1
                continue
            tried += not here
            fetched = Fetched(0, 0) if here else pacs.fetch(study_uid)
        except PacsFailed as failed:
            report_line(f"study {name}: {failed.reason}")
            continue
        complete += bool(wanted) and not fetched.failed and (here or fetched.done >= len(wanted))
        report_line(f"study {name}: {_in_words(len(wanted), here, fetched)}")
    if left:
        report_line(
            f"{counted(left, 'study', 'studies')} more {'is' if left == 1 else 'are'} left for the next time: at most "
            f"{max_studies} {'is' if max_studies == 1 else 'are'} fetched at once (--most)"
        )
    return complete, len(found) - left - complete


def _in_words(wanted: int, here: bool, fetched: Fetched) -> str:
    if not wanted:
        return "holds no image that the node takes"
    return "is here" if here else f"{fetched.done} of {wanted} images came, {fetched.failed} failed"
