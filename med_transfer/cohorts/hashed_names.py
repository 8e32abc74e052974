"""Salted, slow hashes of patient and scan names, which can be compared but are expensive to guess.

::

    scrypt13:<salt, 32 hex digits>:<hash, 32 hex digits>

scrypt (RFC 7914) with N = 2^13, r = 8, p = 1: each guess costs 8 MiB and as much time as a legitimate comparison. The
salt is derived from the cohort's images, so a cohort always gives the same hashes and two cohorts give different ones.
Each hash contains its salt, so one list can hold hashes of several cohorts; a name is then hashed once per salt.

This is pseudonymisation, not anonymisation: with a list of ten thousand candidate identifiers the right one is found
in minutes. Only unguessable identifiers are safe, such as those that ``med-transfer index`` writes by default.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

from med_transfer.errors import CohortError

_SCHEME, _LOG2_COST = "scrypt", 13
_MAX_THREADS = 8  # each needs 8 MiB
_EXAMPLE = f"{_SCHEME}{_LOG2_COST}:<salt>"
_OLD = ""  # unsalted hashes of older versions have no scheme and salt
_KIND = re.compile(rf"{_SCHEME}1[0-6]:[0-9a-f]{{32}}")  # N up to 2^16: reading a bundle takes at most 64 MiB


def salt_of(images: Iterable[str]) -> str:
    """Return a cohort's salt (32 hex digits) from the content hashes of its images, independent of their order."""
    return hashlib.sha256("\n".join(sorted(set(images))).encode()).hexdigest()[:32]


def hash_names(names: Iterable[str], salt: str) -> dict[str, str]:
    """Map each non-empty name to its hash. Uses up to 8 threads; a name takes about 30 ms of one core."""
    return _hash_all(names, f"{_SCHEME}{_LOG2_COST}:{salt}")


def recognise(names: Iterable[str], hashes: Iterable[str]) -> dict[str, str]:
    """Map each name found among the hashes to its hash; unsalted hashes of older versions are matched too.

    Raises:
        CohortError: a hash has a scheme that this version does not know.
    """
    hashes, names = set(hashes), set(names)
    found = {}
    for kind in sorted({_kind(hashed) for hashed in hashes}):
        found |= {name: hashed for name, hashed in _hash_all(names, kind).items() if hashed in hashes}
    return found


def _kind(hashed: str) -> str:
    """Scheme and salt of a hash."""
    return hashed.rpartition(":")[0]


def _hash_all(names: Iterable[str], kind: str) -> dict[str, str]:
    distinct = sorted(set(names) - {""})
    if kind == _OLD:
        return {name: old_hash(name) for name in distinct}
    if not _KIND.fullmatch(kind):
        raise CohortError(f"hash of kind {kind[:20]!r}", expected=_EXAMPLE, action="Update med-transfer")
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as threads:  # scrypt releases the GIL
        hashes = threads.map(lambda name: _slow_hash(name, kind), distinct)
        return dict(zip(distinct, hashes, strict=True))


@lru_cache(maxsize=1 << 16)  # the same cohort is compared several times in a run
def _slow_hash(name: str, kind: str) -> str:
    scheme, _, salt = kind.partition(":")
    cost = 1 << int(scheme.removeprefix(_SCHEME))
    text = f"med_transfer:{name}".encode("utf-8", "surrogateescape")
    made = hashlib.scrypt(text, salt=bytes.fromhex(salt), n=cost, r=8, p=1, maxmem=256 * 8 * cost, dklen=16)
    return f"{kind}:{made.hex()}"


def old_hash(name: str) -> str:
    """Return the unsalted hash of older versions: 16 hex digits of SHA-256, which can be guessed in seconds."""
    return hashlib.sha256(f"med_transfer:{name}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
