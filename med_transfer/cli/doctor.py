"""``med-transfer doctor``: what of this machine, and of a hospital node, works."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from med_transfer.cli.options import AsJson
from med_transfer.cli.terminal import say, say_json
from med_transfer.hospital import require_extra

NAME = "doctor"
EXAMPLE = "-c node.yaml"


def command(
    config: Annotated[
        Path | None, typer.Option("--config", "-c", help="node.yaml of the node.", show_default=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Check this machine and, with -c, a hospital node; exit code 1 if there is a problem. Nothing is changed."""
    require_extra()
    from med_transfer.hospital.config import read_node_config
    from med_transfer.hospital.doctor import examine, examine_machine
    from med_transfer.scans.library_noise import silence_readers

    silence_readers()
    findings = [*examine_machine(), *(examine(read_node_config(config)) if config else ())]
    if as_json:
        say_json([asdict(finding) for finding in findings])
    else:
        for finding in findings:
            say(f"{finding.state:8}{finding.code}: {finding.text}")
    raise typer.Exit(1 if any(finding.state == "problem" for finding in findings) else 0)
