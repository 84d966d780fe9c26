"""Reads a file of documents into Settings, or says everything that is wrong, each at its exact path."""

import functools
import json
import re
import tomllib
from codecs import BOM_UTF8
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, NoReturn, TypeVar

from msgspec import NODEFAULT, Struct, inspect

from pgcat_cluster.topology import rules
from pgcat_cluster.topology.settings import Cluster, Document, Fleet, Local, Pool, Settings, ShardMap, User
from pgcat_cluster.topology.units import Notation

Path = tuple[str, ...]

_Document = TypeVar("_Document", bound=Document)


class Problem(Struct, frozen=True):
    """One thing that is wrong: where (a path, or line and column), and what is allowed there."""

    path: str
    message: str


class InvalidSettings(Exception):
    """A file that can not be used; `problems` are all that were found."""

    def __init__(self, source: str, problems: Iterable[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        super().__init__("\n".join(self.lines()))

    def lines(self) -> Iterator[str]:
        """One line per problem: `file: path: message`."""
        for problem in self.problems:
            yield ": ".join(filter(None, (self.source, problem.path, problem.message)))


def parse(text: str | bytes, source: str) -> Settings:
    """The settings in a TOML text; `source` is how the file is named in problems. Raises InvalidSettings."""
    return read(_toml_tree(text, source), source)


def tree_of(value: bytes, source: str = "") -> dict[str, Any]:
    """The plain tree in the value of a key: JSON if it begins with `{`, else TOML. Raises InvalidSettings."""
    if not value.strip():
        raise InvalidSettings(source, [Problem("", "is empty; delete the key instead")])
    if value.startswith(BOM_UTF8):
        raise InvalidSettings(source, [Problem("line 1", "begins with a byte order mark; save it without")])
    if not value.lstrip().startswith(b"{"):
        return _toml_tree(value, source)
    try:
        tree = json.loads(value.decode("utf-8"), object_pairs_hook=_entries_once, parse_constant=_no_constant)
        json.dumps(tree, ensure_ascii=False).encode()
    except UnicodeDecodeError as error:
        raise InvalidSettings(source, [_not_utf8(error)]) from None
    except UnicodeEncodeError as error:
        half = f"\\u{ord(error.object[error.start]):04x} is half of a pair, and no character by itself"
        raise InvalidSettings(source, [Problem("", half)]) from None
    except RecursionError:
        raise InvalidSettings(source, [_TOO_DEEP]) from None
    except json.JSONDecodeError as error:
        place = f"line {error.lineno}, column {error.colno}"
        raise InvalidSettings(source, [Problem(place, error.msg)]) from None
    except ValueError as error:
        raise InvalidSettings(source, [_syntax_problem(str(error))]) from None
    assert isinstance(tree, dict)
    return tree


def read(tree: Mapping[str, object], source: str) -> Settings:
    """The settings in a tree of plain values, as TOML gives them. Raises InvalidSettings."""
    # What references may name: taken from the tree, so that a document with problems still exists.
    known: Mapping[str, Collection[str]] = {
        "cluster": _table_of(tree, "clusters"),
        "shard map": _table_of(tree, "shardmaps"),
        "user": _table_of(tree, "users"),
        "user name": [
            str(document.get("user", label)) if isinstance(document, dict) else label
            for label, document in _table_of(tree, "users").items()
        ],
    }
    return _read(Settings, tree, source, known)


def read_local(tree: Mapping[str, object], source: str) -> Local:
    """What a node of a fleet has in a file of its own. Raises InvalidSettings.

    Who its operators are is known only from the store: any name will do here.
    """
    node = _table_of(tree, "node")
    lists = (node.get(field) for field in ("admin_users", "stats_users"))
    named = [name for names in lists if isinstance(names, list) for name in names if isinstance(name, str)]
    return _read(Local, tree, source, {"user name": named})


def read_document(cls: type[_Document], tree: Mapping[str, object], source: str = "") -> _Document:
    """One document that refers to no other. Raises InvalidSettings."""
    return _read(cls, tree, source, {})


class Sound(Struct, frozen=True):
    """A document that was read without a problem, and what it refers to."""

    document: Document
    references: frozenset[tuple[str, str]]


class Library:
    """Reads the documents of a fleet together, over and over, and each only once as long as it stays the same.

    A document that was sound is not read again while its text is the same and all that it refers to exists. So
    the price of an edit is that of what was edited, however many documents there are.
    """

    def __init__(self) -> None:
        self._sound: dict[tuple[Path, str], Sound] = {}

    def read(self, documents: Mapping[Path, tuple[str, Mapping[str, object]]]) -> Settings:
        """`documents` gives a mark of its text and the tree of each, by its path: `("pools", "app")`.

        Raises InvalidSettings with all that is wrong.
        """
        known = names_of(documents)
        problems: list[Problem] = []
        tables: dict[str, Any] = {"fleet": Fleet(), "clusters": {}, "pools": {}, "shardmaps": {}, "users": {}}
        for path, (mark, tree) in documents.items():
            document, found = self.learn(path, mark, tree, known)
            problems += found
            if len(path) == 1:
                tables[path[0]] = document
            else:
                tables[path[0]][path[1]] = document
        present = ((path, mark) for path, (mark, _) in documents.items())
        self._sound = {place: self._sound[place] for place in present if place in self._sound}
        reader = _Reader(known)
        reader.judge(Settings, Settings(**tables), ())
        if problems := problems + reader.problems:
            raise InvalidSettings("", problems)
        return Settings(**tables)

    def knows(self, path: Path, mark: str) -> bool:
        """Whether this document was read before, and was sound."""
        return (path, mark) in self._sound

    def learn(
        self, path: Path, mark: str, tree: Mapping[str, object], known: Mapping[str, Collection[str]]
    ) -> tuple[Any, list[Problem]]:
        """One document beside others of these names, and what is wrong with it."""
        sound = self._sound.get((path, mark))
        if sound is not None and all(name in known[noun] for noun, name in sound.references):
            return sound.document, []
        reader = _Reader(known)
        document = reader.read(_kind_of(_CLASSES[path[0]]), tree, path)
        if not reader.problems:
            self._sound[path, mark] = Sound(document, frozenset(reader.references))
        return document, reader.problems


def names_of(paths: Iterable[Path]) -> Mapping[str, Collection[str]]:
    """What documents at these paths may refer to."""
    tables = {"cluster": "clusters", "shard map": "shardmaps", "user": "users"}
    return {
        noun: dict.fromkeys(path[1] for path in paths if path[0] == table) for noun, table in tables.items()
    }


_CLASSES: Mapping[str, type[Document]] = {
    "fleet": Fleet,
    "clusters": Cluster,
    "pools": Pool,
    "shardmaps": ShardMap,
    "users": User,
}


def _read(
    cls: type[_Document], tree: Mapping[str, object], source: str, known: Mapping[str, Collection[str]]
) -> _Document:
    reader = _Reader(known)
    document = reader.read(_kind_of(cls), tree, ())
    if reader.problems:
        raise InvalidSettings(source, reader.problems)
    assert isinstance(document, cls)
    return document


@functools.cache
def _kind_of(cls: type[Document]) -> inspect.Type:
    return inspect.type_info(cls)


_TOO_DEEP = Problem("", "is nested too deep")


def _not_utf8(error: UnicodeDecodeError) -> Problem:
    line = error.object.count(b"\n", 0, error.start) + 1
    return Problem(f"line {line}", "is not UTF-8")


def _toml_tree(text: str | bytes, source: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text if isinstance(text, str) else text.decode("utf-8"))
    except UnicodeDecodeError as error:
        problem = _not_utf8(error)
    except RecursionError:
        problem = _TOO_DEEP
    except ValueError as error:
        problem = _syntax_problem(str(error))
    raise InvalidSettings(source, [problem]) from None


def _entries_once(entries: list[tuple[str, Any]]) -> dict[str, Any]:
    tree = dict(entries)
    if len(tree) < len(entries):
        names = [name for name, _ in entries]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"key {_shown(twice)} stands twice in one object")
    return tree


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON")


def dotted(path: Path) -> str:
    """A path as TOML writes it: keys that need quotes have them, items of lists stand in brackets."""
    parts = (
        part if re.fullmatch(r"[A-Za-z0-9_-]+|\[\d+\]", part) else json.dumps(part, ensure_ascii=False)
        for part in path
    )
    return ".".join(parts).replace(".[", "[")


def _syntax_problem(message: str) -> Problem:
    if message.startswith("Exceeds the limit"):
        return Problem("", "has a number of thousands of digits")
    place = re.fullmatch(r"(.*) \(at (?:line (\d+), column (\d+)|(end of document))\)", message, re.DOTALL)
    if place is None:
        return Problem("", message)
    what, line, column, end = place.groups()
    return Problem(end or f"line {line}, column {column}", _PLAINER.get(what, what))


# What the parser says in words of its own.
_PLAINER = {"Cannot overwrite a value": "this key is there already"}


def nearest(word: str, words: Collection[str]) -> str | None:
    """Which of the words somebody may have meant."""
    begun = (candidate for candidate in words if word and candidate.startswith(word))
    return next(iter(get_close_matches(word, words, n=1, cutoff=0.6)), None) or next(begun, None)


def _shown(value: object) -> str:
    """A value as a message may show it: containers by kind, long texts cut, no password of an URL."""
    if isinstance(value, dict):
        return "a table"
    if isinstance(value, list):
        return "a list"
    if isinstance(value, str):
        value = re.sub(r"://[^/@\s]*@", "://(hidden)@", value)
        value = value if len(value) <= 60 else value[:57] + "..."
    return json.dumps(value, ensure_ascii=False, default=str)


def _listed(words: Iterable[str]) -> str:
    return ", ".join(words)


# What a type may be, in words, when neither a notation nor the schema has words of its own.
_WORDS: Mapping[type[inspect.Type], str] = {
    inspect.StrType: "a text",
    inspect.BoolType: "true or false",
    inspect.IntType: "a whole number",
    inspect.FloatType: "a number",
    inspect.ListType: "a list",
    inspect.DictType: "a table",
    inspect.StructType: "a table",
}


class _Unread(Exception):
    """A rule asked for a field that could not be read."""


class _Partial:
    """Stands for a document or value with problems, so that rules about its sound fields still speak."""

    def __init__(self, values: Mapping[str, object]) -> None:
        self._values = values

    def __getattr__(self, name: str) -> object:
        if name not in self._values or self._values[name] is _UNREAD:
            raise _Unread(name)
        return self._values[name]

    def _unread(self, *_: object) -> NoReturn:
        raise _Unread

    __hash__ = __lt__ = __le__ = __gt__ = __ge__ = _unread


_UNREAD = _Partial({})


class _Reader:
    """Walks a tree beside the schema and keeps every problem; what it returns counts only if there are none.

    Our own walk instead of msgspec's decoder, because that one stops at the first error and its paths hide
    the keys of tables, which are the names that matter.
    """

    def __init__(self, known: Mapping[str, Collection[str]]) -> None:
        self.problems: list[Problem] = []
        self.references: set[tuple[str, str]] = set()
        self._known = known

    def _refuse(self, path: Path, message: str) -> _Partial:
        # Texts of the file are quoted in messages; one problem stays one line whatever they contain.
        line = re.sub(r"[\x00-\x1f\x7f]", lambda match: f"\\u{ord(match[0]):04x}", message)
        self.problems.append(Problem(dotted(path), line))
        return _UNREAD

    def _not_allowed(self, path: Path, value: object, allowed: str, hint: str | None = None) -> _Partial:
        also = f"; did you mean {_shown(hint)}?" if hint else ""
        return self._refuse(path, f"{_shown(value)} is not allowed; allowed: {allowed}{also}")

    def read(self, kind: inspect.Type, raw: object, path: Path, extra: Mapping[str, Any] = {}) -> Any:
        """The value of `raw`, or a _Partial after a problem was noted."""
        match kind:
            case inspect.Metadata():
                return self.read(kind.type, raw, path, kind.extra or {})
            case inspect.UnionType():
                # A document has no way to write unset but leaving it out.
                return self.read(_meant(kind, raw), raw, path, extra)
            case inspect.LiteralType():
                return self._choice(kind, raw, path, extra)
        if "notation" in extra:
            return self._notation(kind, extra["notation"], raw, path)
        match kind, raw:
            case inspect.StructType(), dict():
                return self._document(kind, raw, path)
            case inspect.DictType(), dict():
                return self._table(kind, raw, path)
            case inspect.ListType(), list():
                places = ((*path, f"[{index}]") for index in range(len(raw)))
                items = [self.read(kind.item_type, *item) for item in zip(raw, places, strict=True)]
                return _UNREAD if any(item is _UNREAD for item in items) else items
            case inspect.StrType(), str():
                return self._text(kind, raw, path, extra)
            case inspect.BoolType(), bool():
                return raw
            case (inspect.IntType(), int()) | (inspect.FloatType(), int() | float()):
                # True is an int to Python, but to nobody else.
                if not isinstance(raw, bool) and _within(kind, raw):
                    return raw
        return self._not_allowed(path, raw, self._allowed(kind, extra))

    def _allowed(self, kind: inspect.Type, extra: Mapping[str, Any]) -> str:
        return extra.get("allowed") or _WORDS[type(kind)] + limits(kind, str)

    def _choice(self, kind: inspect.LiteralType, raw: object, path: Path, extra: Mapping[str, Any]) -> object:
        # By type too: true is not 1.
        if any(raw == value and type(raw) is type(value) for value in kind.values):
            return raw
        if isinstance(raw, str) and raw in extra.get("refused", {}):
            return self._refuse(path, f"{_shown(raw)} {extra['refused'][raw]}; allowed: {_choices(kind)}")
        words = [value for value in kind.values if isinstance(value, str)]
        hint = nearest(raw.lower(), words) if isinstance(raw, str) else None
        return self._not_allowed(path, raw, extra.get("allowed") or _choices(kind), hint)

    def _notation(self, kind: inspect.Type, notation: Notation, raw: object, path: Path) -> object:
        if isinstance(raw, str):
            try:
                value = notation.parse(raw)
            except ValueError:
                pass
            else:
                if _within(kind, value):
                    return value
        if notation.secret:
            return self._refuse(path, f"the value (hidden) is not allowed; allowed: {notation.allowed}")
        return self._not_allowed(path, raw, notation.allowed + limits(kind, notation.show))

    def _text(self, kind: inspect.StrType, raw: str, path: Path, extra: Mapping[str, Any]) -> object:
        # PostgreSQL ends every text at a zero byte.
        if "\0" in raw:
            return self._not_allowed(path, raw, "a text without zero bytes")
        if "refers" in extra:
            return self._reference(extra["refers"], raw, path)
        length_bytes = len(raw.encode())
        is_fitting = (kind.min_length or 0) <= length_bytes <= (kind.max_length or length_bytes)
        if not is_fitting or (kind.pattern and not re.fullmatch(kind.pattern, raw)):
            return self._not_allowed(path, raw, self._allowed(kind, extra))
        return raw

    def _reference(self, noun: str, name: str, path: Path) -> object:
        known = self._known[noun]
        if name in known:
            self.references.add((noun, name))
            return name
        near = nearest(name, known)
        hint = f"did you mean {_shown(near)}?" if near else f"there are: {_listed(known) or 'none'}"
        return self._refuse(path, f"{noun} {_shown(name)} does not exist; {hint}")

    def _table(self, kind: inspect.DictType, raw: dict[str, object], path: Path) -> dict[str, object]:
        if len(raw) < (kind.min_length or 0):
            self._refuse(path, "is empty; at least one entry is needed")
        values = {}
        for key, item in raw.items():
            self.read(kind.key_type, key, (*path, key))
            values[key] = self.read(kind.value_type, item, (*path, key))
        return values

    def _document(self, kind: inspect.StructType, raw: dict[str, object], path: Path) -> Document | _Partial:
        cls: type[Any] = kind.cls
        fields = {field.encode_name: field for field in kind.fields}
        values: dict[str, object] = {}
        for key, item in raw.items():
            if key in fields:
                values[fields[key].name] = self.read(fields[key].type, item, (*path, key))
            elif key in cls.refused:
                self._refuse((*path, key), cls.refused[key])
            else:
                near = nearest(key, fields)
                hint = f"did you mean `{near}`?" if near else f"allowed: {_listed(fields)}"
                self._refuse((*path, key), f"unknown key `{key}`; {hint}")
        for key, field in fields.items():
            if key not in raw:
                is_replaced = cls.instead.get(key) in raw
                values[field.name] = None if is_replaced else self._unsaid(field, (*path, key))
        is_whole = all(value is not _UNREAD for value in values.values())
        document: Document | _Partial = cls(**values) if is_whole else _Partial(values)
        self.judge(cls, document, path)
        return document

    def judge(self, cls: type[Document], document: Document | _Partial, path: Path) -> None:
        """By the rules about fields of one document, or documents of one file."""
        for rule in rules.RULES.get(cls, ()):
            try:
                for place, message in rule(document):
                    self._refuse((*path, *place), message)
            except _Unread:
                continue

    def _unsaid(self, field: inspect.Field, path: Path) -> object:
        if field.required:
            return self._refuse(path, f"is missing; allowed: {_words(field.type)}")
        if field.default_factory is not NODEFAULT:
            return field.default_factory()
        if field.default is not None and _refers(field.type):
            # A default may dangle too: `cluster = "main"` unsaid, and no [clusters.main].
            return self.read(field.type, field.default, path)
        return field.default


def _table_of(tree: Mapping[str, object], name: str) -> dict[str, object]:
    table = tree.get(name)
    return table if isinstance(table, dict) else {}


def said(kind: inspect.UnionType) -> list[inspect.Type]:
    """What a field may be, beside unset."""
    return [one for one in kind.types if not isinstance(one, inspect.NoneType)]


def _meant(kind: inspect.UnionType, raw: object) -> inspect.Type:
    """Of a whole number or a text, whichever `raw` is."""
    *others, last = said(kind)
    return others[0] if others and isinstance(raw, int) else last


def _refers(kind: inspect.Type) -> bool:
    if isinstance(kind, inspect.UnionType):
        return any(_refers(one) for one in kind.types)
    return isinstance(kind, inspect.Metadata) and "refers" in (kind.extra or {})


def _words(kind: inspect.Type) -> str:
    match kind:
        case inspect.Metadata(extra={"notation": notation}):
            return str(notation.allowed)
        case inspect.Metadata(extra={"allowed": allowed}):
            return str(allowed)
        case inspect.Metadata():
            return _words(kind.type)
        case inspect.LiteralType():
            return _choices(kind)
    return _WORDS[type(kind)] + limits(kind, str)


def _choices(kind: inspect.LiteralType) -> str:
    return _listed(_shown(value) for value in kind.values)


def _within(kind: inspect.Type, value: Any) -> bool:
    if not isinstance(kind, inspect.IntType | inspect.FloatType):
        return True
    return (kind.ge is None or value >= kind.ge) and (kind.le is None or value <= kind.le)


def limits(kind: inspect.Type, show: Callable[[float], str]) -> str:
    """The bounds of a number in words that follow its kind; empty without bounds."""
    if not isinstance(kind, inspect.IntType | inspect.FloatType) or kind.ge is None:
        return ""
    if kind.le is None:
        return f", at least {show(kind.ge)}"
    return f", from {show(kind.ge)} to {show(kind.le)}"
