"""Types of values in node.yaml, and the base class of its sections."""

from __future__ import annotations

import ipaddress
import re
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field


def _ae_title(text: str) -> str:
    if not 1 <= len(text.strip()) <= 16 or text != text.strip() or "\\" in text or not text.isascii():
        raise ValueError("an AE title: 1 to 16 ASCII characters, no backslash, no space at the ends")
    if not text.isprintable():
        raise ValueError("an AE title without control characters")
    return text


def _network(text: str) -> str:
    try:
        return str(ipaddress.ip_network(text))
    except ValueError:
        raise ValueError("an IP address or network, as 10.0.0.7 or 10.0.0.0/24") from None


def _address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise ValueError("an IP address of this machine, as 127.0.0.1") from None


def _one_value(text: str) -> str:
    if "\\" in text or not text.isprintable():
        raise ValueError("text without backslash, which begins a second value in DICOM, and control characters")
    return text


def _matching(pattern: str, expected: str) -> AfterValidator:
    """Require text that matches the pattern; the error says in words what is expected."""

    def check(text: str) -> str:
        if not re.fullmatch(pattern, text):
            raise ValueError(expected)
        return text

    return AfterValidator(check)


OneValue = Annotated[str, AfterValidator(_one_value)]
AETitle = Annotated[str, AfterValidator(_ae_title)]
Network = Annotated[str, AfterValidator(_network)]
Address = Annotated[str, AfterValidator(_address)]
Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86400)]
Priority = Literal["low", "medium", "high"]
HostName = Annotated[str, _matching(r"(?=.{1,253}$)[A-Za-z0-9]([A-Za-z0-9.-]*[A-Za-z0-9])?", "a host name")]
HostOrAddress = Annotated[
    str, _matching(r"[A-Za-z0-9.:_-]{1,253}", "a host name or IP address; the port has a key of its own")
]
HttpsUrl = Annotated[
    str,
    Field(max_length=500),
    _matching(
        r"https://[^\s?#@]+|http://(127\.0\.0\.1|localhost)(:\d+)?(/[^\s?#]*)?",
        "an address as https://fhir.hospital/r4, or one with http on this machine",
    ),
]
WebUrl = Annotated[str, _matching(r"https?://[^\s/@?#]+(/[^\s?#]*)?", "an address as https://pacs.hospital/dicom-web")]


class Section(BaseModel):
    """A part of node.yaml: no key but its own, and nothing changed once it is read."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class CodedEntry(Section):
    """A code as DICOM has it (PS3.3 section 8).

    Attributes:
        value: Code Value, as in ``RID50149``.
        scheme: Coding Scheme Designator, as in ``RADLEX``, ``SCT``, ``DCM`` or ``99HOSPITAL``.
        meaning: Code Meaning, which people read.
    """

    value: Annotated[OneValue, Field(min_length=1, max_length=16)]
    scheme: Annotated[OneValue, Field(min_length=1, max_length=16)]
    meaning: Annotated[OneValue, Field(min_length=1, max_length=64)]
