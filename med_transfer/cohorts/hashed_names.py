"""Names of patients and scans as hashes that can be compared and are slow to guess.

::

    scrypt13:<salt, 32 hex digits>:<hash, 32 hex digits>

scrypt (RFC 7914) with N = 2^13, r = 8, p = 1: each guess costs 8 MiB and as much time as an honest comparison. The
salt is of the cohort's own images, so that the same cohort gives the same hashes and two cohorts never do. A hash tells
its own salt: those of several sources stand in one list, and a name is hashed once for each salt in it.

A pseudonym, not anonymisation: who knows ten thousand identifiers, one of which it is, finds it in minutes. Only an
identifier that nobody can guess is safe, as ``med-transfer index`` writes it by default.
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
_MOST_THREADS = 8  # of 8 MiB each
_EXAMPLE = f"{_SCHEME}{_LOG2_COST}:<salt>"
_OLD = ""  # hashes from before they were salted have no parts
_KIND = re.compile(rf"{_SCHEME}1[0-6]:[0-9a-f]{{32}}")  # what a bundle may ask of whoever reads it: 64 MiB


def salt_of(images: Iterable[str]) -> str:
    """The salt of a cohort, from the content hashes of its images in whatever order."""
    return hashlib.sha256("\n".join(sorted(set(images))).encode()).hexdigest()[:32]


def hash_names(names: Iterable[str], salt: str) -> dict[str, str]:
    """Each name that is not empty, and its hash. On all cores: a name takes about 30 ms of one."""
    return _hash_all(names, f"{_SCHEME}{_LOG2_COST}:{salt}")


def recognise(names: Iterable[str], hashes: Iterable[str]) -> dict[str, str]:
    """The names that a list of hashes tells of, each with its hash; hashes from before they were salted count too.

    Raises:
        CohortError: a hash of a kind that this version does not know.
    """
    hashes, names = set(hashes), set(names)
    found = {}
    for kind in sorted({_kind(hashed) for hashed in hashes}):
        found |= {name: hashed for name, hashed in _hash_all(names, kind).items() if hashed in hashes}
    return found


def _kind(hashed: str) -> str:
    """Scheme and salt."""
    return hashed.rpartition(":")[0]


def _hash_all(names: Iterable[str], kind: str) -> dict[str, str]:
    distinct = sorted(set(names) - {""})
    if kind == _OLD:
        return {name: old_hash(name) for name in distinct}
    if not _KIND.fullmatch(kind):
        raise CohortError(f"hash of kind {kind[:20]!r}", expected=_EXAMPLE, action="Update med-transfer")
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as threads:  # scrypt lets other threads run
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
    """As names were hashed before there were salts: 16 hex digits of SHA-256, which a computer guesses in seconds."""
    return hashlib.sha256(f"med_transfer:{name}".encode("utf-8", "surrogateescape")).hexdigest()[:16]
