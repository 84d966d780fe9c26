"""The schema of each kind of document as JSON Schema, made from the types in `settings`."""

from collections.abc import Mapping
from inspect import cleandoc
from typing import Any

from msgspec import Struct, inspect

from pgcat_cluster.topology import settings
from pgcat_cluster.topology.reading import limits, said
from pgcat_cluster.topology.showing import default_of, pool_defaults

KINDS: Mapping[str, type[settings.Document]] = {
    "fleet": settings.Fleet,
    "cluster": settings.Cluster,
    "pool": settings.Pool,
    "shardmap": settings.ShardMap,
    "user": settings.User,
    "node": settings.Node,
}
_DIALECT = "https://json-schema.org/draft/2020-12/schema"


def schemas() -> dict[str, dict[str, Any]]:
    """By kind of document, a complete JSON Schema. What two fields must be to each other it can not say."""
    made = {kind: schema_of(kind, document) for kind, document in KINDS.items()}
    for field, default in pool_defaults().items():
        made["pool"]["properties"][field]["default"] = default
    return made


def schema_of(title: str, value: type[Struct]) -> dict[str, Any]:
    """A complete JSON Schema of one kind of value."""
    return {"$schema": _DIALECT, "title": title, **_schema(inspect.type_info(value))}


def _schema(kind: inspect.Type, extra: Mapping[str, Any] | None = None) -> dict[str, Any]:
    extra = extra or {}
    if "notation" in extra:
        notation = extra["notation"]
        allowed = notation.allowed + limits(kind, notation.show)
        return {"type": "string", "pattern": notation.pattern, "description": allowed}
    words = {"description": extra["allowed"]} if "allowed" in extra else {}
    match kind:
        case inspect.Metadata():
            return _schema(kind.type, kind.extra)
        case inspect.UnionType():
            either = [_schema(one, extra) for one in said(kind)]
            return either[0] if len(either) == 1 else {"anyOf": either, **words}
        case inspect.LiteralType():
            return {"enum": list(kind.values)}
        case inspect.BoolType():
            return {"type": "boolean"}
        case inspect.IntType() | inspect.FloatType():
            name = "integer" if isinstance(kind, inspect.IntType) else "number"
            return {"type": name, **_unless_none(minimum=kind.ge, maximum=kind.le)}
        case inspect.StrType():
            bounds = _unless_none(minLength=kind.min_length, maxLength=kind.max_length, pattern=kind.pattern)
            return {"type": "string", **bounds, **words}
        case inspect.ListType() | inspect.VarTupleType():
            return {"type": "array", "items": _schema(kind.item_type)}
        case inspect.DictType():
            names = _schema(kind.key_type)
            return {
                "type": "object",
                "additionalProperties": _schema(kind.value_type),
                **({"propertyNames": names} if names != {"type": "string"} else {}),
                **_unless_none(minProperties=kind.min_length),
            }
        case inspect.StructType():
            return _object(kind)
    raise TypeError(f"no document has a field of type {kind}")


def _object(kind: inspect.StructType) -> dict[str, Any]:
    return {
        **_unless_none(description=kind.cls.__doc__ and cleandoc(kind.cls.__doc__)),
        "type": "object",
        "properties": {
            field.encode_name: _schema(field.type) | _unless_none(default=default_of(field))
            for field in kind.fields
        },
        **(
            {"required": required} if (required := [f.encode_name for f in kind.fields if f.required]) else {}
        ),
        **({"additionalProperties": False} if kind.cls.__struct_config__.forbid_unknown_fields else {}),
    }


def _unless_none(**entries: object) -> dict[str, object]:
    return {name: value for name, value in entries.items() if value is not None}
