"""Messages between parent and child through a pipe: pickles with out-of-band array buffers, which are not copied."""

from __future__ import annotations

import contextlib
import pickle
import struct
from typing import Any

import numpy as np

_COUNT, _SIZE = struct.Struct(">I"), struct.Struct(">Q")
_PIPE_BYTES, _SET_PIPE_SIZE = 1 << 20, 1031  # Linux's F_SETPIPE_SZ


def widen(pipe: Any) -> None:
    """Enlarge the pipe's buffer, so that large messages need fewer system calls."""
    import fcntl

    with contextlib.suppress(OSError):  # Linux only
        fcntl.fcntl(pipe.fileno(), _SET_PIPE_SIZE, _PIPE_BYTES)


def send(pipe: Any, message: object) -> None:
    """Write the number of parts, their sizes, then the parts: the pickle and the buffers of its arrays."""
    buffers: list[pickle.PickleBuffer] = []
    parts = [pickle.dumps(message, 5, buffer_callback=buffers.append), *(buffer.raw() for buffer in buffers)]
    sizes = b"".join(_SIZE.pack(memoryview(part).nbytes) for part in parts)
    for part in (_COUNT.pack(len(parts)) + sizes, *parts):
        _write(pipe, memoryview(part))
    pipe.flush()


def _write(pipe: Any, part: memoryview) -> None:
    while part.nbytes:
        part = part[pipe.write(part) :]


def receive(pipe: Any) -> Any:
    """Read one message; its arrays are writable. Raises EOFError if the other end is closed."""
    (count,) = _COUNT.unpack(_read(pipe, _COUNT.size))
    sizes = [size for (size,) in _SIZE.iter_unpack(_read(pipe, count * _SIZE.size))]
    body, *buffers = [_read(pipe, size) for size in sizes]
    return pickle.loads(body, buffers=buffers)  # trusted: only parent and child use this pipe


def _read(pipe: Any, size: int) -> memoryview:
    """Read exactly ``size`` bytes into writable memory, which the arrays will share. Raises EOFError."""
    whole = np.empty(size, np.uint8).data
    rest = whole
    while rest.nbytes:
        read = pipe.readinto(rest)
        if not read:
            raise EOFError
        rest = rest[read:]
    return whole
