"""What may stand in each document: fleet, clusters, pools, shard maps, users and the node's own settings.

A file holds all documents as tables (`[pools.app]`); the same documents live under etcd keys of the same
names (`config/pools/app`). Field names are those of the documents, with the unit added where a duration
becomes seconds: `ttl = "6s"` is `ttl_s: float`. What two fields must be to each other stands in `rules`.
"""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from msgspec import Meta, Struct, field

from pgcat_cluster.topology.secrets import REFERENCE, VERIFIER
from pgcat_cluster.topology.sharding_keys import KeyType
from pgcat_cluster.topology.sql_names import COLUMN, TABLE
from pgcat_cluster.topology.units import ADDRESS, ADDRESS_OR_OFF, DURATION, ENDPOINT, SIZE, Notation

_YEAR_S = 365 * 86400.0
_GIBIBYTE = 1 << 30


def _text(notation: Notation) -> Meta:
    return Meta(
        extra={"notation": notation}, extra_json_schema={"type": "string", "pattern": notation.pattern}
    )


NAME = "^[a-z0-9][a-z0-9-]{0,62}$"
Name = Annotated[
    str,
    Meta(
        pattern=NAME,
        extra={
            "allowed": "1 to 63 of a-z, 0-9 and -, beginning with no - (PostgreSQL's own name stands inside)"
        },
    ),
]
# A document that an edit may take things away from.
DocumentName = Annotated[
    str,
    Meta(
        pattern=r"^(pools|clusters|shardmaps)/[a-z0-9][a-z0-9-]{0,62}$",
        extra={"allowed": '"pools/NAME", "clusters/NAME" or "shardmaps/NAME"'},
    ),
]
ClusterName = Annotated[str, Meta(extra={"refers": "cluster"})]
ShardMapName = Annotated[str, Meta(extra={"refers": "shard map"})]
UserLabel = Annotated[str, Meta(extra={"refers": "user"})]
# As PostgreSQL knows the user, which is what a console sees.
UserName = Annotated[str, Meta(extra={"refers": "user name"})]

Duration = Annotated[float, Meta(ge=0, le=_YEAR_S), _text(DURATION)]  # "0" is off, or at once
Span = Annotated[float, Meta(ge=0.001, le=_YEAR_S), _text(DURATION)]  # never off
LeaseSpan = Annotated[float, Meta(ge=5, le=30), _text(DURATION)]
Size = Annotated[int, Meta(ge=0), _text(SIZE)]
StatementSize = Annotated[int, Meta(ge=1 << 10, le=_GIBIBYTE), _text(SIZE)]  # PostgreSQL's own limit is 1 GiB
ListenAddress = Annotated[str, _text(ADDRESS)]
Endpoint = Annotated[str, _text(ENDPOINT)]
OptionalAddress = Annotated[str, _text(ADDRESS_OR_OFF)]
Reference = Annotated[str, _text(REFERENCE)]
Verifier = Annotated[str, _text(VERIFIER)]
# A single colon would be a port; what has two is an IPv6 address.
Host = Annotated[
    str,
    Meta(
        pattern=r"^(/\S*|[^\s/@:]+|[0-9A-Fa-f]*:[0-9A-Fa-f.]*:[0-9A-Fa-f:.]*(%\w+)?)$",
        extra={"allowed": "a host name or address without port, or the directory of a Unix socket"},
    ),
]
Text = Annotated[str, Meta(min_length=1, extra={"allowed": "a text that is not empty"})]
# PostgreSQL cuts names at 63 bytes; a longer one here could never be met.
SqlName = Annotated[str, Meta(min_length=1, max_length=63, extra={"allowed": "a name of 1 to 63 characters"})]
ParameterName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z][A-Za-z0-9_]*(\.[A-Za-z0-9_]+)*$",
        extra={"allowed": "the name of a setting of PostgreSQL"},
    ),
]
SHARDS_MAX = 1024
ShardNumber = Annotated[int, Meta(ge=0, le=SHARDS_MAX - 1)]
ShardLabel = Annotated[
    str, Meta(pattern=r"^(0|[1-9][0-9]{0,3})$", extra={"allowed": "the number of a shard, counted from 0"})
]
KeyText = Annotated[int | str, Meta(extra={"allowed": "a key: a whole number, or a text"})]
Port = Annotated[int, Meta(ge=1, le=65535)]
# More of anything is a slip of the hand.
Count = Annotated[int, Meta(ge=0, le=1_000_000)]
Positive = Annotated[int, Meta(ge=1, le=1_000_000)]
Revision = Annotated[int, Meta(ge=1)]  # the store's
Counter = Annotated[int, Meta(ge=0)]  # whatever somebody counts up
Share = Annotated[float, Meta(ge=0, le=1)]
TableName = Annotated[
    str,
    Meta(
        pattern=TABLE,
        extra={"allowed": "a table as SQL names it, with or without its schema: table, schema.table"},
    ),
]
ColumnName = Annotated[str, Meta(pattern=COLUMN, extra={"allowed": "a column as SQL names it"})]
ColumnOrNone = Annotated[
    str, Meta(pattern=rf"^$|{COLUMN}", extra={"allowed": 'a column as SQL names it, or "" for none'})
]

TlsMode = Literal["disable", "prefer", "require", "verify-ca", "verify-full"]
PoolMode = Literal["transaction", "session"]
Reads = Literal["replicas", "primary"]
ReadsOnPrimary = Literal["never", "when_no_replica", "always"]
DefaultRole = Literal["auto", "primary", "replica", "any"]
Balancing = Literal["random", "least_connections"]
Consistency = Literal["none", "session"]
Functions = Literal["listed", "catalog"]
AuthMethod = Literal["scram-sha-256", "md5", "trust"]
ShardMapKind = Literal["hash", "pg_bigint_hash", "sha1", "modulo", "list", "range"]
Otherwise = Literal["refuse", "default_shard"]
OnAllBad = Literal["primary", "any", "fail"]

_CLEAR_PASSWORD = (
    'a clear password does not belong in a document; put it in a file and write secret = "file:NAME", '
    'or in the environment and write secret = "env:NAME"'
)
_CLEAR_USER_PASSWORD = _CLEAR_PASSWORD + ', or give only its verifier = "SCRAM-SHA-256$…"'


def needs(feature: str) -> str:
    """The answer to what belongs to a feature of a later version; nodes name theirs in their live keys."""
    return f"needs feature {feature}, which this version does not have"


class Document(
    Struct,
    frozen=True,
    forbid_unknown_fields=True,
    kw_only=True,
    rename=lambda name: name.removesuffix("_s"),
):
    """A table of a document.

    `refused` are keys with an answer of their own instead of "unknown key". Who says one of `instead` leaves the
    key it stands for unset, whatever that one's default.
    """

    refused: ClassVar[Mapping[str, str]] = {}
    instead: ClassVar[Mapping[str, str]] = {}


class Credentials(Document, frozen=True, kw_only=True):
    """How we log in to a server for our own purposes."""

    user: SqlName
    secret: Reference | None = None

    refused: ClassVar[Mapping[str, str]] = {"password": _CLEAR_PASSWORD}


# ---- [node]: this process alone; never in etcd


class Log(Document, frozen=True, kw_only=True):
    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["text", "json"] = "text"


class ClientTls(Document, frozen=True, kw_only=True):
    """TLS towards clients; verify-* demands theirs. `mode` unset: `prefer` if there is a certificate."""

    mode: TlsMode | None = None
    cert: Text | None = None
    key: Text | None = None
    client_ca: Text | None = None

    @property
    def mode_in_force(self) -> TlsMode:
        return self.mode or ("disable" if self.cert is None else "prefer")


class Tcp(Document, frozen=True, kw_only=True):
    """Keepalive of every connection, both sides; `user_timeout` works on Linux only."""

    keepalive_idle_s: Duration = 5.0
    keepalive_interval_s: Span = 5.0
    keepalive_count: Positive = 5
    user_timeout_s: Duration = 10.0


class Node(Document, frozen=True, kw_only=True):
    """Settings of one process. Relative paths begin at the file's directory. `name` unset: the host's."""

    v: Literal[1] = 1
    name: Name | None = None
    listen: list[ListenAddress] = field(default_factory=lambda: ["127.0.0.1:6432"])
    http: OptionalAddress = "127.0.0.1:9930"
    reuse_port: bool = False
    max_clients: Positive = 10000
    login_timeout_s: Span = 15.0
    shutdown_timeout_s: Duration = 60.0
    secrets_dir: Text = "."
    statement_bytes_max: StatementSize = 1 << 20
    log: Log = Log()
    admin_users: list[UserName] = []
    stats_users: list[UserName] = []
    tls: ClientTls = ClientTls()
    tcp: Tcp = Tcp()


# ---- [store]: where a node of a fleet finds everything else


class Store(Document, frozen=True, kw_only=True):
    """How a node reaches its fleet, and who it is there. Relative paths begin at the file's directory.

    `host` names what the node shares its fate with, unset: this machine. Without `state_dir` a node that starts
    while the store is away has nothing to go by. At `peer` other nodes of the fleet ask this one, who share the
    lines of the file `peer_key`; without it cancel requests work only at the node of the client they are for.

    Endpoints with `https://`, or `ca`: the members speak TLS. `ca` signed their certificates, unset: a public
    authority did; `cert` and `key` are ours, where they ask for them. `user` and `secret` are one of etcd's.
    """

    endpoints: list[Endpoint]
    fleet: Name
    zone: str = ""
    host: Text | None = None
    state_dir: Text | None = None
    ca: Text | None = None
    cert: Text | None = None
    key: Text | None = None
    user: Text | None = None
    secret: Reference | None = None
    peer: OptionalAddress = ""
    peer_key: Text | None = None
    quota: Size | None = None
    allow_bad_version: bool = False

    refused: ClassVar[Mapping[str, str]] = {"password": _CLEAR_PASSWORD}


_IN_THE_STORE = "is not for the file of a node with [store]: it stands in the store"


class Local(Document, frozen=True, kw_only=True):
    """All that a node of a fleet must know before it can read the store."""

    node: Node
    store: Store

    refused: ClassVar[Mapping[str, str]] = dict.fromkeys(
        ("fleet", "clusters", "pools", "users", "shardmaps"), _IN_THE_STORE
    )


# ---- [fleet]


class Limits(Document, frozen=True, kw_only=True):
    writes_per_second: Positive = 5
    burst: Positive = 20


class Hold(Document, frozen=True, kw_only=True):
    max_s: Duration = 45.0
    clients: Count = 5000
    bytes: Size = 64 << 20
    prehold_max_s: Duration = 5.0
    drain_s: Duration = 5.0


class Activation(Document, frozen=True, kw_only=True):
    policy: Literal["majority", "unanimous", "immediate"] = "majority"
    timeout_s: Span = 5.0
    settle_s: Duration = 0.02
    canary_nodes: Count = 0
    canary_time_s: Span = 30.0


class Health(Document, frozen=True, kw_only=True):
    """When a server counts as ill. `self_suspect` has an effect in a fleet alone."""

    interval_s: Span = 1.0
    fall: Positive = 2
    rise: Positive = 3
    timeout_min_s: Span = 0.25
    timeout_max_s: Span = 2.0
    local_eject_max: Share = 0.5
    self_suspect: Share = 0.5


class Bans(Document, frozen=True, kw_only=True):
    min_s: Span = 5.0
    max_s: Span = 300.0
    strike_decay_s: Span = 600.0
    ramp_s: Duration = 10.0


class QueryLogger(Document, frozen=True, kw_only=True):
    """Logs each statement; its constants too only where `constants` says so, and never a password."""

    enabled: bool = False
    constants: bool = False


class InterceptedQuery(Document, frozen=True, kw_only=True):
    """A statement that is answered here: columns as [name, type], rows of texts, "" for NULL.

    In values ${USER} and ${DATABASE} are those of the client.
    """

    query: Text
    schema: list[list[str]]
    result: list[list[str]] = []


class Intercept(Document, frozen=True, kw_only=True):
    """Answers statements instead of the server."""

    enabled: bool = False
    queries: dict[Text, InterceptedQuery] = {}


class TableAccess(Document, frozen=True, kw_only=True):
    """Refuses statements that name one of the tables, and those that can not be understood.

    What a table's bare name means depends on the client's search_path: a rule with a schema is for it too.
    """

    enabled: bool = False
    tables: list[TableName] = []


class Prewarmer(Document, frozen=True, kw_only=True):
    """Runs queries on each new server link before any client gets it."""

    enabled: bool = False
    queries: list[Text] = []


class Plugins(Document, frozen=True, kw_only=True):
    """What is done with statements beside sending them on."""

    query_logger: QueryLogger = QueryLogger()
    intercept: Intercept = Intercept()
    table_access: TableAccess = TableAccess()
    prewarmer: Prewarmer = Prewarmer()

    @property
    def sees_statements(self) -> bool:
        return self.query_logger.enabled or self.intercept.enabled or self.table_access.enabled


class Fleet(Document, frozen=True, kw_only=True):
    """What all nodes share. Only `health` and `plugins` have an effect on a node that runs alone.

    `plugins` are those of all pools that say nothing of their own; what a pool says replaces them whole.
    """

    v: Literal[1] = 1
    ttl_s: LeaseSpan = 6.0
    long_ttl_s: Span = 60.0
    jury: Positive = 9
    nodes_max: Positive = 64
    limits: Limits = Limits()
    hold: Hold = Hold()
    activation: Activation = Activation()
    allow_delete: list[DocumentName] = []
    health: Health = Health()
    bans: Bans = Bans()
    plugins: Plugins | None = None


# ---- [clusters.X]


class Server(Document, frozen=True, kw_only=True):
    """One PostgreSQL at one address. `weight` is its part of balanced reads; 0 takes none.

    `zone` has an effect in a fleet alone; `tags` and `budget` have none yet.
    """

    host: Host
    port: Port = 5432
    zone: str = ""
    weight: Annotated[int, Meta(ge=0, le=1000)] = 100
    tags: dict[str, str] = {}

    refused: ClassVar[Mapping[str, str]] = {"budget": needs("budget-1")}


class Probe(Credentials, frozen=True, kw_only=True):
    """The login of probes; `pg_monitor` suffices."""

    database: SqlName = "postgres"


class Leadership(Document, frozen=True, kw_only=True):
    """Who says which server is primary."""

    source: Annotated[
        Literal["static", "observe"],
        Meta(
            extra={"refused": dict.fromkeys(("patroni", "patroni-rest", "hook", "fleet"), needs("primary-1"))}
        ),
    ]
    primary: str | None = None

    refused: ClassVar[Mapping[str, str]] = dict.fromkeys(
        (
            *("namespace", "scope", "urls", "promote", "level", "fence", "required", "max_lag", "ack_wait"),
            *("status", "timeout"),
        ),
        "belongs to a source that " + needs("primary-1"),
    )


class Read(Document, frozen=True, kw_only=True):
    """Which replicas may be read, and what happens to reads when none may.

    A replica that is behind by more than `max_lag` or by more than `max_lag_bytes` is not read; 0 is no limit.
    """

    max_lag_s: Duration = 10.0
    max_lag_bytes: Size = 0
    min_serving: Count = 1
    on_all_bad: OnAllBad = "primary"


class ServerTls(Document, frozen=True, kw_only=True):
    """TLS towards servers, for traffic, probes and cancel requests alike."""

    mode: TlsMode = "prefer"
    ca: Text | None = None
    cert: Text | None = None
    key: Text | None = None


class Cluster(Document, frozen=True, kw_only=True):
    """One primary and its replicas.

    `min_healthy` (unset: half of the servers, rounded up) has an effect in a fleet alone; `admin` has none yet.
    """

    v: Literal[1] = 1
    servers: Annotated[dict[Name, Server], Meta(min_length=1)]
    min_healthy: Positive | None = None
    probe: Probe | None = None
    admin: Credentials | None = None
    leadership: Leadership = Leadership(source="observe")
    read: Read = Read()
    tls: ServerTls = ServerTls()
    connect_timeout_s: Span = 5.0


# ---- [pools.X]

SIZE_DEFAULT = 20  # server links of a pool that says nothing


class Mirror(Document, frozen=True, kw_only=True):
    """A server that gets a copy of a share of the traffic, as whole transactions; its answers are thrown away.

    What waits for it takes `queue` at most, what does not fit is left out. Its login is that of the pool's user,
    TLS as the cluster says. `database` unset: as on the pool's servers. Of a pool with shards, each goes to the one
    that `databases` names, else to `database`, which may get all of them.
    """

    host: Host
    port: Port = 5432
    share: Share = 1.0
    queue: Size = 8 << 20
    database: SqlName | None = None
    databases: dict[ShardLabel, SqlName] = {}
    links: Annotated[int, Meta(ge=1, le=100)] = 2


class PoolOptions(Document, frozen=True, kw_only=True):
    """What may be said for a pool and again for one of its users; unset means: as the pool, then the default.

    The defaults stand in `model.PoolSettings`. "0" switches a limit off.
    """

    mode: PoolMode | None = None
    size: Positive | None = None
    min_size: Count | None = None
    max_clients: Count | None = None
    checkout_timeout_s: Span | None = None
    idle_timeout_s: Duration | None = None
    lifetime_s: Duration | None = None
    idle_transaction_timeout_s: Duration | None = None
    query_timeout_s: Duration | None = None
    idle_session_timeout_s: Duration | None = None
    transaction_timeout_s: Duration | None = None
    default_role: DefaultRole | None = None
    reads: Reads | None = None
    reads_on_primary: ReadsOnPrimary | None = None
    balancing: Balancing | None = None
    consistency: Consistency | None = None
    consistency_wait_s: Duration | None = None
    functions: Functions | None = None
    writing_functions: list[Text] | None = None
    reading_functions: list[Text] | None = None
    comments: bool | None = None
    prepared_statements_max: Count | None = None
    parameters: dict[ParameterName, str] | None = None
    require_tls: bool | None = None
    plugins: Plugins | None = None
    mirror: Mirror | None = None


class PoolUser(PoolOptions, frozen=True, kw_only=True):
    """One user of a pool."""


class PoolShards(Document, frozen=True, kw_only=True):
    """Where the shards of a pool lie, by their numbers; `databases` unset: the pool's `server_database`.

    `map` unset: a hash over bigint with as many shards as there are here.
    """

    map: ShardMapName | None = None
    clusters: Annotated[dict[ShardLabel, ClusterName], Meta(min_length=1)]
    databases: dict[ShardLabel, SqlName] = {}


class TableSharding(Document, frozen=True, kw_only=True):
    """The column of one table that holds the sharding key."""

    key: ColumnName


class PoolSharding(Document, frozen=True, kw_only=True):
    """How the shard of a statement is told.

    `key` is the column that holds the sharding key in each table that `tables` does not name; unset: the map's,
    "" for none. Tables of `reference` live whole on every shard. `otherwise` is for statements that lead to no
    shard, or to several. A regular expression, in Python's notation, has one group: the number, or the key.
    """

    key: ColumnOrNone | None = None
    tables: dict[TableName, TableSharding] = {}
    reference: list[TableName] = []
    otherwise: Otherwise = "refuse"
    default_shard: Annotated[
        ShardNumber | Literal["random"], Meta(extra={"allowed": 'the number of a shard, or "random"'})
    ] = 0
    sticky_comments: bool = False
    shard_id_regex: Text | None = None
    sharding_key_regex: Text | None = None
    regex_search_limit: Size = 1000


class Pool(PoolOptions, frozen=True, kw_only=True):
    """A database and its users. `database` unset: the label; `server_database` unset: as `database`."""

    v: Literal[1] = 1
    database: SqlName | None = None
    server_database: SqlName | None = None
    cluster: ClusterName | None = "main"
    shards: PoolShards | None = None
    sharding: PoolSharding | None = None
    users: Annotated[dict[UserLabel, PoolUser], Meta(min_length=1)]

    instead: ClassVar[Mapping[str, str]] = {"cluster": "shards"}


# ---- [shardmaps.X]

_NOT_ONE_FORM = "is not offered: equal keys have several forms there"


class ShardKey(Document, frozen=True, kw_only=True):
    """What is hashed or looked up. `column` is the key of pools that name none.

    Texts are compared byte by byte: a column with a nondeterministic collation is no key.
    """

    column: ColumnName | None = None
    type: Annotated[
        KeyType,
        Meta(
            extra={
                "refused": {
                    **dict.fromkeys(("char", "character", "bpchar", "numeric", "decimal"), _NOT_ONE_FORM),
                    **{
                        other: f'is called "{name}" here'
                        for other, name in (("int2", "smallint"), ("int4", "integer"), ("int8", "bigint"))
                    },
                }
            }
        ),
    ]


class KeyRange(Document, frozen=True, kw_only=True):
    """The keys of one shard from `from`, which is among them, to `to`, which is not. Unset: without a bound."""

    start: KeyText | None = field(name="from", default=None)
    stop: KeyText | None = field(name="to", default=None)
    shard: ShardNumber


class ShardMap(Document, frozen=True, kw_only=True):
    """Which keys lie on which shard.

    "hash" is PostgreSQL's hash partitioning, "pg_bigint_hash" the same over bigint. "sha1" and "modulo" are for
    whole numbers; a remainder is never negative. "list" has `values`, the shard of each key; "range" has
    `ranges`, by names of your choice. A map in use can not be changed yet, so `cutover` has no effect.
    """

    v: Literal[1] = 1
    kind: ShardMapKind
    key: ShardKey
    shards: Annotated[int, Meta(ge=1, le=SHARDS_MAX)]
    values: dict[str, ShardNumber] = {}
    ranges: dict[Name, KeyRange] = {}
    cutover: Literal["barrier"] = "barrier"


# ---- [users.X]


class User(Document, frozen=True, kw_only=True):
    """Who a client may be, and as whom we go to the server for it.

    `user` unset: the label. The clear password behind `secret` serves both sides; `verifier` serves clients
    alone; `server_user` and `server_secret` serve servers alone.
    """

    v: Literal[1] = 1
    user: SqlName | None = None
    auth: AuthMethod = "scram-sha-256"
    verifier: Verifier | None = None
    secret: Reference | None = None
    server_user: SqlName | None = None
    server_secret: Reference | None = None

    refused: ClassVar[Mapping[str, str]] = {
        "password": _CLEAR_USER_PASSWORD,
        "server_password": _CLEAR_PASSWORD.replace("secret =", "server_secret ="),
    }


class Settings(Document, frozen=True, kw_only=True):
    """All documents of one file."""

    node: Node = Node()
    fleet: Fleet = Fleet()
    clusters: dict[Name, Cluster] = {}
    pools: dict[Name, Pool] = {}
    shardmaps: dict[Name, ShardMap] = {}
    users: dict[Name, User] = {}

    refused: ClassVar[Mapping[str, str]] = {
        "store": "makes this the file of a node of a fleet, which holds [node] and [store] alone",
    }
