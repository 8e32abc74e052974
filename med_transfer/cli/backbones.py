"""``med-transfer backbones``: what a transfer can start from."""

from __future__ import annotations

from typing import Annotated

import typer

from med_transfer.cli.options import AsJson

NAME = "backbones"
app = typer.Typer(help="Backbones that a transfer can start from.", no_args_is_help=True, rich_markup_mode=None)


@app.command("list")
def list_(as_json: AsJson = False) -> None:
    """One line a backbone: name, parameters, licence, where its weights come from."""
    from med_transfer.backbones import backbones, describe
    from med_transfer.cli.terminal import say, say_json

    specs = backbones()
    if as_json:
        say_json({name: dict(describe(spec)) for name, spec in specs.items()})
        return
    width = max(map(len, specs))
    for name, spec in specs.items():
        weights = spec.weights.file if spec.weights else "from scratch, or your own"
        say(f"{name:<{width}} {spec.parameters / 1e6:6.1f} M   {spec.licence:<12} {weights}")


@app.command()
def show(name: Annotated[str, typer.Argument(help="A name from the list.")], as_json: AsJson = False) -> None:
    """Everything known about one backbone."""
    from med_transfer.backbones import describe, find_backbone
    from med_transfer.cli.terminal import say, say_json

    rows = describe(find_backbone(name))
    if as_json:
        say_json(dict(rows))
        return
    width = max(len(key) for key, _ in rows)
    for key, value in rows:
        say(f"{key:<{width}}  {value}")
