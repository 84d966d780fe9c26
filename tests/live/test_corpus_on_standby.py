"""The corpus of routes, and statements made up of its parts, against what real servers accept."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

import psycopg
import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from psycopg import pq

from pgcat_cluster.demo.processes import wait_until
from pgcat_cluster.demo.stack import Stack
from pgcat_cluster.routing.role import role_for
from pgcat_cluster.sql import grammar
from pgcat_cluster.sql.analysis import analyze
from pgcat_cluster.sql.functions import FUNCTIONS, SET_CONFIG
from tests.support.routes import FOLDER, ExpectedRoute, read_routes

pytestmark = [
    pytest.mark.once,
    pytest.mark.skipif(not grammar.AVAILABLE, reason="no wheel of pgparse for this platform"),
]

DATABASE = "routes"
READ_ONLY_TRANSACTION = "25006"
ROUTES = read_routes()
SUCCESSES = (
    pq.ExecStatus.COMMAND_OK,
    pq.ExecStatus.TUPLES_OK,
    pq.ExecStatus.EMPTY_QUERY,
    pq.ExecStatus.COPY_OUT,
)


class Server:
    """A plain connection that runs texts as they are and tells the SQLSTATE: empty when all went well."""

    def __init__(self, connection: psycopg.Connection) -> None:
        self._connection = connection.pgconn
        self.run("set statement_timeout = '10s'; set lock_timeout = '5s'")

    def run(self, text: str) -> str:
        sqlstate = ""
        parameters = max((int(number) for number in re.findall(r"\$(\d+)\b", text)), default=0)
        if parameters:
            results = [self._connection.exec_params(text.encode(), [None] * parameters)]
        else:
            results = [self._connection.exec_(text.encode())]
        for result in results:
            if result.status == pq.ExecStatus.COPY_OUT:
                while self._connection.get_copy_data(0)[0] > 0:
                    pass
                results.extend(iter(self._connection.get_result, None))
            elif result.status == pq.ExecStatus.COPY_IN:
                self._connection.put_copy_end()
                results.extend(iter(self._connection.get_result, None))
            elif result.status not in SUCCESSES:
                sqlstate = sqlstate or (result.error_field(pq.DiagnosticField.SQLSTATE) or b"").decode()
        return sqlstate

    def run_read_only(self, text: str) -> str:
        """Run it in a read-only transaction that is rolled back."""
        self.run("begin read only")
        sqlstate = self.run(text)
        self.run("rollback")
        return sqlstate


@pytest.fixture(scope="module")
def schema(pg_stack: Stack) -> Iterator[Stack]:
    """The stack, with a database that has what the corpus names, on the replica too."""
    pg_stack.primary.query(f"create database {DATABASE}")
    with psycopg.connect(pg_stack.primary.dsn("postgres", DATABASE), autocommit=True) as connection:
        connection.execute((FOLDER / "schema.sql").read_bytes())
        (position,) = connection.execute("select pg_current_wal_insert_lsn()::text").fetchone() or ("",)
    caught_up = f"select pg_last_wal_replay_lsn() >= '{position}'"
    wait_until(
        lambda: pg_stack.replicas[0].query(caught_up) == [(True,)],
        within_s=60.0,
        what="the replica has the schema of the corpus",
    )
    yield pg_stack
    pg_stack.primary.query(f"drop database {DATABASE} with (force)")


@pytest.fixture(scope="module")
def primary(schema: Stack) -> Iterator[Server]:
    with psycopg.connect(schema.primary.dsn("postgres", DATABASE), autocommit=True) as connection:
        yield Server(connection)


@pytest.fixture(scope="module")
def replica(schema: Stack) -> Iterator[Server]:
    with psycopg.connect(schema.replicas[0].dsn("postgres", DATABASE), autocommit=True) as connection:
        yield Server(connection)


def test_a_standby_accepts_what_is_routed_to_a_replica(replica: Server) -> None:
    answers: dict[ExpectedRoute, str] = {}
    for route in ROUTES:
        if route.role == "replica":
            answers[route] = replica.run(route.text)
            replica.run("rollback")
    # 25006: a write. 55000 and 0A000: "recovery is in progress", temporary or unlogged relations.
    refused = [
        (str(route), sqlstate)
        for route, sqlstate in answers.items()
        if sqlstate in ("25006", "55000", "0A000")
    ]
    assert refused == []
    failed = {str(route): sqlstate for route, sqlstate in answers.items() if sqlstate}
    print(f"{len(answers)} statements on a standby, failed: {failed}")
    assert len(failed) <= 0.1 * len(answers)


LEFT_BEHIND = """
    select 'parameter', name, setting from pg_settings where source = 'session' and name not like '%_timeout'
    union all select 'custom parameter', 'app.user', nullif(current_setting('app.user', true), '')
        where nullif(current_setting('app.user', true), '') is not null
    union all select 'role', current_user, session_user where current_user <> session_user
    union all select 'statement', name, statement from pg_prepared_statements
    union all select 'cursor', name, statement from pg_cursors where name <> ''
    union all select 'channel', channel, null from pg_listening_channels() channel
    union all select 'lock', mode, objid::text from pg_locks
        where locktype = 'advisory' and pid = pg_backend_pid()
    union all select 'temporary schema', pg_my_temp_schema()::text, null where pg_my_temp_schema() <> 0
"""


def test_what_is_routed_to_a_replica_leaves_nothing_in_the_session(schema: Stack) -> None:
    # On the primary: what a standby refuses anyway would prove nothing.
    with psycopg.connect(schema.primary.dsn("postgres", DATABASE), autocommit=True) as connection:
        server = Server(connection)
        dirty: list[str] = []
        for route in ROUTES:
            if route.role == "replica":
                server.run(route.text)
                server.run("rollback")
                rows = connection.execute(LEFT_BEHIND, prepare=False).fetchall()
                if rows:
                    dirty.append(f"{route}: {rows}")
                    server.run("discard all")
        assert dirty == []
        for text in ("set work_mem = '1MB'", "select pg_advisory_lock(1)", "create temp table t ()"):
            server.run(text)
        assert len(connection.execute(LEFT_BEHIND, prepare=False).fetchall()) == 3


# What a read-only transaction does although we call it a write: temporary objects live in the session, and
# maintenance and files are no changes of data.
ALLOWED_IN_READ_ONLY = re.compile(
    r"\b(temp|temporary|pg_temp)\b|^(explain|checkpoint|reindex|analyze|cluster)\b|^copy .* to ",
    re.IGNORECASE,
)


def test_a_read_only_transaction_refuses_what_is_called_a_write(primary: Server) -> None:
    answers = Counter[str]()
    accepted: list[str] = []
    for route in ROUTES:
        if route.reason.startswith(("writes:", "locks rows")) and not ALLOWED_IN_READ_ONLY.search(route.text):
            # A text of several statements would run the first ones.
            if analyze(route.text).statements > 1:
                continue
            sqlstate = primary.run_read_only(route.text)
            answers[sqlstate] += 1
            if not sqlstate:
                accepted.append(f"{route}: {route.text}")
    print(f"writes in a read-only transaction: {dict(answers)}")
    assert accepted == []
    assert answers[READ_ONLY_TRANSACTION] > 0.5 * answers.total()


# Volatile, and yet nothing happens: they look, wait, make random values, or only serve the server itself.
HARMLESS = re.compile(
    r"^(RI_FKey_.*|.*handler|.*_validator|amvalidate|plpgsql_.*|dsnowball_.*|suppress_redundant_updates_trigger"
    r"|tsvector_update_trigger.*|unique_key_recheck|bernoulli|system|clock_timestamp|timeofday|random|random_normal"
    r"|gen_random_uuid|uuidv[47]|current_query|currtid2|lo_get|pg_sleep.*|pg_ls_.*|pg_read_.*|pg_stat_file|pg_current_logfile"
    r"|pg_stat_get_.*|pg_stat_have_stats|pg_stat_clear_snapshot|pg_show_.*|pg_control_.*|pg_(.*_)?size"
    r"|pg_(database_)?collation_actual_version|pg_get_.*|pg_hba_file_rules|pg_ident_file_mappings|pg_is_.*|pg_jit_available"
    r"|pg_last_.*|pg_lock_status|pg_notification_queue_usage|pg_partition_.*|pg_prepared_xact|pg_.*blocking_pids"
    r"|pg_isolation_test_session_is_blocked|pg_sequence_last_value|pg_xact_commit_timestamp.*|pg_xact_status|txid_status"
    r"|pg_indexes_size|pg_wait_events|pg_stat_statements.*|pg_.*aios|injection_points_.*|binary_upgrade_.*)$"
)


def test_every_volatile_built_in_function_has_been_judged(primary: Server, schema: Stack) -> None:
    rows = schema.primary.query(
        "select distinct proname from pg_proc where provolatile = 'v' and prokind <> 'p'"
        " and pronamespace = 'pg_catalog'::regnamespace"
    )
    unjudged = [
        name
        for (name,) in sorted(rows)
        if name not in FUNCTIONS and name != SET_CONFIG and not HARMLESS.match(name)
    ]
    assert unjudged == []


# --- statements nobody wrote

CALLS = st.sampled_from(
    [
        "1",
        "now()",
        "random()",
        "nextval('ticket')",
        "pg_catalog.nextval('ticket')",
        "setval('ticket', 5)",
        "txid_current()",
        "pg_current_xact_id()",
        "lo_creat(-1)",
        "lo_create(0)",
        "lo_from_bytea(0, 'a')",
        "pg_is_in_recovery()",
        "add(1, 2)",
        "(select count(*) from accounts)",
        "pg_notify('a', 'b')",
        "pg_logical_emit_message(true, 'a', 'b')",
        "current_setting('work_mem')",
        "txid_current_if_assigned()",
        "(select max(id) from accounts for update)",
        "pg_advisory_xact_lock(1)",
        "set_config('a.b', 'c', true)",
        "exists (select from accounts for share)",
        "coalesce(null, nextval('ticket'))",
        "array[nextval('ticket')]",
        "query_to_xml('select nextval(''ticket'')', true, true, '')",
        "'for update'",
        "$$delete from accounts$$",
    ]
)
LOCKS = st.sampled_from(
    [
        "",
        "",
        "",
        "for update",
        "for no key update",
        "for share",
        "for key share skip locked",
        "for update of t",
    ]
)
WRITES = st.sampled_from(
    [
        "insert into tree (id) values (1) returning id",
        "update tree set label = 'x' returning id",
        "delete from tree returning id",
        "insert into tree (id) select 2 returning id",
        "delete from tree where false returning id",
    ]
)


@st.composite
def queries(draw: st.DrawFn, depth: int = 2, at_top: bool = True) -> str:
    """A query with one column, whose parts may read, lock, call and write (this in WITH at the top alone)."""
    source = draw(
        st.sampled_from(
            ["accounts t", "(values (1::bigint)) t(id)", "tree t", "rich t", "generate_series(1, 2) t(id)"]
        )
    )
    common: list[str] = []
    if depth:
        if draw(st.booleans()):
            source = f"({draw(queries(depth=depth - 1, at_top=False))}) t(id)"
        for number in range(draw(st.integers(0, 2))):
            inner = queries(depth=depth - 1, at_top=False)
            body = draw(st.one_of(WRITES, inner) if at_top else inner)
            common.append(f"c{number}(id) as ({body})")
            if draw(st.booleans()):
                source = f"c{number} t"
    query = f"select t.id::text from {source}"
    match draw(st.integers(0, 4)):
        case 0:
            query = f"select ({draw(CALLS)})::text from {source}"
        case 1:
            query += f" where ({draw(CALLS)})::text is not null"
        case 2 if depth:
            query += f" where t.id::text in ({draw(queries(depth=depth - 1, at_top=False))})"
        case 3 if depth:
            query = f"({query}) union all ({draw(queries(depth=depth - 1, at_top=False))})"
        case _:
            lockable = source.endswith(("accounts t", "tree t", "rich t", ") t(id)"))
            query += f" {draw(LOCKS)}" if lockable else ""
    return f"with {', '.join(common)} {query}" if common else query


STATEMENTS = st.one_of(
    queries(),
    queries().map(lambda query: f"({query})"),
    queries().map(lambda query: f"explain (analyze, costs off) {query}"),
    queries().map(lambda query: f"explain {query}"),
    queries().map(lambda query: f"copy ({query}) to stdout"),
    queries().map(lambda query: f"create table copied as {query}"),
    queries().map(lambda query: f"insert into tree (label) {query}"),
    queries().map(lambda query: f"select 1; {query}"),
    queries().map(lambda query: f"declare c cursor for {query}"),
    CALLS.map(lambda call: f"select ({call})::text into copied"),
    CALLS.map(lambda call: f"values (({call})::text)"),
    CALLS.map(lambda call: f"select x from (select ({call})::text as x) s"),
    CALLS.map(lambda call: f"select * from cast(({call}) as text) x limit 1"),
)


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(statement=STATEMENTS)
def test_what_a_read_only_transaction_refuses_never_reaches_a_replica(
    primary: Server, replica: Server, statement: str
) -> None:
    role = role_for(analyze(statement), "replicas").role
    answers = (primary.run_read_only(statement), replica.run(statement))
    event(f"{role}, in a read-only transaction: {answers[0] or 'accepted'}")
    if role == "replica":
        assert answers == ("", "")
