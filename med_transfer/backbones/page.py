"""Generate the documentation page of backbones from the catalogue (``make docs``)."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from med_transfer.backbones.cost import cost_shape, multiply_adds
from med_transfer.backbones.registry import backbones
from med_transfer.backbones.spec import BackboneSpec

_HEAD = """# Backbones

Written from the catalogue by `make docs`; `med-transfer backbones show NAME` tells all about one.

- **How to get the weights.** Nothing is downloaded unless you ask. `med-transfer backbones import NAME FILE` checks a
  file that you have and keeps its encoder, so that the name alone is enough from then on; `import NAME --download`
  fetches it first, where the publisher has an address. Without a connection, the message says which file to fetch and
  where to put it. Weights of your own (a bundle, `encoder.safetensors` of a pretraining) go to `backbone.weights`.
- **Licence.** *Accept*: the weights are restricted, and are used only after `--accept-licence`
  (`backbone.accept_licence`) names the licence. It is written into the bundle and the report. Uses are as we read the
  licence, where one is stated; read it yourself.
- **Input.** Each backbone gets its own orientation, spacing, window and shape unless `input:` in the config says
  otherwise. Axes are the sides of the patient to which depth, height and width grow.
- **Cost.** Billions of multiply-adds for one scan of the shape in the same column, counted;
  `benchmarks/backbone_cost.py` times them.
- **Which one.** `med-transfer select cohort.csv` ranks those whose weights are here on your own cohort; `med-transfer
  backbones verify NAME --scans FOLDER` tells, without labels, whether weights fit your scans.

| backbone | trained on | parameters | cost | axes, spacing, window | uses | weights |
|---|---|---|---|---|---|---|
"""


def backbone_page(specs: Iterable[BackboneSpec]) -> str:
    """Return the page as Markdown: an introduction, the table, and notes on each entry."""
    specs = tuple(specs)
    notes = "\n".join(_note(spec) for spec in specs)
    return f"{_HEAD}{''.join(map(_row, specs))}\n## Notes, sources and papers\n\n{notes}\n"


def _row(spec: BackboneSpec) -> str:
    cells = (
        f"`{spec.name}`",
        spec.training_data,
        _parameters(spec),
        _cost(spec),
        _input(spec),
        _uses(spec),
        _weights(spec),
    )
    return f"| {' | '.join(cells)} |\n"


def _parameters(spec: BackboneSpec) -> str:
    return f"{'about ' if spec.from_weights else ''}{spec.parameters / 1e6:.1f} M"


def _cost(spec: BackboneSpec) -> str:
    return f"{multiply_adds(spec) / 1e9:.0f} ({' x '.join(map(str, cost_shape(spec)))})"


def _input(spec: BackboneSpec) -> str:
    if spec.from_weights:
        return "read from the model"
    needs = spec.input
    spacing = " x ".join(f"{mm:g}" for mm in needs.spacing_mm) + " mm" if needs.spacing_mm else "any spacing"
    return f"{needs.orientation}, {spacing}, {needs.window_hu[0]:g} to {needs.window_hu[1]:g} HU"


def _uses(spec: BackboneSpec) -> str:
    allowed = {"commercial": spec.commercial_use, "redistribution": spec.redistribution}
    uses = ", ".join(use for use, yes in allowed.items() if yes)
    return f"{uses or 'research only'}{'; **accept**' if spec.must_accept else ''}"


def _weights(spec: BackboneSpec) -> str:
    if spec.weights is None:
        return "none needed"
    if spec.installed_by:
        return f"`{spec.installed_by}`" if spec.extra else spec.installed_by
    way = "download or file" if spec.weights.download_url else "file"
    return f"{way}: {' or '.join(spec.weights.files)}"


def _note(spec: BackboneSpec) -> str:
    return f"- **{spec.name}**. {spec.licence}. {spec.paper}. <{spec.source}>. {spec.notes}".rstrip()


if __name__ == "__main__":
    sys.stdout.write(backbone_page(backbones().values()))
