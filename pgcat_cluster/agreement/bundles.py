"""Desired documents together: what identifies them, what is wrong with them, what an edit of them changes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from hashlib import sha256
from types import MappingProxyType
from typing import Any

from msgspec import Struct

from pgcat_cluster.agreement.documents import VALUE_BYTES_MAX, Bundle, Finding
from pgcat_cluster.agreement.keys import Keys
from pgcat_cluster.agreement.memory import Memory
from pgcat_cluster.agreement.transactions import (
    Compare,
    Delete,
    Operation,
    Put,
    Row,
    Transaction,
    absent,
    newest,
    unchanged,
)
from pgcat_cluster.topology.cutover import cutovers
from pgcat_cluster.topology.reading import (
    InvalidSettings,
    Library,
    Problem,
    dotted,
    names_of,
    nearest,
    tree_of,
)
from pgcat_cluster.topology.settings import NAME, Settings, needs

# By name of the document below config/: `fleet`, `pools/app`.
Texts = Mapping[str, bytes]

# Tables of a file whose entries are documents of their own, in the order in which they are put: what is
# referred to comes before what refers to it.
_TABLES = ("clusters", "users", "shardmaps", "pools")
_VERSION = 1
_OPERATIONS_MAX = 100  # of etcd's 128 for one transaction
_PART_BYTES_MAX = 1 << 20  # of etcd's 1.5 MiB
_FINDINGS_MAX = 20
# So many documents are read in some milliseconds.
_PORTION = 40
_WORDS_MAX = 300


class Wrong(Struct, frozen=True):
    """One thing that is wrong with the document `name`."""

    name: str
    path: str
    message: str


class Judged(Struct, frozen=True):
    """Settings if nothing is wrong."""

    settings: Settings | None
    wrong: tuple[Wrong, ...]


class Desired(Struct, frozen=True):
    """The documents that stand under config/; `revisions` are those of their keys."""

    bundle: Bundle
    texts: dict[str, bytes]
    docs: dict[str, str]
    revisions: dict[str, int]


def findings(
    wrong: tuple[Wrong, ...], revisions: Mapping[str, int] = MappingProxyType({})
) -> tuple[Finding, ...]:
    """What is wrong as nodes publish it: cut, so that no document makes it too large."""
    found = [
        Finding(
            key="config/" + _cut(one.name),
            rev=revisions.get(one.name, 0),
            path=_cut(one.path),
            msg=_cut(one.message),
        )
        for one in wrong[:_FINDINGS_MAX]
    ]
    if more := wrong[_FINDINGS_MAX:]:
        found.append(Finding(key="config/" + _cut(more[0].name), msg=f"and {len(more)} more problems"))
    return tuple(found)


def hash_of(text: bytes) -> str:
    return sha256(text).hexdigest()


def digest_of(docs: Mapping[str, str]) -> str:
    """A hash over the sorted names and hashes of some documents."""
    return sha256(json.dumps(sorted(docs.items())).encode()).hexdigest()


class Wants:
    """What operators want, as far as it is known; hashed anew only when config/ was touched."""

    def __init__(self, keys: Keys) -> None:
        self._keys = keys
        self._at = -1
        self._hashes: dict[str, tuple[int, str]] = {}  # of each key, at which change
        self._desired = Desired(Bundle(rev=0, digest=digest_of({})), {}, {}, {})

    def seen(self, memory: Memory) -> Desired:
        at = memory.applied(self._keys.config_prefix)
        if at != self._at:
            self._at = at
            self._desired = self._look(memory)
        return self._desired

    def _look(self, memory: Memory) -> Desired:
        rows = memory.under(self._keys.config_prefix)
        hashes = {}
        for row in rows:
            before = self._hashes.get(row.key)
            is_same = before is not None and before[0] == row.mod_revision
            hashes[row.key] = before if before and is_same else (row.mod_revision, hash_of(row.value))
        self._hashes = hashes
        name = self._keys.document
        docs = {name(row.key): hashes[row.key][1] for row in rows}
        return Desired(
            Bundle(rev=newest(rows), digest=digest_of(docs)),
            {name(row.key): row.value for row in rows},
            docs,
            {name(row.key): row.mod_revision for row in rows},
        )


class Judge:
    """Reads bundles one after the other; what is the same as before costs next to nothing."""

    def __init__(self) -> None:
        self._library = Library()
        self._trees: dict[str, dict[str, Any]] = {}
        self._last: tuple[dict[str, str], Judged] | None = None

    def judge(self, texts: Texts, docs: Mapping[str, str]) -> Judged:
        """What some documents say together, or everything that is wrong with them; `docs` are their hashes.

        A document that can not be read at all still exists for those that refer to it, so one slip is one
        finding.
        """
        if self._last is None or self._last[0] != docs:
            self._last = (dict(docs), self._judge(texts, docs))
        return self._last[1]

    def portions(self, texts: Texts, docs: Mapping[str, str]) -> Iterator[None]:
        """Reads what was not read before, a portion between two yields; `judge` takes little time afterwards."""
        paths = {name: tuple(name.split("/")) for name in texts if _misplaced(name) is None}
        known = names_of(paths.values())
        count = 0
        for name, path in paths.items():
            sha = docs[name]
            if self._library.knows(path, sha):
                continue
            with suppress(InvalidSettings):
                self._library.learn(path, sha, self._tree(sha, texts[name]), known)
            count += 1
            if count % _PORTION == 0:
                yield

    def _tree(self, sha: str, text: bytes) -> dict[str, Any]:
        """Raises InvalidSettings if the text alone is wrong."""
        tree = self._trees.get(sha)
        if tree is None:
            tree = self._trees[sha] = _document(text)
        return tree

    def _judge(self, texts: Texts, docs: Mapping[str, str]) -> Judged:
        wrong: list[Wrong] = []
        broken: set[str] = set()
        documents: dict[tuple[str, ...], tuple[str, dict[str, Any]]] = {}
        for name, text in texts.items():
            problem = _misplaced(name)
            if problem is None:
                tree: dict[str, Any] = {}
                try:
                    tree = self._tree(docs[name], text)
                except InvalidSettings as invalid:
                    problem = invalid.problems[0]
                documents[tuple(name.split("/"))] = (docs[name], tree)
            if problem is not None:
                broken.add(name)
                wrong.append(Wrong(name, problem.path, problem.message))
        self._trees = {sha: self._trees[sha] for sha in docs.values() if sha in self._trees}
        settings = None
        try:
            settings = self._library.read(documents)
        except InvalidSettings as invalid:
            placed = (_wrong(problem) for problem in invalid.problems)
            wrong += [one for one in placed if one.name not in broken]
        return Judged(None if wrong else settings, tuple(sorted(wrong, key=lambda one: one.name)))


def judge(texts: Texts) -> Judged:
    """What some documents say together, or everything that is wrong with them."""
    return Judge().judge(texts, {name: hash_of(text) for name, text in texts.items()})


def judge_beside(accepted: Texts, texts: Texts) -> tuple[Wrong, ...]:
    """All that is wrong with some documents as nodes see it that go by others, but for servers and secrets."""
    judged, before = judge(texts), judge(accepted).settings
    if judged.settings is None or before is None:
        return judged.wrong
    return wrong_in(cutovers(before, judged.settings))


def wrong_in(problems: tuple[Problem, ...]) -> tuple[Wrong, ...]:
    """Problems of settings (an unreadable secret, say) by the documents they are in."""
    return tuple(_wrong(problem) for problem in problems)


def _wrong(problem: Problem) -> Wrong:
    # Names of documents need no quotes in a path, so the first dots are those between its parts.
    table, _, rest = problem.path.partition(".")
    if table not in _TABLES:
        return Wrong(table, rest, problem.message)
    label, _, path = rest.partition(".")
    return Wrong(f"{table}/{label}", path, problem.message)


def _misplaced(name: str) -> Problem | None:
    """What is wrong with a document's name alone."""
    table, slash, label = name.partition("/")
    if name == "fleet":
        return None
    if not slash or table not in _TABLES:
        kinds = ("fleet", *(f"{table}/" for table in _TABLES))
        near = nearest(table, kinds)
        hint = f"did you mean config/{near}?" if near else "there are: " + ", ".join(kinds)
        return Problem("", f"no document has such a key; {hint}")
    if not re.fullmatch(NAME, label):
        return Problem("", "the name in the key is not allowed; allowed: 1 to 63 of a-z, 0-9 and -")
    return None


def _document(text: bytes) -> dict[str, Any]:
    if len(text) > VALUE_BYTES_MAX:
        raise InvalidSettings("", [Problem("", f"is too large: {len(text)} bytes of {VALUE_BYTES_MAX}")])
    document = tree_of(text)
    version = document.get("v")
    if type(version) is int and version > _VERSION:
        raise InvalidSettings("", [Problem("v", needs(f"config-{version}"))])
    return document


def _cut(text: str) -> str:
    # A key need not be UTF-8; what nodes write is.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= _WORDS_MAX else text[: _WORDS_MAX - 3] + "..."


# ---- between a file and the keys


def documents_of(tree: Mapping[str, Any]) -> dict[str, bytes]:
    """The documents in the tree of a file, each as the text of its key. `[node]` is not among them.

    Raises InvalidSettings for what has no place among keys.
    """
    documents: dict[str, Any] = {}
    problems = []
    for table, entry in tree.items():
        if table == "node":
            continue
        if table not in ("fleet", *_TABLES):
            problems.append(Problem(table, _unknown_table(table)))
        elif not isinstance(entry, dict):
            problems.append(Problem(table, "is not allowed; allowed: a table"))
        else:
            named = {table: entry} if table == "fleet" else {f"{table}/{name}": entry[name] for name in entry}
            documents |= named
            problems += [
                Problem(name.replace("/", "."), "is not allowed; allowed: a table")
                for name, document in named.items()
                if not isinstance(document, dict)
            ]
    if problems:
        raise InvalidSettings("", problems)
    return {name: _text(document) for name, document in documents.items()}


def _unknown_table(table: str) -> str:
    tables = ("fleet", *_TABLES)
    near = nearest(table, tables)
    hint = f"did you mean `{near}`?" if near else "there are: " + ", ".join(tables)
    return f"unknown table `{table}`; {hint}"


def _text(document: Mapping[str, Any]) -> bytes:
    # What JSON has no word for, a date say, becomes a text, for the judge to refuse.
    return (json.dumps(document, indent=2, ensure_ascii=False, default=str) + "\n").encode()


_HIDDEN = "***"


def masked(text: bytes) -> bytes:
    """A document's text as it may be shown: the same, unless there is a secret in it.

    Raises InvalidSettings if there may be one and the text can not be read.
    """
    try:
        tree = tree_of(text)
    except InvalidSettings:
        if any(word.encode() in text.lower() for word in _SECRETS):
            raise
        return text
    shown = _masked(tree)
    return text if shown == tree else _text(shown)


def _masked(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _HIDDEN if _is_secret(key) else _masked(part) for key, part in value.items()}
    return value


# A verifier is as good as a password to whoever has time. A clear password is refused, but may have been put.
_SECRETS = ("verifier", "server_secret", "password")


def _is_secret(key: str) -> bool:
    return any(word in key.lower() for word in _SECRETS)


class Difference(Struct, frozen=True):
    """One setting that is written differently; unset where it is not written at all."""

    path: str
    before: str | None
    after: str | None

    def __str__(self) -> str:
        if self.before is None:
            return f"+ {self.path} = {self.after}"
        if self.after is None:
            return f"- {self.path} = {self.before}"
        return f"~ {self.path} = {self.before} -> {self.after}"


def differences(before: Texts, after: Texts) -> tuple[Difference, ...]:
    """What is different between two bundles, setting by setting. Raises InvalidSettings if one can not be read."""
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return tuple(
        Difference(dotted(path), _shown(path, old.get(path)), _shown(path, new.get(path)))
        for path in sorted({*old, *new}, key=dotted)
        if old.get(path) != new.get(path)
    )


def _shown(path: tuple[str, ...], value: str | None) -> str | None:
    """Of a secret only that it changed."""
    return _HIDDEN if value is not None and any(map(_is_secret, path[2:])) else value


def _leaves(texts: Texts) -> Iterator[tuple[tuple[str, ...], str]]:
    for name, text in texts.items():
        yield from _leaves_of(tuple(name.split("/")), tree_of(text, name))


def _leaves_of(path: tuple[str, ...], value: Any) -> Iterator[tuple[tuple[str, ...], str]]:
    if isinstance(value, dict) and value:
        for key, part in value.items():
            yield from _leaves_of((*path, key), part)
    else:
        yield path, json.dumps(value, ensure_ascii=False, default=str)


def edit(keys: Keys, rows: list[Row], texts: Texts, *, prune: bool = False) -> tuple[Transaction, ...]:
    """Puts the documents that differ and, with `prune`, deletes the others: `rows` are config/ as it was read.

    Each key must still be as it was read. One transaction as long as all of it fits into one.
    """
    current = {keys.document(row.key): row for row in rows}
    operations: list[tuple[Compare, Operation]] = []
    for name in sorted(texts, key=_order):
        row = current.get(name)
        if row is None or row.value != texts[name]:
            key = keys.config(name)
            guard = absent(key) if row is None else unchanged(row)
            operations.append((guard, Put(key=key, value=texts[name])))
    if prune:
        for name in sorted(current, key=_order, reverse=True):
            if name not in texts:
                operations.append((unchanged(current[name]), Delete(key=current[name].key)))
    return tuple(
        Transaction(
            compares=tuple(compare for compare, _ in part), then=tuple(operation for _, operation in part)
        )
        for part in _parts(operations)
    )


def _parts(operations: list[tuple[Compare, Operation]]) -> Iterator[list[tuple[Compare, Operation]]]:
    """Cut so that the store takes each part: by number, and by size."""
    part: list[tuple[Compare, Operation]] = []
    size_bytes = 0
    for compare, operation in operations:
        more_bytes = len(operation.value) if isinstance(operation, Put) else 0
        if part and (len(part) == _OPERATIONS_MAX or size_bytes + more_bytes > _PART_BYTES_MAX):
            yield part
            part, size_bytes = [], 0
        part.append((compare, operation))
        size_bytes += more_bytes
    if part:
        yield part


def _order(name: str) -> tuple[int, str]:
    table = name.partition("/")[0]
    return (1 + _TABLES.index(table) if table in _TABLES else 0, name)


# ---- what an edit takes away


def losses(before: Settings, after: Settings) -> dict[str, str]:
    """What is taken away in such a number that somebody must have meant it: by name of the document.

    A pool or a shard map; more than half of a cluster's servers; more than a fifth of all servers, and at least three.
    """
    lost = {f"pools/{name}": "is removed" for name in before.pools if name not in after.pools}
    maps = (name for name in before.shardmaps if name not in after.shardmaps)
    lost |= {f"shardmaps/{name}": "is removed" for name in maps}
    gone: dict[str, int] = {}
    for name, cluster in before.clusters.items():
        kept = after.clusters[name].servers if name in after.clusters else {}
        if missing := [server for server in cluster.servers if server not in kept]:
            gone[name] = len(missing)
            if len(missing) * 2 > len(cluster.servers):
                lost[f"clusters/{name}"] = f"loses {len(missing)} of {len(cluster.servers)} servers"
    total = sum(len(cluster.servers) for cluster in before.clusters.values())
    if (all_gone := sum(gone.values())) >= 3 and all_gone * 5 > total:
        for name in gone:
            lost.setdefault(f"clusters/{name}", f"is part of a loss of {all_gone} of {total} servers")
    return lost
