"""TLS contexts: modes, reload, and the hash that channel binding uses, checked with a handshake in memory."""

from __future__ import annotations

import hashlib
import os
import ssl
from pathlib import Path

import pytest
import trustme

from pgcat_cluster.net.tls import (
    IncomingTls,
    OutgoingTls,
    TlsChange,
    TlsContexts,
    TlsFilesUnusable,
    TlsMode,
    TlsPipe,
    client_names,
    end_point_hash,
)


class Files:
    """A CA with one certificate for `localhost`, as files."""

    def __init__(self, folder: Path, common_name: str = "localhost", kind: str = "ECDSA") -> None:
        folder.mkdir(exist_ok=True)
        self.authority = trustme.CA()
        self.ca, self.cert, self.key = (str(folder / name) for name in ("ca.pem", "cert.pem", "key.pem"))
        self.leaf = self.authority.issue_cert(
            "localhost", common_name=common_name, key_type=trustme.KeyType[kind]
        )
        self.authority.cert_pem.write_to_path(self.ca)
        self.leaf.cert_chain_pems[0].write_to_path(self.cert)
        self.leaf.private_key_pem.write_to_path(self.key)


@pytest.fixture
def ours(tmp_path: Path) -> Files:
    return Files(tmp_path / "ours")


@pytest.fixture
def theirs(tmp_path: Path) -> Files:
    return Files(tmp_path / "theirs", common_name="alice")


def shake(
    incoming: IncomingTls, outgoing: OutgoingTls, hostname: str = "localhost"
) -> tuple[TlsPipe, TlsPipe]:
    """Both ends of a handshake that came to its end, or the first error of either."""
    assert incoming.context is not None
    assert outgoing.context is not None
    server = TlsPipe(incoming.context, server_side=True)
    client = TlsPipe(outgoing.context, server_side=False, server_hostname=hostname)
    done = set()
    while len(done) < 2:
        for pipe, peer in ((client, server), (server, client)):
            try:
                pipe.object.do_handshake()
                done.add(pipe)
            except ssl.SSLWantReadError:
                pass
            peer.incoming.write(pipe.outgoing.read())
    return server, client


@pytest.mark.parametrize("mode", ["prefer", "require", "verify-ca", "verify-full"])
def test_a_server_that_is_who_it_should_be(ours: Files, mode: TlsMode) -> None:
    incoming = IncomingTls("prefer", cert=ours.cert, key=ours.key)
    server, client = shake(incoming, OutgoingTls(mode, ca=ours.ca))
    client.object.write(b"hello")
    server.incoming.write(client.outgoing.read())
    assert server.object.read(10) == b"hello"


@pytest.mark.parametrize(
    ("mode", "has_ca", "hostname", "is_accepted"),
    [
        ("prefer", True, "elsewhere", True),
        ("require", False, "elsewhere", True),
        ("require", True, "elsewhere", False),
        ("verify-ca", True, "localhost", False),
        ("verify-full", True, "localhost", False),
    ],
)
def test_a_server_of_another_authority(
    ours: Files, theirs: Files, mode: TlsMode, has_ca: bool, hostname: str, is_accepted: bool
) -> None:
    incoming = IncomingTls("prefer", cert=theirs.cert, key=theirs.key)
    outgoing = OutgoingTls(mode, ca=ours.ca if has_ca else None)
    if is_accepted:
        shake(incoming, outgoing, hostname)
    else:
        with pytest.raises(ssl.SSLCertVerificationError, match="unable to get local issuer"):
            shake(incoming, outgoing, hostname)


def test_only_verify_full_looks_at_the_name(ours: Files) -> None:
    incoming = IncomingTls("prefer", cert=ours.cert, key=ours.key)
    shake(incoming, OutgoingTls("verify-ca", ca=ours.ca), "elsewhere")
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        shake(incoming, OutgoingTls("verify-full", ca=ours.ca), "elsewhere")


def test_disable_has_no_context_and_reads_no_file() -> None:
    assert OutgoingTls("disable", ca="/nowhere").context is None
    assert IncomingTls("disable", cert="/nowhere").context is None


@pytest.mark.parametrize(
    ("mode", "is_required"),
    [("disable", False), ("prefer", False), ("require", True), ("verify-ca", True), ("verify-full", True)],
)
def test_what_is_required(ours: Files, mode: TlsMode, is_required: bool) -> None:
    assert OutgoingTls(mode, ca=ours.ca).is_required is is_required
    incoming = IncomingTls(mode, cert=ours.cert, key=ours.key, client_ca=ours.ca)
    assert incoming.is_required is is_required


def test_client_certificates(ours: Files, theirs: Files) -> None:
    with_certificate = OutgoingTls("require", cert=theirs.cert, key=theirs.key)
    without = OutgoingTls("require")

    optional = IncomingTls("require", cert=ours.cert, key=ours.key, client_ca=theirs.ca)
    assert client_names(shake(optional, with_certificate)[0]) == ["alice"]
    assert client_names(shake(optional, without)[0]) == []

    demanded = IncomingTls("verify-ca", cert=ours.cert, key=ours.key, client_ca=theirs.ca)
    assert client_names(shake(demanded, with_certificate)[0]) == ["alice"]
    with pytest.raises(ssl.SSLError, match="PEER_DID_NOT_RETURN_A_CERTIFICATE"):
        shake(demanded, without)


@pytest.mark.parametrize(
    ("mode", "missing"),
    [("prefer", "mode prefer needs a certificate"), ("verify-ca", "mode verify-ca needs a client CA")],
)
def test_what_a_mode_needs(ours: Files, mode: TlsMode, missing: str) -> None:
    cert = None if mode == "prefer" else ours.cert
    with pytest.raises(TlsFilesUnusable, match=missing):
        IncomingTls(mode, cert=cert, key=ours.key)


def test_files_that_can_not_be_used_are_named(ours: Files, theirs: Files, tmp_path: Path) -> None:
    gone = str(tmp_path / "gone.pem")
    with pytest.raises(TlsFilesUnusable, match=r"gone\.pem: No such file"):
        OutgoingTls("verify-ca", ca=gone)
    with pytest.raises(TlsFilesUnusable, match="KEY_VALUES_MISMATCH"):
        IncomingTls("prefer", cert=ours.cert, key=theirs.key)
    with pytest.raises(TlsFilesUnusable, match=r"key\.pem"):
        OutgoingTls("verify-ca", ca=ours.key)


def test_a_key_with_a_passphrase_never_asks(ours: Files) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(ours.leaf.private_key_pem.bytes(), None)
    locked = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.BestAvailableEncryption(b"secret"),
    )
    Path(ours.key).write_bytes(locked)
    with pytest.raises(TlsFilesUnusable, match="must not need a passphrase"):
        IncomingTls("prefer", cert=ours.cert, key=ours.key)


def replace_files(old: Files, new: Files) -> None:
    for name in ("ca", "cert", "key"):
        os.replace(getattr(new, name), getattr(old, name))


def test_reload_takes_new_files_and_leaves_unchanged_ones(ours: Files, theirs: Files, tmp_path: Path) -> None:
    contexts = TlsContexts(
        incoming=IncomingTls("prefer", cert=ours.cert, key=ours.key),
        outgoing={"main": OutgoingTls("verify-ca", ca=theirs.ca)},
    )
    before = contexts.incoming.context, contexts.incoming.certificate_hash
    assert contexts.reload() == []

    replace_files(ours, Files(tmp_path / "next"))
    assert contexts.reload() == [TlsChange(side="clients")]
    assert contexts.reload() == []
    assert contexts.incoming.context is not before[0]
    assert contexts.incoming.certificate_hash != before[1]
    shake(contexts.incoming, OutgoingTls("verify-full", ca=ours.ca))


def test_a_reload_that_fails_keeps_what_was_good(ours: Files) -> None:
    contexts = TlsContexts(incoming=IncomingTls("prefer", cert=ours.cert, key=ours.key), outgoing={})
    before = contexts.incoming.context
    good = Path(ours.key).read_bytes()
    Path(ours.key).write_text("no key")
    [change] = contexts.reload()
    assert change.side == "clients"
    assert change.error is not None
    assert ours.key in change.error
    assert contexts.incoming.context is before
    assert contexts.reload() == [change], "told again until it is mended"
    Path(ours.key).write_bytes(good)
    assert contexts.reload() == [TlsChange(side="clients")]


@pytest.mark.parametrize("kind", ["ECDSA", "RSA"])
def test_the_end_point_hash_is_that_of_the_certificate(tmp_path: Path, kind: str) -> None:
    files = Files(tmp_path / kind, kind=kind)
    certificate = ssl.PEM_cert_to_DER_cert(Path(files.cert).read_text())
    expected = hashlib.sha256(certificate).digest()
    assert end_point_hash(certificate) == expected
    assert IncomingTls("prefer", cert=files.cert, key=files.key).certificate_hash == expected


@pytest.mark.parametrize(
    ("algorithm", "name"), [("SHA256", "sha256"), ("SHA384", "sha384"), ("SHA512", "sha512"), (None, None)]
)
def test_the_hash_is_the_signatures_own(algorithm: str | None, name: str | None) -> None:
    """Certificates signed in each way; Ed25519 has no hash of its own."""
    import datetime

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

    key = rsa.generate_private_key(65537, 2048) if algorithm else ed25519.Ed25519PrivateKey.generate()
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "localhost")])
    start = datetime.datetime(2020, 1, 1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(start)
        .not_valid_after(start + datetime.timedelta(days=9999))
        .sign(key, getattr(hashes, algorithm)() if algorithm else None)
        .public_bytes(serialization.Encoding.DER)
    )
    assert end_point_hash(certificate) == (hashlib.new(name, certificate).digest() if name else None)
