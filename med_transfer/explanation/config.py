"""Config of the error gallery in the report."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_GALLERY = 12


class ExplainConfig(BaseModel):
    """Pictures of errors in the report.

    Attributes:
        gallery: number of errors to show, each with a map of where the network looked; 0: none.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    gallery: Annotated[int, Field(ge=0, le=MAX_GALLERY)] = 6
