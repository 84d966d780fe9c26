"""What the fields of one document, and the documents of one file, must be to each other.

Each rule is a function of one document that yields what is broken: the path below the document, and what is
wrong. A rule is skipped when a field it asks for could not be read; so it asks for no more than it needs.
"""

from collections.abc import Callable, Mapping
from typing import Any

from pgcat_cluster.topology import settings, sharding_rules, wishes
from pgcat_cluster.topology.settings import SIZE_DEFAULT, ClientTls, Document, ServerTls, Settings
from pgcat_cluster.topology.sharding_rules import Broken
from pgcat_cluster.topology.units import HTTPS

# Database names of the admin consoles.
CONSOLES = ("pgcat", "pgbouncer")


def _certificate_has_its_key(tls: ClientTls | ServerTls) -> Broken:
    if tls.cert is not None and tls.key is None:
        yield ("key",), "is missing; a certificate needs its private key"
    if tls.key is not None and tls.cert is None:
        yield ("cert",), "is missing; a private key needs its certificate"


def _offered_tls_has_a_certificate(tls: ClientTls) -> Broken:
    if tls.mode not in (None, "disable") and tls.cert is None and tls.key is None:
        yield ("cert",), f'is missing; mode "{tls.mode}" needs cert and key'


def _demanded_certificates_have_an_authority(tls: ClientTls) -> Broken:
    if tls.mode in ("verify-ca", "verify-full") and tls.client_ca is None:
        yield (
            ("client_ca",),
            f'is missing; mode "{tls.mode}" needs the authority of client certificates',
        )


def _verified_servers_have_an_authority(tls: ServerTls) -> Broken:
    if tls.mode in ("verify-ca", "verify-full") and tls.ca is None:
        yield ("ca",), f'is missing; mode "{tls.mode}" needs the authority of the servers\' certificates'


def _listens_somewhere_once(node: settings.Node) -> Broken:
    if not node.listen:
        yield ("listen",), "is empty; at least one address is needed"
    for index, address in enumerate(node.listen):
        # Port 0 is another port each time.
        if not address.endswith(":0") and address in node.listen[:index]:
            yield ("listen", f"[{index}]"), f'"{address}" is named twice'


def _probe_timeouts_are_in_order(health: settings.Health) -> Broken:
    if health.timeout_min_s > health.timeout_max_s:
        yield ("timeout_min",), "is more than timeout_max"


def _no_canaries_yet(activation: settings.Activation) -> Broken:
    if activation.canary_nodes:
        yield ("canary_nodes",), settings.needs("canary-1")


def _long_leases_are_longer(fleet: settings.Fleet) -> Broken:
    if fleet.long_ttl_s < fleet.ttl_s:
        yield ("long_ttl",), "is less than ttl"


def _ban_times_are_in_order(bans: settings.Bans) -> Broken:
    if bans.min_s > bans.max_s:
        yield ("min",), "is more than max"


def _primary_is_named_if_static(leadership: settings.Leadership) -> Broken:
    if leadership.source == "static" and leadership.primary is None:
        yield ("primary",), 'is missing; source "static" needs the name of a server'
    if leadership.source == "observe" and leadership.primary is not None:
        yield (
            ("primary",),
            'is not allowed with source "observe", which asks the servers',
        )


def _primary_exists(cluster: settings.Cluster) -> Broken:
    primary = cluster.leadership.primary
    if primary is not None and primary not in cluster.servers:
        yield (
            ("leadership", "primary"),
            f'server "{primary}" does not exist; there are: {", ".join(cluster.servers)}',
        )


def _servers_have_own_addresses(cluster: settings.Cluster) -> Broken:
    seen: dict[tuple[str, int], str] = {}
    for name, server in cluster.servers.items():
        other = seen.setdefault((server.host.lower(), server.port), name)
        if other != name:
            yield ("servers", name), f"has the address of server {other}, {server.host}:{server.port}"


def _min_healthy_can_be_met(cluster: settings.Cluster) -> Broken:
    if cluster.min_healthy is not None and cluster.min_healthy > len(cluster.servers):
        yield (
            ("min_healthy",),
            f"{cluster.min_healthy} is more than the number of servers, {len(cluster.servers)}",
        )


def _min_sizes_fit(pool: settings.Pool) -> Broken:
    for label, user in pool.users.items():
        size = next(size for size in (user.size, pool.size, SIZE_DEFAULT) if size is not None)
        min_size = next(size for size in (user.min_size, pool.min_size, 0) if size is not None)
        if min_size > size:
            yield ("users", label, "min_size"), f"{min_size} is more than size, {size}"


def _parameters_are_settings(pool: settings.PoolOptions) -> Broken:
    # These travel beside settings in a start-up packet, and are ours to say.
    for name in pool.parameters or ():
        if name.lower() in ("user", "database", "options", "replication"):
            yield ("parameters", name), "is not a setting of PostgreSQL"


def _rows_fit_their_columns(query: settings.InterceptedQuery) -> Broken:
    for index, column in enumerate(query.schema):
        if len(column) != 2:
            yield ("schema", f"[{index}]"), f"has {len(column)} items; a column is [name, type]"
    for index, row in enumerate(query.result):
        if len(row) != len(query.schema):
            yield ("result", f"[{index}]"), f"has {len(row)} values for {len(query.schema)} columns"


def _statements_are_looked_at(documents: Settings) -> Broken:
    # In session mode bytes go on unseen.
    for label, pool in documents.pools.items():
        for name, user in pool.users.items():
            if (user.mode or pool.mode) != "session":
                continue
            plugins = user.plugins or pool.plugins
            if plugins is None and documents.fleet.plugins is not None:
                plugins = documents.fleet.plugins
                remedy = "; those of fleet.plugins are left out by plugins = {}"
            else:
                remedy = ""
            path = ("pools", label, "users", name, "plugins")
            if plugins is not None and plugins.sees_statements:
                yield path, f'are not possible with mode "session", but for prewarmer{remedy}'
            if (user.mirror or pool.mirror) is not None:
                yield (*path[:-1], "mirror"), 'is not possible with mode "session"'


def _wishes_can_be_had(pool: settings.PoolOptions) -> Broken:
    # These are said for all clients of the pool, and stay with the node.
    for name, value in (pool.parameters or {}).items():
        if name.lower().startswith(wishes.PREFIX):
            read = wishes.READERS.get(name.lower().removeprefix(wishes.PREFIX))
            if read is None:
                allowed = ", ".join(wishes.PREFIX + known for known in wishes.READERS)
                yield ("parameters", name), f"is not one of {allowed}"
                continue
            try:
                read(value)
            except wishes.WrongValue as wrong:
                yield ("parameters", name), f'"{value}" is not {wrong}'


def _trust_has_no_verifier(user: settings.User) -> Broken:
    if user.auth == "trust" and user.verifier is not None:
        yield ("verifier",), 'is not allowed with auth "trust", which asks for no password'


def _password_can_be_checked(user: settings.User) -> Broken:
    if user.auth != "trust" and user.verifier is None and user.secret is None:
        yield (), f'has no password; auth "{user.auth}" needs secret = "file:NAME" or verifier = "…"'


def _verifier_stands_alone(user: settings.User) -> Broken:
    if user.verifier is not None and user.secret is not None:
        yield ("verifier",), "is not allowed beside secret; a secret for servers alone is server_secret"


def _verifier_fits_method(user: settings.User) -> Broken:
    begins = {"scram-sha-256": "SCRAM-SHA-256$", "md5": "md5"}.get(user.auth, "")
    if user.verifier is not None and not user.verifier.startswith(begins):
        yield ("verifier",), f'does not fit auth "{user.auth}"; allowed: one that begins with "{begins}"'


def _user_names_are_unique(documents: Settings) -> Broken:
    # A client is authenticated by its name alone, before its database counts.
    seen: dict[str, str] = {}
    for label, user in documents.users.items():
        name = user.user or label
        other = seen.setdefault(name, label)
        if other != label:
            yield ("users", label, "user"), f'"{name}" is the name of users.{other} already'


def _pools_are_unique(documents: Settings) -> Broken:
    taken: dict[tuple[str, str], str] = {}
    for label, pool in documents.pools.items():
        database = pool.database or label
        for user in pool.users:
            other = taken.setdefault((database, user), label)
            if other != label:
                yield (
                    ("pools", label, "users", user),
                    f'database "{database}" has this user in pools.{other} already',
                )


def _consoles_keep_their_names(documents: Settings) -> Broken:
    for label, pool in documents.pools.items():
        if (pool.database or label) in CONSOLES:
            yield (
                ("pools", label, "database"),
                f'"{pool.database or label}" is the name of an admin console; allowed: another name',
            )


def _fleet_knows_the_name(local: settings.Local) -> Broken:
    if local.node.name is None:
        yield ("node", "name"), "is missing; a node of a fleet needs a name that no other has"


def _store_says_all_of_a_pair(store: settings.Store) -> Broken:
    if not store.endpoints:
        yield ("endpoints",), "is empty; at least one address is needed"
    pairs = (("cert", "key"), ("user", "secret"), ("peer", "peer_key"))
    for one, other in (*pairs, *((other, one) for one, other in pairs)):
        if getattr(store, one) and not getattr(store, other):
            yield (other,), f"is missing; it belongs to {one}"
    spoken = {endpoint.startswith(HTTPS) for endpoint in store.endpoints}
    if len(spoken) > 1:
        yield ("endpoints",), "are https:// in part; all members speak TLS, or none"
    if store.cert is not None and store.ca is None and True not in spoken:
        yield (
            ("ca",),
            "is missing; TLS needs the authority of the members' certificates, or https:// endpoints",
        )


_RULES: Mapping[type[Document], tuple[Callable[[Any], Broken], ...]] = {
    ClientTls: (
        _certificate_has_its_key,
        _offered_tls_has_a_certificate,
        _demanded_certificates_have_an_authority,
    ),
    ServerTls: (_certificate_has_its_key, _verified_servers_have_an_authority),
    settings.Node: (_listens_somewhere_once,),
    settings.Store: (_store_says_all_of_a_pair,),
    settings.Local: (_fleet_knows_the_name,),
    settings.Health: (_probe_timeouts_are_in_order,),
    settings.Activation: (_no_canaries_yet,),
    settings.Fleet: (_long_leases_are_longer,),
    settings.Bans: (_ban_times_are_in_order,),
    settings.Leadership: (_primary_is_named_if_static,),
    settings.Cluster: (_primary_exists, _servers_have_own_addresses, _min_healthy_can_be_met),
    settings.Pool: (_min_sizes_fit, _parameters_are_settings, _wishes_can_be_had),
    settings.PoolUser: (_parameters_are_settings, _wishes_can_be_had),
    settings.User: (
        _trust_has_no_verifier,
        _password_can_be_checked,
        _verifier_stands_alone,
        _verifier_fits_method,
    ),
    settings.InterceptedQuery: (_rows_fit_their_columns,),
    Settings: (
        _user_names_are_unique,
        _pools_are_unique,
        _consoles_keep_their_names,
        _statements_are_looked_at,
    ),
}

RULES = {
    document: (*_RULES.get(document, ()), *sharding_rules.RULES.get(document, ()))
    for document in (*_RULES, *sharding_rules.RULES)
}
