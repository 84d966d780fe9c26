"""`pgcat-cluster fleet` against a store in memory and the real machines of its nodes: answers and exit codes."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from pgcat_cluster.agreement.bundles import Wrong
from pgcat_cluster.agreement.documents import Ban, ServerOverride, encode
from pgcat_cluster.agreement.transactions import Outcome, Put, Range, Transaction
from pgcat_cluster.cli import fleet as command
from pgcat_cluster.fleet.model import ModelPort
from tests.support.edits import DOCUMENTS, KEYS, Fleet

VERIFIER = "md5d41d8cd98f00b204e9800998ecf8427e"


class Port(ModelPort):
    """A port after each write of which the fleet lives on for a while."""

    def __init__(self, fleet: Fleet) -> None:
        async def pause(_seconds: float) -> None:
            await asyncio.sleep(0)

        super().__init__(fleet.store, now_s=lambda: fleet.now, pause=pause)
        self._fleet = fleet

    async def txn(self, transaction: Transaction) -> Outcome:
        outcome = await super().txn(transaction)
        if not all(isinstance(operation, Range) for operation in transaction.then):
            asyncio.get_running_loop().call_soon(self._fleet.run, 10.0)
        return outcome


class Shell:
    """A person at a terminal."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, folder: Path, fleet: Fleet) -> None:
        self.fleet = fleet
        self.folder = folder
        self.port = Port(fleet)
        monkeypatch.setattr(command, "open_store", lambda _place: self.port)
        monkeypatch.setenv("PGCAT_ETCD", "127.0.0.1:1")
        monkeypatch.setenv("PGCAT_FLEET", "test")

    def __call__(self, *words: str | Path, code: int = 0, given: bytes | None = None) -> Result:
        result = CliRunner().invoke(command.fleet, [str(word) for word in words], input=given)
        assert result.exit_code == code, (result.output, result.exception)
        return result

    def json(self, *words: str | Path, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code).stdout)

    def file(self, text: str) -> Path:
        file = self.folder / "pgcat.toml"
        file.write_text(text, encoding="utf-8")
        return file


@pytest.fixture
def shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    return Shell(monkeypatch, tmp_path, Fleet("n1", "n2", documents=DOCUMENTS))


FILE = """
[node]
name = "alone"
[clusters.main.servers]
r1 = { host = "a" }
r2 = { host = "b" }
[users.app]
auth = "trust"
[pools.app]
size = 40
users = { app = {} }
"""


# ---- documents


def test_a_document_is_printed_byte_for_byte(shell: Shell) -> None:
    assert shell("get", "pools/app").stdout_bytes == DOCUMENTS["pools/app"]
    assert shell("get", "config/pools/app", "--accepted").stdout_bytes == DOCUMENTS["pools/app"]
    assert shell.json("get") == {name: text.decode() for name, text in sorted(DOCUMENTS.items())}
    assert shell("get").stdout.startswith("# clusters/main\nv = 1\n[servers]\n")


def test_an_unknown_document_is_named_with_a_hint(shell: Shell) -> None:
    result = shell("get", "pools/ap", code=1)
    assert result.stderr == "Error: there is no document pools/ap; did you mean pools/app?\n"


def test_desired_and_accepted_are_told_apart(shell: Shell) -> None:
    shell.fleet.put({"pools/app": b"size = 0\nusers = { app = {} }"})
    shell.fleet.run(5.0)
    assert shell("get", "pools/app").stdout == "size = 0\nusers = { app = {} }"
    assert shell("get", "--accepted", "pools/app").stdout_bytes == DOCUMENTS["pools/app"]


def test_no_secret_is_printed_unless_asked_for(shell: Shell) -> None:
    text = f'verifier = "{VERIFIER}" # of app\nserver_secret = "file:app.secret"\nauth = "md5"'
    shell.fleet.put({"users/app": text.encode()})
    shell.fleet.run(5.0)
    shown = shell("get", "users/app")
    assert json.loads(shown.stdout) == {"verifier": "***", "server_secret": "***", "auth": "md5"}
    assert shown.stderr == "secrets are hidden: not to be put back; --secrets shows the document\n"
    assert shell("get", "users/app", "--secrets").stdout == text
    for words in (
        ["get"],
        ["get", "--json"],
        ["diff"],
        ["status"],
        ["status", "--json"],
        ["history"],
        ["events"],
    ):
        assert VERIFIER not in shell(*words).output
    shell.fleet.put({"users/app": b'password = "hunter2'})
    answer = shell("get", "users/app", code=1)
    assert "may hold a secret" in answer.stderr
    assert "hunter2" not in answer.output + shell("events").output


def test_put_writes_one_document_byte_for_byte(shell: Shell) -> None:
    text = b"size = 40  # more\nusers = { app = {} }"
    result = shell("put", "pools/app", "-", given=text)
    row = shell.fleet.row(KEYS.config("pools/app"))
    assert (row.value, result.stdout) == (text, f"revision {row.mod_revision}: changed pools/app\n")
    assert shell("put", "pools/app", "-", given=text).stdout == "nothing to change: it is there already\n"


def test_put_judges_before_it_writes_unless_forced(shell: Shell) -> None:
    text = b"sizee = 4\nusers = { app = {} }"
    result = shell("put", "pools/app", "-", given=text, code=78)
    assert result.stdout == "config/pools/app: sizee: unknown key `sizee`; did you mean `size`?\n"
    assert shell.fleet.row(KEYS.config("pools/app")).value == DOCUMENTS["pools/app"]
    shell("put", "pools/app", "-", "--force", given=text)
    assert shell.fleet.row(KEYS.config("pools/app")).value == text


def test_apply_puts_a_file_at_once_and_says_what_became_of_it(shell: Shell) -> None:
    answer = shell("apply", shell.file(FILE), "--wait", "10s")
    assert (
        answer.stderr
        == f"{shell.folder}/pgcat.toml: [node] is left out: it belongs to each node's own file\n"
    )
    revision = shell.fleet.accepted.from_rev
    assert answer.stdout == (
        f"revision {revision}: changed clusters/main, users/app, pools/app\n"
        "accepted as generation 2; all 2 live nodes run it\n"
        "  n1.00000001  found it valid; runs generation 2\n"
        "  n2.00000002  found it valid; runs generation 2\n"
    )
    again = shell.json("apply", shell.file(FILE), "--wait", "10s")
    assert (again["changed"], again["state"], again["generation"]) == ([], "accepted", 2)
    assert [node["active"] for node in again["nodes"]] == [2, 2]


def test_apply_without_waiting(shell: Shell) -> None:
    answer = shell.json("apply", shell.file(FILE))
    assert answer == {
        "revision": shell.fleet.accepted.from_rev,
        "changed": ["clusters/main", "users/app", "pools/app"],
    }


def test_a_file_that_is_wrong_changes_nothing(shell: Shell) -> None:
    before = shell.fleet.store.revision
    file = shell.file(FILE.replace("size", "sise"))
    assert shell("apply", file, code=78).stdout == (
        "config/pools/app: sise: unknown key `sise`; did you mean `size`?\n"
    )
    for text, said in (
        ("[pool.app]\n", "pool: unknown table `pool`; did you mean `pools`?"),
        ("pools = 3\n", "pools: is not allowed; allowed: a table"),
        ("[node]\n", "there is no document in it"),
        ("[[", "is no TOML in UTF-8: "),
    ):
        file = shell.file(text)
        assert shell("apply", file, code=78).stdout.startswith(f"{file}: {said}")
    assert shell.fleet.store.revision == before


SHARDED = """
[clusters.other.servers]
r1 = { host = "c" }
[shardmaps.m]
kind = "hash"
key = { column = "id", type = "bigint" }
shards = 2
[pools.app]
users = { app = {} }
[pools.sharded]
shards = { map = "m", clusters = { 0 = "main", 1 = "other" } }
users = { app = {} }
"""


def test_a_shard_map_is_put_shown_and_compared_like_every_document(shell: Shell) -> None:
    shell("apply", shell.file(SHARDED), "--wait", "10s")
    assert json.loads(shell("get", "shardmaps/m").stdout)["kind"] == "hash"
    file = shell.file(SHARDED.replace('column = "id"', 'column = "customer"'))
    assert shell("diff", file).stdout == '~ shardmaps.m.key.column = "id" -> "customer"\n'
    shell("validate", file)
    shell("apply", file, "--wait", "10s")


def test_a_map_in_use_is_not_even_put(shell: Shell) -> None:
    shell("apply", shell.file(SHARDED), "--wait", "10s")
    before = shell.fleet.store.revision
    file = shell.file(SHARDED.replace('"hash"', '"modulo"'))
    why = (
        'config/shardmaps/m: kind: shard map "m" is used by pool "sharded": it can be changed when fleet-wide '
        "cut-over exists; make a new map for a new pool\n"
    )
    document = b'kind = "modulo"\nkey.type = "bigint"\nshards = 2'
    assert shell("validate", file, code=78).stdout == why
    assert shell("apply", file, code=78).stdout == why
    assert shell("put", "shardmaps/m", "-", code=78, given=document).stdout == why
    assert shell.fleet.store.revision == before
    # The nodes find the same.
    shell("put", "shardmaps/m", "-", "--force", given=document)
    assert why.partition(": ")[2].rstrip() in shell("wait", "--timeout", "10s", code=1).stdout
    # Lines are broken where a terminal ends.
    assert why.partition(": ")[2].rstrip() in " ".join(shell("status").stdout.split())


def test_a_nack_is_reported_by_node_with_key_path_and_message(shell: Shell) -> None:
    shell.fleet["n2"].trial = lambda _: ((Wrong("users/app", "secret", "app.secret: no such file"),), ())
    answer = shell("apply", shell.file(FILE), "--wait", "10s", code=1)
    assert answer.stdout.splitlines()[1:] == [
        "rejected",
        "  n1.00000001  found it valid; runs generation 1",
        "  n2.00000002  found it wrong; runs generation 1",
        "    config/users/app: secret: app.secret: no such file",
    ]
    told = shell.json("wait", "--timeout", "1s", code=1)
    assert (told["state"], told["text"], told["generation"]) == ("failed", "rejected", 1)
    assert told["nodes"][1]["nack"] == [
        {
            "key": "config/users/app",
            "rev": shell.fleet.row(KEYS.config("users/app")).mod_revision,
            "path": "secret",
            "msg": "app.secret: no such file",
        }
    ]


def test_a_great_loss_is_refused_with_the_remedy(shell: Shell) -> None:
    file = shell.file(FILE.replace("pools.app", "pools.other"))
    answer = shell("apply", file, "--prune", "--wait", "10s", code=1)
    line = answer.stdout.splitlines()[1]
    assert line.startswith("refused: pools/app is removed; to agree, put override/_fleet/activate {")


def test_a_silent_node_makes_it_too_late(shell: Shell) -> None:
    shell.fleet["n2"].is_frozen = True
    answer = shell("apply", shell.file(FILE), "--wait", "50ms", code=1)
    lines = answer.stdout.splitlines()
    assert lines[1].startswith("too late: ")
    assert lines[3] == "  n2.00000002  said nothing about it; runs generation 1"


def test_two_operators_at_once(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    read = shell.port.snapshot

    async def and_then_somebody_writes(prefixes: Any) -> Any:
        answer = await read(prefixes)
        shell.fleet.put({"pools/app": b"size = 11\nusers = { app = {} }"})
        return answer

    monkeypatch.setattr(shell.port, "snapshot", and_then_somebody_writes)
    answer = shell("apply", shell.file(FILE), code=1)
    assert answer.stderr.splitlines()[-1] == (
        "Error: somebody else changed the same documents at this moment; nothing was written. Try again"
    )


@pytest.mark.parametrize(("lost", "code"), [("answers_lost", 0), ("requests_lost", 1)])
def test_a_lost_answer_is_read_back(shell: Shell, lost: str, code: int) -> None:
    setattr(shell.port.faults, lost, 1)
    answer = shell("put", "pools/app", "-", given=b"size = 5\nusers = { app = {} }", code=code)
    if code:
        assert answer.stderr == (
            "Error: etcd's answer was lost: the request was lost; `fleet status` tells whether it was done\n"
        )
    else:
        assert answer.stdout == f"revision {shell.fleet.store.revision}: changed pools/app\n"


def test_validate_needs_no_etcd(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    users_only = "[pools.other]\nusers = { app = {} }\n"
    assert (
        shell("validate", shell.file(users_only)).stdout == f"{shell.folder}/pgcat.toml: valid: pools/other\n"
    )
    answer = shell.json("validate", shell.file(users_only), "--prune", code=78)
    assert [(one["key"], one["path"]) for one in answer["errors"]] == [
        ("pools/other", "users.app"),
        ("pools/other", "cluster"),
    ]
    monkeypatch.delenv("PGCAT_ETCD")
    monkeypatch.delenv("PGCAT_FLEET")
    shell("validate", shell.file(users_only), code=78)
    shell("validate", shell.file(FILE))


def test_diff_tells_settings(shell: Shell) -> None:
    assert shell("diff").stdout == ""
    assert shell("diff", shell.file(FILE)).stdout == "- clusters.main.v = 1\n~ pools.app.size = 10 -> 40\n"
    shell.fleet.put({"pools/app": b"size = 0\nusers = { app = {} }"})
    assert shell.json("diff") == [{"path": "pools.app.size", "before": "10", "after": "0"}]
    shell.fleet.put({"pools/app": b"size = = 0"})
    assert shell("diff", code=78).stdout.startswith("config/pools/app: line 1, column 8: ")


# ---- generations


def test_history_and_rollback(shell: Shell) -> None:
    shell("apply", shell.file(FILE))
    told = shell.json("history")
    assert [(one["gen"], one.get("changed")) for one in told] == [
        (2, ["clusters/main", "pools/app", "users/app"]),
        (1, ["clusters/main", "pools/app", "users/app"]),
    ]
    assert shell("history").stdout.splitlines()[1].startswith("2 (in force)  ")
    answer = shell("rollback", "1", "--wait", "10s")
    assert answer.stdout.splitlines()[1] == "accepted as generation 3; all 2 live nodes run it"
    assert shell("get", "pools/app").stdout_bytes == DOCUMENTS["pools/app"]
    assert shell("rollback", "9", code=1).stderr == "Error: generation 9 is not kept; kept are 1 to 3\n"


def test_wait_for_a_generation(shell: Shell) -> None:
    assert shell("wait", "--gen", "1").stdout.splitlines()[0] == (
        "accepted as generation 1; all 2 live nodes run it"
    )
    assert shell("wait", "--gen", "2", "--timeout", "20ms", code=1).stdout.splitlines()[0] == (
        "too late: the fleet is at generation 1"
    )


# ---- nodes


def test_a_seat_is_forgotten_only_if_nobody_sits_there(shell: Shell) -> None:
    assert shell("forget", "n2", code=1).stderr == (
        "Error: `n2` is live as n2.00000002 (serving); stop it first: then it leaves by itself\n"
    )
    assert shell("forget", "n7", code=1).stderr == "Error: no node `n7` has a seat; there are: n1, n2\n"
    shell.fleet["n2"].leave()
    shell.fleet.run(2.0)
    assert shell.json("status")["lost_seats"] == ["n2"]
    assert shell("forget", "n2").stdout == "n2 is forgotten\n"
    assert shell.fleet.read(KEYS.seat("n2")) == ()


def test_status_shows_everything(shell: Shell) -> None:
    shell.fleet["n2"].trial = lambda _: ((Wrong("pools/app", "size", "is too much"),), ())
    shell.fleet.put({"pools/app": b"size = 90\nusers = { app = {} }"})
    shell.fleet.override(
        KEYS.server_override("main", "r1"), '{"action":"drain","reason":"new\\u001bdisk","by":"ada"}'
    )
    shell.fleet.override(KEYS.pool_override("app"), "stop")
    ban = Ban(
        id="b1", state="banned", scope="fleet", why=("refused",), votes=("n1.1", "n2.2"),
        need=2, jury=3, zones=1, strikes=1, by="n1.1",
    )  # fmt: skip
    shell.fleet.write(Put(key=KEYS.ban("main", "r2", "fleet"), value=encode(ban)))
    shell.fleet.run(5.0)
    told = shell.json("status")
    assert told["accepted"]["gen"] == 1
    assert told["desired"]["state"] == "rejected"
    assert [(one["node"], one["state"], one["active"], one["is_valid"]) for one in told["nodes"]] == [
        ("n1.00000001", "serving", 1, True),
        ("n2.00000002", "serving", 1, False),
    ]
    assert told["bans"][0] | {"since_rev": 0} == {
        "server": "main/r2", "scope": "fleet", "state": "banned", "why": ["refused"], "votes": ["n1.1", "n2.2"],
        "need": 2, "jury": 3, "strikes": 1, "since_rev": 0,
    }  # fmt: skip
    assert [(one["target"], one["says"], one["doubt"]) for one in told["overrides"]] == [
        ("_pool/app", "", 'action: "stop" is not allowed; allowed: "pause"'),
        ("main/r1", "drain", ""),
    ]
    people = shell("status").stdout
    for words in (
        "generation 1 (revision",
        "rejected (revision",
        "n2.00000002  serving  ",
        "n2.00000002 wrong config/pools/app: size: is too much",
        "main/r2        fleet  banned  refused  2 of 3, 2 needed: n1.1, n2.2",
        "new\\u001bdisk  ada",
    ):
        assert words in people, people


def test_events_tell_the_story_in_order(shell: Shell) -> None:
    shell.fleet.put({"pools/app": b"size = 40\nusers = { app = {} }"})
    shell.fleet.run(5.0)
    shell.fleet.override(KEYS.server_override("main", "r1"), encode(ServerOverride(action="drain")).decode())
    shell.fleet["n2"].leave()
    told = [json.loads(line) for line in shell("events", "--json").stdout.splitlines()]
    assert [one["revision"] for one in told] == sorted(one["revision"] for one in told)
    assert {one["at"] for one in told} == {None}
    texts = [one["text"] for one in told]
    story = [
        "operator created config/clusters/main",
        "n1.00000001 joined, joining (x:1)",
        "n1.00000001 coordinates",
        "generation 1 is accepted: clusters/main, pools/app, users/app",
        "n1.00000001 is serving",
        "n1.00000001 runs generation 1",
        "operator put config/pools/app: ~ pools.app.size = 10 -> 40",
        "generation 2 is accepted: pools/app",
        "n2.00000002 runs generation 2",
        "operator put override/main/r1 drain",
        "n2.00000002 is gone: it ended, or could not renew its lease",
    ]
    places = [texts.index(one) for one in story]
    assert places == sorted(places)
    late = shell("events", "--since", str(shell.fleet.store.revision)).stdout
    assert late == f"{'':<23} {shell.fleet.store.revision:>8}  {story[-1]}\n"


def test_what_etcd_forgot_is_not_told(shell: Shell) -> None:
    shell.fleet.put({"pools/app": b"size = 40\nusers = { app = {} }"})
    revision = shell.fleet.store.revision
    shell.fleet.store.compact(revision)
    told = shell("events").stdout.splitlines()
    assert told[0].endswith(f"{revision}  etcd remembers nothing before revision {revision}")
    assert told[1].endswith("operator put config/pools/app")
    assert len(told) == 2


# ---- the way to it


def test_an_unknown_fleet_is_told_with_those_there_are(shell: Shell) -> None:
    for words in (["status"], ["get"], ["history"], ["events"], ["wait"], ["rollback", "1"], ["forget", "x"]):
        assert shell(*words, "--fleet", "tset", code=1).stderr == (
            "Error: there is no fleet `tset` in this etcd; there are: test. `fleet apply FILE` founds one\n"
        )


def test_an_etcd_that_is_away_is_one_line_with_the_remedy(shell: Shell) -> None:
    shell.port.faults.cut = True
    assert shell("status", code=1).stderr == (
        "Error: etcd can not be reached at 127.0.0.1:1: cut off; check --etcd, and --tls-ca if it speaks TLS\n"
    )


def test_wrong_usage(shell: Shell, monkeypatch: pytest.MonkeyPatch) -> None:
    for words, said in (
        (["status", "--etcd", "http://x:2379"], "allowed: HOST:PORT"),
        (["status", "--fleet", "Ä"], "allowed: 1 to 63 of a-z, 0-9 and -"),
        (["wait", "--timeout", "ten"], "allowed: "),
        (["status", "--tls-cert", __file__], "need --tls-ca"),
    ):
        assert said in shell(*words, code=2).stderr
    monkeypatch.delenv("PGCAT_FLEET")
    assert "--fleet or PGCAT_FLEET must say which fleet is meant" in shell("status", code=2).stderr


def test_every_command_teaches() -> None:
    names = [
        "accept-store",
        "apply",
        "diff",
        "events",
        "forget",
        "get",
        "history",
        "put",
        "rollback",
        "status",
        "validate",
        "wait",
    ]
    assert sorted(command.fleet.commands) == names
    for name in names:
        answer = CliRunner().invoke(command.fleet, [name, "--help"])
        assert answer.exit_code == 0
        assert "PGCAT_ETCD" in answer.output
