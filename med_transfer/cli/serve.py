"""``med-transfer serve``: a bundle behind a PACS."""

from __future__ import annotations

import logging
import os
import signal
import threading
from pathlib import Path
from typing import Annotated, Literal

import typer

from med_transfer.atomic.sole_writer import sole_writer
from med_transfer.cli.options import Device, SignedWith
from med_transfer.cli.terminal import say
from med_transfer.hospital import require_extra

NAME = "serve"
EXAMPLE = "runs/first -c node.yaml"


def command(
    config: Annotated[Path, typer.Option("--config", "-c", help="node.yaml of the node.")],
    bundle: Annotated[
        Path | None, typer.Argument(help="Bundle, or run folder that contains one; default: the one in use.")
    ] = None,
    device: Device = "auto",
    key: SignedWith = None,
    log: Annotated[
        Literal["text", "json"] | None, typer.Option(help="Format of the log on stderr; default: as in node.yaml.")
    ] = None,
) -> None:
    """Run the hospital node until stopped: receive studies by DICOM, predict each, send results to the PACS."""
    from med_transfer.hospital.config import read_node_config
    from med_transfer.hospital.folder_owner import require_not_root_for_another
    from med_transfer.hospital.log_lines import set_up_log

    require_extra()
    os.umask(0o077)  # what is kept of patients is for its owner only
    node_config, stopped = read_node_config(config), threading.Event()
    require_not_root_for_another(node_config)
    from med_transfer.hospital.node import Node  # loads the network's libraries, which takes seconds
    from med_transfer.hospital.review.process import PageProcess

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    quiet = not logging.getLogger().isEnabledFor(logging.WARNING)
    set_up_log(log or node_config.log.format, node_config.log.level, quiet)
    with sole_writer(node_config.folder):
        node = Node(node_config, bundle, device, key)
        node.start()
        page = PageProcess(config) if node_config.page else None
        say(f"{node_config.ae_title} takes studies on {node_config.bind} port {node_config.port}. Research use only.")
        stopped.wait()
        if page:
            page.stop()
        all_done = node.stop()
    if not all_done:
        logging.shutdown()
        os._exit(0)  # what is at work hears nothing, and nothing of it counts
