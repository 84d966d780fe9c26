"""Links to mirrors: opened when there is something to copy, fed by the lanes of a pool, their answers thrown away."""

from __future__ import annotations

import asyncio
import random
from typing import Protocol

from pgcat_cluster.net.outgoing import OpenedServer, OpenFailed, ServerAddress, open_server
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.net.tls import TlsContexts
from pgcat_cluster.pool.growth import backoff_s
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.links import Link
from pgcat_cluster.session.account import Account, desk_of, visitor_of
from pgcat_cluster.session.mirroring import Lane, Recorder
from pgcat_cluster.session.parameters import Parameters
from pgcat_cluster.session.wishes import for_servers
from pgcat_cluster.telemetry.logs import RepeatLimit, get_logger, lifecycle
from pgcat_cluster.topology.model import PoolKey, PoolSettings, Shard, Topology
from pgcat_cluster.wire import messages

# An error that is longer is not looked at.
ERROR_BYTES_MAX = 65536
_LENGTH_MAX = 0x3FFFFFFF
_COPY_IN = 0x47
_COPY_BOTH = 0x57
_ERROR = 0x45
_READY = 0x5A


class MirrorHouse(Protocol):
    """What mirrors need of the node they belong to."""

    scratch: bytearray

    @property
    def topology(self) -> Topology: ...

    @property
    def tls(self) -> TlsContexts: ...


class Mirrors:
    """The mirrors of a node, one for each pool that has one."""

    def __init__(self, house: MirrorHouse, loop: asyncio.AbstractEventLoop) -> None:
        self.house = house
        self.loop = loop
        self._running: dict[PoolKey, Mirror] = {}

    def place(self, account: Account) -> None:
        """Go by the account's settings: what is equal goes on, anything else begins anew."""
        settings = account.settings
        running = self._running.get(settings.key)
        if running is not None and running.is_as(settings):
            return
        self.remove(account)
        if settings.mirror is not None:
            self._running[settings.key] = Mirror(self, account)

    def remove(self, account: Account) -> None:
        mirror = self._running.pop(account.settings.key, None)
        if mirror is not None:
            mirror.close()

    def close(self) -> None:
        for mirror in self._running.values():
            mirror.close()
        self._running.clear()


class Mirror:
    """One pool's mirror: its recorder, and a link for each lane. Shards have lanes, and a database, of their own."""

    def __init__(self, mirrors: Mirrors, account: Account) -> None:
        settings = account.settings
        assert settings.mirror is not None
        self.mirrors = mirrors
        self.account = account
        self.settings = settings
        self.options = settings.mirror
        self.address = ServerAddress(host=self.options.host, port=self.options.port)
        self.is_closed = False
        self.log = get_logger()
        self.repeats = RepeatLimit()
        fresh = Parameters({})
        self.recorder = Recorder(
            share=self.options.share,
            queue_bytes_max=self.options.queue,
            lanes=self.options.links * len(settings.shards),
            fresh=fresh,
            draw=random.random,
            wake=self._wake,
            number=self._lane_number,
            warn=self._warn_later,
        )
        self.feeders = {
            lane: Feeder(self, lane, settings.shards[number // self.options.links])
            for number, lane in enumerate(self.recorder.lanes)
        }
        for client in account.clients:
            if client.server is not None:
                self.recorder.pass_over(client)
        desk_of(account).mirror = self.recorder

    def is_as(self, settings: PoolSettings) -> bool:
        """Whether a mirror for these settings would be another one."""
        return all(
            getattr(self.settings, field) == getattr(settings, field)
            for field in ("mirror", "login", "parameters", "shards")
        )

    def _lane_number(self, client: Client) -> int:
        """A client keeps to one lane of each shard."""
        links = self.options.links
        return client.shard * links + visitor_of(client).number % links

    def _wake(self, lane: Lane) -> None:
        # Later: the answer to the client goes first.
        self.mirrors.loop.call_soon(self.feeders[lane].feed)

    def _warn_later(self, reason: str) -> None:
        # Nothing of it may end a client's link.
        self.mirrors.loop.call_soon(self.warn, reason)

    def close(self) -> None:
        self.is_closed = True
        desk = self.account.desk
        if desk is not None and desk.mirror is self.recorder:
            desk.mirror = None
        for feeder in self.feeders.values():
            feeder.close()

    def warn(self, reason: str) -> None:
        silent = self.repeats.admit("mirror.failed", reason, self.mirrors.loop.time())
        if silent is not None:
            lifecycle(
                self.log,
                "mirror.failed",
                level="warning",
                pool=str(self.settings.key),
                server=str(self.address),
                reason=reason,
                repeated=silent,
            )


class Feeder:
    """Keeps a link for one lane, as long as there is something to send."""

    def __init__(self, mirror: Mirror, lane: Lane, shard: Shard) -> None:
        self.mirror = mirror
        self.lane = lane
        self.shard = shard
        self.link: MirrorLink | None = None
        self.failures = 0
        self._opening: asyncio.Task[None] | None = None
        self._retry: asyncio.TimerHandle | None = None

    def feed(self) -> None:
        """Send what waits, if the link is free; open one if there is none."""
        if self.mirror.is_closed or self._opening is not None or self._retry is not None:
            return
        if self.link is not None:
            self.link.send(self.lane.next())
        elif self.lane.waiting:
            self._opening = spawn(self._open(), "open a link to a mirror")

    async def _open(self) -> None:
        try:
            opened = await self._opened()
        except OpenFailed as error:
            self._opening = None
            self._failed(error.message)
            return
        self._opening = None
        if self.mirror.is_closed:
            opened.sock.close()
            return
        self.failures = 0
        self.link = MirrorLink(opened, self)
        self.lane.linked()
        self.link.begin(opened.leftover)
        self.feed()

    async def _opened(self) -> OpenedServer:
        mirror, house = self.mirror, self.mirror.mirrors.house
        settings, options, shard = mirror.settings, mirror.options, self.shard
        cluster, tls = house.topology.clusters.get(shard.cluster), house.tls.outgoing.get(shard.cluster)
        if cluster is None or tls is None:
            raise OpenFailed("the cluster was removed")
        login = settings.login
        return await open_server(
            mirror.address,
            tls=tls,
            user=login.user,
            database=options.databases.get(str(shard.number)) or options.database or shard.database,
            password=login.password.reveal() if login.password else mirror.account.scram_keys,
            parameters=for_servers(settings.parameters),
            timeout_s=cluster.connect_timeout_s,
            loop=mirror.mirrors.loop,
            tcp=house.topology.node.tcp,
        )

    def lost(self, reason: str) -> None:
        self.link = None
        self.lane.broken()
        if not self.mirror.is_closed:
            self._failed(reason)

    def _failed(self, reason: str) -> None:
        self.failures += 1
        self.mirror.recorder.last_error = reason
        self.mirror.warn(reason)
        self._retry = self.mirror.mirrors.loop.call_later(backoff_s(self.failures), self._again)

    def _again(self) -> None:
        self._retry = None
        self.feed()

    def close(self) -> None:
        if self._retry is not None:
            self._retry.cancel()
        if self.link is not None:
            self.link.put_bytes(messages.terminate())
            self.link.flush()
            self.link.close()
            self.link = None


class MirrorLink(Link):
    """One connection to a mirror. It reads answers only to know when they are over."""

    def __init__(self, opened: OpenedServer, feeder: Feeder) -> None:
        mirrors = feeder.mirror.mirrors
        super().__init__(opened.sock, mirrors.loop, mirrors.house.scratch)
        self.tls = opened.tls
        self.feeder = feeder

    def begin(self, leftover: bytes) -> None:
        if leftover:
            self.take(bytearray(leftover), 0, len(leftover))
        self.start()

    def send(self, data: bytes) -> None:
        if data:
            self.put_bytes(data)
            self.flush()

    def consume(self, buffer: bytearray, start: int, end: int) -> int:
        position = start
        while position < end and not self.closed:
            if self.remaining > 0:
                count = min(self.remaining, end - position)
                self.remaining -= count
                position += count
                continue
            if end - position < 5:
                break
            kind = buffer[position]
            length = int.from_bytes(buffer[position + 1 : position + 5], "big")
            stop = position + 1 + length
            if length < 4 or length > _LENGTH_MAX:
                self.lost("the mirror sent an impossible length")
                return end
            if kind in (_COPY_IN, _COPY_BOTH):
                # Where it came from there was no COPY; the data are not here.
                self.lost("the mirror asks for COPY data")
                return end
            if stop > end:
                if kind not in (_ERROR, _READY) or length > ERROR_BYTES_MAX:
                    self.remaining = stop - position
                    continue
                break
            if kind == _ERROR:
                fields = messages.fields_of_error(bytes(buffer[position + 5 : stop]))
                self.feeder.lane.error(fields.get("C", ""))
            elif kind == _READY:
                self.send(self.feeder.lane.ready(buffer[position + 5]))
            position = stop
        return position

    def lost(self, reason: str) -> None:
        if not self.closed:
            self.close()
            self.feeder.lost(reason)
