"""Fixtures of the tests that talk through a node: one stack and one node per worker.

`PGCAT_TEST_FRONT=direct` puts PostgreSQL itself in the node's place: a test that fails then is wrong about
PostgreSQL.
`PGCAT_TEST_FRONT=pgbouncer` shows what a peer makes of it.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Iterator

import pytest
import trustme

from pgcat_cluster.demo.stack import Stack
from tests.support import fronts
from tests.support.fronts import Front
from tests.support.nodes import PATIENT_HEALTH

_PGBOUNCER_POOLS = {
    "transaction": "pool_mode=transaction pool_size=4",
    "session": "pool_mode=session pool_size=40",
    "split": "pool_mode=transaction pool_size=4",
    "one": "pool_mode=transaction pool_size=1",
}


@pytest.fixture(scope="session")
def authority() -> trustme.CA:
    return trustme.CA()


@pytest.fixture(scope="session")
def client_tls(authority: trustme.CA) -> ssl.SSLContext:
    """What a client needs to trust the certificates of these fixtures."""
    context = ssl.create_default_context()
    authority.configure_trust(context)
    return context


@pytest.fixture(scope="session")
def wire_stack(authority: trustme.CA) -> Iterator[Stack]:
    """Servers that the user `test` finds in step: a commit returns when every replica shows it."""
    settings = {
        "max_prepared_transactions": "10",
        "synchronous_standby_names": "'FIRST 2 (r1, r2)'",
    }
    with Stack(replicas=2, settings=settings) as stack:
        certificate = authority.issue_cert("127.0.0.1", "localhost")
        stack.primary.write("server.crt", certificate.cert_chain_pems[0].bytes())
        stack.primary.write("server.key", certificate.private_key_pem.bytes())
        stack.primary.configure({"ssl": "on"})
        stack.primary.reload()
        stack.primary.query("alter role test set synchronous_commit = 'remote_apply'")
        yield stack


@pytest.fixture(scope="session")
def wire_front(wire_stack: Stack, authority: trustme.CA) -> Iterator[Front]:
    """A node with the pools of `fronts.POOLS`; it offers TLS to clients and speaks plainly to servers."""
    match os.environ.get("PGCAT_TEST_FRONT", "node"):
        case "direct":
            front = fronts.direct(wire_stack)
        case "pgbouncer":
            front = fronts.start_pgbouncer(wire_stack, _PGBOUNCER_POOLS)
        case _:
            certificate = authority.issue_cert("127.0.0.1", "localhost")
            chain, key = wire_stack.folder / "node.crt", wire_stack.folder / "node.key"
            certificate.cert_chain_pems[0].write_to_path(chain)
            certificate.private_key_pem.write_to_path(key)
            front = fronts.start_node(
                wire_stack,
                node_settings=f'tls = {{ cert = "{chain}", key = "{key}" }}\n{PATIENT_HEALTH}',
                cluster_settings='tls = { mode = "disable" }',
            )
    yield front
    front.stop()
