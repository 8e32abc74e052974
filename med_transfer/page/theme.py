"""The colours of every page and figure, by name: on screen in light and in dark, and on paper.

Text colours have a contrast of at least 4.5 to 1 on ``paper`` and on ``shade`` (WCAG 2.2, success criterion 1.4.3),
graphics at least 3 to 1 on ``paper`` (1.4.11).
"""

from __future__ import annotations

from typing import Literal

Colour = Literal[
    "paper",
    "ink",
    "muted",
    "rule",
    "shade",
    "accent",
    "good",
    "warning",
    "series-1",
    "series-2",
    "series-3",
    "series-4",
    "series-5",
    "series-6",
]

LIGHT: dict[Colour, str] = {
    "paper": "#fdfdfb",
    "ink": "#1b1f23",
    "muted": "#5b636b",
    "rule": "#d8dbd8",
    "shade": "#f2f3ef",
    "accent": "#0b5a8a",
    "good": "#2b6e4f",
    "warning": "#a3480a",
    "series-1": "#0b63a0",
    "series-2": "#c2500a",
    "series-3": "#1b7f5c",
    "series-4": "#a84b87",
    "series-5": "#8f6c00",
    "series-6": "#4d4f9e",
}
DARK: dict[Colour, str] = {
    "paper": "#15181b",
    "ink": "#e7e8e4",
    "muted": "#a1a8ae",
    "rule": "#353b40",
    "shade": "#1e2226",
    "accent": "#7fbfe8",
    "good": "#7cc7a2",
    "warning": "#f0a06a",
    "series-1": "#6db3e8",
    "series-2": "#f09a5e",
    "series-3": "#6cc9a4",
    "series-4": "#e29bc6",
    "series-5": "#dcbb4f",
    "series-6": "#a6a8ee",
}
PRINT: dict[Colour, str] = {
    **LIGHT,
    "paper": "#ffffff",
    "ink": "#000000",
    "muted": "#444444",
    "rule": "#bbbbbb",
    "shade": "#ffffff",
    "accent": "#000000",
    "good": "#1f5a3f",
    "warning": "#8a3a05",
}
SERIES: tuple[Colour, ...] = ("series-1", "series-2", "series-3", "series-4", "series-5", "series-6")
