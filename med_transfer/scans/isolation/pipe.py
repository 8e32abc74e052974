"""Messages between a parent and its child through a pipe: pickles, whose arrays travel beside them uncopied."""

from __future__ import annotations

import contextlib
import pickle
import struct
from typing import Any

import numpy as np

_COUNT, _SIZE = struct.Struct(">I"), struct.Struct(">Q")
_PIPE_BYTES, _SET_PIPE_SIZE = 1 << 20, 1031  # F_SETPIPE_SZ of Linux


def widen(pipe: Any) -> None:
    """For large answers in fewer turns."""
    import fcntl

    with contextlib.suppress(OSError):  # Linux only
        fcntl.fcntl(pipe.fileno(), _SET_PIPE_SIZE, _PIPE_BYTES)


def send(pipe: Any, message: object) -> None:
    """Number of parts, their sizes, the parts: the pickle, and the buffers of its arrays."""
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
    """The message that was sent; its arrays may be written to. Raises EOFError: the other end is closed."""
    (count,) = _COUNT.unpack(_read(pipe, _COUNT.size))
    sizes = [size for (size,) in _SIZE.iter_unpack(_read(pipe, count * _SIZE.size))]
    body, *buffers = [_read(pipe, size) for size in sizes]
    return pickle.loads(body, buffers=buffers)  # between parent and child alone


def _read(pipe: Any, size: int) -> memoryview:
    """Writable, as the arrays that lie in it shall be. Raises EOFError."""
    whole = np.empty(size, np.uint8).data
    rest = whole
    while rest.nbytes:
        read = pipe.readinto(rest)
        if not read:
            raise EOFError
        rest = rest[read:]
    return whole
