"""Weights whose licence restricts their use: nobody uses them without having named it."""

from __future__ import annotations

from med_transfer.backbones.spec import BackboneSpec
from med_transfer.errors import LicenceNotAccepted


def require_accepted(spec: BackboneSpec, accepted: str) -> None:
    """Refuse restricted weights whose licence was not accepted by its name.

    A bundle or safetensors file of one's own, fine-tuned from them, is under their licence too.

    Raises:
        LicenceNotAccepted: says which licence, where to read it and how to accept it.
    """
    if not spec.must_accept or accepted.strip().lower() == spec.licence.lower():
        return
    raise LicenceNotAccepted(
        f"licence {accepted!r} accepted" if accepted else "its licence is restricted and was not accepted",
        where=f"backbone {spec.name}",
        expected=repr(spec.licence),
        action=f"Read it at {spec.source}, then give --accept-licence {spec.licence!r} (backbone.accept_licence)",
    )
