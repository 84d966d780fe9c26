"""A node seen from outside: configurations for it, clients of it, and what it says of itself."""

from __future__ import annotations

import json
import re
import signal
import socket
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import psycopg
from psycopg.rows import dict_row

from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.processes import wait_until
from tests.support.player import Address

# Longer than anything takes here, so that only what never happens fails.
WITHIN_S = 60.0

# For tests that are not about health: on a busy machine a server is late, and not ill.
PATIENT_HEALTH = """
[fleet.health]
timeout_min = "20s"
timeout_max = "20s"
"""

_CONFIG = """\
[node]
listen = ["$listen"]
http = "$http"
secrets_dir = "$secrets"
admin_users = ["admin"]
{node}

[users.test]
secret = "file:test.secret"

[users.admin]
secret = "file:admin.secret"
{tables}

[clusters.main]
probe = {{ user = "pgcat_probe", secret = "file:probe.secret", database = "postgres" }}
{cluster}

[clusters.main.servers]
$servers

[pools.test]
users = {{ test = {{}} }}
{pool}
"""

Connection = psycopg.Connection[tuple[Any, ...]]


def config(pool: str = "", *, node: str = "", cluster: str = "", tables: str = "") -> str:
    """A template for a node: lines of TOML for its pool, its own table, its cluster; and more tables."""
    return _CONFIG.format(pool=pool, node=node, cluster=cluster, tables=tables)


def connect(node: Node, database: str = "test", user: str = "test", **keywords: Any) -> Connection:
    return psycopg.connect(
        node.dsn(user, database), autocommit=True, **{"connect_timeout": int(WITHIN_S), **keywords}
    )


def address(node: Node, database: str = "test") -> Address:
    """Where the player finds a pool."""
    return Address(
        host=node.host, port=node.port, user="test", password=node.passwords["test"], database=database
    )


def one(connection: Connection, sql: str, *arguments: Any) -> Any:
    """The first value of the first row."""
    row = connection.execute(sql.encode(), arguments or None).fetchone()
    assert row is not None
    return row[0]


def port(connection: Connection) -> int:
    """Which server answers a read."""
    return int(one(connection, "select inet_server_port()"))


def eventually(condition: Callable[[], bool], what: str, within_s: float = WITHIN_S) -> None:
    wait_until(condition, within_s=within_s, what=what)


def get(node: Node, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{node.host}:{node.http_port}{path}", timeout=WITHIN_S) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def status(node: Node) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(get(node, "/status")[1])
    return found


def backend(node: Node, name: str) -> dict[str, Any]:
    """What the node thinks of one server."""
    (found,) = [one for one in status(node)["backends"] if one["name"] == f"main/{name}"]
    return dict(found)


def links(node: Node, database: str = "test") -> dict[str, int]:
    """The server links of a pool by state, over all its servers."""
    (pool,) = [one for one in status(node)["pools"] if one["database"] == database]
    counts: dict[str, int] = {}
    for server in pool["servers"]:
        for state, count in server["links"].items():
            counts[state] = counts.get(state, 0) + count
    return counts


def server_pids(node: Node, database: str = "test") -> set[int]:
    """The backends at the other ends of the idle links of a pool."""
    with connect(node, "pgbouncer", "admin", row_factory=dict_row) as admin:
        return {
            row["remote_pid"]
            for row in admin.execute("SHOW SERVERS").fetchall()
            if (row["database"], row["state"]) == (database, "idle")
        }


def clients(node: Node, database: str = "test") -> dict[str, int]:
    """The clients of a pool by what they do."""
    (pool,) = [one for one in status(node)["pools"] if one["database"] == database]
    return dict(pool["clients"])


def answer(connection: Connection) -> tuple[bytes, str | None]:
    """What became of the one request that was sent: the first value, or an empty one and the SQLSTATE."""
    result = connection.pgconn.get_result()
    assert result is not None
    while connection.pgconn.get_result() is not None:
        pass  # libpq says once more that the connection has ended
    code = result.error_field(psycopg.pq.DiagnosticField.SQLSTATE)
    return result.get_value(0, 0) or b"", None if code is None else code.decode()


def metric(node: Node, name: str) -> float:
    """The value of a metric; its labels, if there are any, belong to the name."""
    match = re.search(rf"^{re.escape(name)} (\S+)$", get(node, "/metrics")[1], re.MULTILINE)
    assert match is not None, name
    return float(match[1])


def lines(node: Node, event: str) -> list[str]:
    """The lines of the node's log that tell of an event."""
    return [line for line in node.log.read_text().splitlines() if event in line]


def change(node: Node, old: str, new: str, event: str = "config.applied") -> str:
    """Change the node's file and tell it so; the line of its log that says what came of it."""
    text = node.config.read_text()
    assert old in text
    node.config.write_text(text.replace(old, new))
    before = len(lines(node, event))
    node.signal(signal.SIGHUP)
    eventually(lambda: len(lines(node, event)) > before, f"the node says {event}")
    return lines(node, event)[-1]


def refuses(node: Node) -> bool:
    """Whether nobody listens any more."""
    try:
        with socket.create_connection((node.host, node.port), timeout=WITHIN_S):
            return False
    except ConnectionRefusedError:
        return True
