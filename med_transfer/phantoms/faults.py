"""Scans that are wrong on purpose, as they come out of a PACS on a bad day."""

from __future__ import annotations

from pathlib import Path


def drop_slice(files: list[Path]) -> None:
    """Delete the middle slice of a series (``files`` in order of position)."""
    files[len(files) // 2].unlink()


def truncate(path: Path) -> None:
    """Cut a file in the middle, as a transfer that broke off."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def write_text_file(path: Path) -> None:
    """A text file whose name says DICOM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("Exported by Phantom Vendor A. Call the help desk for questions.\n", encoding="utf-8")
