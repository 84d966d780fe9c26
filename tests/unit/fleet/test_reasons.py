"""Why an etcd could not be reached, or refused us, in words that name what to look at."""

from __future__ import annotations

import pytest

from pgcat_cluster.fleet.reasons import why_refused, why_unreachable

FAILED = "failed to connect to all addresses; last error: "
TSI = "UNKNOWN: ipv4:10.0.0.1:2379: Tls handshake failed (TSI_PROTOCOL_FAILURE): SSL_ERROR_SSL: error:1:SSL routines:"


# As gRPC says it.
@pytest.mark.parametrize(
    ("said", "with_tls", "meaning"),
    [
        (
            f"{FAILED}UNKNOWN: ipv4:10.0.0.1:1: Failed to connect to remote host: Connection refused",
            True,
            "Connection refused",
        ),
        (
            "errors resolving etcd-1:2379: [field:hostname lookup error:address lookup failed for etcd-1:2379: "
            "Domain name not found]",
            False,
            "its name can not be resolved",
        ),
        (
            f"{FAILED}{TSI}OPENSSL_internal:CERTIFICATE_VERIFY_FAILED: unable to get local issuer certificate: OK",
            True,
            "its certificate can not be verified: is `ca` the authority that signed it?",
        ),
        (
            f"{FAILED}{TSI}OPENSSL_internal:SSLV3_ALERT_BAD_CERTIFICATE: OK",
            True,
            "it does not admit our certificate: are `cert` and `key` of an authority that it knows?",
        ),
        (
            f"{FAILED}UNKNOWN: ipv4:10.0.0.1:2379: Custom verification check failed with error: UNAUTHENTICATED: "
            "Hostname Verification Check failed.",
            True,
            "its certificate is for another name: name it as its certificate does",
        ),
        (
            f"{FAILED}UNAVAILABLE: ipv4:10.0.0.1:2379: Handshake read failed (Socket closed)",
            True,
            "it does not speak TLS, as we were told by https:// or `ca`",
        ),
        (
            f"{FAILED}UNAVAILABLE: ipv4:10.0.0.1:2379: Socket closed",
            False,
            "it ends the connection: if it speaks TLS, say https:// or `ca`",
        ),
    ],
)
def test_why_nobody_answers(said: str, with_tls: bool, meaning: str) -> None:
    assert why_unreachable(said, with_tls=with_tls) == meaning


@pytest.mark.parametrize(
    ("said", "meaning"),
    [
        (
            "authentication failed, invalid user ID or password",
            "etcd does not know this user with this password: look at user and password",
        ),
        ("user name is empty", "etcd wants to know who we are: give a user and its password"),
        ("permission denied", "permission denied: the user's role may not do this"),
        ("revision of auth store is old", "revision of auth store is old"),
    ],
)
def test_why_we_are_refused(said: str, meaning: str) -> None:
    assert why_refused(said) == meaning
