"""Whether something that was planted, such as a patient's name or birth date, has leaked."""

from __future__ import annotations

import re
from collections.abc import Iterable


def leaked(planted: Iterable[str], text: str | bytes) -> list[str]:
    """What of it stands in the text. Digits alone must stand by themselves: within a longer number, as a figure, a UID
    or a time, they come by chance."""
    text = text if isinstance(text, str) else text.decode("latin-1")
    return [one for one in planted if re.search(rf"(?<![\d.]){one}(?!\d)" if one.isdigit() else re.escape(one), text)]
