"""Values of keys: written and read back; what is wrong is told with key and path."""

import pytest

from pgcat_cluster.agreement.documents import (
    Accepted,
    Ack,
    ActivateOverride,
    Bundle,
    Finding,
    FreezeOverride,
    Live,
    Override,
    PoolOverride,
    ServerOverride,
    Timer,
    Undecodable,
    Verdict,
    decode,
    decode_override,
    encode,
)
from pgcat_cluster.agreement.keys import Kind


def test_a_value_is_written_without_what_is_unsaid_and_read_back() -> None:
    ack = Ack(
        valid=Bundle(rev=7, digest="d"),
        nack=(Finding(key="config/pools/app", rev=8, path="size", msg="is missing"),),
    )
    assert encode(ack) == (
        b'{"valid":{"rev":7,"digest":"d"},'
        b'"nack":[{"key":"config/pools/app","rev":8,"path":"size","msg":"is missing"}]}'
    )
    assert decode("ack/x", encode(ack), Ack) == ack
    assert encode(Timer(purpose="ban/main/r2/fleet")) == b'{"for":"ban/main/r2/fleet"}'
    assert decode("k", b'{"for":"x"}', Timer) == Timer(purpose="x")


def test_fields_of_newer_nodes_are_passed_over() -> None:
    value = b'{"v":"bad","since_rev":3,"gen":2,"mood":"gloomy"}'
    assert decode("k", value, Verdict) == Verdict(v="bad", since_rev=3, gen=2)


@pytest.mark.parametrize(
    ("value", "kind", "path", "message"),
    [
        (b"", Accepted, "", "Input data was truncated"),
        (b"{]", Accepted, "", "JSON is malformed: object keys must be strings (byte 1)"),
        (b"\xff", Accepted, "", "JSON is malformed: invalid character (byte 0)"),
        (b'{"v":"b\xffd"}', Verdict, "", "is no JSON in UTF-8"),
        (b'{"gen":1,"from_rev":"x","term":1,"docs":{}}', Accepted, "from_rev", "Expected `int`, got `str`"),
        (b'{"gen":1}', Accepted, "", "Object missing required field `from_rev`"),
        (b'{"v":"worse","since_rev":3,"gen":2}', Verdict, "v", "Invalid enum value 'worse'"),
        (b'{"nack":[{"key":"k","msg":3}]}', Ack, "nack[0].msg", "Expected `str`, got `int`"),
        (b"[" * 9999, Live, "", "Expected `object`, got `array`"),
    ],
)
def test_what_no_node_writes(value: bytes, kind: type[Accepted], path: str, message: str) -> None:
    with pytest.raises(Undecodable) as caught:
        decode("the/key", value, kind)
    assert (caught.value.key, caught.value.path, caught.value.message) == ("the/key", path, message)
    assert str(caught.value) == ": ".join(filter(None, ("the/key", path, message)))


@pytest.mark.parametrize(
    ("kind", "value", "override"),
    [
        (Kind.OVERRIDE_SERVER, b"drain\n", ServerOverride(action="drain")),
        (
            Kind.OVERRIDE_SERVER,
            b'{"action":"ban","reason":"disk replacement","by":"on call","force":true}',
            ServerOverride(action="ban", reason="disk replacement", by="on call", force=True),
        ),
        (Kind.OVERRIDE_SERVER, b'action = "pin"', ServerOverride(action="pin")),
        (Kind.OVERRIDE_POOL, b"pause", PoolOverride(action="pause")),
        (Kind.OVERRIDE_POOL, b'{"reconnect":3}', PoolOverride(reconnect=3)),
        (Kind.OVERRIDE_FREEZE, b"on", FreezeOverride()),
        (
            Kind.OVERRIDE_ACTIVATE,
            b'{"rev":88160,"reason":"on purpose","without":["px-3"]}',
            ActivateOverride(rev=88160, reason="on purpose", without=["px-3"]),
        ),
    ],
)
def test_overrides_are_words_json_or_toml(kind: Kind, value: bytes, override: Override) -> None:
    assert decode_override("k", kind, value) == override


@pytest.mark.parametrize(
    ("kind", "value", "problem"),
    [
        (
            Kind.OVERRIDE_SERVER,
            b"drian",
            'action: "drian" is not allowed; allowed: "ban", "drain", "ignore", "pin"; did you mean "drain"?',
        ),
        (Kind.OVERRIDE_SERVER, b"", "is empty; delete the key instead"),
        (Kind.OVERRIDE_SERVER, b"{}", 'action: is missing; allowed: "ban", "drain", "ignore", "pin"'),
        (
            Kind.OVERRIDE_SERVER,
            b'{"action":"ban","raeson":"x"}',
            "raeson: unknown key `raeson`; did you mean `reason`?",
        ),
        (
            Kind.OVERRIDE_PRIMARY,
            b'{"switchover":"r2"}',
            "switchover: needs feature primary-1, which this version does not have",
        ),
        (Kind.OVERRIDE_ACTIVATE, b'{"rev":0}', "rev: 0 is not allowed; allowed: a whole number, at least 1"),
        (Kind.OVERRIDE_ACTIVATE, b'{"rev":1,"rev":2}', 'key "rev" stands twice in one object'),
        (Kind.OVERRIDE_ACTIVATE, b'{"rev":NaN}', "NaN is no number of JSON"),
        (Kind.OVERRIDE_FREEZE, b"{" + b'"a":{' * 9999, "is nested too deep"),
        (Kind.OVERRIDE_FREEZE, b'reason = "\xff"', "line 1: is not UTF-8"),
        (Kind.OVERRIDE_FREEZE, b'{"reason":"\xff"}', "line 1: is not UTF-8"),
    ],
)
def test_wrong_overrides_are_told(kind: Kind, value: bytes, problem: str) -> None:
    with pytest.raises(Undecodable) as caught:
        decode_override("k", kind, value)
    assert str(caught.value) == f"k: {problem}"
