"""``med-transfer demo``: the whole job on phantoms."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from med_transfer.cli.options import ReportLanguage

if TYPE_CHECKING:
    from med_transfer.metrics.records.metrics import Metrics

NAME = "demo"
EXAMPLE = "-o runs/demo --language zh-TW"

_VERDICTS = {
    "gain": "Transfer helped: on the same test patients it beats the same network from scratch, at equal budget.",
    "none": "No gain shown: the difference to the same network from scratch, at equal budget, may be chance.",
    "harm": "Transfer harmed: on the same test patients the same network from scratch, at equal budget, is better.",
}
_AGAINST_HANDCRAFTED = {
    1: "It also beats the handcrafted baseline, a linear model of size and density.",
    0: "It is not shown to differ from the handcrafted baseline, a linear model of size and density.",
    -1: "The handcrafted baseline, a linear model of size and density, is better.",
}


def command(
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder for everything.")] = Path("runs/demo"),
    language: ReportLanguage = "en",
) -> None:
    """Tell the whole story on synthetic CT: source, transfer, fine-tune, compare with scratch, report, predict."""
    import time

    from med_transfer.api.demonstration import learn_source, predict_unseen, transfer
    from med_transfer.cli.summary import estimate_text, say_metrics
    from med_transfer.cli.terminal import progress_bars, say

    started = time.monotonic()

    def elapsed() -> str:
        return f"{time.monotonic() - started:.0f} s"

    say("The whole job on synthetic chest CT, a few minutes. What is remarked meanwhile is in each run's run.log.")
    with _remarks_in_the_logs(), progress_bars() as progress:
        source = learn_source(out, progress)
    learned = source.metrics
    say(f"1. Source: many patients, nine kinds of lesion (outline and density), learned from nothing: {elapsed()}")
    say(f"  macro AUC {estimate_text(learned.macro_auc)} on {learned.n_patients} patients kept apart")
    with _remarks_in_the_logs(), progress_bars() as progress:
        target = transfer(out, source, progress, language)
    say(f"2. Target: other patients, fewer, three densities, transferred from the source: {elapsed()}")
    say_metrics(target.metrics)
    _say_verdicts(target.metrics)
    with _remarks_in_the_logs(), progress_bars() as progress:
        batch = predict_unseen(out, target, progress)
    refused = batch.n_rejected + batch.n_failed
    say(f"3. Unseen scans: {batch.n_ok} predicted, {refused} refused with a reason: {batch.table}")
    say(f"report: {target.report.resolve()}")
    say(f"done in {elapsed()}")


def _say_verdicts(metrics: Metrics) -> None:
    """What the measured differences mean, in words."""
    from med_transfer.cli.terminal import say

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
