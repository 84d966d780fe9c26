"""What counts as a secret, by its key and by its looks."""

from __future__ import annotations

import pytest

from pgcat_cluster.telemetry.redaction import is_secret, redact


@pytest.mark.parametrize(
    "key",
    [
        *("password", "pools.app.users.app.server_password", "passwd", "tls.key_passphrase", "client_secret"),
        *("etcd.credentials", "api_token", "verifier", "private_key", "PASSWORD"),
    ],
)
def test_secret_keys(key: str) -> None:
    assert is_secret(key)


@pytest.mark.parametrize("key", ["tls.key_file", "listen", "pools.app.mode", "user", "monkey", "keys"])
def test_other_keys(key: str) -> None:
    assert not is_secret(key)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("user=a password=b host=c", "user=a password=**** host=c"),
        ("password='b c' host=d", "password=**** host=d"),
        ("pg://a:b@h:5432/d?password=x&sslmode=require", "pg://****@h:5432/d?password=****&sslmode=require"),
        ("ALTER ROLE a PASSWORD 'b'", "ALTER ROLE a PASSWORD ****"),
        ("was SCRAM-SHA-256$4096:c2FsdA==$YQ==:Yg==, now", "was ****, now"),
        ("md5" + "a" * 32, "****"),
        ("md5 of nothing", "md5 of nothing"),
        ("http://host:80/path", "http://host:80/path"),
    ],
)
def test_secret_texts(text: str, shown: str) -> None:
    assert redact(text) == shown
