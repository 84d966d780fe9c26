"""Makes random conversations of two clients from a seed, as lines in the player's notation.

What the node is known, and documented, to answer otherwise than PostgreSQL is not said here; the places that take
care of it say where it is documented. Each client writes to keys of its own, as nobody is there to end a wait.
"""

from __future__ import annotations

import dataclasses
import random
import struct
from dataclasses import dataclass
from enum import Enum

from pgcat_cluster.routing import pg_bigint_hash
from tests.support.player import Writing

CLIENTS = 2
SHARDS = 4
# Keys of one conversation lie within so many on either side of zero; none are those of another.
KEYS_SPAN = 1000
SLEEP_S = 600
INT8, INT4, INT8S, INT4S = 20, 23, 1016, 1007

TABLE = """
    create table diary (id bigint primary key, value text, moment timestamptz) partition by hash (id)
"""


class Kind(Enum):
    """What a conversation may say, and whether the node may refuse any of it."""

    KEYED = "one shard for each client, named by keys alone: nothing may be refused"
    TOLD = "one shard, which the session has from its start: nothing may be refused"
    ROAMING = "several shards: what is refused fails as in PostgreSQL any statement may"


@dataclass(frozen=True, slots=True)
class Turn:
    """What one client sends before the other has the word; answered before that unless it is left open."""

    client: int
    lines: tuple[str, ...]
    writing: Writing = Writing.WHOLE
    is_cancelled: bool = False

    @property
    def is_open(self) -> bool:
        return bool(self.lines) and not self.lines[-1].startswith(("Query", "Sync", "Flush", "Copy"))


@dataclass(frozen=True, slots=True)
class Talk:
    """A conversation of two clients with one pool; `parameters` are what each says at login."""

    seed: int
    kind: Kind
    pool: str
    parameters: tuple[dict[str, str], ...]
    turns: tuple[Turn, ...]

    @property
    def condition(self) -> str:
        """What all rows of this conversation and no others fulfil."""
        first = first_key(self.seed)
        return f"abs(id) between {first} and {first + KEYS_SPAN - 1}"

    def shown(self) -> str:
        parts = [f"seed {self.seed}, pool {self.pool}: {self.kind.name.lower()}, {self.kind.value}"]
        parts += [f"client {client} begins with {said}" for client, said in enumerate(self.parameters)]
        for turn in self.turns:
            how = (
                ", cancelled when it runs" if turn.is_cancelled else ", and waits for nothing" * turn.is_open
            )
            parts.append(f"client {turn.client}, {turn.writing.value}{how}")
            parts += [f"    {line}" for line in turn.lines]
        return "\n".join(parts)


def first_key(seed: int) -> int:
    return (seed % 1_000_000 + 1) * KEYS_SPAN


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement; `wants` has a letter for each parameter: k a key, a an array of keys, t a text, m a moment."""

    text: str
    wants: str = ""
    # Has a constant that means another moment in another TimeZone or DateStyle.
    is_zoned: bool = False
    is_control: bool = False

    @property
    def needs_server(self) -> bool:
        """Said while BEGIN is held, it may go to any shard."""
        return self.is_control and "chain" in self.text


# The type of its key is that of the first use, which a server alone can tell.
OPEN = Statement("select count(*) from diary where id = $1 and (value is null or id = $1)", "k")
KEYED_SELECT = Statement("select value, moment from diary where id = $1", "k")


KEYED = [
    *[Statement("insert into diary (id, value) values ($1, $2)", "kt")] * 4,
    Statement("insert into diary (id, value) values ($1, $2) returning id, value", "kt"),
    Statement("insert into diary (value, id) values ($2, $1) on conflict do nothing", "kt"),
    Statement(
        "insert into diary (id, value) values ($1, $2) on conflict (id) do update set value = excluded.value",
        "kt",
    ),
    *[KEYED_SELECT] * 2,
    Statement("select id, value from diary where id in ($1, $2, $3) order by id", "kkk"),
    *[Statement("select id, value from diary where id = any($1) order by id", "a")] * 2,
    Statement("select id from diary where id = any ($1) and value like $2 order by id for update", "at"),
    OPEN,
    *[Statement("update diary set value = $2 where id = $1 returning value", "kt")] * 2,
    Statement("update diary set moment = $2 where id = $1", "km"),
    Statement("update diary set value = value || $2 where id = any($1)", "at"),
    *[Statement("delete from diary where id = $1", "k")] * 2,
    Statement("delete from diary where id = any($1) returning id", "a"),
    # These fail: where there is a row, while planning, in the analysis.
    Statement("select 1 / (id - id) from diary where id = $1", "k"),
    Statement("select 1 / 0 from diary where id = $1", "k"),
    Statement("select valeu from diary where id = $1", "k"),
]
ZONED = [
    Statement(
        "insert into diary (id, moment) values ($1, '2026-07-01 12:00') on conflict (id) do update"
        " set moment = '02/03/2026 10:00' returning moment",
        "k",
        is_zoned=True,
    ),
    Statement(
        "select id from diary where moment = timestamptz '2026-07-01 12:00' and id = any($1) order by id",
        "a",
        is_zoned=True,
    ),
    Statement("select '2026-07-01 12:00'::timestamptz, moment from diary where id = $1", "k", is_zoned=True),
]
TRANSACTIONS = [
    Statement(text, is_control=True)
    for text in [
        *["begin"] * 8,
        *[
            "start transaction",
            "begin isolation level repeatable read",
            "begin read only",
            "begin read write",
        ],
        *["commit"] * 6,
        *["end", "abort", "commit and chain", "rollback and chain"],
        *["rollback"] * 4,
        *["savepoint a", "savepoint b", "rollback to a", "rollback to savepoint b", "release a"] * 2,
        "set local work_mem = '2MB'",
        "set local lock_timeout = '50s'",
    ]
]
KEYLESS = [
    Statement(text)
    for text in [
        *[
            "select 1",
            "select 1 / 0",
            "selekt",
            "show work_mem",
            "show timezone",
            "show application_name",
            "",
        ],
        *[
            "set work_mem = '3MB'",
            "set application_name = 'talk'",
            "reset work_mem",
            "set bytea_output = 'escape'",
        ],
    ]
] + [Statement("set transaction read write", is_control=True)]
ZONES = ["Asia/Tokyo", "America/New_York", "UTC", "Australia/Adelaide"]
STYLES = ["ISO, DMY", "SQL, MDY", "German, DMY", "Postgres, MDY"]


def make(seed: int) -> Talk:
    return _Maker(seed).talk()


class _Maker:
    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.chance = chance = random.Random(seed)
        self.kind = chance.choice([*[Kind.KEYED] * 2, Kind.TOLD, *[Kind.ROAMING] * 2])
        self.on_replicas = chance.random() < 0.3
        # Of a client that changes its time zone nothing that has a moment as a constant stays prepared: where such
        # a statement is prepared anew, it is read as its session reads it then (relay/DECISIONS.md, "prepared
        # statements are shared within a context").
        self.moves = [chance.random() < 0.3 for _ in range(CLIENTS)]
        self.keys: list[list[list[int]]] = [[[] for _ in range(SHARDS)] for _ in range(CLIENTS)]
        for number in range(first_key(seed), first_key(seed) + 200):
            key = number if number % 3 else -number
            client_keys = self.keys[number % CLIENTS][pg_bigint_hash(key, SHARDS)]
            if len(client_keys) < 4:
                client_keys.append(key)
        shard = chance.randrange(SHARDS)
        self.shards = [shard if self.kind is Kind.TOLD else chance.randrange(SHARDS) for _ in range(CLIENTS)]
        self.names: list[set[str]] = [set() for _ in range(CLIENTS)]
        self.shapes: dict[str, int] = {}
        self.turns: list[Turn] = []
        self.tags = 0

    def talk(self) -> Talk:
        parameters = []
        for client in range(CLIENTS):
            said = {"TimeZone": self.chance.choice(ZONES), "DateStyle": self.chance.choice(STYLES)}
            if self.kind is Kind.TOLD:
                said["options"] = f"-c pgcat.shard={self.shards[client]}"
            parameters.append(said)
        for _ in range(self.chance.randrange(4, 16)):
            self._turn(self.chance.randrange(CLIENTS))
        for client in range(CLIENTS):
            # However it went, everybody can go on.
            self._say(client, "Sync", _query("rollback"))
            key = self.keys[client][self.shards[client]][0]
            self._say(
                client, _query(f"update diary set value = value || '!' where id = {key} returning value")
            )
            if self.kind is not Kind.KEYED:
                self._say(client, *map(_query, ["show work_mem", "show timezone", "show datestyle"]))
        pool = "few-replicas" if self.on_replicas else "few"
        return Talk(self.seed, self.kind, pool, tuple(parameters), tuple(self.turns))

    # --- turns

    def _say(self, client: int, *lines: str, is_cancelled: bool = False) -> None:
        writing = self.chance.choice([*[Writing.WHOLE, Writing.GLUED, Writing.RANDOM] * 2, Writing.BYTES])
        self.turns.append(Turn(client, lines, writing, is_cancelled))

    def _turn(self, client: int) -> None:
        chance = self.chance
        if self.kind is Kind.ROAMING and chance.random() < 0.3:
            self.shards[client] = chance.randrange(SHARDS)
        drawn = chance.random()
        if drawn < 0.06 and self.moves[client]:
            self._change_zone(client)
        elif drawn < 0.09:
            key = self._key(client)
            self._say(client, "Sync", _query(f"select count(*), pg_sleep({SLEEP_S}) from diary where id = {key}"),
                      is_cancelled=True)  # fmt: skip
        elif drawn < 0.12:
            self._say(client, is_cancelled=True)
        elif drawn < 0.18 and self.moves[client]:
            self._zoned_alone(client)
        elif drawn < 0.26:
            self._copy(client)
        elif drawn < 0.32 and self.kind is Kind.KEYED:
            self._set_outside(client)
        elif drawn < 0.4:
            # What fails while BEGIN is held.
            self._say(client, "Sync", _query("rollback"), _query("begin"))
            self._say(client, _query(self._filled(chance.choice(KEYED[-3:]), client)))
            self._say(client, _query(self._filled(chance.choice(KEYED), client)))
        elif drawn < 0.6:
            self._say(client, *self._simple(client))
        else:
            self._say(client, *self._batch(client))

    def _change_zone(self, client: int) -> None:
        chance = self.chance
        name, values = chance.choice([("timezone", ZONES), ("datestyle", STYLES)])
        if chance.random() < 0.5:
            self._say(client, "Sync", _query("rollback"))
            self._say(client, _query("begin"))
            self._say(client, _query(f"select value from diary where id = {self._key(client)}"))
            self._say(client, _query(f"set local {name} = '{chance.choice(values)}'"))
        elif self.kind is not Kind.KEYED:
            self._say(client, "Sync")
            self._say(client, _query(f"set {name} = '{chance.choice(values)}'"))
        else:
            return
        self._zoned_alone(client)

    def _zoned_alone(self, client: int) -> None:
        """Nothing before it in its flush can change what its constants mean."""
        self._say(client, "Sync")
        statement = self.chance.choice(ZONED)
        self._say(client, *self._use(client, statement, ""), "Sync")

    def _set_outside(self, client: int) -> None:
        """A SET takes a held transaction to a shard of its own choice, so there must be none."""
        self._say(client, "Sync", _query("rollback"))
        self._say(
            client, _query(self.chance.choice(["set work_mem = '4MB'", "reset work_mem", "set jit = off"]))
        )

    def _copy(self, client: int) -> None:
        chance = self.chance
        key = self._key(client)
        if self.kind is Kind.KEYED or chance.random() < 0.4:
            keys = f"select id, value from diary where id = {key}"
            lines = [_query(f"copy ({keys}) to stdout")] if self.kind is not Kind.KEYED else [_query(keys)]
        else:
            copy = "copy diary (id, value) from stdin"
            data = [f'CopyData "{one}\\t{self._tag()}\\n"' for one in self._keys(client)]
            if chance.random() < 0.1:
                data.append('CopyData "x\\ty\\n"')
            end = "CopyDone" if chance.random() < 0.8 else 'CopyFail "no more"'
            if chance.random() < 0.5:
                lines = [_query(copy), *data, end]
            else:
                lines = [f'Parse "" "{copy}"', 'Bind "" ""', 'Execute ""', *data, end, "Sync"]
        if chance.random() < 0.6:
            self._say(client, "Sync", _query("begin"))
            self._say(client, _query(f"select value from diary where id = {key}"))
        self._say(client, "Sync", *lines)

    # --- lines

    def _simple(self, client: int) -> list[str]:
        """Some Queries, of one statement or several."""
        chance = self.chance
        lines = []
        for _ in range(chance.choice([1, 1, 1, 2, 3])):
            statements = [self._statement(client) for _ in range(chance.choice([1, 1, 1, 1, 2, 3]))]
            if len(statements) > 1 and self.kind is Kind.KEYED:
                # Else it may go to any shard, and takes a held transaction there (README, "Transactions").
                statements.append(chance.choice(KEYED))
            elif statements[0].needs_server:
                lines.append(_query(self._filled(KEYED_SELECT, client)))
            lines.append(_query("; ".join(self._filled(one, client) for one in statements)))
        return lines

    def _batch(self, client: int) -> list[str]:
        """Some statements by the extended protocol, Queries among them, with Syncs here and there."""
        chance = self.chance
        lines: list[str] = []
        for _ in range(chance.choice([1, 1, 1, 2, 3, 4])):
            statement = self._statement(client)
            if statement.needs_server:
                lines += [*self._use(client, KEYED_SELECT, ""), "Sync"]
            elif statement.is_control and (self.kind is Kind.KEYED or self.on_replicas):
                # What stands in front of BEGIN has taken the batch to a server (session/DECISIONS.md, as in _use).
                lines.append("Sync")
            if chance.random() < 0.1:
                lines += ["Sync", _query(self._filled(statement, client))]
                continue
            is_named = chance.random() < 0.5 and not (statement.is_zoned and self.moves[client])
            lines += self._use(client, statement, "named" if is_named else "")
            # The end of a transaction where there is none may go to any shard, and takes the batch there.
            is_ending = statement.is_control and not statement.text.startswith(("begin", "start"))
            if chance.random() < 0.6 or (is_ending and self.kind is Kind.KEYED):
                lines.append("Sync")
        return [*lines, *chance.choice([["Sync"], ["Sync"], ["Sync"], ["Sync"], self._unsynced()])]

    def _unsynced(self) -> list[str]:
        # A read that was answered before the Sync has bound its batch to a replica, which then refuses to write
        # (README, "Reads and writes").
        if self.on_replicas:
            return ["Sync"]
        return self.chance.choice([["Flush"], []])

    def _use(self, client: int, statement: Statement, name: str) -> list[str]:
        """The messages that run a statement once, or a part of them."""
        chance = self.chance
        types, sizes = self._types(statement)
        if name:
            # A name says its statement, so that a Parse that came too late changes no numbers of parameters: in a
            # failed transaction these are not told (session/DECISIONS.md, "a failed transaction describes …").
            shape = f"{statement.text} {types}"
            name = f"s{self.shapes.setdefault(shape, len(self.shapes))}"
        lines = []
        # Of what begins or ends a transaction without a server a name can be prepared again, and a portal be bound and
        # executed again (session/DECISIONS.md, "what is forgotten in a batch that fails").
        is_again = chance.random() < 0.1 and not statement.is_control
        if not name or name not in self.names[client] or is_again:
            is_synced = chance.random() < 0.1
            if is_synced and not name:
                # If an error makes the server pass over the Parse, the unnamed statement is nobody's afterwards
                # (session/DECISIONS.md, "what is forgotten in a batch that fails").
                lines.append("Sync")
            lines.append(f'Parse "{name}" "{statement.text}" {types}'.rstrip())
            if name:
                self.names[client].add(name)
            if chance.random() < 0.3:
                # Only behind its Parse (session/DECISIONS.md, as above).
                lines.append(f'Describe statement "{name}"')
            if is_synced:
                lines.append("Sync")
            elif not self.on_replicas and chance.random() < 0.1:
                lines.append("Flush")
        portal = chance.choice(["", "", "", "p"])
        if statement.is_control:
            portal = ""
        lines.append(self._bind(client, statement, portal, name, sizes))
        if chance.random() < 0.4:
            lines.append(f'Describe portal "{portal}"')
        if chance.random() < 0.95:
            rows_max = 0 if statement.is_control else chance.choice([0, 0, 0, 1, 2])
            lines.append(f'Execute "{portal}" {rows_max}')
            if rows_max and chance.random() < 0.5:
                lines += ["Sync"] * (portal == "p" and chance.random() < 0.3) + [f'Execute "{portal}" 0']
        # Never the first message of a batch: in a transaction that failed before any server had it, it is refused
        # (session/DECISIONS.md, "a failed transaction describes …").
        if portal and chance.random() < 0.8:
            lines.append(f'Close portal "{portal}"')
        if name and chance.random() < 0.2 and not statement.is_control:
            lines.append(f'Close statement "{name}"')
            self.names[client].discard(name)
        if not self.on_replicas and chance.random() < 0.1:
            lines.append("Flush")
        return lines

    def _types(self, statement: Statement) -> tuple[str, int]:
        """The types that Parse declares, and the bytes that a key of these has in binary."""
        size = self.chance.choice([8, 8, 4])
        if size == 8 and self.chance.random() < 0.6:
            return "", 8
        words = {"k": (INT8, INT4), "a": (INT8S, INT4S), "t": (0, 0), "m": (0, 0)}
        return " ".join(str(words[want][size == 4]) for want in statement.wants), size

    def _bind(self, client: int, statement: Statement, portal: str, name: str, size: int) -> str:
        values, formats = [], []
        for want in statement.wants:
            is_binary = want in "ka" and self.chance.random() < 0.5
            formats.append(int(is_binary))
            if want in "ka":
                keys = self._keys(client) if want == "a" else [self._key(client)]
                if is_binary:
                    data = _array(keys, size) if want == "a" else _number(keys[0], size)
                    values.append(f'x"{data.hex()}"')
                else:
                    listed = ",".join(map(str, keys))
                    values.append(f'"{{{listed}}}"' if want == "a" else f'"{listed}"')
            else:
                values.append(f'"{self._tag() if want == "t" else self._moment()}"')
        told = f"[{' '.join(values)}] formats {' '.join(map(str, formats))}" if values else ""
        results = self.chance.choice(["", "", " results 1"])
        return f'Bind "{portal}" "{name}" {told}{results}'.rstrip()

    # --- statements

    def _statement(self, client: int) -> Statement:
        chance = self.chance
        drawn = chance.random()
        if drawn < 0.05 and self.moves[client]:
            name, values = chance.choice([("timezone", ZONES), ("datestyle", STYLES)])
            return Statement(f"set local {name} = '{chance.choice(values)}'", is_control=True)
        if drawn < 0.4:
            statement = chance.choice(TRANSACTIONS)
            if self.on_replicas and ("read write" in statement.text or "chain" in statement.text):
                # What begins read only is a replica's, and stays there (README, "Reads and writes"); what follows may
                # write: PostgreSQL itself forgets READ ONLY where a failed transaction is chained.
                return TRANSACTIONS[0]
            # A snapshot is taken by Parse already, which the node does beside the transaction: it shows who reads
            # what others write.
            return TRANSACTIONS[0] if "repeatable" in statement.text and self.kind is Kind.TOLD else statement
        if drawn < 0.5 and self.kind is not Kind.KEYED:
            statement = chance.choice(KEYLESS)
            return KEYLESS[0] if self.on_replicas and "read write" in statement.text else statement
        if drawn < 0.53 and self.kind is Kind.TOLD:
            first = first_key(self.seed)
            return Statement(
                f"select count(*) from diary where abs(id) between {first} and {first + KEYS_SPAN - 1}"
            )
        if drawn < 0.6:
            return chance.choice(ZONED)
        return chance.choice(KEYED)

    def _filled(self, statement: Statement, client: int) -> str:
        """The statement with constants in the place of its parameters."""
        chance, text = self.chance, statement.text
        for number, want in enumerate(statement.wants, 1):
            match want:
                case "k":
                    value = chance.choice(["{}", "{}", "'{}'"]).format(self._key(client))
                case "a":
                    listed = ", ".join(map(str, self._keys(client)))
                    value = chance.choice(["'{{{}}}'", "array[{}]", "'{{{}}}'::bigint[]"]).format(listed)
                case "t":
                    value = f"'{self._tag()}'"
                case _:
                    value = f"'{self._moment()}'"
            text = text.replace(f"${number}", value)
        return text

    def _key(self, client: int) -> int:
        shard = self.shards[client]
        if self.kind is Kind.ROAMING and self.chance.random() < 0.04:
            shard = self.chance.randrange(SHARDS)
        return self.chance.choice(self.keys[client][shard])

    def _keys(self, client: int) -> list[int]:
        return [self._key(client) for _ in range(self.chance.choice([1, 2, 2, 3]))]

    def _tag(self) -> str:
        """A value that is stored once only."""
        self.tags += 1
        return f"v{self.tags}"

    def _moment(self) -> str:
        return f"2026-{self.chance.randrange(1, 13):02}-03 10:00"


def _query(text: str) -> str:
    return f'Query "{text}"'


def _number(key: int, size: int) -> bytes:
    return key.to_bytes(size, "big", signed=True)


def _array(keys: list[int], size: int) -> bytes:
    head = struct.pack("!iiiii", 1, 0, INT8 if size == 8 else INT4, len(keys), 1)
    return head + b"".join(struct.pack("!i", size) + _number(key, size) for key in keys)


def without(talk: Talk, turn: int, line: int | None = None) -> Talk:
    """The same conversation without a turn, or without one line of it."""
    turns = list(talk.turns)
    if line is None:
        del turns[turn]
    else:
        lines = turns[turn].lines
        turns[turn] = dataclasses.replace(turns[turn], lines=lines[:line] + lines[line + 1 :])
    return dataclasses.replace(talk, turns=tuple(turns))
