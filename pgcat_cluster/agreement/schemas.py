"""The schema of each kind of document and of each kind of key, as JSON Schema."""

from __future__ import annotations

from typing import Any

from pgcat_cluster.agreement.documents import OVERRIDES, WRITTEN
from pgcat_cluster.agreement.keys import Kind
from pgcat_cluster.topology import schema


def name_of(kind: Kind) -> str:
    """As the schema of a key's value is named: `decided/ban/…` is `ban`, `override/_fleet/freeze` `override-freeze`."""
    return kind.name.lower().replace("_", "-")


def schemas() -> dict[str, dict[str, Any]]:
    """By its name, a complete JSON Schema of each kind."""
    values = {**OVERRIDES, **WRITTEN}
    of_keys = {
        name_of(kind): schema.schema_of(name_of(kind), values[kind]) for kind in Kind if kind in values
    }
    return schema.schemas() | of_keys


KINDS = tuple(schemas())
