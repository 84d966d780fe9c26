"""Message types, small frames and tables of the data plane; the whole protocol as values is the room `wire`."""

from __future__ import annotations

# Frontend message types.
BIND = 0x42
CLOSE = 0x43
DESCRIBE = 0x44
EXECUTE = 0x45
FUNCTION = 0x46
FLUSH = 0x48
PARSE = 0x50
QUERY = 0x51
SYNC = 0x53
TERMINATE = 0x58
COPY_DONE = 0x63
COPY_DATA = 0x64
COPY_FAIL = 0x66
# Backend message types that are looked at.
PARSE_COMPLETE = 0x31
BIND_COMPLETE = 0x32
CLOSE_COMPLETE = 0x33
COMMAND_COMPLETE = 0x43
DATA_ROW = 0x44
ERROR = 0x45
COPY_IN = 0x47
PARAMETER_STATUS = 0x53
COPY_BOTH = 0x57
READY = 0x5A
NOTIFICATION = 0x41
ROW_DESCRIPTION = 0x54
NO_DATA = 0x6E
PARAMETERS = 0x74

STATUS_IDLE = 0x49
STATUS_OPEN = 0x54
STATUS_FAILED = 0x45
LENGTH_MAX = 0x3FFFFFFF


def _table(kinds: bytes) -> bytes:
    """A table of 256 entries with 1 for these types."""
    table = bytearray(256)
    for kind in kinds:
        table[kind] = 1
    return bytes(table)


# Of each pair the first name owns the memory to which the second one is a mere pointer when compiled.
# Frontend frames of which batches are made.
# Parse, Bind, Describe, Execute, Close.
_EXTENDS = _table(b"PBDEC")
EXTENDS = _EXTENDS
# Backend frames that are copied on without a look, and those that come before the answer proper.
# BindComplete, Notification, CommandComplete, CopyData, CopyDone, DataRow, EmptyQuery, CopyOut, NoData, Notice,
# PortalSuspended, RowDescription, FunctionCallResponse.
_PASSES = _table(b"2ACcdDIHnNsTV")
PASSES = _PASSES
_PREPARES = _table(b"123TtnN")
PREPARES = _PREPARES
# Frontend frames that a server which reads no COPY data ignores: CopyData, CopyDone, CopyFail.
_COPIES = _table(b"dcf")
COPIES = _COPIES

SYNC_FRAME = b"S\x00\x00\x00\x04"
FLUSH_FRAME = b"H\x00\x00\x00\x04"
# Of the unnamed portal: described or not, all rows.
EXECUTE_SYNC = b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00" + SYNC_FRAME
DESCRIBE_EXECUTE_SYNC = b"D\x00\x00\x00\x06P\x00" + EXECUTE_SYNC
# ReadyForQuery is this and its status.
READY_HEAD = b"Z\x00\x00\x00\x05"
READY_BYTES = 6
TERMINATE_FRAME = b"X\x00\x00\x00\x04"
PARSE_COMPLETE_FRAME = b"1\x00\x00\x00\x04"
BIND_COMPLETE_FRAME = b"2\x00\x00\x00\x04"
CLOSE_COMPLETE_FRAME = b"3\x00\x00\x00\x04"
ROLLBACK_FRAME = b"C\x00\x00\x00\x0dROLLBACK\x00"
# Of the unnamed statement, without parameters.
_BIND_EXECUTE_CLOSE = (
    b"B\x00\x00\x00\x0c\x00\x00\x00\x00\x00\x00\x00\x00"
    b"E\x00\x00\x00\x09\x00\x00\x00\x00\x00"
    b"C\x00\x00\x00\x06P\x00"
)
# A Bind of a statement that nobody has, which fails whatever the server is in the middle of.
FAIL_SYNC = b"B\x00\x00\x00\x19\x00_pgcat_nobody\x00\x00\x00\x00\x00\x00\x00" + SYNC_FRAME


def cut_name(name: bytes) -> bytes:
    """A statement's name as PostgreSQL keeps it (NAMEDATALEN)."""
    return name if len(name) < 64 else name[:63]


def query_frame(text: bytes) -> bytes:
    return b"Q" + (5 + len(text)).to_bytes(4, "big") + text + b"\0"


def close_frame(name: bytes) -> bytes:
    return b"C" + (6 + len(name)).to_bytes(4, "big") + b"S" + name + b"\0"


def describe_frame(name: bytes) -> bytes:
    return b"D" + (6 + len(name)).to_bytes(4, "big") + b"S" + name + b"\0"


def run_frames(text: bytes) -> bytes:
    """Parse, Bind and Execute of a statement of ours, and a Close of its portal, which tells that it succeeded.

    In front of what a client sends: should it fail, all of that is passed over up to the next Sync.
    """
    return b"P" + (8 + len(text)).to_bytes(4, "big") + b"\0" + text + b"\0\0\0" + _BIND_EXECUTE_CLOSE


def ready_frame(status: int) -> bytes:
    return b"Z\x00\x00\x00\x05" + bytes((status,))


def error_code(buffer: bytearray, start: int, stop: int) -> bytes:
    """The SQLSTATE of an ErrorResponse body, XX000 if it names none."""
    position = start
    while position < stop and buffer[position] != 0:
        end = buffer.find(b"\0", position, stop)
        if end < 0:
            break
        if buffer[position] == 0x43:
            return bytes(buffer[position + 1 : end])
        position = end + 1
    return b"XX000"
