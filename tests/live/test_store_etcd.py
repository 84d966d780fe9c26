"""What becomes of the store's port when members of etcd die, freeze, forget, refuse, or ask who we are."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest
import trustme

from pgcat_cluster.agreement.transactions import Batch, Outcome, Put, Transaction, absent
from pgcat_cluster.demo.etcd import Etcd, EtcdTls
from pgcat_cluster.fleet import versions
from pgcat_cluster.fleet.etcd import EtcdStore, StoreTls
from pgcat_cluster.fleet.store import Denied, Refused, Store, StoreFault, Unavailable, Unknown
from pgcat_cluster.net.clock import monotonic_s
from tests.support.etcd import (
    EtcdMaker,
    StoreMaker,
    add_role,
    admit_users,
    eventually,
    forget_tokens,
    raise_alarm,
)

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

# Less patient than a node, so that silence is noticed soon.
HASTY = {"call_s": 1.0, "confirm_s": 1.0, "quiet_s": 0.5, "silent_s": 1.0}


def put(key: str, value: bytes = b"") -> Transaction:
    return Transaction(then=(Put(key=key, value=value),))


async def next_batch(store: Store, prefix: str, from_revision: int) -> Batch:
    """The first batch with events from a revision on, on whichever member, however often a watch ends."""
    async with asyncio.timeout(30.0):
        while True:
            watch = store.watch(prefix, from_revision)
            try:
                async for batch in watch:
                    if batch.events:
                        return batch
            except Unavailable:
                await asyncio.sleep(0)
            finally:
                await watch.close()


async def until_answered(store: Store) -> int:
    """The store's revision, as soon as it answers a read again."""

    async def read() -> int:
        try:
            return (await store.snapshot(["/"]))[0]
        except Unavailable:
            return 0

    return int(await eventually(read, 30.0))


async def written(store: Store, key: str) -> Outcome:
    """Write a key once, however often it takes."""
    guarded = Transaction(compares=(absent(key),), then=(Put(key=key, value=b""),))

    async def write() -> Outcome | None:
        try:
            return await store.txn(guarded)
        except (Unavailable, Unknown):
            return None

    outcome: Outcome = await eventually(write, 30.0)
    return outcome


async def fault_of(watch: Any) -> StoreFault:
    """How a watch ends."""
    try:
        async with asyncio.timeout(20.0):
            async for _batch in watch:
                pass
    except StoreFault as fault:
        return fault
    raise AssertionError("a watch never ends by itself")


async def test_a_killed_member_is_noticed_at_once(make_etcd: EtcdMaker, open_store: StoreMaker) -> None:
    etcd = make_etcd()
    store = open_store(etcd)
    await store.txn(put("/k"))
    watch = store.watch("/", 2)
    await anext(watch)
    lease = await store.grant(60)
    ended = asyncio.gather(fault_of(watch))
    etcd.members[0].kill()
    assert isinstance((await ended)[0], Unavailable)
    # Nothing was sent, so a write is known not to be done.
    with pytest.raises(Unavailable):
        await store.txn(put("/k"))
    assert not store.statistics().connected
    etcd.restart(etcd.members[0])
    assert await until_answered(store) == 2
    assert await store.refresh(lease) == 60
    assert (await next_batch(store, "/", 2)).revision == 2
    assert store.statistics().connected


async def test_a_frozen_member_is_noticed(make_etcd: EtcdMaker, open_store: StoreMaker) -> None:
    etcd = make_etcd()
    store = open_store(etcd, **HASTY)
    await store.txn(put("/k"))
    watch = store.watch("/", 2)
    await anext(watch)
    etcd.members[0].freeze()
    ended = asyncio.gather(fault_of(watch))
    with pytest.raises(Unknown):
        await store.txn(put("/late"))
    with pytest.raises(Unavailable):
        await store.snapshot(["/"])
    # It is asked who it is before the next write is sent, so that one is surely not done.
    with pytest.raises(Unavailable):
        await store.txn(put("/later"))
    assert isinstance((await ended)[0], Unavailable)
    assert isinstance(await fault_of(store.watch("/", 2)), Unavailable)
    etcd.members[0].resume()
    await until_answered(store)
    keys = [row.key for row in (await store.snapshot(["/"]))[1]]
    assert keys in (["/k"], ["/k", "/late"])


async def test_a_quiet_watch_lives_on(make_etcd: EtcdMaker, open_store: StoreMaker) -> None:
    etcd = make_etcd()
    store = open_store(etcd, quiet_s=0.05, silent_s=20.0)
    revision = (await store.txn(put("/other"))).revision
    watch = store.watch("/p/", 2)
    reading = asyncio.gather(next_of(watch))
    await eventually_watched(store)
    answered: set[float] = set()

    async def heard_again_and_again() -> bool:
        age_s = store.statistics().answer_age_s
        assert age_s is not None
        answered.add(round(monotonic_s() - age_s, 2))
        return len(answered) > 5

    await eventually(heard_again_and_again)
    assert store.statistics().applied["/p/"] == (
        revision if versions.tells_true_progress(etcd.binary.version) else 1
    )
    await store.txn(put("/p/k"))
    assert (await reading)[0].revision == revision + 1
    await watch.close()


async def next_of(watch: Any) -> Batch:
    async for batch in watch:
        if batch.events:
            return batch
    raise AssertionError("a watch never ends by itself")


@pytest.mark.parametrize("how", ["kill", "freeze"])
async def test_another_member_goes_on(how: str, make_etcd: EtcdMaker, open_store: StoreMaker) -> None:
    etcd = make_etcd(members=3)
    store = open_store(etcd, **HASTY)
    revision = (await written(store, "/k/1")).revision
    waiting = asyncio.gather(next_batch(store, "/k/", revision + 1))
    await eventually_watched(store)
    used = next(member for member in etcd.members if member.endpoint == store.statistics().member)
    getattr(used, how)()
    outcome = await written(store, "/k/2")
    assert (await waiting)[0].revision == revision + 1 == outcome.revision
    assert store.statistics().member != used.endpoint


async def eventually_watched(store: EtcdStore) -> None:
    async def watched() -> bool:
        return bool(store.statistics().applied)

    await eventually(watched)


async def test_a_member_without_quorum_says_so(make_etcd: EtcdMaker, open_store: StoreMaker) -> None:
    etcd = make_etcd(members=3)
    first, *others = etcd.members
    store = open_store(etcd, **HASTY | {"quiet_s": 10.0, "endpoints": (first.endpoint,)})
    revision = (await written(store, "/k")).revision
    watch = store.watch("/", revision)
    await anext(watch)
    for other in others:
        other.kill()
    # It is the member that says it: nothing was quiet for long enough.
    assert "no leader" in str(await fault_of(watch))
    with pytest.raises(Unavailable):
        await store.snapshot(["/"])
    with pytest.raises(Unavailable):
        await store.txn(put("/k"))
    etcd.restart(*others)
    assert await until_answered(store) == revision


async def test_a_closed_watch_is_forgotten_by_the_server(
    make_etcd: EtcdMaker, open_store: StoreMaker
) -> None:
    etcd = make_etcd()
    store = open_store(etcd)
    await store.txn(put("/k"))
    watches = [store.watch("/", 2) for _ in range(3)]
    for watch in watches:
        await anext(watch)
    assert etcd.members[0].number("etcd_debugging_mvcc_watcher_total") == 3
    for watch in watches:
        await watch.close()

    async def forgotten() -> bool:
        return etcd.members[0].number("etcd_debugging_mvcc_watcher_total") == 0

    await eventually(forgotten)


async def test_large_histories_arrive_whole(make_etcd: EtcdMaker, open_store: StoreMaker) -> None:
    store = open_store(make_etcd(), call_s=10.0)
    text = bytes(400_000)
    for number in range(20):
        names = [f"/p/{number}.{part}" for part in range(3)]
        await store.txn(Transaction(then=tuple(Put(key=name, value=text) for name in names)))
    watch = store.watch("/p/", 2)
    told = [await anext(watch) for _ in range(20)]
    assert [batch.revision for batch in told] == list(range(2, 22))
    assert {len(batch.events) for batch in told} == {3}
    assert len((await store.snapshot(["/p/"]))[1]) == 60
    await watch.close()


async def test_a_full_store_says_so(make_etcd: EtcdMaker, open_store: StoreMaker) -> None:
    etcd = make_etcd()
    store = open_store(etcd, quota_bytes=2**31)
    await store.txn(put("/k"))
    await raise_alarm(etcd.endpoints[0])
    assert await fault_kind(store.txn(put("/l"))) is Refused
    status = await store.status()
    assert (status.alarms, status.quota_bytes) == (("NOSPACE",), 2**31)
    assert [row.key for row in (await store.snapshot(["/"]))[1]] == ["/k"]


# -- who we are


async def test_users_see_what_they_may(make_etcd: EtcdMaker, open_store: StoreMaker) -> None:
    etcd = make_etcd()
    await admit_users(etcd.endpoints[0], node="/p/")
    store = open_store(etcd, user="node", password="node")
    assert (await store.txn(put("/p/k"))).revision == 2
    assert await fault_kind(store.snapshot(["/"])) is Denied
    assert await fault_kind(store.txn(put("/q"))) is Denied
    assert isinstance(await fault_of(store.watch("/q/", 1)), Denied)
    watch = store.watch("/p/", 2)
    assert (await anext(watch)).revision == 2
    await watch.close()
    for stranger in ({"user": "node", "password": "wrong"}, {"user": "nobody", "password": "node"}, {}):
        assert await fault_kind(open_store(etcd, **stranger).snapshot(["/p/"])) is Denied
        assert isinstance(await fault_of(open_store(etcd, **stranger).watch("/p/", 1)), Denied)


async def fault_kind(asked: Any) -> type[StoreFault]:
    with pytest.raises(StoreFault) as raised:
        await asked
    return raised.type


async def test_a_token_is_renewed(make_etcd: EtcdMaker, open_store: StoreMaker) -> None:
    etcd = make_etcd()
    await admit_users(etcd.endpoints[0], node="/p/")
    store = open_store(etcd, user="node", password="node")
    assert (await store.txn(put("/p/1"))).revision == 2
    assert store.statistics().logins == 1
    # A watch may be the first to be refused, and old servers do not say why.
    await forget_tokens(etcd.endpoints[0], "node")
    watch = store.watch("/p/", 2)
    assert (await next_of(watch)).revision == 2
    await watch.close()
    assert store.statistics().logins == 2
    # Whoever asks at the same time, one login serves all.
    await forget_tokens(etcd.endpoints[0], "node")
    outcomes = await asyncio.gather(*(store.txn(put(f"/p/{number}")) for number in range(2, 10)))
    assert sorted(outcome.revision for outcome in outcomes) == list(range(3, 11))
    assert store.statistics().logins == 3
    await add_role(etcd.endpoints[0], "another")
    assert (await store.txn(put("/p/1"))).revision == 11


async def test_a_user_before_there_are_users(make_etcd: EtcdMaker, open_store: StoreMaker) -> None:
    etcd = make_etcd()
    stores = [open_store(etcd, user="node", password="node") for _ in range(2)]
    for store in stores:
        await store.txn(put("/p/k"))
    await admit_users(etcd.endpoints[0], node="/p/")
    assert (await stores[0].txn(put("/p/k"))).revision == 4
    watch = stores[1].watch("/p/", 4)
    assert (await next_of(watch)).revision == 4
    await watch.close()


@pytest.fixture(scope="module")
def authority() -> trustme.CA:
    return trustme.CA()


def certificates(authority: trustme.CA, folder: Path) -> EtcdTls:
    """Certificates of members who ask their clients for one too."""
    issued = authority.issue_cert("127.0.0.1")
    files = EtcdTls(
        certificate=folder / "cert.pem",
        key=folder / "key.pem",
        authority=folder / "ca.pem",
        client_authority=folder / "ca.pem",
    )
    issued.cert_chain_pems[0].write_to_path(files.certificate)
    issued.private_key_pem.write_to_path(files.key)
    authority.cert_pem.write_to_path(files.authority)
    return files


async def test_tls_of_both_sides(
    authority: trustme.CA, tmp_path: Path, make_etcd: EtcdMaker, open_store: StoreMaker
) -> None:
    tls = certificates(authority, tmp_path)
    etcd = make_etcd(tls=tls)
    ours = StoreTls(authority=tls.authority, certificate=tls.certificate, key=tls.key)
    store = open_store(etcd, tls=ours)
    assert (await store.txn(put("/k"))).revision == 2
    assert (await next_batch(store, "/", 2)).revision == 2
    without_certificate = open_store(etcd, tls=StoreTls(authority=tls.authority))
    assert await fault_kind(without_certificate.snapshot(["/"])) is Unavailable
    assert await fault_kind(open_store(etcd).snapshot(["/"])) is Unavailable


async def test_a_server_of_another_authority_is_not_trusted(
    authority: trustme.CA, tmp_path: Path, make_etcd: EtcdMaker, open_store: StoreMaker
) -> None:
    tls = certificates(authority, tmp_path)
    etcd = make_etcd(tls=EtcdTls(certificate=tls.certificate, key=tls.key, authority=tls.authority))
    trusted = open_store(etcd, tls=StoreTls(authority=tls.authority))
    assert (await trusted.txn(put("/k"))).revision == 2
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    assert await fault_kind(open_store(etcd, tls=StoreTls(authority=other)).snapshot(["/"])) is Unavailable


async def test_versions_that_may_lose_data(make_etcd: EtcdMaker, open_store: StoreMaker) -> None:
    etcd: Etcd = make_etcd()
    store = open_store(etcd, allow_bad_version=False)
    if versions.is_refused(etcd.binary.version):
        assert await fault_kind(store.snapshot(["/"])) is Refused
        assert isinstance(await fault_of(store.watch("/", 1)), Refused)
    else:
        assert await store.snapshot(["/"]) == (1, ())
