"""The published schemas are current, and agree with the reader; the examples are read."""

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest

from pgcat_cluster.cli.config import as_text
from pgcat_cluster.topology.reading import read
from pgcat_cluster.topology.schema import KINDS, schemas

TOP = Path(__file__).parents[3]
PROTO = TOP / "proto"
# Under which table a document of its own stands in a file, and what it refers to.
IN_A_FILE: dict[str, Any] = {
    "fleet": lambda document: {"fleet": document},
    "node": lambda document: {"node": document},
    "user": lambda document: {"users": {"app": document}},
    "cluster": lambda document: {"clusters": {"main": document}},
    "pool": lambda document: {
        "pools": {"app": document},
        "users": {"app": {"auth": "trust"}},
        "clusters": {
            name: {"servers": {"r1": {"host": name}}} for name in document["shards"]["clusters"].values()
        },
        "shardmaps": {document["shards"]["map"]: {"kind": "hash", "key": {"type": "bigint"}, "shards": 2}},
    },
    "shardmap": lambda document: {"shardmaps": {"by-customer": document}},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_published_schema_is_current(kind: str) -> None:
    published = (PROTO / "schemas" / f"{kind}.json").read_text(encoding="utf-8")
    assert published == as_text(schemas()[kind]), "run: pgcat-cluster config schema --write proto/schemas"


def test_no_example_is_left_over() -> None:
    assert sorted(path.stem for path in (PROTO / "examples").iterdir()) == sorted(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_example_is_read_and_fits_its_schema(kind: str) -> None:
    document = tomllib.loads((PROTO / "examples" / f"{kind}.toml").read_text(encoding="utf-8"))
    read(IN_A_FILE[kind](document), f"{kind}.toml")
    assert list(misfits(schemas()[kind], document)) == []


@pytest.mark.parametrize("kind", KINDS)
def test_defaults_fit_their_own_schema(kind: str) -> None:
    assert list(wrong_defaults(schemas()[kind])) == []


def test_misfits_are_seen() -> None:
    schema = schemas()["pool"]
    assert list(misfits(schema, {"users": {"app": {"size": 0, "sizee": 1}}, "idle_timeout": 7})) == [
        "users.app.size",
        "users.app.sizee",
        "idle_timeout",
    ]
    assert list(misfits(schema, {})) == ["users"]


def wrong_defaults(schema: dict[str, Any]) -> list[str]:
    wrong = []
    for name, part in schema.get("properties", {}).items():
        if "default" in part and list(misfits(part, part["default"])):
            wrong.append(name)
        wrong += wrong_defaults(part)
    return wrong


def misfits(schema: dict[str, Any], value: Any, path: str = "") -> list[str]:
    """The paths at which a value does not fit: the few words of JSON Schema that ours use."""
    kinds = {
        "object": dict,
        "array": list,
        "string": str,
        "boolean": bool,
        "integer": int,
        "number": (int, float),
    }
    if "anyOf" in schema:
        return [] if [] in [misfits(one, value, path) for one in schema["anyOf"]] else [path]
    if "enum" in schema:
        return [] if value in schema["enum"] else [path]
    if not isinstance(value, kinds[schema["type"]]) or (
        schema["type"] != "boolean" and isinstance(value, bool)
    ):
        return [path]
    match value:
        case dict():
            found = []
            for key, part in value.items():
                inner = schema.get("properties", {}).get(key, schema.get("additionalProperties", False))
                here = f"{path}.{key}".lstrip(".")
                found += misfits(inner, part, here) if inner else [here]
            return found + [key for key in schema.get("required", []) if key not in value]
        case list():
            return [one for item in value for one in misfits(schema["items"], item, path)]
        case str():
            fits = re.search(schema.get("pattern", ""), value) and len(value) >= schema.get("minLength", 0)
        case _:
            fits = schema.get("minimum", value) <= value <= schema.get("maximum", value)
    return [] if fits else [path]
