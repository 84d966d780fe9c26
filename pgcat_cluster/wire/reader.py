"""Takes fields out of one message body; every inner length is checked before it is used."""

from __future__ import annotations

from pgcat_cluster.errors import WireError


def to_text(data: bytes) -> str:
    """Text that gives the same bytes back, whatever the client's encoding was."""
    return data.decode("utf-8", "surrogateescape")


def to_bytes(text: str) -> bytes:
    return text.encode("utf-8", "surrogateescape")


class Reader:
    """A cursor over one body. Reading past its end, or not to its end, is a WireError."""

    __slots__ = ("_body", "_position")

    def __init__(self, body: bytes | bytearray | memoryview) -> None:
        self._body = bytes(body)
        self._position = 0

    @property
    def remaining_bytes(self) -> int:
        return len(self._body) - self._position

    def data(self, count: int) -> bytes:
        # Compared by subtraction: a peer's number never takes part in an addition.
        if count < 0 or count > self.remaining_bytes:
            raise WireError("insufficient data left in message")
        start = self._position
        self._position += count
        return self._body[start : self._position]

    def rest(self) -> bytes:
        return self.data(self.remaining_bytes)

    def uint8(self) -> int:
        return self.data(1)[0]

    def int16(self) -> int:
        return int.from_bytes(self.data(2), "big", signed=True)

    def uint16(self) -> int:
        return int.from_bytes(self.data(2), "big")

    def int32(self) -> int:
        return int.from_bytes(self.data(4), "big", signed=True)

    def uint32(self) -> int:
        return int.from_bytes(self.data(4), "big")

    def string_bytes(self) -> bytes:
        end = self._body.find(b"\0", self._position)
        if end < 0:
            raise WireError("invalid string in message")
        found = self.data(end - self._position)
        self._position += 1
        return found

    def string(self) -> str:
        return to_text(self.string_bytes())

    def nullable(self) -> bytes | None:
        """A value behind its 32-bit length, of which only -1 may be negative."""
        length = self.int32()
        return None if length == -1 else self.data(length)

    def end(self) -> None:
        if self.remaining_bytes:
            raise WireError("invalid message format")
