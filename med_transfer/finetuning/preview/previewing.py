"""Preview of a few scans of each class, drawn by seed from those not kept for testing."""

from __future__ import annotations

from itertools import islice

import numpy as np

from med_transfer.cohorts import Case, Cohort, split_cohort
from med_transfer.cohorts.channels import require_columns
from med_transfer.cohorts.preparation import without_prediction
from med_transfer.errors import NothingDone, ScanError
from med_transfer.errors.given_numbers import whole_number
from med_transfer.finetuning.config import FinetuneConfig
from med_transfer.finetuning.data_setup import resolve_preprocessing
from med_transfer.finetuning.preview.page import Preview, Unread
from med_transfer.finetuning.preview.seen import PreviewSettings, SeenScan, label_of, see
from med_transfer.finetuning.run import checked_start
from med_transfer.preprocessing import Preprocessing
from med_transfer.progress import Progress, silent
from med_transfer.scans.isolation import confined

MAX_UNREADABLE = 10  # per class: if so many cannot be used, the table or the config is at fault


def preview(
    cohort: Cohort, config: FinetuneConfig, *, per_class: int = 2, draws: int = 2, progress: Progress = silent
) -> Preview:
    """Show the network's input that training on this cohort with this config would use.

    Whatever :func:`med_transfer.finetuning.finetune` refuses before it reads a scan is refused here too. Scans that
    would be kept for testing are not shown: changing the config after looking at them would invalidate the test.

    Args:
        cohort: the labelled table.
        config: of the run that would follow; its seed determines the scans and the random views.
        per_class: scans of each class. One that cannot be used is listed with the reason and replaced by another, up to
            ten times per class.
        draws: random views of each scan.
        progress: reports progress.

    Raises:
        CohortError, ConfigError, BackboneError, UsageError: see :func:`med_transfer.finetuning.finetune`.
        NothingDone: none of the scans can be used.
    """
    for what, number, least in (("per_class", per_class, 1), ("draws", draws, 0)):
        whole_number(number, what, least)
    config, source = checked_start(cohort, config)
    preprocessing = Preprocessing(resolve_preprocessing(source.spec, config))
    require_columns(cohort, preprocessing.config.columns)
    development = split_cohort(cohort, config.split).development
    cuts = tuple(source.encoder.cuts(preprocessing.config.shape))
    settings = PreviewSettings(cohort.labels, config, preprocessing, source.encoder, draws)
    looked_at: dict[int, SeenScan | Unread] = {}

    def preview_row(index: int) -> SeenScan | Unread:
        looked_at[index] = _preview_case(cohort.cases[index], index, settings)
        progress("looking at scans", len(looked_at), max(len(looked_at), per_class * len(cohort.labels)))
        return looked_at[index]

    classes: dict[str, tuple[SeenScan, ...]] = {}
    order, truth = np.random.default_rng(config.seed).permutation(development).tolist(), cohort.truth
    for number, name in enumerate(cohort.labels.names):
        of_class = (index for index in order if truth[index, number] and index not in looked_at)
        found = map(preview_row, islice(of_class, per_class + MAX_UNREADABLE))
        classes[name] = tuple(islice((scan for scan in found if isinstance(scan, SeenScan)), per_class))
    unread = tuple(one for one in looked_at.values() if isinstance(one, Unread))
    if not any(classes.values()):
        raise NothingDone.of(len(unread), cohort.path or "", unread[0].reason)
    return Preview(config, preprocessing.config, cuts, classes, unread, len(cohort), len(development))


def _preview_case(case: Case, index: int, settings: PreviewSettings) -> SeenScan | Unread:
    row = case.row or index + 1
    try:
        with confined(case.path):
            return see(case, row, settings)
    except ScanError as error:
        return Unread(row, label_of(case), without_prediction(case, error).problem)
