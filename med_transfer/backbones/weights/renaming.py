"""How the tensor names of a published file become an encoder's own."""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Renaming:
    """Rules for the names of one family of files, tried after the prefixes of training scripts are dropped.

    Attributes:
        prefixes: further leading components to drop, as often as they occur (``encode_image``, ``swinViT`` ...).
        replace: (pattern, replacement) of regular expressions, applied in order to the whole name.
        ignore: patterns of names to leave out on purpose, matched from the start: heads, decoders, aliases.
    """

    prefixes: tuple[str, ...] = ()
    replace: tuple[tuple[str, str], ...] = ()
    ignore: tuple[str, ...] = ()

    def __call__(self, name: str) -> str:
        """The encoder's name for this one, prefixes already dropped."""
        for pattern, replacement in self.replace:
            name = re.sub(pattern, replacement, name)
        return name

    def ignores(self, name: str) -> bool:
        """Whether this name, prefixes already dropped and before any replacement, is left out on purpose."""
        return any(re.match(pattern, name) for pattern in self.ignore)


NO_RENAMING = Renaming()
