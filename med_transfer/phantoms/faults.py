"""Deliberately damaged scans, like those that a PACS may return."""

from __future__ import annotations

from pathlib import Path


def drop_slice(files: list[Path]) -> None:
    """Delete the middle slice of a series (``files`` in order of position)."""
    files[len(files) // 2].unlink()


def truncate(path: Path) -> None:
    """Truncate a file to half its size, like an interrupted transfer."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def write_text_file(path: Path) -> None:
    """Write a text file under a name that suggests DICOM."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("Exported by Phantom Vendor A. Call the help desk for questions.\n", encoding="utf-8")
