"""Cuts, copies and searches bytes for the lanes: this body is interpreted, `octets.pyx` is the compiled one."""

from struct import Struct

_length = Struct(">I").unpack_from
_head = Struct(">BI").unpack_from


def cut(buffer: bytearray, start: int, end: int) -> bytes:
    """buffer[start:end] as bytes; empty if end is not behind start."""
    return bytes(buffer[start:end])


def append(target: bytearray, buffer: bytearray, start: int, end: int) -> None:
    """Add buffer[start:end] to the end of target, another buffer."""
    target += buffer[start:end]


def find_nul(buffer: bytearray, start: int, end: int) -> int:
    """Where the first NUL of buffer[start:end] stands, -1 if there is none."""
    return buffer.find(0, start, end)


def has_at(buffer: bytearray, start: int, end: int, part: bytes) -> bool:
    """Whether buffer[start:end] begins with that part."""
    return buffer.startswith(part, start, end)


def length_at(buffer: bytearray, start: int) -> int:
    """The four bytes at buffer[start] as a number, the most significant one first."""
    return _length(buffer, start)[0]  # type: ignore[no-any-return]


def behind_frames(buffer: bytearray, start: int, end: int, kinds: bytes) -> int:
    """Where the run of whole frames ends that begins at buffer[start], all of types for which `kinds` is not 0."""
    while end - start >= 5:
        kind, length = _head(buffer, start)
        stop = start + 1 + length
        if not kinds[kind] or stop > end or length < 4:
            break
        start = stop
    return start
