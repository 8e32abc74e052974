"""Settings of the external worklist that the node processes. Source: UPS-RS, DICOM PS3.18 11; PS3.4 CC."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, model_validator

from med_transfer.hospital.settings.peers import WebPeer
from med_transfer.hospital.settings.value_types import CodedEntry, Seconds, Section


class Workitems(Section):
    """A worklist of another machine, asked by UPS-RS; items that fit everything that is said here are the node's.

    Attributes:
        service: where the worklist is.
        label: Worklist Label (0074,1202) of the items.
        station: their Scheduled Station Name Code; also the Performed one, else the node's AE title is.
        procedure: their Scheduled Workitem Code.
        at_once: claimed at one time.
        poll_seconds: from one look at the worklist to the next.
        input_seconds: after the claim, in which a study must have come; then its item is canceled.
        as_array: send a data set as an array of one, as some servers ask for, not as PS3.18 F.2 has it.
    """

    service: WebPeer
    label: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    station: CodedEntry | None = None
    procedure: CodedEntry | None = None
    at_once: Annotated[int, Field(ge=1, le=100)] = 4
    poll_seconds: Seconds = 30.0
    input_seconds: Seconds = 3600.0
    as_array: bool = False

    @model_validator(mode="after")
    def _check_criteria(self) -> Workitems:
        if self.label is None and self.station is None and self.procedure is None:
            raise ValueError("neither label nor station nor procedure: which items are the node's?")
        return self
