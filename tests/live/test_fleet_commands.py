"""`pgcat-cluster fleet` as people and pipelines start it: against a real etcd, with nodes that agree through it."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio

from pgcat_cluster.agreement.bundles import Wrong
from pgcat_cluster.agreement.documents import Seat, encode
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.transactions import Put, Transaction
from pgcat_cluster.demo.etcd import Etcd
from pgcat_cluster.fleet.stamps import Stamped
from pgcat_cluster.fleet.store import Store
from pgcat_cluster.net.clock import wall_s
from tests.support.etcd import EtcdMaker, StoreMaker, admit_users, compact
from tests.support.followers import FollowingNode, following_nodes

pytestmark = [pytest.mark.once, pytest.mark.asyncio(loop_scope="session")]

KEYS = Keys("eu")
FILE = """
[clusters.main.servers]
r1 = { host = "a" }
[users.app]
auth = "trust"
[pools.app]
size = SIZE
users = { app = {} }
"""


class Shell:
    """A terminal in which one etcd and one fleet are chosen; `nodes` are the fleet's."""

    def __init__(self, etcd: Etcd, folder: Path, store: Store, nodes: dict[str, FollowingNode]) -> None:
        self.etcd = etcd
        self.folder = folder
        self.store = store
        self.nodes = nodes
        self.environment = {"PGCAT_ETCD": ",".join(etcd.endpoints), "PGCAT_FLEET": "eu"}

    async def start(self, *words: str) -> asyncio.subprocess.Process:
        return await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pgcat_cluster", "fleet", *words),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=os.environ | self.environment,
        )

    async def __call__(self, *words: str, code: int = 0) -> str:
        """What it prints; on standard error if it fails."""
        process = await self.start(*words)
        out, complaints = await process.communicate()
        assert process.returncode == code, (out, complaints)
        return (out or complaints).decode()

    async def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(await self(*words, "--json", code=code))

    def file(self, size: str) -> str:
        file = self.folder / "pgcat.toml"
        file.write_text(FILE.replace("SIZE", size))
        return str(file)


@pytest_asyncio.fixture(loop_scope="session")
async def shell(make_etcd: EtcdMaker, open_store: StoreMaker, tmp_path: Path) -> AsyncIterator[Shell]:
    etcd = make_etcd()
    store = open_store(etcd)
    stamped = Stamped(store, KEYS, wall_s=wall_s)
    async with following_nodes(stamped, "eu", "n1", "n2", "n3") as nodes:
        yield Shell(etcd, tmp_path, store, nodes)


async def test_a_fleet_is_founded_edited_and_rolled_back(shell: Shell) -> None:
    first = await shell.json("apply", shell.file("10"), "--wait", "20s")
    assert (first["state"], first["generation"]) == ("accepted", 1)
    assert [node["active"] for node in first["nodes"]] == [1, 1, 1]

    # A pipeline: what is wrong by itself is not put, what a node objects to is reported by that node.
    before = await shell("get", "pools/app")
    assert "pools.app.size" not in await shell("diff")
    wrong = await shell("apply", shell.file('"many"'), code=78)
    assert (
        wrong == 'config/pools/app: size: "many" is not allowed; allowed: a whole number, from 1 to 1000000\n'
    )
    shell.nodes["n2"].trial = lambda _: (Wrong("clusters/main", "servers.r1", "is another database"),)
    rejected = await shell.json("apply", shell.file("11"), "--wait", "20s", code=1)
    assert (rejected["state"], rejected["text"], rejected["generation"]) == ("failed", "rejected", 1)
    nacks = {
        node["node"]: [(one["key"], one["path"], one["msg"]) for one in node["nack"]]
        for node in rejected["nodes"]
    }
    assert nacks == {
        shell.nodes["n1"].id: [],
        shell.nodes["n2"].id: [("config/clusters/main", "servers.r1", "is another database")],
        shell.nodes["n3"].id: [],
    }

    shell.nodes["n2"].trial = lambda _: ()
    assert (await shell("apply", shell.file("12"), "--wait", "20s")).splitlines()[1] == (
        "accepted as generation 2; all 3 live nodes run it"
    )
    assert await shell("get", "pools/app") != before
    assert (await shell.json("rollback", "1", "--wait", "20s"))["generation"] == 3
    assert await shell("get", "pools/app") == before
    assert (await shell.json("wait", "--gen", "3"))["state"] == "accepted"
    assert (await shell.json("wait", "--gen", "4", "--timeout", "50ms", code=1))["state"] == "timeout"
    assert [one["gen"] for one in await shell.json("history")] == [3, 2, 1]

    status = await shell.json("status")
    assert (status["accepted"]["gen"], status["desired"]["state"]) == (3, "accepted")
    assert status["coordinator"] in {node.id for node in shell.nodes.values()}
    assert {node["node"]: (node["state"], node["active"]) for node in status["nodes"]} == {
        node.id: ("serving", 3) for node in shell.nodes.values()
    }


async def test_a_seat_is_forgotten_when_its_node_is_gone(shell: Shell) -> None:
    await shell("apply", shell.file("10"), "--wait", "20s")
    assert "`n3` is live as" in await shell("forget", "n3", code=1)
    lost = Put(key=KEYS.seat("n9"), value=encode(Seat(node="n9.00000009", host="h")))
    await shell.store.txn(Transaction(then=(lost,)))
    assert (await shell.json("status"))["lost_seats"] == ["n9"]
    assert await shell("forget", "n9") == "n9 is forgotten\n"
    assert (await shell.json("status"))["lost_seats"] == []


async def test_events_are_told_as_they_happen_and_later_until_compaction(shell: Shell) -> None:
    await shell("apply", shell.file("10"), "--wait", "20s")
    past = [json.loads(line) for line in (await shell("events", "--json")).splitlines()]
    texts = [one["text"] for one in past]
    assert "generation 1 is accepted: clusters/main, pools/app, users/app" in texts
    assert [one["revision"] for one in past] == sorted(one["revision"] for one in past)
    timeless = {(one["at"] is None, one["text"].startswith("operator ")) for one in past}
    assert timeless == {(True, True), (False, False)}

    following = await shell.start("events", "--json", "--follow", "--since", str(past[-1]["revision"] + 1))
    assert following.stdout is not None
    await shell("apply", shell.file("30"))
    seen = []
    async with asyncio.timeout(30.0):
        while "generation 2" not in " ".join(one["text"] for one in seen if "runs" in one["text"]):
            seen.append(json.loads(await following.stdout.readline()))
    following.send_signal(signal.SIGINT)
    await following.communicate()
    assert following.returncode == 0
    assert "operator put config/pools/app: ~ pools.app.size = 10 -> 30" in [one["text"] for one in seen]

    revision = (await shell.store.status()).revision
    await compact(shell.etcd.endpoints[0], revision)
    rest = (await shell("events")).splitlines()
    assert rest[0].endswith(f"etcd remembers nothing before revision {revision}")


async def test_etcd_away_and_users_refused_are_one_clear_line(
    make_etcd: EtcdMaker, open_store: StoreMaker, tmp_path: Path
) -> None:
    etcd = make_etcd()
    shell = Shell(etcd, tmp_path, open_store(etcd), {})
    assert await shell("status", code=1) == (
        "Error: there is no fleet `eu` in this etcd; there is none at all. `fleet apply FILE` founds one\n"
    )
    await admit_users(etcd.endpoints[0], ada="/pgcat/eu/", eve="/elsewhere/")
    password = tmp_path / "password"
    password.write_text("ada\n")
    refused = await shell("status", code=1)
    assert refused.startswith("Error: etcd refused us: ")
    assert refused.endswith("; give --user and --password-file\n")
    assert refused.count("\n") == 1
    as_ada = ("--user", "ada", "--password-file", str(password))
    assert await shell("status", *as_ada, code=1) == (
        "Error: there is no fleet `eu` in this etcd; `fleet apply FILE` founds one\n"
    )
    assert (await shell("apply", shell.file("10"), *as_ada)).startswith("revision ")
    assert json.loads(await shell("get", "pools/app", *as_ada))["size"] == 10
    password.write_text("eve\n")
    refused = await shell("status", "--user", "eve", "--password-file", str(password), code=1)
    assert refused.endswith("check that the role of eve may read and write below /pgcat/eu/\n")
    etcd.members[0].kill()
    away = await shell("status", *as_ada, code=1)
    assert away.startswith(f"Error: etcd can not be reached at {etcd.endpoints[0]}: ")
    assert away.count("\n") == 1


async def test_a_proxy_of_the_environment_is_not_asked(shell: Shell) -> None:
    shell.environment |= dict.fromkeys(("http_proxy", "https_proxy", "grpc_proxy"), "http://127.0.0.1:9")
    assert (await shell("apply", shell.file("10"))).startswith("revision ")
