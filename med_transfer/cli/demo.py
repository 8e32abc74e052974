"""``med-transfer demo``: the whole job on phantoms."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from med_transfer.cli.options import ReportLanguage
from med_transfer.cli.terminal import progress_bars, say

if TYPE_CHECKING:
    from med_transfer.metrics.records.metrics import Metrics

NAME = "demo"
EXAMPLE = "-o runs/demo --language zh-TW"

_VERDICTS = {
    "gain": "Transfer helped: on the same test patients, it beats the same network trained from scratch.",
    "none": "No gain shown: the difference from the same network trained from scratch may be due to chance.",
    "harm": "Transfer harmed: on the same test patients, the same network trained from scratch is better.",
}
_AGAINST_HANDCRAFTED = {
    1: "It also beats the handcrafted baseline, a linear model of size and density.",
    0: "No difference was shown from the handcrafted baseline, a linear model of size and density.",
    -1: "The handcrafted baseline, a linear model of size and density, is better.",
}


def command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Output folder.")] = Path("runs/demo"),
    language: ReportLanguage = "en",
) -> None:
    """Run the whole workflow on synthetic CT: transfer, comparison with training from scratch, report, prediction."""
    from med_transfer.api.demonstration import predict_unseen, transfer, transfer_against_scratch
    from med_transfer.cli.summary import estimate_text, say_metrics

    started = time.monotonic()

    def elapsed() -> str:
        return f"{time.monotonic() - started:.0f} s"

    say("The complete workflow on synthetic chest CT, about two minutes. Messages go to each run's run.log.")
    say(
        "Source: med-transfer-small comes with the package; it was pretrained on nodules painted into CT of other "
        "patients."
    )
    with _remarks_in_the_logs(), progress_bars() as progress:
        first = transfer(out, progress, language).metrics
    say(f"1. Target: few labelled patients, three densities. A linear head on the source's features: {elapsed()}")
    say(f"  macro AUC {estimate_text(first.macro_auc)} on {first.n_patients} held-out patients")
    with _remarks_in_the_logs(), progress_bars() as progress:
        target = transfer_against_scratch(out, progress, language)
    say(f"2. Did transfer help? The same network, trained from scratch on the target: {elapsed()}")
    say_metrics(target.metrics)
    _say_verdicts(target.metrics)
    with _remarks_in_the_logs(), progress_bars() as progress:
        batch = predict_unseen(out, target, progress)
    refused = batch.n_rejected + batch.n_failed
    say(f"3. Unseen scans: {batch.n_ok} predicted, {refused} not, each with its reason: {batch.table}")
    say(f"report: {target.report.resolve()}")
    say(f"done in {elapsed()}")


def _say_verdicts(metrics: Metrics) -> None:
    """What the measured differences mean, in words."""
    if metrics.transfer_gain:
        say(f"  {_VERDICTS[metrics.transfer_gain.verdict]}")
    handcrafted = metrics.baselines.get("handcrafted")
    if handcrafted and handcrafted.macro_auc_gain.value is not None:
        say(f"  {_AGAINST_HANDCRAFTED[handcrafted.macro_auc_gain.excludes_zero]}")


@contextmanager
def _remarks_in_the_logs() -> Iterator[None]:
    """Meanwhile warnings and information go to the runs' logs alone: nobody has asked about these scans."""
    levels = [(handler, handler.level) for handler in logging.getLogger().handlers]
    for handler, _ in levels:
        handler.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for handler, level in levels:
            handler.setLevel(level)
