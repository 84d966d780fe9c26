"""What exists, resolved and immutable: clusters, servers, users and pools, every default filled in."""

from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Literal, TypeVar

from msgspec import Struct, structs

from pgcat_cluster.topology.reading import InvalidSettings, Path, Problem, dotted
from pgcat_cluster.topology.secrets import Secret, Secrets, SecretUnavailable, no_secrets, parse_reference
from pgcat_cluster.topology.settings import (
    SIZE_DEFAULT,
    AuthMethod,
    Balancing,
    Consistency,
    DefaultRole,
    Fleet,
    Functions,
    Leadership,
    Mirror,
    Node,
    Otherwise,
    Plugins,
    PoolMode,
    PoolOptions,
    PoolSharding,
    PoolUser,
    Read,
    Reads,
    ReadsOnPrimary,
    ServerTls,
    Settings,
)
from pgcat_cluster.topology.settings import Cluster as ClusterDocument
from pgcat_cluster.topology.settings import Pool as PoolDocument
from pgcat_cluster.topology.settings import ShardMap as ShardMapDocument
from pgcat_cluster.topology.settings import User as UserDocument
from pgcat_cluster.topology.sharding_keys import Key, KeyType, least, read_key
from pgcat_cluster.topology.sql_names import canonical_name
from pgcat_cluster.topology.units import Address

_Key = TypeVar("_Key")
_Entry = TypeVar("_Entry")


class Value(Struct, frozen=True, kw_only=True):
    """A resolved value. Its tables are read-only views."""


class ServerKey(Struct, frozen=True, order=True):
    """Which server, at which address: under a new address the same name is another server."""

    cluster: str
    name: str
    address: Address

    def __str__(self) -> str:
        return f"{self.cluster}/{self.name}"


class PoolKey(Struct, frozen=True, order=True):
    """What a client names at start-up."""

    database: str
    user: str

    def __str__(self) -> str:
        return f"{self.database}/{self.user}"


class Credentials(Value, frozen=True, kw_only=True):
    """As whom we log in to a server; without a password only where the server asks for none."""

    user: str
    password: Secret | None = None


class ProbeLogin(Credentials, frozen=True, kw_only=True):
    database: str


class Server(Value, frozen=True, kw_only=True):
    key: ServerKey
    zone: str
    weight: int
    tags: Mapping[str, str]


class Cluster(Value, frozen=True, kw_only=True):
    """Servers that hold the same data. `probe` None: probes can only connect, and start no session."""

    name: str
    servers: Mapping[str, Server]
    leadership: Leadership
    read: Read
    min_healthy: int
    probe: ProbeLogin | None
    admin: Credentials | None
    tls: ServerTls
    connect_timeout_s: float


class User(Value, frozen=True, kw_only=True):
    """Who a client may be. Of `verifier` and `password` at most one is there; trust needs neither."""

    name: str
    auth: AuthMethod
    verifier: Secret | None
    password: Secret | None
    server: Credentials


class ShardMap(Value, frozen=True, kw_only=True):
    """Which keys lie on which shard. Keys are those of `sharding_keys`; two maps are equal if they map equally.

    `values` are those of a list. `bounds` are those of ranges: in their order, each key from which on another shard
    begins, or -1 where none does.
    """

    name: str
    kind: Literal["hash", "sha1", "modulo", "list", "range"]
    key_type: KeyType
    shards: int
    values: Mapping[Key, int] = MappingProxyType({})
    bounds: tuple[tuple[Key, int], ...] = ()


class Sharding(Value, frozen=True, kw_only=True):
    """How the shard of a statement is told. Tables and columns are as in `sql_names`; `key` may be empty."""

    map: ShardMap
    key: str = ""
    tables: Mapping[str, str] = MappingProxyType({})
    reference: frozenset[str] = frozenset()
    otherwise: Otherwise = "refuse"
    default_shard: int | Literal["random"] = 0
    sticky_comments: bool = False
    shard_id_regex: str = ""
    sharding_key_regex: str = ""
    regex_search_limit_bytes: int = 1000


class Shard(Value, frozen=True, kw_only=True):
    """A horizontal part of a pool's data: the cluster that serves it, and the name of its database there."""

    number: int
    cluster: str
    database: str


class PoolSettings(Value, frozen=True, kw_only=True):
    """One pool of one user; limits of 0 are off. The defaults are those of the documents.

    `shards` are in order of their numbers, which begin at 0; an unsharded pool has one.
    """

    key: PoolKey
    shards: tuple[Shard, ...]
    sharding: Sharding | None = None
    login: Credentials
    mode: PoolMode = "transaction"
    size: int = SIZE_DEFAULT
    min_size: int = 0
    max_clients: int = 0
    checkout_timeout_s: float = 15.0
    idle_timeout_s: float = 600.0
    lifetime_s: float = 3600.0
    idle_transaction_timeout_s: float = 0.0
    query_timeout_s: float = 0.0
    idle_session_timeout_s: float = 0.0
    transaction_timeout_s: float = 0.0
    default_role: DefaultRole = "auto"
    reads: Reads = "replicas"
    reads_on_primary: ReadsOnPrimary = "when_no_replica"
    balancing: Balancing = "random"
    consistency: Consistency = "none"
    consistency_wait_s: float = 0.2
    functions: Functions = "listed"
    writing_functions: tuple[str, ...] = ()
    reading_functions: tuple[str, ...] = ()
    comments: bool = True
    prepared_statements_max: int = 500
    parameters: Mapping[str, str] = MappingProxyType({})
    require_tls: bool = False
    plugins: Plugins | None = None
    mirror: Mirror | None = None

    @property
    def clusters(self) -> frozenset[str]:
        """The names of the clusters that serve its shards."""
        return frozenset(shard.cluster for shard in self.shards)


class Topology(Value, frozen=True, kw_only=True):
    """Everything one node works by, and the `documents` that say so, without verifiers.

    A change is another Topology; `diff` tells two apart.
    """

    node: Node
    fleet: Fleet
    clusters: Mapping[str, Cluster]
    users: Mapping[str, User]
    pools: Mapping[PoolKey, PoolSettings]
    shardmaps: Mapping[str, ShardMap] = MappingProxyType({})
    documents: Settings = Settings()

    def server(self, key: ServerKey) -> Server | None:
        """The server of this key, unless it left or moved."""
        cluster = self.clusters.get(key.cluster)
        server = cluster.servers.get(key.name) if cluster else None
        return server if server is not None and server.key == key else None


def build(settings: Settings, secrets: Secrets = no_secrets, *, source: str = "settings") -> Topology:
    """Resolve documents. Raises InvalidSettings, naming `source`, for each secret that can not be read."""
    return _Builder(settings, secrets).topology(source)


def pool_options(pool: PoolDocument, user: PoolUser) -> dict[str, object]:
    """What is said for a user of a pool: the user's own word before the pool's, by field of PoolSettings."""
    said: dict[str, object] = {}
    for document in (pool, user):
        for field in PoolOptions.__struct_fields__:
            value = getattr(document, field)
            if value is not None:
                said[field] = value
    return said


class _Builder:
    """Keeps the problems met while resolving, so that all unreadable secrets are named at once."""

    def __init__(self, settings: Settings, secrets: Secrets) -> None:
        self._settings = settings
        self._secrets = secrets
        self._problems: list[Problem] = []

    def topology(self, source: str) -> Topology:
        settings = self._settings
        users = {label: self._user(label, document) for label, document in settings.users.items()}
        maps = shard_maps(settings)
        pools = [pool for label in settings.pools for pool in self._pools(label, users, maps)]
        topology = Topology(
            node=settings.node,
            fleet=settings.fleet,
            clusters=_table({name: self._cluster(name, one) for name, one in settings.clusters.items()}),
            users=_table({user.name: user for user in users.values()}),
            pools=_table({pool.key: pool for pool in pools}),
            shardmaps=_table(maps),
            documents=structs.replace(
                settings,
                users={label: structs.replace(user, verifier=None) for label, user in settings.users.items()},
            ),
        )
        if self._problems:
            raise InvalidSettings(source, self._problems)
        return topology

    def _pools(
        self, label: str, users: Mapping[str, User], maps: Mapping[str, ShardMap]
    ) -> Iterator[PoolSettings]:
        document = self._settings.pools[label]
        shards, sharding = shards_of(document, label), _sharding(document, self._settings.shardmaps, maps)
        for name, said in document.users.items():
            user, options = users[name], pool_options(document, said)
            for field in ("writing_functions", "reading_functions"):
                if isinstance(functions := options.get(field), list):
                    options[field] = tuple(functions)
            if isinstance(parameters := options.get("parameters"), dict):
                options["parameters"] = _table(parameters)
            pool = PoolSettings(
                key=PoolKey(document.database or label, user.name),
                shards=shards,
                sharding=sharding,
                login=user.server,
                plugins=self._settings.fleet.plugins,
            )
            yield structs.replace(pool, **options)

    def _secret(self, reference: str | None, path: Path) -> Secret | None:
        if reference is None:
            return None
        try:
            return Secret(self._secrets(parse_reference(reference)))
        except SecretUnavailable as error:
            self._problems.append(Problem(dotted(path), f'"{reference}" can not be read: {error}'))
            return None

    def _user(self, label: str, document: UserDocument) -> User:
        name = document.user or label
        password = self._secret(document.secret, ("users", label, "secret"))
        own = self._secret(document.server_secret, ("users", label, "server_secret"))
        return User(
            name=name,
            auth=document.auth,
            verifier=Secret(document.verifier) if document.verifier else None,
            password=password,
            server=Credentials(user=document.server_user or name, password=own or password),
        )

    def _cluster(self, name: str, document: ClusterDocument) -> Cluster:
        probe, admin = document.probe, document.admin
        path = ("clusters", name)
        return Cluster(
            name=name,
            servers=_table(
                {
                    label: Server(
                        key=ServerKey(name, label, Address(server.host, server.port)),
                        zone=server.zone,
                        weight=server.weight,
                        tags=_table(server.tags),
                    )
                    for label, server in document.servers.items()
                }
            ),
            leadership=document.leadership,
            read=document.read,
            min_healthy=document.min_healthy or (len(document.servers) + 1) // 2,
            probe=None
            if probe is None
            else ProbeLogin(
                user=probe.user,
                password=self._secret(probe.secret, (*path, "probe", "secret")),
                database=probe.database,
            ),
            admin=None
            if admin is None
            else Credentials(
                user=admin.user, password=self._secret(admin.secret, (*path, "admin", "secret"))
            ),
            tls=document.tls,
            connect_timeout_s=document.connect_timeout_s,
        )


def shards_of(pool: PoolDocument, label: str) -> tuple[Shard, ...]:
    """Where the data of the pool of this label lie, in the order of their numbers."""
    usual, said = pool.server_database or pool.database or label, pool.shards
    if said is None:
        assert pool.cluster is not None  # rules: there is one or the other
        return (Shard(number=0, cluster=pool.cluster, database=usual),)
    return tuple(
        Shard(number=number, cluster=said.clusters[label], database=said.databases.get(label, usual))
        for number, label in enumerate(map(str, range(len(said.clusters))))
    )


def shard_maps(settings: Settings) -> dict[str, ShardMap]:
    """All maps by their names."""
    return {name: _shard_map(name, document) for name, document in settings.shardmaps.items()}


def map_of(pool: PoolDocument, maps: Mapping[str, ShardMap]) -> ShardMap | None:
    """By which map a pool goes; None if it has no shards."""
    if pool.shards is None:
        return None
    if pool.shards.map is None:
        return ShardMap(name="", kind="hash", key_type="bigint", shards=len(pool.shards.clusters))
    return maps[pool.shards.map]


def _shard_map(name: str, document: ShardMapDocument) -> ShardMap:
    key_type = document.key.type
    return ShardMap(
        name=name,
        kind="hash" if document.kind == "pg_bigint_hash" else document.kind,
        key_type=key_type,
        shards=document.shards,
        values=_table({read_key(key_type, said): shard for said, shard in document.values.items()}),
        bounds=_bounds(document),
    )


def _bounds(document: ShardMapDocument) -> tuple[tuple[Key, int], ...]:
    """Where ranges begin, and where they end unless another begins there."""
    key_type = document.key.type
    begins: dict[Key, int] = {}
    ends: dict[Key, int] = {}
    for one in document.ranges.values():
        begins[least(key_type) if one.start is None else read_key(key_type, one.start)] = one.shard
        if one.stop is not None:
            ends[read_key(key_type, one.stop)] = -1
    return tuple(sorted((ends | begins).items()))


def _sharding(
    document: PoolDocument, documents: Mapping[str, ShardMapDocument], maps: Mapping[str, ShardMap]
) -> Sharding | None:
    shard_map = map_of(document, maps)
    if shard_map is None:
        return None
    said = document.sharding or PoolSharding()
    key = said.key
    if key is None and shard_map.name:
        key = documents[shard_map.name].key.column
    return Sharding(
        map=shard_map,
        key=canonical_name(key or ""),
        tables=_table({canonical_name(table): canonical_name(one.key) for table, one in said.tables.items()}),
        reference=frozenset(canonical_name(table) for table in said.reference),
        otherwise=said.otherwise,
        default_shard=said.default_shard,
        sticky_comments=said.sticky_comments,
        shard_id_regex=said.shard_id_regex or "",
        sharding_key_regex=said.sharding_key_regex or "",
        regex_search_limit_bytes=said.regex_search_limit,
    )


def _table(entries: Mapping[_Key, _Entry]) -> Mapping[_Key, _Entry]:
    return MappingProxyType(dict(entries))
