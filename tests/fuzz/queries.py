"""Statements over sharded tables, made up at random: joins of all kinds, subqueries, CTEs, set operations, writes.

Names are made to deceive: tables that are sharded by different columns have each other's key as a plain column, and
aliases are reused inside subqueries.
"""

from __future__ import annotations

import random

from pgcat_cluster.sql.key_rules import KeyRules

SCHEMA = """
create table orders (customer_id bigint not null, id int, amount int, country int, parent int)
    partition by hash (customer_id);
create table items (customer_id bigint, id int, order_id int, note text, country int)
    partition by hash (customer_id);
create table customers (id bigint not null, customer_id int, country int, name text) partition by hash (id);
create table countries (id int, customer_id int, country int, name text);
create unique index on orders (customer_id, id);
"""
RULES = KeyRules("customer_id", {"customers": "id"}, frozenset({"countries"}))
KEYS = {"orders": "customer_id", "items": "customer_id", "customers": "id"}
COLUMNS = {
    "orders": ["customer_id", "id", "amount", "country", "parent"],
    "items": ["customer_id", "id", "order_id", "country"],
    "customers": ["id", "customer_id", "country"],
    "countries": ["id", "customer_id", "country"],
}
_ALIASES = ("o", "i", "c", "x", "orders", "customers")
_JOINS = (
    "join",
    "join",
    "inner join",
    "left join",
    "left join",
    "right join",
    "full join",
    "cross join",
    "natural",
)


class Relation:
    """A relation in scope: its alias, the columns a statement may name, and its key if it has one."""

    def __init__(self, alias: str, columns: list[str], key: str | None) -> None:
        self.alias = alias
        self.columns = columns
        self.key = key


class Maker:
    """Makes statements; every choice comes from one generator of random numbers."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.values: list[str] = []
        self.binds_in_where = self.binds_in_on = self.unqualified = 0.5
        self.ctes: list[Relation] = []

    def statement(self) -> str:
        """One statement. Its constants are few, so that many of its values are on one shard."""
        self.values = [str(self.chance.randint(-2, 9)) for _ in range(self.chance.choice((1, 1, 2, 3)))]
        self.ctes = []
        # Where keys are bound: in WHERE or in ON. Only what is bound in one place alone shows what that place says.
        self.binds_in_where, self.binds_in_on = self.chance.choice(
            ((0.8, 0.4), (0.15, 0.8), (0.5, 0.8), (0.9, 0.0))
        )
        self.unqualified = self.chance.choice((0.0, 0.0, 0.1, 0.5))
        kind = self.chance.random()
        if kind < 0.7:
            text = self.query(self.chance.choice((0, 1, 2, 3)), [])
        elif kind < 0.74:
            text = self.merge(2)
        elif kind < 0.8:
            text = self.insert(2)
        elif kind < 0.9:
            text = self.update(2)
        else:
            text = self.delete(2)
        return text

    # --- parts

    def _is(self, probability: float) -> bool:
        return self.chance.random() < probability

    def value(self) -> str:
        value = self.chance.choice(self.values)
        form = self.chance.random()
        if form < 0.75:
            return value
        if form < 0.85:
            return f"'{value}'"
        if form < 0.92:
            return f"{value}::bigint"
        return f"({value})"

    def _equal(self) -> str:
        return "is not distinct from" if self._is(0.15) else "="

    def table(self) -> str:
        return self.chance.choice(("orders", "orders", "items", "items", "customers", "countries"))

    def column(self, scope: list[Relation], *, is_key: bool = False) -> str:
        """A column of some relation in scope, mostly qualified."""
        if not scope:
            return self.value()
        # The nearest most often.
        relation = self.chance.choice(scope[-3:] if self._is(0.8) else scope)
        name = relation.key if is_key and relation.key else self.chance.choice(relation.columns)
        return name if self._is(self.unqualified) or not relation.alias else f"{relation.alias}.{name}"

    def condition(self, scope: list[Relation], depth: int) -> str:
        kind = self.chance.random()
        if kind < 0.38:
            return f"{self.column(scope, is_key=True)} {self._equal()} {self.value()}"
        if kind < 0.6:
            return f"{self.column(scope, is_key=True)} {self._equal()} {self.column(scope, is_key=True)}"
        if kind < 0.66:
            listed = ", ".join(self.value() for _ in range(self.chance.randint(1, 2)))
            form = self.chance.choice(("in ({})", "= any (array[{}])", "not in ({})"))
            return f"{self.column(scope, is_key=True)} {form.format(listed)}"
        if kind < 0.7:
            columns = f"({self.column(scope, is_key=True)}, {self.column(scope)})"
            return f"{columns} {self._equal()} ({self.value()}, {self.column(scope)})"
        if kind < 0.72:
            # Both arms on one key: a list in other words.
            key = self.column(scope, is_key=True)
            arms = [f"{key} = {self.value()}" for _ in range(2)]
            if depth and self._is(0.5):
                arms = [f"{arm} and {self.condition(scope, depth - 1)}" for arm in arms]
            return f"({arms[0]} or {arms[1]})"
        if kind < 0.77 and depth:
            arms = [self.condition(scope, depth - 1) for _ in range(2)]
            return f"({arms[0]} {self.chance.choice(('or', 'and', 'or'))} {arms[1]})"
        if kind < 0.79 and depth:
            return f"not ({self.condition(scope, depth - 1)})"
        if kind < 0.86 and depth:
            word = self.chance.choice(("exists", "exists", "not exists"))
            return f"{word} ({self.query(depth - 1, scope)})"
        if kind < 0.93 and depth:
            word = self.chance.choice(("in", "in", "= any", "not in", self._equal()))
            query = self.query(depth - 1, scope, width=1)
            return f"{self.column(scope, is_key=True)} {word} ({query})"
        operator = self.chance.choice(("<", ">", "<>", "is not distinct from"))
        return f"{self.column(scope)} {operator} {self.value()}"

    def conditions(self, scope: list[Relation], depth: int, bound: list[Relation], often: float) -> str:
        """Several conditions; as often as said each of these relations has its key bound among them."""
        parts = [self.condition(scope, depth) for _ in range(self.chance.choice((0, 0, 1, 1, 2)))]
        for relation in bound:
            if relation.key and relation.alias and self._is(often):
                equal = self.value() if self._is(0.6) else self.column(scope, is_key=True)
                parts.append(f"{relation.alias}.{relation.key} {self._equal()} {equal}")
        self.chance.shuffle(parts)
        return " and ".join(parts) or "true"

    def relation(self, depth: int, outer: list[Relation], left: list[Relation]) -> tuple[str, list[Relation]]:
        """An item of FROM, and what it brings into scope."""
        kind = self.chance.random()
        if depth and kind < 0.12:
            alias = self._alias()
            lateral = self._is(0.4)
            names = ["a", "b"]
            query = self.query(depth - 1, outer + left if lateral else outer, width=2)
            if self._is(0.5):
                word = "lateral " if lateral else ""
                return f"{word}({query}) as {alias}(a, b)", [
                    Relation(alias, names, self.chance.choice(names))
                ]
            return f"{'lateral ' if lateral else ''}({query}) as {alias}", [
                Relation(alias, ["customer_id", "id"], "customer_id")
            ]
        if kind < 0.17:
            alias = self._alias()
            rows = ", ".join(f"({self.value()}, {self.value()})" for _ in range(self.chance.randint(1, 2)))
            return f"(values {rows}) as {alias}(a, b)", [Relation(alias, ["a", "b"], "a")]
        if self.ctes and kind < 0.3:
            cte = self.chance.choice(self.ctes)
            alias = self._alias()
            return f"{cte.alias} as {alias}", [Relation(alias, cte.columns, cte.key)]
        table = self.table()
        alias = self._alias() if self._is(0.8) else table
        word = f"{table} {alias}" if alias != table else table
        return word, [Relation(alias, COLUMNS[table], KEYS.get(table))]

    def _alias(self) -> str:
        if self._is(0.3):
            return self.chance.choice(_ALIASES)
        return f"t{self.chance.randint(1, 99)}"

    def source(self, depth: int, outer: list[Relation], left: list[Relation]) -> tuple[str, list[Relation]]:
        """An item of FROM, perhaps a join, perhaps in parentheses."""
        text, scope = self.relation(depth, outer, left)
        for _ in range(self.chance.choice((0, 0, 1, 1, 2))):
            if self._is(0.15):
                other, more = self.source(max(depth - 1, 0), outer, left + scope)
                other = f"({other})" if " join " in other else other
            else:
                other, more = self.relation(depth, outer, left + scope)
            word = self.chance.choice(_JOINS)
            scope = scope + more
            if word == "cross join":
                text = f"{text} cross join {other}"
            elif word == "natural":
                kind = self.chance.choice(("", "left ", "right ", "full "))
                text = f"{text} natural {kind}join {other}"
            elif self._is(0.2):
                name = self.chance.choice(("customer_id", "customer_id", "id", "country"))
                text = f"{text} {word} {other} using ({name})"
            else:
                text = f"{text} {word} {other} on {self.conditions(scope, min(depth, 1), scope, self.binds_in_on)}"
        return text, scope

    # --- statements

    def query(self, depth: int, outer: list[Relation], width: int = 0) -> str:
        """A query; with a width, one of so many columns, the first of them often a key."""
        known = list(self.ctes)
        common = self._with(depth, outer) if self._is(0.12) else ""
        if depth and self._is(0.12):
            arms = [self._select(depth - 1, outer, width or 2) for _ in range(2)]
            text = f"{arms[0]} {self.chance.choice(('union', 'union all', 'intersect', 'except'))} {arms[1]}"
        else:
            text = self._select(depth, outer, width)
        self.ctes = known
        return common + text

    def _with(self, depth: int, outer: list[Relation]) -> str:
        name = self.chance.choice(("w", "v", "orders"))
        if depth == 3 and self._is(0.3):
            body, columns, key = *self._returning(), "customer_id"
        elif self._is(0.25):
            first = self._select(0, outer, 2)
            table = self.table()
            key = KEYS.get(table, "id")
            where = self.conditions(
                [Relation("n", COLUMNS[table], key), Relation("w0", ["a", "b"], "a")], 0, [], 0.0
            )
            target = self.chance.choice((f"n.{key}", f"n.{key}", "w0.b", self.value()))
            other = self.chance.choice(COLUMNS[table])
            second = (
                f"select {target}, n.{other} from {table} n join {name} w0 on n.{key} = w0.a where {where}"
            )
            self.ctes.append(Relation(name, ["a", "b"], "a"))
            return f"with recursive {name}(a, b) as ({first} union {second}) "
        else:
            body, columns, key = self.query(max(depth - 1, 0), outer, width=2), ["a", "b"], "a"
        self.ctes.append(Relation(name, columns, key))
        alias = f"({', '.join(columns)})" if columns == ["a", "b"] else ""
        return f"with {name}{alias} as ({body}) "

    def _returning(self) -> tuple[str, list[str]]:
        text = self.delete(0, with_common=False) if self._is(0.5) else self.update(0, with_common=False)
        return text.split(" returning ")[0] + " returning *", ["customer_id", "id"]

    def _select(self, depth: int, outer: list[Relation], width: int) -> str:
        text, scope = self.source(depth, outer, [])
        if self._is(0.25):
            more, others = self.source(max(depth - 1, 0), outer, scope)
            text, scope = f"{text}, {more}", scope + others
        inside = outer + scope
        where = self.conditions(inside, depth, scope, self.binds_in_where)
        if not width and self._is(0.2):
            targets = self.chance.choice(("count(*), min({0}), max({0})", "sum({0}), {1}")).format(
                self.column(scope), self.value()
            )
            group = ""
        elif width == 2 and self._is(0.2):
            key = self.column(scope, is_key=True)
            targets = f"{key}, count(*)"
            group = self.chance.choice((f" group by {key}", f" group by rollup ({key})"))
        else:
            columns = [self.column(inside, is_key=n == 0) for n in range(width or self.chance.randint(1, 3))]
            if depth and self._is(0.1):
                columns[-1] = f"({self._scalar(depth - 1, inside)})"
            if width and self._is(0.1):
                columns[0] = self.value()
            targets = ", ".join(columns)
            if not width and self._is(0.25):
                targets = "*"
            group = ""
        return f"select {targets} from {text} where {where}{group}"

    def _scalar(self, depth: int, scope: list[Relation]) -> str:
        text, inside = self.source(depth, scope, [])
        where = self.conditions(scope + inside, depth, inside, self.binds_in_where)
        return f"select count(*) from {text} where {where}"

    def insert(self, depth: int) -> str:
        table = self.chance.choice(("orders", "items", "customers"))
        key = KEYS[table]
        meets = table == "orders" and self._is(0.6)
        other = "id" if meets else self.chance.choice([name for name in COLUMNS[table] if name != key])
        columns = [key, other]
        kind = self.chance.random()
        if kind < 0.4:
            rows = ", ".join(f"({self.value()}, {self.value()})" for _ in range(self.chance.randint(1, 2)))
            source = f"values {rows}"
        else:
            source = self.query(depth, [], width=2)
        if self._is(0.3):
            columns.reverse()
        text = f"insert into {table} ({', '.join(columns)}) {source}"
        if meets:
            inside = [Relation(name, COLUMNS[table], key) for name in ("excluded", "orders")]
            changes = (
                "nothing",
                "update set amount = excluded.id + 1",
                f"update set {self._new_key(key, inside)}",
                f"update set {self._new_key(key, inside)}, amount = ({self._scalar(0, inside)})",
            )
            text += f" on conflict (customer_id, id) do {self.chance.choice(changes)}"
        return text + self.chance.choice(("", " returning *", f" returning {key}"))

    def merge(self, depth: int) -> str:
        table, alias, target = self._target()
        key = KEYS[table]
        source, scope = self.relation(depth, [], [])
        conditions = self.conditions([target, *scope], 0, [target, *scope], 0.7)
        text = f"merge into {table} {alias} using {source} on {conditions}"
        if self._is(0.7):
            change = self.chance.choice((f"update set country = {self.value()}", "delete", "do nothing"))
            text += f" when matched then {change}"
        if self._is(0.6) or " then " not in text:
            value = self.column(scope, is_key=True) if self._is(0.6) else self.value()
            text += f" when not matched then insert (country, {key}) values ({self.value()}, {value})"
        return text

    def update(self, depth: int, with_common: bool = True) -> str:
        table, alias, target = self._target()
        column = self.chance.choice(COLUMNS[table])
        scope, others = [target], ""
        if self._is(0.5):
            others, more = self.source(depth, [], [])
            scope += more
        change = self._new_key(KEYS[table], scope) if self._is(0.4) else f"{column} = {self.value()}"
        return self._rest(
            f"update {table} {alias} set {change}", f"from {others}" * bool(others), scope, depth
        )

    def _new_key(self, key: str, scope: list[Relation]) -> str:
        """What SET says of a key: mostly a value that may be the one it has."""
        value = self.value() if self._is(0.5) else self.column(scope, is_key=True)
        form = self.chance.choice(
            ("{0} = {1}", "{0} = {1}", "({0}, country) = ({1}, 3)", "(country, {0}) = row(3, {1})")
        )
        return form.format(key, value)

    def delete(self, depth: int, with_common: bool = True) -> str:
        table, alias, target = self._target()
        scope, others = [target], ""
        if self._is(0.5):
            others, more = self.source(depth, [], [])
            scope += more
        return self._rest(f"delete from {table} {alias}", f"using {others}" * bool(others), scope, depth)

    def _target(self) -> tuple[str, str, Relation]:
        table = self.chance.choice(("orders", "items", "customers"))
        alias = self._alias()
        return table, alias, Relation(alias, COLUMNS[table], KEYS[table])

    def _rest(self, text: str, others: str, scope: list[Relation], depth: int) -> str:
        """An UPDATE or DELETE from its FROM or USING on."""
        where = self.conditions(scope, depth, scope, self.binds_in_where)
        return " ".join(filter(None, (text, others, f"where {where}"))) + " returning *" * self._is(0.3)
