"""Who made a bundle: an Ed25519 signature (RFC 8032) over every file in it.

::

    bundle/signature/SHA256SUMS        every other file of the bundle, as sha256sum lists them
    bundle/signature/SHA256SUMS.sig    64 bytes: the signature of that list
    bundle/signature/public_key.pem    of whoever signed: a reader must know from elsewhere whose it is

Both can be checked without this program, see docs/security.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from med_transfer.atomic import create_whole, sha256_of, write_bytes
from med_transfer.atomic.partial_files import remove_left_behind
from med_transfer.errors import BundleError, OutputError, UsageError
from med_transfer.errors.sentence import few

LIST_FILE, SIGNATURE_FILE, KEY_FILE = (
    f"signature/{name}" for name in ("SHA256SUMS", "SHA256SUMS.sig", "public_key.pem")
)
_NOT_SIGNED = (LIST_FILE, SIGNATURE_FILE, KEY_FILE)
_AGAIN = "Copy the whole bundle again from whoever made it; if it was you, sign it again"
_PUBLIC = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class Signer:
    """Whose key a bundle is signed with.

    Attributes:
        fingerprint: first 32 hex digits of SHA-256 of the public key.
        known: whether it is the key that the reader asked for.
    """

    fingerprint: str
    known: bool


def make_key(path: Path) -> Path:
    """Write a new private key, for its owner alone, and beside it the public one (``.pub``), whose path is given.

    A private key that is there alone, as a kill leaves it, gets its public one.

    Raises:
        OutputError: a file of one of these names exists, or cannot be written.
    """
    public = path.with_name(path.name + ".pub")
    if public.exists():
        raise _taken(path if path.exists() else public)
    key = _new_key(path)
    try:
        create_whole(public, _pem(key.public_key()), 0o644)
    except FileExistsError:
        raise _taken(public) from None
    return public


def _new_key(path: Path) -> Ed25519PrivateKey:
    """Written there, unless there is one."""
    key = Ed25519PrivateKey.generate()
    parts = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        create_whole(path, key.private_bytes(*parts), 0o600)
    except FileExistsError:
        try:
            return _read_key(path, None)
        except UsageError:
            raise _taken(path) from None
    return key


def _taken(file: Path) -> OutputError:
    return OutputError("is there already", where=file, expected="a new name for the key")


def sign_bundle(folder: Path, key: Path, passphrase: bytes | None = None) -> Signer:
    """Sign every file of a bundle, in place of an earlier signature.

    Args:
        folder: of the bundle.
        key: private Ed25519 key, PEM.
        passphrase: of the key, where it is encrypted.

    Raises:
        BundleError: a file that cannot be signed.
        UsageError: the key cannot be read.
        OutputError: the signature cannot be written.
    """
    private = _read_key(key, passphrase)
    remove_left_behind((folder / LIST_FILE).parent)  # of a signing that was killed: it would be signed too
    listed = file_list(folder).encode()
    write_bytes(folder / LIST_FILE, listed)
    write_bytes(folder / KEY_FILE, _pem(private.public_key()))
    write_bytes(folder / SIGNATURE_FILE, private.sign(listed))
    return Signer(_fingerprint(private.public_key()), known=True)


def verify_bundle(folder: Path, public_key: Path | None = None) -> Signer | None:
    """Whose signature a bundle has; None where it has none.

    Args:
        folder: of the bundle.
        public_key: PEM file of the one key whose signature is taken. Without it any is, and ``Signer.known`` is False:
            then the files are as they were signed, but not necessarily by someone who is known.

    Raises:
        BundleError: a file was changed, added or taken away since; the signature does not hold, is of another key
            than asked for, or is not there though a key was asked for.
        UsageError: the public key cannot be read.
    """
    asked = _read_public_key(public_key) if public_key else None
    if not any((folder / name).exists() for name in _NOT_SIGNED):
        if asked is not None:
            raise BundleError("is not signed", where=folder, expected=f"a signature of key {_fingerprint(asked)}")
        return None
    try:
        listed, signature = (folder / LIST_FILE).read_bytes(), (folder / SIGNATURE_FILE).read_bytes()
        signer = _read_public_key(folder / KEY_FILE)
        signer.verify(signature, listed)
    except (OSError, UsageError, InvalidSignature):
        raise BundleError("the signature does not hold", where=folder / SIGNATURE_FILE, action=_AGAIN) from None
    if asked is not None and _pem(asked) != _pem(signer):
        found, expected = _fingerprint(signer), _fingerprint(asked)
        raise BundleError(f"is signed with key {found}", where=folder, expected=f"a signature of key {expected}")
    _require_as_listed(folder, listed.decode(errors="replace"))
    return Signer(_fingerprint(signer), known=asked is not None)


def bundle_hash(folder: Path) -> str:
    """SHA-256 of the list of all files and their hashes: names a bundle, signed or not. Raises BundleError."""
    return hashlib.sha256(file_list(folder).encode()).hexdigest()


def file_list(folder: Path) -> str:
    """Every file of a bundle but those of its signature, as ``sha256sum`` lists them.

    Raises:
        BundleError: a link, or something else that is no regular file; it cannot be read.
    """
    lines = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name in _NOT_SIGNED or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink() or not path.is_file() or not name.isprintable() or "\\" in name:
            raise BundleError("is no plain file", where=path, expected="files alone in a bundle", action=_AGAIN)
        try:
            lines.append(f"{sha256_of(path)}  {name}\n")
        except OSError as error:
            raise BundleError(error.strerror or "cannot be read", where=path, action=_AGAIN) from None
    return "".join(lines)


def _require_as_listed(folder: Path, listed: str) -> None:
    signed, there = _hash_of_file(listed), _hash_of_file(file_list(folder))
    for what, names in (
        ("changed", [name for name in signed if name in there and there[name] != signed[name]]),
        ("missing", sorted(signed.keys() - there.keys())),
        ("added", sorted(there.keys() - signed.keys())),
    ):
        if names:
            raise BundleError(
                f"{len(names)} files {what} since it was signed: {few(names)}", where=folder, action=_AGAIN
            )


def _hash_of_file(listed: str) -> dict[str, str]:
    return {name: sha256 for sha256, _, name in (line.partition("  ") for line in listed.splitlines())}


def _read_key(path: Path, passphrase: bytes | None) -> Ed25519PrivateKey:
    try:
        key = serialization.load_pem_private_key(path.read_bytes(), passphrase)
    except OSError as error:
        raise UsageError(
            f"key cannot be read ({error.strerror})", where=path, action="Make one: med-transfer bundle keygen"
        ) from None
    except TypeError:
        found = "the key is not encrypted" if passphrase else "the key is encrypted"
        raise UsageError(found, where=path, expected="--passphrase-file with an encrypted key, and only then") from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PrivateKey):
        raise UsageError("no Ed25519 key, or another passphrase", where=path, expected="a private key, PEM")
    return key


def _read_public_key(path: Path) -> Ed25519PublicKey:
    try:
        key = serialization.load_pem_public_key(path.read_bytes())
    except OSError as error:
        raise UsageError(f"key cannot be read ({error.strerror})", where=path, expected="a public key, PEM") from None
    except (ValueError, UnsupportedAlgorithm):
        key = None
    if not isinstance(key, Ed25519PublicKey):
        raise UsageError("no Ed25519 key", where=path, expected="a public key, PEM")
    return key


def _pem(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(*_PUBLIC)


def _fingerprint(key: Ed25519PublicKey) -> str:
    return hashlib.sha256(key.public_bytes_raw()).hexdigest()[:32]
