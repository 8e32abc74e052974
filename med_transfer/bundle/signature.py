"""Sign and verify bundles: an Ed25519 signature (RFC 8032) over every file.

::

    bundle/signature/SHA256SUMS        hashes of all other files of the bundle, in the format of sha256sum
    bundle/signature/SHA256SUMS.sig    64 bytes: the signature of that list
    bundle/signature/public_key.pem    the signer's key; a reader must know from elsewhere whose it is

List and signature can be checked without this program, see docs/security.md.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from med_transfer.atomic import create_whole, sha256_of, write_bytes
from med_transfer.atomic.partial_files import remove_stale
from med_transfer.errors import BundleError, OutputError, UsageError, given_path
from med_transfer.errors.numbers import counted
from med_transfer.errors.sentence import few

LIST_FILE, SIGNATURE_FILE, KEY_FILE = (
    f"signature/{name}" for name in ("SHA256SUMS", "SHA256SUMS.sig", "public_key.pem")
)
_NOT_SIGNED = (LIST_FILE, SIGNATURE_FILE, KEY_FILE)
_COPY_AGAIN = "Copy the whole bundle again from whoever made it; if it was you, sign it again"
_PUBLIC = (serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo)


@dataclass(frozen=True)
class Signer:
    """The key that a bundle is signed with.

    Attributes:
        fingerprint: first 32 hex digits of the SHA-256 of the public key.
        known: whether it is the key that the caller required or signed with.
    """

    fingerprint: str
    known: bool


def make_key(path: Path) -> Path:
    """Write a new private key, readable by its owner only, and its public key beside it; return the path of the latter.

    The public key has the suffix ``.pub``. A private key without a public one, left by an interrupted call, is kept and
    gets its public key.

    Raises:
        OutputError: a file of one of these names exists, or cannot be written.
    """
    public = path.with_name(path.name + ".pub")
    if public.exists():
        raise _existing_file_error(path if path.exists() else public)
    key = _new_key(path)
    try:
        create_whole(public, _pem(key.public_key()), 0o644)
    except FileExistsError:
        raise _existing_file_error(public) from None
    return public


def _new_key(path: Path) -> Ed25519PrivateKey:
    """Write a new private key, or read the one that exists."""
    key = Ed25519PrivateKey.generate()
    parts = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    try:
        create_whole(path, key.private_bytes(*parts), 0o600)
    except FileExistsError:
        try:
            return _read_key(path, None)
        except UsageError:
            raise _existing_file_error(path) from None
    return key


def _existing_file_error(file: Path) -> OutputError:
    return OutputError("is there already", where=file, expected="a new name for the key")


def sign_bundle(folder: Path, key: Path, passphrase: bytes | None = None) -> Signer:
    """Sign every file of a bundle, replacing an earlier signature.

    Args:
        folder: the bundle's folder.
        key: private Ed25519 key, PEM.
        passphrase: passphrase of an encrypted key.

    Raises:
        BundleError: a file cannot be signed.
        UsageError: the key cannot be read.
        OutputError: the signature cannot be written.
    """
    private = _read_key(key, passphrase)
    remove_stale((folder / LIST_FILE).parent)  # partial files of an interrupted signing would be signed too
    listed = file_list(folder).encode()
    write_bytes(folder / LIST_FILE, listed)
    write_bytes(folder / KEY_FILE, _pem(private.public_key()))
    write_bytes(folder / SIGNATURE_FILE, private.sign(listed))
    return Signer(_fingerprint(private.public_key()), known=True)


def verify_bundle(folder: Path, public_key: Path | str | None = None) -> Signer | None:
    """Verify a bundle's signature and return its signer; None if the bundle is unsigned.

    Args:
        folder: the bundle's folder.
        public_key: PEM file of the required key. None accepts any key, with ``Signer.known`` False: the files are then
            unchanged since they were signed, but the signer may be anyone.

    Raises:
        BundleError: a file was changed, added or removed since; the signature is invalid or by another key than the
            required one; or a key is required and the bundle is unsigned.
        UsageError: the public key cannot be read.
    """
    key = None if public_key is None else given_path(public_key, "public_key", "a public key, PEM")
    asked = None if key is None else _read_public_key(key)
    if not any((folder / name).exists() for name in _NOT_SIGNED):
        if asked is not None:
            raise BundleError("is not signed", where=folder, expected=f"a signature of key {_fingerprint(asked)}")
        return None
    try:
        listed, signature = (folder / LIST_FILE).read_bytes(), (folder / SIGNATURE_FILE).read_bytes()
        signer = _read_public_key(folder / KEY_FILE)
        signer.verify(signature, listed)
    except (OSError, UsageError, InvalidSignature):
        raise BundleError("the signature does not hold", where=folder / SIGNATURE_FILE, action=_COPY_AGAIN) from None
    if asked is not None and _pem(asked) != _pem(signer):
        found, expected = _fingerprint(signer), _fingerprint(asked)
        raise BundleError(f"is signed with key {found}", where=folder, expected=f"a signature of key {expected}")
    _require_as_listed(folder, listed.decode(errors="replace"))
    return Signer(_fingerprint(signer), known=asked is not None)


def bundle_hash(folder: Path) -> str:
    """Return the SHA-256 of :func:`file_list`, which identifies a bundle, signed or not. Raises BundleError."""
    return hashlib.sha256(file_list(folder).encode()).hexdigest()


def file_list(folder: Path) -> str:
    """Return the hashes of all files of a bundle except its signature, in the format of ``sha256sum``.

    Raises:
        BundleError: a file is a link or not regular, has an unprintable name, or cannot be read.
    """
    lines = []
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if name in _NOT_SIGNED or (path.is_dir() and not path.is_symlink()):
            continue
        if path.is_symlink() or not path.is_file() or not name.isprintable() or "\\" in name:
            raise BundleError("is no plain file", where=path, expected="files alone in a bundle", action=_COPY_AGAIN)
        try:
            lines.append(f"{sha256_of(path)}  {name}\n")
        except OSError as error:
            raise BundleError(error.strerror or "cannot be read", where=path, action=_COPY_AGAIN) from None
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
                f"{counted(len(names), 'file')} {what} since it was signed: {few(names)}",
                where=folder,
                action=_COPY_AGAIN,
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
