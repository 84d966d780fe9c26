"""The store in etcd: one member in use at a time, streams that are proven to live, the token renewed."""

from __future__ import annotations

import asyncio
import itertools
import random
import re
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import structlog
from aetcd import rpc
from msgspec import Struct

from pgcat_cluster.agreement.transactions import (
    Batch,
    Compare,
    Delete,
    Event,
    Field,
    Operation,
    Outcome,
    Put,
    Range,
    Row,
    Rows,
    Transaction,
)
from pgcat_cluster.fleet import versions
from pgcat_cluster.fleet.reasons import why_refused, why_unreachable
from pgcat_cluster.fleet.store import (
    Compacted,
    Denied,
    LeaseGone,
    Refused,
    StoreFault,
    StoreStatistics,
    StoreStatus,
    Unavailable,
    Unknown,
)
from pgcat_cluster.net.clock import monotonic_s
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.topology.units import HTTPS

_log = structlog.get_logger(__name__)

_PAGE_ROWS = 500
_SNAPSHOTS_MAX = 3
_LIMITLESS = -1
# gRPC's keepalive waits 60 s for its ping's answer, whatever its own timeout says; the one of HTTP/2 does not.
# A ping every 5 s or more often makes etcd close the connection.
CHANNEL_OPTIONS = [
    ("grpc.keepalive_time_ms", 10000),
    ("grpc.keepalive_timeout_ms", 3000),
    ("grpc.http2.ping_timeout_ms", 3000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.http2.max_pings_without_data", 0),
    ("grpc.initial_reconnect_backoff_ms", 200),
    ("grpc.max_reconnect_backoff_ms", 2000),
    # The way to the store is a matter of the fleet, not of what the environment says for browsers.
    ("grpc.enable_http_proxy", 0),
    # A page of rows may be larger than gRPC's 4 MiB.
    ("grpc.max_receive_message_length", _LIMITLESS),
]


class StoreTls(Struct, frozen=True, kw_only=True):
    """The authority that signed the members' certificates, and a certificate of ours where they ask for one.

    No authority: those that gRPC knows, the public ones.
    """

    authority: Path | None = None
    certificate: Path | None = None
    key: Path | None = None


class EtcdSettings(Struct, frozen=True, kw_only=True):
    """Where the members are, who we are, and how patient we are.

    `endpoints` are `host:port`. Nothing heard on a watch for `quiet_s`: it is asked for a sign of life; nothing
    for `silent_s` more: it is dropped.
    """

    endpoints: tuple[str, ...]
    tls: StoreTls | None = None
    user: str = ""
    password: str = ""
    allow_bad_version: bool = False
    quota_bytes: int | None = None
    call_s: float = 1.5
    confirm_s: float = 2.0
    quiet_s: float = 4.0
    silent_s: float = 2.0
    login_jitter_s: float = 1.0


def members_of(
    endpoints: Sequence[str], *, authority: Path | None, certificate: Path | None, key: Path | None
) -> tuple[tuple[str, ...], StoreTls | None]:
    """`host:port` of each, and TLS if they are written with `https://`, or an authority is given."""
    plain = tuple(endpoint.removeprefix(HTTPS) for endpoint in endpoints)
    is_plain = authority is None and plain == tuple(endpoints)
    return plain, None if is_plain else StoreTls(authority=authority, certificate=certificate, key=key)


class EtcdStore:
    """The port to etcd. Nothing is opened before the first call: a process that forks does so before it.

    Holds always: calls go to `_member`; who finds it wanting names it when it moves on, so that many who find
    out at once move on once.
    """

    def __init__(self, settings: EtcdSettings, *, chance: random.Random) -> None:
        self.password = settings.password  # may be replaced at any time
        self._settings = settings
        self._chance = chance
        self._members = [_Member(endpoint, settings) for endpoint in settings.endpoints]
        self._index = chance.randrange(len(self._members))
        self._token: str | None = None
        self._login = asyncio.Lock()
        self._watches: set[EtcdWatch] = set()
        self._warned: set[str] = set()
        self._is_connected = False
        self._answered_s: float | None = None
        self._rotations = 0
        self._logins = 0

    # -- the port

    async def snapshot(self, prefixes: Sequence[str]) -> tuple[int, tuple[Row, ...]]:
        for _attempt in range(_SNAPSHOTS_MAX):
            try:
                return await self._snapshot(prefixes)
            except Compacted:
                continue
        raise Unavailable("the store was compacted faster than it could be read")

    def watch(self, prefix: str, from_revision: int) -> EtcdWatch:
        watch = EtcdWatch(self, self._settings, prefix, from_revision, ended=self._watches.discard)
        self._watches.add(watch)
        return watch

    async def txn(self, transaction: Transaction) -> Outcome:
        operations = (*transaction.then, *transaction.otherwise)
        request = rpc.TxnRequest(
            compare=[_compare(compare) for compare in transaction.compares],
            success=[_operation(operation) for operation in transaction.then],
            failure=[_operation(operation) for operation in transaction.otherwise],
        )
        writes = not all(isinstance(operation, Range) for operation in operations)
        response = await self._call(lambda member: member.kv.Txn, request, writes=writes)
        return Outcome(
            succeeded=response.succeeded,
            revision=response.header.revision,
            answers=tuple(_answer(part) for part in response.responses),
        )

    async def grant(self, ttl_s: int) -> int:
        # One whose answer is lost ends by itself.
        response = await self._call(lambda member: member.lease.LeaseGrant, rpc.LeaseGrantRequest(TTL=ttl_s))
        return int(response.ID)

    async def refresh(self, lease: int) -> int:
        request = rpc.LeaseKeepAliveRequest(ID=lease)
        response = await self._call(lambda member: _only_answer(member.lease.LeaseKeepAlive), request)
        return int(response.TTL)

    async def revoke(self, lease: int) -> None:
        try:
            await self._call(lambda member: member.lease.LeaseRevoke, rpc.LeaseRevokeRequest(ID=lease))
        except LeaseGone:
            pass

    async def status(self) -> StoreStatus:
        response = await self._call(lambda member: member.maintenance.Status, rpc.StatusRequest())
        return StoreStatus(
            cluster_id=response.header.cluster_id,
            revision=response.header.revision,
            version=response.version,
            size_bytes=response.dbSize,
            quota_bytes=self._settings.quota_bytes,
            alarms=tuple(sorted(set(re.findall(r"alarm:(\w+)", " ".join(response.errors))))),
        )

    def statistics(self) -> StoreStatistics:
        return StoreStatistics(
            connected=self._is_connected,
            member=self._member.endpoint,
            version=self._member.version,
            answer_age_s=None if self._answered_s is None else monotonic_s() - self._answered_s,
            applied={watch.prefix: watch.applied for watch in self._watches},
            rotations=self._rotations,
            logins=self._logins,
        )

    async def close(self) -> None:
        for watch in tuple(self._watches):
            await watch.close()
        for member in self._members:
            await member.close()

    # -- calls

    @property
    def _member(self) -> _Member:
        return self._members[self._index]

    async def _snapshot(self, prefixes: Sequence[str]) -> tuple[int, tuple[Row, ...]]:
        first = rpc.TxnRequest(
            success=[
                rpc.RequestOp(request_range=rpc.RangeRequest(**_below(prefix), limit=_PAGE_ROWS))
                for prefix in prefixes
            ]
        )
        answer = await self._call(lambda member: member.kv.Txn, first)
        revision = answer.header.revision
        rows: list[Row] = []
        for prefix, part in zip(prefixes, answer.responses, strict=True):
            page = part.response_range
            rows.extend(map(_row, page.kvs))
            while page.more:
                request = rpc.RangeRequest(
                    key=page.kvs[-1].key + b"\0",
                    range_end=_below(prefix)["range_end"],
                    limit=_PAGE_ROWS,
                    revision=revision,
                )
                page = await self._call(lambda member: member.kv.Range, request)
                rows.extend(map(_row, page.kvs))
        return revision, tuple(rows)

    async def _call(self, method: Callable[[_Member], Any], request: Any, *, writes: bool = False) -> Any:
        """Ask the member in use; the next one if it was certainly not done, or does no harm when done twice."""
        fault = Unavailable("no member was asked")
        for _attempt in self._members:
            member = self._member
            try:
                async with self.translating(member, writes=False):
                    await self.prepare(member)
                async with self.translating(member, writes=writes):
                    response = await self._authenticated(member, method, request)
            except Unavailable as unavailable:
                fault = unavailable
            else:
                self.heard()
                return response
        raise fault

    async def _authenticated(self, member: _Member, method: Callable[[_Member], Any], request: Any) -> Any:
        token = self._token
        try:
            return await method(member)(request, timeout=self._settings.call_s, metadata=self.metadata())
        except grpc.aio.AioRpcError as error:
            if not self._settings.user or not _wants_login(error):
                raise
        # It was refused for its token before anybody looked at it.
        await self.renew(member, token)
        return await method(member)(request, timeout=self._settings.call_s, metadata=self.metadata())

    @asynccontextmanager
    async def translating(self, member: _Member, *, writes: bool) -> AsyncIterator[None]:
        """Whatever gRPC raises within becomes a fault of the port, and moves on from a member that is away."""
        try:
            yield
        except grpc.aio.AioRpcError as error:
            fault = _translated(error.code(), error.details() or "", writes)
            if isinstance(fault, Unavailable | Unknown):
                self.leave(member)
            raise fault from None
        except Unavailable:
            self.leave(member)
            raise
        except asyncio.CancelledError:
            # A channel that is closed cancels its calls, which looks as if the task were cancelled.
            task = asyncio.current_task()
            if task is None or task.cancelling():
                raise
            raise (Unknown if writes else Unavailable)("the connection was closed") from None

    # -- what watches ask for too

    async def prepare(self, member: _Member) -> None:
        """Connected, logged in, and with a version that may be used."""
        await member.connect()
        if self._settings.user and self._token is None:
            await self.renew(member, None)
        if not member.version:
            status = await self._authenticated(
                member, lambda member: member.maintenance.Status, rpc.StatusRequest()
            )
            self._judge(status.version)
            member.version = status.version

    def metadata(self) -> list[tuple[str, str]]:
        """A member that knows no leader says so instead of keeping us waiting."""
        token = [("token", self._token)] if self._token else []
        return [("hasleader", "true"), *token]

    async def renew(self, member: _Member, refused: str | None) -> None:
        """Get another token than the one that was refused."""
        async with self._login:
            if self._token != refused:
                return
            if refused is not None:
                # A login costs the server much, and the whole fleet may need one at once.
                await asyncio.sleep(self._chance.uniform(0.0, self._settings.login_jitter_s))
            request = rpc.AuthenticateRequest(name=self._settings.user, password=self.password)
            try:
                response = await member.auth.Authenticate(request, timeout=self._settings.call_s)
                self._token = response.token
            except grpc.aio.AioRpcError as error:
                if "authentication is not enabled" not in (error.details() or ""):
                    raise
                self._token = ""
            self._logins += 1

    @property
    def token(self) -> str | None:
        return self._token

    @property
    def member(self) -> _Member:
        """The member in use."""
        return self._member

    def heard(self) -> None:
        self._is_connected = True
        self._answered_s = monotonic_s()

    def leave(self, member: _Member) -> None:
        """Use the next member, if this one still is in use."""
        member.version = ""
        if member is self._member:
            self._is_connected = False
            self._index = (self._index + 1) % len(self._members)
            self._rotations += 1

    def _judge(self, version: str) -> None:
        if versions.is_refused(versions.parse(version)) and not self._settings.allow_bad_version:
            raise Refused(f"etcd {version} may lose data; upgrade it, or set store.allow_bad_version")
        if version not in self._warned:
            self._warned.add(version)
            for warning in versions.warnings(version):
                _log.warning("store.version", warning=warning)


class EtcdWatch:
    """One stream with one watch. Reading waits for the consumer, so nothing piles up on this side."""

    def __init__(
        self,
        store: EtcdStore,
        settings: EtcdSettings,
        prefix: str,
        from_revision: int,
        *,
        ended: Callable[[EtcdWatch], None],
    ) -> None:
        self.prefix = prefix
        # The newest revision that was handed over completely.
        self.applied = from_revision - 1
        self._store = store
        self._settings = settings
        self._ended = ended
        self._member = store.member
        self._stream: Any = None
        self._reading: asyncio.Task[Any] | None = None
        self._assembly = Assembly(from_revision)
        self._batches: deque[Batch] = deque()
        self._is_closed = False

    def __aiter__(self) -> EtcdWatch:
        return self

    async def __anext__(self) -> Batch:
        try:
            if self._is_closed:
                raise Unavailable("the watch was closed")
            if self._stream is None:
                self._member = self._store.member
                async with self._store.translating(self._member, writes=False):
                    await self._open()
            while not self._batches:
                async with self._store.translating(self._member, writes=False):
                    self._take(await self._alive())
        except StoreFault:
            await self.close()
            raise
        batch = self._batches.popleft()
        self.applied = batch.revision
        return batch

    async def close(self) -> None:
        """End the stream: the server forgets the watch with it."""
        self._ended(self)
        self._is_closed = True
        if self._stream is not None:
            self._stream.cancel()

    async def _open(self) -> None:
        """Create the watch; once more with a new token if it is refused. Old servers do not say why they refuse."""
        for is_first in (True, False):
            await self._store.prepare(self._member)
            token = self._store.token
            self._stream, self._reading = self._member.watch.Watch(metadata=self._store.metadata()), None
            request = rpc.WatchCreateRequest(
                **_below(self.prefix), start_revision=self.applied + 1, fragment=True
            )
            await self._write(rpc.WatchRequest(create_request=request))
            response = await self._read(self._settings.confirm_s)
            if response is None:
                raise Unavailable("the watch was not confirmed")
            if not response.canceled or response.compact_revision:
                self._take(response)
                return
            if not (is_first and self._settings.user and _is_refusal(response.cancel_reason)):
                break
            self._stream.cancel()
            await self._store.renew(self._member, token)
        raise _cancelled(response.cancel_reason)

    async def _alive(self) -> Any:
        """The next response. A stream that stays quiet is asked for a sign of life, twice."""
        response = await self._read(self._settings.quiet_s)
        for _ask in range(2):
            if response is not None:
                return response
            await self._write(rpc.WatchRequest(progress_request=rpc.WatchProgressRequest()))
            response = await self._read(self._settings.silent_s / 2)
        if response is None:
            raise Unavailable("the watch fell silent")
        return response

    async def _write(self, request: Any) -> None:
        try:
            async with asyncio.timeout(self._settings.confirm_s):
                await self._stream.write(request)
        except TimeoutError:
            raise Unavailable("the watch takes no request") from None
        except asyncio.InvalidStateError:
            raise Unavailable("the watch has ended") from None

    async def _read(self, within_s: float) -> Any:
        """The next response, or None if there was none in time; the read goes on meanwhile."""
        if self._reading is None:
            self._reading = spawn(_read(self._stream), f"watch {self.prefix}")
        await asyncio.wait({self._reading}, timeout=within_s)
        if not self._reading.done():
            return None
        response, self._reading = self._reading.result(), None
        if isinstance(response, StoreFault):
            raise response
        self._store.heard()
        return response

    def _take(self, response: Any) -> None:
        if response.canceled:
            if response.compact_revision:
                raise Compacted(response.compact_revision)
            raise _cancelled(response.cancel_reason)
        if response.created:
            return
        is_true = versions.tells_true_progress(versions.parse(self._member.version))
        self._batches.extend(self._assembly.take(response, tells_true_progress=is_true))


class Assembly:
    """Makes batches of the responses of one stream: whole revisions, in order, each once."""

    def __init__(self, from_revision: int) -> None:
        self._newest = from_revision - 1
        self._parts: list[Any] = []

    def take(self, response: Any, *, tells_true_progress: bool) -> list[Batch]:
        """What is complete with this response. One without events says how far the stream is."""
        self._parts.extend(response.events)
        if response.fragment:
            return []
        events, self._parts = self._parts, []
        batches = [
            Batch(revision=revision, events=tuple(map(_event, group)))
            for revision, group in itertools.groupby(events, key=lambda event: event.kv.mod_revision)
        ]
        if not events and tells_true_progress:
            batches.append(Batch(revision=response.header.revision, events=()))
        return [batch for batch in batches if self._is_news(batch)]

    def _is_news(self, batch: Batch) -> bool:
        """Old servers may repeat themselves."""
        is_news = batch.revision > self._newest
        self._newest = max(self._newest, batch.revision)
        return is_news


class _Member:
    """One endpoint, its channel, and the version it was last seen with."""

    def __init__(self, endpoint: str, settings: EtcdSettings) -> None:
        self.endpoint = endpoint
        self.version = ""
        self._settings = settings
        self._channel: Any = None

    async def connect(self) -> None:
        """Connected, or Unavailable: whatever is asked before that was certainly not carried out."""
        if self._channel is None:
            self._channel = _channel(self.endpoint, self._settings.tls)
            self.kv = rpc.KVStub(self._channel)
            self.lease = rpc.LeaseStub(self._channel)
            self.watch = rpc.WatchStub(self._channel)
            self.auth = rpc.AuthStub(self._channel)
            self.maintenance = rpc.MaintenanceStub(self._channel)
        try:
            async with asyncio.timeout(self._settings.call_s):
                await self._ready()
        except TimeoutError:
            raise Unavailable(f"{self.endpoint} does not accept a connection") from None

    async def _ready(self) -> None:
        states = grpc.ChannelConnectivity
        while (state := self._channel.get_state(try_to_connect=True)) is not states.READY:
            if state in (states.TRANSIENT_FAILURE, states.SHUTDOWN):
                raise Unavailable(f"{self.endpoint} can not be reached: {await self._why_not()}")
            await self._channel.wait_for_state_change(state)

    async def _why_not(self) -> str:
        """What a call says that is not made to wait for a connection."""
        try:
            await self.maintenance.Status(rpc.StatusRequest(), timeout=self._settings.call_s)
        except grpc.aio.AioRpcError as error:
            return why_unreachable(error.details() or "", with_tls=self._settings.tls is not None)
        return "it was away for a moment"

    async def close(self) -> None:
        if self._channel is not None:
            await self._channel.close()


def _channel(endpoint: str, tls: StoreTls | None) -> Any:
    if tls is None:
        return grpc.aio.insecure_channel(endpoint, options=CHANNEL_OPTIONS)
    credentials = grpc.ssl_channel_credentials(
        tls.authority.read_bytes() if tls.authority else None,
        tls.key.read_bytes() if tls.key else None,
        tls.certificate.read_bytes() if tls.certificate else None,
    )
    return grpc.aio.secure_channel(endpoint, credentials, options=CHANNEL_OPTIONS)


def _only_answer(method: Any) -> Callable[..., Any]:
    """One question and one answer over a method that takes many."""

    async def ask(request: Any, **options: Any) -> Any:
        call = method(**options)
        try:
            await call.write(request)
            response = await call.read()
            if response is grpc.aio.EOF:
                raise Unavailable("the stream ended without an answer")
            return response
        except asyncio.InvalidStateError:
            # It ended before the question was sent: its status says why.
            raise grpc.aio.AioRpcError(
                await call.code(),
                await call.initial_metadata(),
                await call.trailing_metadata(),
                await call.details(),
            ) from None
        finally:
            call.cancel()

    return ask


async def _read(stream: Any) -> Any:
    """A response, or the fault that ended the stream."""
    try:
        response = await stream.read()
    except grpc.aio.AioRpcError as error:
        return _translated(error.code(), error.details() or "", False)
    except asyncio.CancelledError:
        return Unavailable("the watch was closed")
    return Unavailable("the server ended the stream") if response is grpc.aio.EOF else response


# -- faults


def _wants_login(error: Any) -> bool:
    details = error.details() or ""
    return error.code() is grpc.StatusCode.UNAUTHENTICATED or any(
        sign in details for sign in ("revision of auth store is old", "user name is empty")
    )


def _is_refusal(reason: str) -> bool:
    signs = ("permission denied", "auth", "user name is empty")
    return not reason or any(sign in reason for sign in signs)


def _cancelled(reason: str) -> StoreFault:
    if _is_refusal(reason):
        return Denied(f"the watch was refused: {why_refused(reason) or 'no permission'}")
    return Unavailable(f"the watch was cancelled: {reason}")


def _translated(code: Any, details: str, writes: bool) -> StoreFault:
    """What a status of gRPC means. Only what surely was not carried out is Unavailable for a write."""
    codes = grpc.StatusCode
    text = details.removeprefix("etcdserver: ") or str(code)
    if code in (codes.UNAUTHENTICATED, codes.PERMISSION_DENIED) or any(
        sign in details for sign in ("authentication failed", "user name is empty", "auth store is old")
    ):
        return Denied(why_refused(text))
    if "lease not found" in details:
        return LeaseGone(text)
    if "has been compacted" in details:
        return Compacted(0)
    if "no leader" in details or "too many requests" in details or "not a primary lessor" in details:
        return Unavailable(text)
    refused = (
        codes.INVALID_ARGUMENT,
        codes.FAILED_PRECONDITION,
        codes.RESOURCE_EXHAUSTED,
        codes.UNIMPLEMENTED,
    )
    if code in refused or code in (codes.NOT_FOUND, codes.ALREADY_EXISTS):
        return Refused(text)
    return (Unknown if writes else Unavailable)(text)


# -- messages


def _encoded(key: str) -> bytes:
    # Keys of others may be no text.
    return key.encode("utf-8", "surrogateescape")


def _below(prefix: str) -> dict[str, bytes]:
    """The range of all keys that begin with a prefix."""
    key = _encoded(prefix)
    return {"key": key, "range_end": key[:-1] + bytes([key[-1] + 1]) if key else b"\0"}


def _named(part: Compare | Delete | Range) -> dict[str, bytes]:
    return _below(part.key) if part.prefix and part.key else {"key": _encoded(part.key)}


_RESULTS = {"==": "EQUAL", "!=": "NOT_EQUAL", "<": "LESS", ">": "GREATER"}
_OPERANDS = {
    Field.MOD: "mod_revision",
    Field.CREATE: "create_revision",
    Field.VALUE: "value",
    Field.LEASE: "lease",
}


def _compare(compare: Compare) -> Any:
    return rpc.Compare(
        **_named(compare),
        target=compare.field.name,
        result=_RESULTS[compare.operator],
        **{_OPERANDS[compare.field]: compare.operand},
    )


def _operation(operation: Operation) -> Any:
    match operation:
        case Put():
            return rpc.RequestOp(
                request_put=rpc.PutRequest(
                    key=_encoded(operation.key), value=operation.value, lease=operation.lease
                )
            )
        case Delete():
            return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(**_named(operation)))
        case Range():
            order = {"sort_order": "DESCEND", "sort_target": "MOD"} if operation.newest_first else {}
            return rpc.RequestOp(
                request_range=rpc.RangeRequest(
                    **_named(operation), limit=operation.limit, keys_only=operation.keys_only, **order
                )
            )


def _answer(part: Any) -> Rows | None:
    if part.WhichOneof("response") != "response_range":
        return None
    answer = part.response_range
    return Rows(rows=tuple(map(_row, answer.kvs)), count=answer.count)


def _row(kv: Any) -> Row:
    return Row(
        key=kv.key.decode("utf-8", "surrogateescape"),
        value=kv.value,
        create_revision=kv.create_revision,
        mod_revision=kv.mod_revision,
        lease=kv.lease,
    )


def _event(event: Any) -> Event:
    is_put = event.type == rpc.Event.PUT
    key = event.kv.key.decode("utf-8", "surrogateescape")
    return Event(key=key, row=_row(event.kv) if is_put else None)
