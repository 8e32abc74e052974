"""Map the tensor names of a published file to those of an encoder."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Renaming:
    """Renaming rules of one family of files, applied after the prefixes of training scripts are dropped.

    Attributes:
        prefixes: further leading components to drop repeatedly (``encode_image``, ``swinViT``, ...).
        replace: (pattern, replacement) pairs of regular expressions, applied in order.
        ignore: patterns of names to leave out, matched from the start: heads, decoders, aliases.
    """

    prefixes: tuple[str, ...] = ()
    replace: tuple[tuple[str, str], ...] = ()
    ignore: tuple[str, ...] = ()

    def __call__(self, name: str) -> str:
        """Return the encoder's name for this one, whose prefixes were already dropped."""
        for pattern, replacement in self.replace:
            name = re.sub(pattern, replacement, name)
        return name

    def ignores(self, name: str) -> bool:
        """Whether this name, without prefixes and before any replacement, is deliberately left out."""
        return any(re.match(pattern, name) for pattern in self.ignore)


NO_RENAMING = Renaming()
