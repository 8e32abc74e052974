"""What the page shows of a bundle: the part of its record that needs no network, so that no page loads torch.

The node has checked the bundle when it came into use. What its copy says is shown as it stands, also where the record
no longer fits its own lock.
"""

from __future__ import annotations

import logging
from functools import lru_cache
from pathlib import Path

from pydantic import AliasPath, BaseModel, ConfigDict, Field, ValidationError

from med_transfer.hospital.config import NodeConfig
from med_transfer.metrics.records.decisions import ChosenPoint
from med_transfer.model.operating_point import OperatingPoint
from med_transfer.predictions.labels import Labels

log = logging.getLogger(__name__)

_BUNDLES = 8  # that are kept in memory


class BundleFacts(BaseModel):
    """Part of ``bundle.BundleRecord``, under the names of ``med_transfer.json``.

    Attributes:
        chosen_point: how the operating point came about, and rates at it; None: the bundle does not tell.
        n_networks: of the ensemble.
        calibration: its method.
        max_gap_mm: the widest gap between slices that is interpolated.
        shares: of the development scans, by class; empty: the bundle does not tell.
    """

    model_config = ConfigDict(frozen=True)

    classes: tuple[str, ...]
    multilabel: bool = False
    operating_point: OperatingPoint = OperatingPoint()
    chosen_point: ChosenPoint | None = None
    n_networks: int = Field(validation_alias="n_members")
    calibration: str = Field(default="none", validation_alias=AliasPath("calibration", "method"))
    max_gap_mm: float = Field(default=0.0, validation_alias=AliasPath("preprocessing", "max_gap_mm"))
    shares: dict[str, float] = Field(default_factory=dict, validation_alias=AliasPath("development", "prevalence"))

    @property
    def labels(self) -> Labels:
        """The classes, and whether a scan may have several."""
        return Labels(self.classes, self.multilabel)


def bundle_facts(node: NodeConfig, mark: str) -> BundleFacts | None:
    """Of a bundle of the node; None where it is not there any more, or cannot be read."""
    return _read(node.bundle_copy(mark)) if mark else None


@lru_cache(_BUNDLES)
def _read(folder: Path) -> BundleFacts | None:
    try:
        return BundleFacts.model_validate_json((folder / "med_transfer.json").read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError) as error:
        log.error("bundle %s cannot be read for the page (%s)", folder.name, type(error).__name__)
        return None
