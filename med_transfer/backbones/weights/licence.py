"""Require users to accept a restrictive licence by name before its weights are used."""

from __future__ import annotations

from med_transfer.backbones.spec import BackboneSpec
from med_transfer.errors import LicenceNotAccepted


def require_accepted(spec: BackboneSpec, accepted: str) -> None:
    """Check that the licence of restricted weights was accepted by name.

    This includes the user's own bundles and safetensors files that were fine-tuned from such weights.

    Raises:
        LicenceNotAccepted: it was not; the message says which licence, where to read it and how to accept it.
    """
    if not spec.must_accept or accepted.strip().lower() == spec.licence.lower():
        return
    raise LicenceNotAccepted(
        f"licence {accepted!r} accepted" if accepted else "its licence is restricted and was not accepted",
        where=f"backbone {spec.name}",
        expected=repr(spec.licence),
        action=f"Read it at {spec.source}, then give --accept-licence {spec.licence!r} (backbone.accept_licence)",
    )
