"""Calls recv and send for the data plane, and nothing else does; `sockets.pyx` is the compiled body."""

from os import readv, write

# Below this a copy costs less than a view.
_COPY_BYTES_MAX = 8192


def recv_into(fd: int, buffer: bytearray, start: int, end: int) -> int:
    """Receive into buffer[start:end] without blocking; `start < end`, or it looks like the end.

    Returns the count of bytes, 0 at the end of the stream, -1 when it would block, -2 when the link is dead.
    """
    try:
        if end - start == len(buffer):
            return readv(fd, (buffer,))
        with memoryview(buffer)[start:end] as room:
            return readv(fd, (room,))
    except BlockingIOError:
        return -1
    except OSError:
        return -2


def send_from(fd: int, buffer: bytearray, start: int, end: int) -> int:
    """Send buffer[start:end] without blocking; returns as recv_into does, the count may be short."""
    try:
        if end - start < _COPY_BYTES_MAX:
            return write(fd, buffer[start:end])
        with memoryview(buffer)[start:end] as rest:
            return write(fd, rest)
    except BlockingIOError:
        return -1
    except OSError:
        return -2
