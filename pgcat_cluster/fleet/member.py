"""One node's life in the fleet: it joins, follows the store, lets the machines decide and does what they ask."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterable, Mapping
from contextlib import suppress

from msgspec import structs

from pgcat_cluster.agreement import jury, membership, overrides
from pgcat_cluster.agreement.activation import Steward
from pgcat_cluster.agreement.bans import Bench, Decide, Nudge, ProbeNow, Publish, Withdraw
from pgcat_cluster.agreement.bundles import Judge, hash_of
from pgcat_cluster.agreement.cancels import Neighbour, PrefixTable
from pgcat_cluster.agreement.cases import Court, Electorate, bans_of, departed, electorate
from pgcat_cluster.agreement.coordinator import Election
from pgcat_cluster.agreement.documents import (
    Accepted,
    Ban,
    Live,
    ServerOverride,
    encode,
)
from pgcat_cluster.agreement.effective import Effective, LocalOpinion, effective, ramp
from pgcat_cluster.agreement.effects import Alarm, Commit, Effect, Fetch, Preflight, Run, Say
from pgcat_cluster.agreement.jury import reaches
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.pipeline import Follower
from pgcat_cluster.agreement.transactions import Batch, Outcome, Range, Transaction
from pgcat_cluster.agreement.witnesses import witnesses
from pgcat_cluster.errors import ConfigFault
from pgcat_cluster.fleet.announcing import announce
from pgcat_cluster.fleet.beliefs import belief, look
from pgcat_cluster.fleet.following import Following
from pgcat_cluster.fleet.house import FleetHouse
from pgcat_cluster.fleet.keeping import Keeping
from pgcat_cluster.fleet.membership import Membership
from pgcat_cluster.fleet.state import Known, State
from pgcat_cluster.fleet.store import Store, StoreFault
from pgcat_cluster.fleet.timing import TimedStore
from pgcat_cluster.fleet.writing import Writing
from pgcat_cluster.health.cluster import Duty
from pgcat_cluster.health.doubt import AskPeers, LocalScore, Suspicion
from pgcat_cluster.net.clock import monotonic_s
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.telemetry.logs import get_logger, lifecycle
from pgcat_cluster.topology.model import PoolKey
from pgcat_cluster.topology.reading import InvalidSettings
from pgcat_cluster.topology.settings import Fleet, Limits, Settings

_TICK_S = 0.4
_LEAST_S = 0.001
_WATCHFUL_S = 0.25  # while somebody is banned, or something must end
_RAMP_STEP_S = 1.0
_HELD_S = 0.05  # a look that was asked for has ended, if the server is well
_STORE_LOOK_S = 10.0
_CLEAN_S = 1.0
_FETCHED_MAX = 100
_FAILED_S = 1.0
_REASON_S = 2.0
_REMEDY = "pgcat-cluster fleet accept-store"


class Member:
    """Owns the memory of the store, both its leases and all machines; `house` is the node it speaks for.

    `run` lasts until it is cancelled. Nothing in it stops traffic: what the store does not answer stays as it was.
    """

    def __init__(
        self,
        store: Store,
        house: FleetHouse,
        *,
        keys: Keys,
        node: str,
        live: Live,
        fleet_id: str,
        chance: random.Random,
        state: State | None = None,
        table: PrefixTable | None = None,
        now_s: Callable[[], float] = monotonic_s,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self.node = node
        self.memory = Memory()
        self.settings: Settings | None = None
        self.overrides = overrides.Overrides()
        self._log = get_logger()
        self._score = LocalScore(now_s())
        store = TimedStore(store, lambda took_s: self._score.store_answered(took_s, now_s()), now_s)
        self._store = store
        self._house = house
        self._keys = keys
        self._chance = chance
        self._state = state
        self._table = table
        self._now_s = now_s
        self._pause = pause
        self._fleet_id = fleet_id
        self._judge = Judge()
        self._appoint()
        self._suspicion = Suspicion(Fleet().health.self_suspect)
        self._writing = Writing(store, Limits(), row=self.memory.row, done=self.stir, now_s=now_s)
        self._following = self._follow()
        self._overseeing: tuple[int, Following, asyncio.Task[None]] | None = None
        self.membership = Membership(
            store,
            keys=keys,
            node=node,
            live=live,
            memory=self.memory,
            state=state,
            table=table,
            chance=chance,
            said=lambda: self._writing.said,
            joined=self._joined,
            lead=house.lead,
            believed=self._believed,
            changed=self.stir,
            now_s=now_s,
            pause=pause,
        )
        self._writing.lease_is_gone = self.membership.lose
        self._is_telling = False
        self._why_not, self._why_not_at = "", 0.0
        self._is_estranged = False
        # What memory says, as it was read last.
        self._is_news = True
        self._is_taking_up = False
        self._electorate = Electorate(0, {}, (), frozenset())
        self._override_rev = 0
        self._bans: dict[str, dict[str, list[Ban]]] = {}
        self._heeded: dict[str, tuple[object, ...]] = {}
        self._assigned: dict[str, tuple[object, ...]] = {}
        self._ramping: dict[str, float] = {}
        self._undrained: dict[str, int] = {}
        # Work under way.
        self._next_run: Run | None = None
        self._running: asyncio.Task[None] | None = None
        self._trying: asyncio.Task[None] | None = None
        self._texts: Mapping[str, bytes] = {}
        self._keeping = Keeping(state, pause=pause, done=self.stir)
        self._clean_at = 0.0
        self._stirred = asyncio.Event()
        self._last_tick_s = now_s()

    def _appoint(self) -> None:
        """Machines that know nothing yet of the store they will see."""
        self.follower = Follower(self._keys, self.node, self._judge)
        self._steward = Steward(self._keys, self.node, self._fleet_id, self._judge)
        self._election = Election(self._keys, self.node)
        self._benches: dict[str, Bench] = {}

    def _follow(
        self, cluster_id: int | None = None, revision: int = 0, stranger: int | None = None
    ) -> Following:
        keys = self._keys
        return Following(
            self._store,
            (
                *(keys.decided, keys.override, keys.config_prefix, keys.live_prefix, keys.verdict_prefix),
                keys.prefix_prefix,
            ),
            self.memory,
            chance=self._chance,
            changed=self._heard,
            audited=(keys.decided, keys.override, keys.config_prefix),
            consent=keys.store,
            accepted=self._begin_again,
            cluster_id=cluster_id,
            revision=revision,
            stranger=stranger,
            now_s=self._now_s,
            pause=self._pause,
        )

    # -- what the node asks

    @property
    def waits_for(self) -> str:
        """Why there is nothing to serve by yet; empty once a generation runs."""
        if self.follower.running is not None:
            return ""
        following = self._following.state()
        if following.estranged:
            return f"the store is not believed: {following.fault}"
        if following.fault:
            return f"the store can not be used: {following.fault}"
        if self.membership.trouble:
            return self.membership.trouble
        if not self.membership.has_joined:
            return "the node has not joined the fleet yet"
        if unusable := self.follower.ack.unusable:
            first = unusable[0]
            return f"the accepted documents can not be used here: {first.key}: {first.path}: {first.msg}"
        if self.memory.row(self._keys.accepted) is None:
            nack = self.follower.ack.nack
            why = f": {nack[0].key}: {nack[0].path}: {nack[0].msg}" if nack else ""
            return f"the fleet has accepted no documents yet{why}"
        return "the accepted documents are being taken in"

    def agreed(self, cluster: str, primary: str | None, own: Mapping[str, ServerOverride]) -> Effective:
        """What each server of a cluster may be used for: by what is agreed, and by what this node sees.

        `own` is what operators said to this node alone; it counts before what they said to all.
        """
        topology, health = self._house.topology, self._house.healths[cluster]
        now = self._now_s()
        opinions = {
            server: LocalOpinion(
                reads=standing.reads,
                writes=standing.writes,
                wrong=server in health.roles.wrong,
                reason=standing.reason,
            )
            for server, standing in health.standings().items()
        }
        bans = self._bans.get(cluster, {})
        ramps = {
            server: ramp(self._ramping.get(ban.id, now), now, topology.fleet.bans.ramp_s)
            for server, own in bans.items()
            for ban in own
            if ban.state == "probation" and reaches(ban.scope, self.membership.live.zone)
        }
        return effective(
            topology.clusters[cluster],
            bans=bans,
            primary=primary,
            overrides={**self.overrides.of_cluster(cluster), **own},
            zone=self.membership.live.zone,
            opinions=opinions,
            ramps=ramps,
        )

    @property
    def applied(self) -> dict[str, int]:
        """The newest complete revision of each prefix."""
        return self._following.state().applied

    def stir(self) -> None:
        """Something is new: the machines look at it."""
        self._stirred.set()

    def drain(self) -> None:
        """Take no part in votes any more; what is agreed is obeyed to the end."""
        self.membership.live = structs.replace(self.membership.live, state="draining")
        self.stir()

    def judge_again(self) -> None:
        """What lies outside the documents, a secret say, may be another."""
        self.follower.judge_again()
        self.stir()

    async def leave(self) -> None:
        """After `run` has ended: give back what is ours, as far as the store answers."""
        overseeing = self._overseeing[2] if self._overseeing is not None else None
        under_way = [task for task in (self._trying, self._running, overseeing) if task is not None]
        for task in under_way:
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await self._writing.stop()
        await self._keeping.end(self._known())
        await self.membership.leave()
        await self._store.close()

    # -- life

    async def run(self) -> None:
        """Take part until cancelled."""
        await self._recall()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._following.run(), name="following")
            group.create_task(self._stay(), name="membership")
            group.create_task(self._keep_prefix(), name="prefix")
            group.create_task(self._attend_always(), name="machines")
            group.create_task(self._look_after_store(), name="store")

    async def _recall(self) -> None:
        """Begin with what the life before went by, if that was kept."""
        known = self._state.known(self._keys.fleet) if self._state is not None else None
        if known is None:
            return
        self._following = self._follow(known.cluster_id, known.revision, known.stranger)
        for prefix in (self._keys.decided, self._keys.override, self._keys.prefix_prefix):
            rows = [row for row in known.rows if row.key.startswith(prefix)]
            events = self.memory.replace(prefix, rows, known.revision)
            self._heard(Batch(revision=known.revision, events=events))
        self._read_memory(self._now_s())
        judged = self._judge.judge(known.texts, {name: hash_of(text) for name, text in known.texts.items()})
        if judged.settings is None:
            self._log.error("what was kept can not be used", problems=[str(one) for one in judged.wrong])
            return
        try:
            await self._take_up(known.accepted, judged.settings, known.texts)
        except InvalidSettings as invalid:
            self._log.error("what was kept can not be used", problems="; ".join(invalid.lines()))
            return
        except Exception:
            self._log.exception("what was kept can not be used")
            return
        self.follower.start(known.accepted, judged.settings)
        self._log.warning("begins with what was kept", generation=known.accepted.gen, revision=known.revision)

    def _begin_again(self) -> None:
        """An operator accepted another store. What runs goes on; all else is learned anew."""
        running = self.follower.running
        self._appoint()
        if running is not None:
            self.follower.start(running.accepted, running.settings)
        self._override_rev = 0
        self._oversee(None)
        self._keeping.keep_anew()
        self.membership.lose()
        lifecycle(self._log, "fleet.accepted", level="warning", what="the store as it is now")

    async def _believed(self) -> None:
        await self._following.believed.wait()

    async def _stay(self) -> None:
        await self._following.listed.wait()
        await self.membership.stay()

    async def _keep_prefix(self) -> None:
        await self._following.listed.wait()
        await self.membership.keep_prefix()

    def _joined(self, said: Mapping[str, bytes]) -> None:
        self._writing.joined(said)
        self.stir()

    async def _look_after_store(self) -> None:
        """Write nothing while the store has no room for it: others may need the rest more."""
        while True:
            with suppress(StoreFault):
                why_not = (await self._store.status()).why_read_only()
                if why_not != self._writing.why_not:
                    self._writing.why_not = why_not
                    self._log.warning(
                        "the store is only read" if why_not else "the store is written again", reason=why_not
                    )
                    self.stir()
            await self._pause(_STORE_LOOK_S)

    # -- the machines

    async def _attend_always(self) -> None:
        while True:
            self._stirred.clear()
            now = self._now_s()
            try:
                due_s = self._attend(now)
            except Exception:
                # One value that nobody foresaw must not end the node's part in everything else.
                self._log.exception("the machines failed")
                due_s = now + _FAILED_S
                await self._pause(_FAILED_S)
            due = spawn(self._wait(max(_LEAST_S, due_s - self._now_s())), "machines are due")
            stirred = spawn(self._stirred.wait(), "machines are stirred")
            try:
                await asyncio.wait({due, stirred}, return_when=asyncio.FIRST_COMPLETED)
            finally:
                due.cancel()
                stirred.cancel()

    async def _wait(self, duration_s: float) -> None:
        await self._pause(duration_s)

    def _attend(self, now: float) -> float:
        """Let every machine see what is new; when to come again."""
        self._tick(now)
        if not self._following.believed.is_set():
            self.membership.lose()
        lease = self._election.lease = self._writing.lease = self.membership.lease
        if (self._is_news or self._ramping) and not self._is_taking_up:
            self._read_memory(now)
        dues: list[float | None] = [now + _TICK_S]
        if self.membership.has_joined or self.follower.running is not None:
            self._perform(self.follower.step(self.memory, now))
            dues.append(self.follower.due_s)
        if self._following.listed.is_set():
            dues += self._coordinate(now)
            if not self._is_taking_up:
                dues += self._sit(now)
            self._tell_state(lease)
        if not self._is_taking_up:
            self._apply_pools()
        self._writing.flush(now)
        dues.append(self._writing.due_s)
        if self._bans or self._undrained:
            dues.append(now + _WATCHFUL_S)
        self._keeping.keep(self._known())
        self._tell_why_not(now)
        return min(due for due in dues if due is not None)

    def _tick(self, now: float) -> None:
        late_s = now - self._last_tick_s - _TICK_S
        self._score.loop_was_late(late_s, now)
        self._last_tick_s = now
        clusters, healths = self._house.topology.clusters, self._house.healths.values()
        for name, health in self._house.healths.items():
            for server in health.take_late():
                if name in clusters and server in clusters[name].servers:
                    self._score.host_was_late(clusters[name].servers[server].key.address.host, now)
        for health in healths:
            health.local_score = self._score.value(now)
        is_tilted = any(health.is_tilted(now) for health in healths)
        self._election.tilted_since = (self._election.tilted_since or now) if is_tilted else None

    def _coordinate(self, now: float) -> list[float | None]:
        """The office, if this node holds it or may."""
        self._perform(self._election.step(self.memory, now))
        # A store that is not believed has given nobody an office.
        term = self._election.term(self.memory) if self._following.believed.is_set() else None
        self._oversee(term)
        overseen = self._overseeing
        if term is None or (overseen is not None and overseen[1].listed.is_set()):
            self._perform(self._steward.step(self.memory, term, self.follower.running, now))
        if term is not None and now >= self._clean_at and self.follower.running is not None:
            servers = {name: tuple(one.servers) for name, one in self._house.topology.clusters.items()}
            accepted = self.follower.running.accepted
            row = self.memory.row(self._keys.accepted)
            is_current = row is not None and row.value == encode(accepted)
            transaction = departed(self.memory, self._keys, servers, term) if is_current else None
            if transaction is not None:
                self._clean_at = now + _CLEAN_S
                self._writing.commit(transaction, lambda _outcome: None)
        return [self._election.due_s, self._steward.due_s]

    def _oversee(self, term: int | None) -> None:
        """What only the coordinator must know is followed for a term."""
        if self._overseeing is not None and self._overseeing[0] != term:
            self._overseeing[2].cancel()
            self._overseeing = None
        if term is not None and self._overseeing is None:
            following = Following(
                self._store,
                (self._keys.ack_prefix, self._keys.seat_prefix),
                self.memory,
                chance=self._chance,
                changed=lambda _batch: self.stir(),
                elder=self._following,
                now_s=self._now_s,
                pause=self._pause,
            )
            self._overseeing = (term, following, spawn(following.run(), "follow acks and seats"))

    def _sit(self, now: float) -> list[float | None]:
        """This node's part in the bans of every cluster."""
        if self.settings is None:
            return []
        topology, healths = self._house.topology, self._house.healths
        clusters = {name: one for name, one in topology.clusters.items() if name in healths}
        looks = {
            (name, server): look(one.key.address.host, healths[name], server)
            for name, cluster in clusters.items()
            for server, one in cluster.servers.items()
        }
        for question in self._suspicion.look(looks, now):
            if isinstance(question, AskPeers):
                spawn(self._ask(question), "ask other nodes")
                continue
            for name, server in question.servers:
                self._house.probe(name, server)
        spared = self._suspicion.spared
        self.follower.suspects_itself(bool(spared))
        dues: list[float | None] = [now + _HELD_S] if self._suspicion.is_holding else []
        readers: set[str] = set().union(
            *(pool.clusters for pool in topology.pools.values() if pool.reads_on_primary != "never")
        )
        for name, cluster in clusters.items():
            health = healths[name]
            if health.spare(frozenset(server for own, server in spared if own == name)):
                self._house.heed(name)
            bench = self._benches.setdefault(name, Bench(self.node, self.membership.live.zone, self._keys))
            court = Court(
                keys=self._keys,
                cluster=cluster,
                fleet=topology.fleet,
                generation=self.follower.running.accepted.gen if self.follower.running else 0,
                primary=health.roles.primary,
                # Whether reads may go to the primary when no replica is left.
                primary_reads=cluster.read.on_all_bad != "fail" and name in readers,
                memory=self.memory,
                overrides=self.overrides,
            )
            beliefs = {
                server: belief(name, server, health, self._suspicion, now) for server in cluster.servers
            }
            for effect in bench.step(
                court, self._electorate, beliefs, is_tilted=health.is_tilted(now), now=now
            ):
                self._perform_for(name, bench, effect)
            dues.append(bench.due_s)
        for gone in self._benches.keys() - clusters.keys():
            del self._benches[gone]
        return dues

    def _tell_state(self, lease: int) -> None:
        """`live` says what this node is."""
        if self.follower.running is not None and self.membership.live.state == "joining":
            self.membership.live = structs.replace(self.membership.live, state="serving")
        row = self.memory.row(self._keys.live(self.node))
        if not lease or self._is_telling:
            return
        if row is None:
            if self.memory.applied(self._keys.live_prefix) >= self.membership.joined_rev:
                self.membership.lose()
            return
        if row.lease == lease and row.value != encode(self.membership.live):
            self._is_telling = True
            self._writing.commit(membership.become(row, self.membership.live), lambda _outcome: self._told())

    def _told(self) -> None:
        self._is_telling = False

    def _tell_why_not(self, now: float) -> None:
        is_estranged = self._following.state().estranged
        if is_estranged and not self._is_estranged:
            fault = self._following.state().fault
            text = f"{fault}; what was known stays in force until an operator says: {_REMEDY}"
            lifecycle(self._log, "fleet.alarm", level="error", text=text)
        self._is_estranged = is_estranged
        why = self.waits_for
        if why != self._why_not and now >= self._why_not_at:
            self._why_not, self._why_not_at = why, now + _REASON_S
            if why:
                lifecycle(self._log, "fleet.waiting", level="warning", reason=why)

    # -- memory

    def _heard(self, batch: Batch) -> None:
        if any(event.key.startswith(self._keys.override) for event in batch.events):
            self._override_rev = batch.revision
        if self._table is not None:
            self._table.apply(self._keys, batch.events)
        if batch.events:
            self._is_news = True
            self.stir()

    def _read_memory(self, now: float) -> None:
        """Everything that follows from what the store says, where that is new."""
        self._is_news = False
        memory, keys, topology = self.memory, self._keys, self._house.topology
        self._electorate = electorate(memory.under(keys.live_prefix), keys)
        before = self.overrides
        self.overrides = overrides.read(
            memory.under(keys.override),
            keys,
            servers={(name, server) for name, one in topology.clusters.items() for server in one.servers},
            pools=self.settings.pools if self.settings is not None else (),
        )
        for doubt in set(self.overrides.doubts) - set(before.doubts) if self.settings else ():
            self._log.warning("an override does nothing", key=doubt.key, reason=doubt.message)
        self._house.reconnect(self._pools(self.overrides.reconnected_since(before)))
        bans: dict[str, dict[str, list[Ban]]] = {}
        for name in topology.clusters:
            for held in bans_of(memory.under(keys.cluster_bans(name)), keys):
                bans.setdefault(name, {}).setdefault(held.server, []).append(held.ban)
        announce(self._log, self._bans, bans)
        self._bans = bans
        ramping = {
            ban.id for by in bans.values() for own in by.values() for ban in own if ban.state == "probation"
        }
        self._ramping = {ban: self._ramping.get(ban, now) for ban in ramping}
        for name, cluster in topology.clusters.items():
            own_overrides = self.overrides.of_cluster(name)
            step = (
                int(now / _RAMP_STEP_S)
                if any(ban.id in ramping for own in bans.get(name, {}).values() for ban in own)
                else 0
            )
            known = (self._house.healths.get(name), bans.get(name), own_overrides, cluster, step)
            if self._heeded.get(name) != known:
                self._heeded[name] = known
                self._house.heed(name)
            self._assign(name)
        for of in (self._heeded, self._assigned):
            for gone in of.keys() - topology.clusters.keys():
                del of[gone]

    def _assign(self, cluster: str) -> None:
        """How this node probes is a matter of the fleet: who sits on which jury, and what is banned."""
        health = self._house.healths.get(cluster)
        if health is None:
            return
        topology, bans = self._house.topology, self._bans.get(cluster, {})
        ignored = {
            server
            for server, override in self.overrides.of_cluster(cluster).items()
            if override.action == "ignore"
        }
        known = (
            health,
            topology.fleet.jury,
            self._electorate.serving,
            len(self._electorate.rows),
            bans,
            ignored,
        )
        if self._assigned.get(cluster) == known:
            return
        self._assigned[cluster] = known
        for server in topology.clusters[cluster].servers:
            seat = jury.seat(f"{cluster}/{server}", self._electorate.serving, topology.fleet.jury)
            own = [ban for ban in bans.get(server, ()) if reaches(ban.scope, self.membership.live.zone)]
            duty = Duty(
                # Alone, or not among those who serve yet: it probes for itself as if there were no fleet.
                is_juror=seat.rank(self.node) is not None or not self._electorate.serving,
                ignored=server in ignored,
                nodes=len(self._electorate.rows),
                banned=any(ban.state == "banned" for ban in own),
                strikes=max((ban.strikes for ban in own), default=0),
            )
            if health.assign(server, duty):
                self._house.probe(cluster, server)

    def _pools(self, labels: Iterable[str]) -> frozenset[PoolKey]:
        """The pools of some documents."""
        settings = self.settings
        if settings is None:
            return frozenset()
        return frozenset(
            PoolKey(document.database or label, settings.users[user].user or user)
            for label in labels
            if (document := settings.pools.get(label)) is not None
            for user in document.users
        )

    def _apply_pools(self) -> None:
        """Pauses, and what has come of them."""
        paused_at = self.overrides.paused_at
        self._house.pause(self._pools(paused_at))
        if self.settings is not None:
            drained = {
                label: revision
                for label, revision in paused_at.items()
                if label in self.settings.pools and self._house.is_drained(self._pools([label]))
            }
            self._undrained = {label: at for label, at in paused_at.items() if label not in drained}
            self.follower.drained(drained)
            self.follower.applied_overrides(self._override_rev)

    # -- effects

    def _perform(self, effects: Iterable[Effect]) -> None:
        for effect in effects:
            match effect:
                case Say(key=key, value=value):
                    self._writing.say(key, value)
                case Commit():
                    self._commit(effect)
                case Preflight():
                    if self._trying is not None:
                        self._trying.cancel()
                    self._trying = spawn(self._preflight(effect), "preflight")
                case Fetch():
                    spawn(self._fetch(effect), "fetch documents")
                case Run():
                    self._next_run = effect
                    if self._running is None or self._running.done():
                        self._running = spawn(self._run_newest(), "take in a generation")
                case Alarm(text=text):
                    lifecycle(self._log, "fleet.alarm", level="error", text=text)

    def _commit(self, effect: Commit) -> None:
        def done(outcome: Outcome | None) -> None:
            self._steward.done(effect, outcome, self._now_s())
            if outcome is not None and outcome.succeeded and effect.purpose in ("elect", "activate"):
                lifecycle(self._log, "fleet.decided", what=effect.purpose, revision=outcome.revision)
            self.stir()

        self._writing.commit(effect.transaction, done)

    async def _preflight(self, effect: Preflight) -> None:
        hard, soft = await self._house.preflight(effect)
        self.follower.preflighted(effect.bundle, hard, soft)
        if hard:
            problems = [f"{one.name}: {one.path}: {one.message}" for one in hard]
            lifecycle(self._log, "config.rejected", level="warning", problems="; ".join(problems))
        self.stir()

    async def _fetch(self, effect: Fetch) -> None:
        texts: dict[str, bytes] = {}
        for start in range(0, len(effect.hashes), _FETCHED_MAX):
            hashes = effect.hashes[start : start + _FETCHED_MAX]
            question = tuple(Range(key=self._keys.doc(sha)) for sha in hashes)
            try:
                outcome = await self._store.txn(Transaction(then=question))
            except StoreFault as fault:
                # The machine asks again.
                self._log.warning("accepted documents can not be read", reason=str(fault))
                return
            for answer in outcome.answers:
                rows = answer.rows if answer is not None else ()
                texts |= {row.key.removeprefix(self._keys.doc_prefix): row.value for row in rows}
        self.follower.fetched(texts)
        self.stir()

    async def _run_newest(self) -> None:
        while (run := self._next_run) is not None:
            self._next_run = None
            try:
                await self._take_up(run.accepted, run.settings, run.texts)
            except InvalidSettings as invalid:
                self.follower.unusable(run.accepted, invalid.problems)
                lifecycle(
                    self._log,
                    "config.rejected",
                    level="error",
                    generation=run.accepted.gen,
                    problems="; ".join(invalid.lines()),
                )
            except ConfigFault as fault:
                self.follower.failed(run.accepted, fault.message)
            except Exception as error:
                self._log.exception("a generation can not be taken in")
                why = f"{type(error).__name__}: a fault of this node; its log says more"
                self.follower.failed(run.accepted, why)
            else:
                self.follower.ran(run.accepted, run.settings)
            self.stir()

    async def _take_up(self, accepted: Accepted, settings: Settings, texts: Mapping[str, bytes]) -> None:
        """The node goes by this generation. Raises InvalidSettings or ConfigFault, with all as it was."""
        self._is_taking_up = True
        try:
            await self._house.run(settings)
        finally:
            self._is_taking_up = False
        self.settings = settings
        self._texts = texts
        self._writing.limit(settings.fleet.limits)
        self.membership.terms = settings.fleet
        if settings.fleet.health.self_suspect != self._suspicion_share:
            self._suspicion = Suspicion(settings.fleet.health.self_suspect)
            self._suspicion_share = settings.fleet.health.self_suspect
        self._read_memory(self._now_s())

    _suspicion_share = Fleet().health.self_suspect

    def _perform_for(self, cluster: str, bench: Bench, effect: Effect) -> None:
        match effect:
            case Publish(key=key, value=value):
                self._writing.publish(key, value)
            case Withdraw(key=key):
                self._writing.publish(key, None)
            case ProbeNow(server=server):
                self._house.probe(cluster, server)
            case Nudge(nodes=nodes, server=server, evidence=evidence):
                for neighbour in self.neighbours():
                    if neighbour.node in nodes:
                        self._house.nudge(neighbour, cluster, server, evidence)
            case Decide():
                self._writing.decide(effect, lambda outcome: self._decided(cluster, bench, effect, outcome))

    async def _ask(self, question: AskPeers) -> None:
        """Let others look at what went silent for us; without an answer nothing of it is told."""
        asked = witnesses(self.neighbours(), self.membership.live.zone, self._chance.getrandbits(16))
        confirmed = await self._house.ask_others(asked, question.servers)
        self._suspicion.answered(question.question, confirmed)
        self.stir()

    def neighbours(self) -> tuple[Neighbour, ...]:
        """The other nodes that can be asked something."""
        found = []
        for node, row in self._electorate.rows.items():
            live = membership.live_of(row.value)
            if live is not None and live.peer and node != self.node:
                found.append(Neighbour(node=node, peer=live.peer, zone=live.zone))
        return tuple(found)

    def _decided(self, cluster: str, bench: Bench, effect: Decide, outcome: Outcome | None) -> None:
        result = "unknown" if outcome is None else "done" if outcome.succeeded else "refused"
        lifecycle(
            self._log, "fleet.decided", what=effect.what, server=f"{cluster}/{effect.server}", result=result
        )
        bench.decided(outcome, self._now_s())
        self.stir()

    # -- what is kept

    def _known(self) -> Known | None:
        running = self.follower.running
        if running is None:
            return None
        rows = (
            *((row,) if (row := self.memory.row(self._keys.accepted)) is not None else ()),
            *self.memory.under(self._keys.ban_prefix),
            *self.memory.under(self._keys.strikes_prefix),
            *self.memory.under(self._keys.override),
            *self.memory.under(self._keys.prefix_prefix),
        )
        return Known(
            fleet=self._keys.fleet,
            cluster_id=self._following.cluster_id,
            revision=self.memory.revision,
            accepted=running.accepted,
            texts=self._texts,
            # What is not ASCII is no key of ours, and could not be written down.
            rows=tuple(row for row in rows if row.key.isascii()),
            stranger=self._following.stranger,
        )
