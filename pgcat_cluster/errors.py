"""Every fault a peer can be told, each with its SQLSTATE."""

from __future__ import annotations

from typing import ClassVar, Literal

Severity = Literal["ERROR", "FATAL"]


class WireError(ValueError):
    """Bytes that break the protocol; only the caller knows whose bytes they were and translates it."""


class Fault(Exception):
    """One meaning a peer is told: code, severity and text.

    `retryable` means that another server may be tried, as long as no byte of the request has been forwarded
    (or the statement only reads, stands alone, and no byte of its answer has left us).
    After severity FATAL nothing more is sent and the connection closes.
    `position` is where in the client's statement, in characters from 1.
    """

    sqlstate: str
    severity: ClassVar[Severity] = "ERROR"
    retryable: ClassVar[bool] = False
    text: ClassVar[str]
    position: int | None = None

    def __init__(
        self, message: str | None = None, *, detail: str | None = None, hint: str | None = None
    ) -> None:
        self.message = self.text if message is None else message
        self.detail = detail
        self.hint = hint
        super().__init__(self.message)

    def __str__(self) -> str:
        return self.message if self.detail is None else f"{self.message} ({self.detail})"


# -- start-up and login: there is no session yet, so each of them ends the connection


class ProtocolViolation(Fault):
    """Malformed, out of order, or illegal in this state."""

    sqlstate = "08P01"
    severity = "FATAL"
    text = "protocol violation"


class ProtocolUnsupported(Fault):
    """A frontend protocol of another major version."""

    sqlstate = "0A000"
    severity = "FATAL"
    text = "unsupported frontend protocol"


class StartupOptionInvalid(Fault):
    """The `options` of a startup packet can not be split into settings."""

    sqlstate = "42601"
    severity = "FATAL"
    text = "invalid command-line argument for server process"


class StartupParameterUnknown(Fault):
    """A startup packet sets a parameter that can not exist."""

    sqlstate = "42704"
    severity = "FATAL"
    text = "unrecognized configuration parameter"


class StartupParameterInvalid(Fault):
    """A startup packet gives a parameter a value it can not have."""

    sqlstate = "22023"
    severity = "FATAL"
    text = "invalid value for parameter"


class NotAdmitted(Fault):
    """No rule admits this user, database or unencrypted link."""

    sqlstate = "28000"
    severity = "FATAL"
    text = "connection not admitted"


class AuthenticationFailed(Fault):
    """Wrong password, or no such user: nobody may tell which."""

    sqlstate = "28P01"
    severity = "FATAL"
    text = "password authentication failed"


class UnknownDatabase(Fault):
    """Told after authentication, never before."""

    sqlstate = "3D000"
    severity = "FATAL"
    text = "database does not exist"


class TooManyClients(Fault):
    """The admission limit is reached."""

    sqlstate = "53300"
    severity = "FATAL"
    text = "sorry, too many clients already"


# -- what a client asked for


class Unsupported(Fault):
    """Something we do not do, such as a write without a single shard."""

    sqlstate = "0A000"
    text = "feature not supported"


class InvalidParameter(Fault):
    """A bad value in a SET command or a hint."""

    sqlstate = "22023"
    text = "invalid value for parameter"


class OutOfRange(Fault):
    """A sharding key beyond what its type holds."""

    sqlstate = "22003"
    text = "sharding key is out of range"


class InvalidText(Fault):
    """A text that is no value of the sharding key's type."""

    sqlstate = "22P02"
    text = "invalid text for a sharding key"


class NotParsed(Fault):
    """A statement that breaks PostgreSQL's grammar, told as PostgreSQL does, which has other codes for some."""

    sqlstate = "42601"
    text = "syntax error"

    def __init__(
        self,
        message: str | None = None,
        *,
        sqlstate: str = sqlstate,
        position: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint)
        self.sqlstate = sqlstate
        self.position = position


class UnknownParameter(Fault):
    """A parameter that begins with `pgcat.` and that we do not have."""

    sqlstate = "42704"
    text = "unrecognized configuration parameter"


class TransactionAborted(Fault):
    """Something of ours was asked for in a transaction that has failed."""

    sqlstate = "25P02"
    text = "current transaction is aborted, commands ignored until end of transaction block"


class UnknownSavepoint(Fault):
    """A savepoint that a transaction has not set, which no server has seen yet."""

    sqlstate = "3B001"
    text = "savepoint does not exist"


class UnknownStatement(Fault):
    """A prepared statement name that this client has not prepared."""

    sqlstate = "26000"
    text = "prepared statement does not exist"


class DuplicateStatement(Fault):
    """A prepared statement name that this client has in use."""

    sqlstate = "42P05"
    text = "prepared statement already exists"


class TooLarge(Fault):
    """A frame beyond its limit."""

    sqlstate = "54000"
    severity = "FATAL"
    text = "message exceeds the size limit"


class TableRefused(Fault):
    """The table_access plugin refuses a table."""

    sqlstate = "42501"
    text = "permission denied for table"


class Canceled(Fault):
    """A cancel request, or the query timeout."""

    sqlstate = "57014"
    text = "canceling statement due to user request"


class ConsistencyTimeout(Fault):
    """No replica has replayed what the client asked to see, and the primary may not be used."""

    sqlstate = "57014"
    text = "canceling statement due to consistency timeout"


# -- servers


class CheckoutTimeout(Fault):
    """No server was free in time; the detail names pool, time waited and place in the queue."""

    sqlstate = "53300"
    text = "no server connection became free in time"


class NoServer(Fault):
    """No primary, or no eligible replica; the detail says why each was refused."""

    sqlstate = "57P03"
    text = "no server is available"


class ServerUnreachable(Fault):
    """Could not connect or log in, before any byte was forwarded."""

    sqlstate = "08001"
    retryable = True
    text = "could not connect to server"


class ServerLost(Fault):
    """The server was lost inside a transaction that had not been committed."""

    sqlstate = "08006"
    severity = "FATAL"
    text = "server closed the connection unexpectedly"


class OutcomeUnknown(Fault):
    """The server was lost after a COMMIT or an autocommit write was sent, before its answer."""

    sqlstate = "08007"
    severity = "FATAL"
    text = "server connection lost, outcome of the transaction is unknown"


class HoldFull(Fault):
    """Too many clients already wait for a new primary."""

    sqlstate = "53300"
    text = "too many clients are waiting for a new primary"


class HoldExpired(Fault):
    """A client waited too long for a new primary."""

    sqlstate = "57P03"
    text = "no new primary appeared in time"


# -- life of a session


class ShuttingDown(Fault):
    """The drain deadline is reached."""

    sqlstate = "57P01"
    severity = "FATAL"
    text = "terminating connection due to administrator command"


class IdleInTransaction(Fault):
    """idle_transaction_timeout."""

    sqlstate = "25P03"
    severity = "FATAL"
    text = "terminating connection due to idle-in-transaction timeout"


class TransactionTimeout(Fault):
    """transaction_timeout."""

    sqlstate = "25P04"
    severity = "FATAL"
    text = "terminating connection due to transaction timeout"


class IdleSession(Fault):
    """idle_session_timeout."""

    sqlstate = "57P05"
    severity = "FATAL"
    text = "terminating connection due to idle-session timeout"


class InternalFault(Fault):
    """Ours; the detail carries an incident id that is also in the log."""

    sqlstate = "XX000"
    severity = "FATAL"
    text = "internal error"


# -- admin consoles


class CommandUnknown(Fault):
    """No such console command."""

    sqlstate = "42601"
    text = "unknown command"


class NotPermitted(Fault):
    """This console user may not do that."""

    sqlstate = "42501"
    text = "permission denied"


class ConfigFault(Fault):
    """A configuration that was refused."""

    sqlstate = "F0000"
    text = "invalid configuration"


class ReplicationRefused(Fault):
    """A client asked for a replication link; an ordinary session in its place would be a lie."""

    sqlstate = "0A000"
    severity = "FATAL"
    text = "replication connections are not supported"
