"""``med-transfer bundle``: who made a bundle, and whether it is still what they made."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from med_transfer.cli.options import AsJson, Bundle, example
from med_transfer.cli.terminal import say, say_json

NAME = "bundle"
app = typer.Typer(help="Sign a bundle and verify who signed it.", no_args_is_help=True, rich_markup_mode=None)


@app.command(epilog=example("bundle keygen lab.key"))
def keygen(
    key: Annotated[Path, typer.Argument(help="File for the private key; KEY.pub is written beside it.")],
) -> None:
    """Generate a key pair. Keep the private key secret; publish the public key where recipients trust it."""
    from med_transfer.bundle.signature import make_key

    public = make_key(key)
    say(f"{key}: private, for signing; keep it secret")
    say(f"{public}: public, for verifying; give it to recipients of your bundles, separately from the bundle")


@app.command(epilog=example("bundle sign runs/first --key lab.key"))
def sign(
    bundle: Bundle,
    key: Annotated[Path, typer.Option(help="Private Ed25519 key (PEM), from keygen or openssl.")],
    passphrase_file: Annotated[
        Path | None,
        typer.Option(help="File whose first line is the passphrase of an encrypted key.", show_default=False),
    ] = None,
) -> None:
    """Sign every file of a bundle."""
    from med_transfer.bundle import bundle_folder, read_whole
    from med_transfer.bundle.signature import sign_bundle

    folder = bundle_folder(bundle)
    read_whole(folder)  # what is damaged is not signed
    passphrase = passphrase_file.read_bytes().partition(b"\n")[0].rstrip(b"\r") if passphrase_file else None
    signer = sign_bundle(folder, key, passphrase)
    say(f"{folder}: signed with key {signer.fingerprint}")


@app.command(epilog=example("bundle verify BUNDLE --key lab.key.pub"))
def verify(
    bundle: Bundle,
    key: Annotated[
        Path | None, typer.Option(help="Public key (PEM) of the expected signer.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Verify that a bundle is unchanged since it was signed, and by whom. Exit code 1: not signed; 2: invalid."""
    from med_transfer.bundle import bundle_folder, read_whole
    from med_transfer.bundle.signature import bundle_hash, verify_bundle

    folder = bundle_folder(bundle)
    signer = verify_bundle(folder, key)
    read_whole(folder)
    named = bundle_hash(folder)
    if as_json:
        say_json({"sha256": named, "key": signer and signer.fingerprint, "known": bool(signer and signer.known)})
    elif signer is None:
        say(f"{folder}: unsigned; nothing proves who made it. SHA-256 of all files {named}")
    else:
        whose = "the key that was given" if signer.known else "a key that proves nothing until --key says whose it is"
        say(f"{folder}: unchanged since signed with key {signer.fingerprint}, {whose}. SHA-256 of all files {named}")
    raise typer.Exit(0 if signer else 1)
