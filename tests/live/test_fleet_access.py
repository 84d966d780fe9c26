"""Nodes and operators at an etcd that asks who they are: TLS of both sides, users with the documented roles."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import trustme

from pgcat_cluster.demo.etcd import Etcd, EtcdTls
from pgcat_cluster.demo.node import Node
from pgcat_cluster.demo.stack import Stack
from tests.support.fleets import Fleet, size
from tests.support.nodes import eventually, get, lines

pytestmark = pytest.mark.once

ACCESS = Path(__file__).resolve().parents[2] / "proto" / "access.md"
PASSWORDS = {"root": "the-word-of-root", "ada": "the-word-of-ada"}


class Guarded(Fleet):
    """A fleet whose etcd admits certificates of one authority, and users with the roles that `proto/access.md` names.

    `user` is who etcdctl is. The password of nodes is that of their console's operator, which each has in a file.
    """

    def __init__(self, folder: Path, stack: Stack, closing: ExitStack) -> None:
        authority = trustme.CA()
        self.authority = folder / "authority.pem"
        authority.cert_pem.write_to_path(self.authority)
        member = pair(authority, folder / "member")
        tls = EtcdTls(
            certificate=member[0], key=member[1], authority=self.authority, client_authority=self.authority
        )
        self.pair = pair(authority, folder / "ours")
        super().__init__(closing.enter_context(Etcd(tls=tls)), stack)
        self.ours = f'ca = "{self.authority}"\ncert = "{self.pair[0]}"\nkey = "{self.pair[1]}"\n'
        self.store = self.ours + 'user = "node"\nsecret = "file:admin.secret"\n'
        self._password_file = folder / "password"
        self._password_file.write_text(PASSWORDS["ada"])

    def endpoints_of(self, _name: str) -> list[str]:
        return [f"https://{endpoint}" for endpoint in self.etcd.endpoints]

    def admit(self) -> None:
        """Roles as documented, users, and from then on nobody else."""
        (documented,) = re.findall(r"```sh\n(.*?)```", ACCESS.read_text(), re.DOTALL)
        for line in documented.replace("/pgcat/eu/", "/pgcat/test/").splitlines():
            self.ctl(*shlex.split(line)[1:])
        users = {"node": self.stack.passwords["admin"], **PASSWORDS}
        for user, password in users.items():
            self.ctl("user", "add", f"{user}:{password}")
        for user, role in (("node", "pgcat-node"), ("ada", "pgcat-operator"), ("root", "root")):
            self.ctl("user", "grant-role", user, role)
        self.ctl("auth", "enable")

    def operate(self, *words: str) -> str:
        return super().operate(
            *words, f"--tls-ca={self.authority}", f"--tls-cert={self.pair[0]}", f"--tls-key={self.pair[1]}",
            "--user=ada", f"--password-file={self._password_file}",
        )  # fmt: skip


def pair(authority: trustme.CA, name: Path) -> tuple[Path, Path]:
    """A certificate and its key, for this machine."""
    issued = authority.issue_cert("127.0.0.1")
    certificate, key = name.with_suffix(".pem"), name.with_suffix(".key")
    issued.cert_chain_pems[0].write_to_path(certificate)
    issued.private_key_pem.write_to_path(key)
    return certificate, key


@pytest.fixture
def guarded(pg_stack: Stack, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Guarded]:
    with ExitStack() as closing:
        fleet = Guarded(tmp_path, pg_stack, closing)
        for name, path in zip(("CACERT", "CERT", "KEY"), (fleet.authority, *fleet.pair), strict=True):
            monkeypatch.setenv(f"ETCDCTL_{name}", str(path))
        fleet.admit()
        monkeypatch.setenv("ETCDCTL_USER", f"ada:{PASSWORDS['ada']}")
        closing.callback(lambda: [node.stop() for node in fleet.nodes])
        yield fleet


def waits_for(node: Node, words: str) -> None:
    def says() -> bool:
        try:
            return words in get(node, "/ready")[1]
        except OSError:
            return False

    eventually(says, f"it waits for this: {words}")


def test_documented_roles_suffice_and_tokens_and_passwords_change(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    # All of it by an operator's user.
    guarded.load(pool="size = 5")
    (node,) = guarded.add(1)
    eventually(lambda: guarded.keys("prefix/") != [], "it can be sent cancels")
    guarded.put("override/main/r1", "ban")
    guarded.delete("override/main/r1")

    # As root: its token is void from now on; then its password is another.
    for number, password in ((6, guarded.stack.passwords["admin"]), (7, "another-word")):
        with monkeypatch.context() as becoming:
            becoming.setenv("ETCDCTL_USER", f"root:{PASSWORDS['root']}")
            guarded.ctl("user", "passwd", "node", "--interactive=false", typed=f"{password}\n")
        if number == 7:
            (node.folder / "secrets" / "admin.secret").write_text(password)
            node.signal(signal.SIGHUP)
            eventually(lambda: bool(lines(node, "config.applied")), "it reads its secrets")
        guarded.put("config/pools/test", f"users = {{ test = {{}} }}\nsize = {number}")
        eventually(lambda number=number: size(node) == number, "it is there all the same")

    # A node that died leaves a seat.
    node.kill()
    eventually(lambda: guarded.keys("live/") == [], "its lease ends")
    assert guarded.operate("forget", "px-1") == "px-1 is forgotten\n"
    assert guarded.keys("seat/") == []
    assert "generation 3" in guarded.operate("status")
    for secret in ("another-word", *PASSWORDS.values(), guarded.stack.passwords["admin"]):
        assert secret not in node.log.read_text()


def test_who_is_not_admitted_says_what_to_look_at(guarded: Guarded, tmp_path: Path) -> None:
    other = tmp_path / "other.pem"
    trustme.CA().cert_pem.write_to_path(other)
    cases = (
        (guarded.ours + 'user = "node"\nsecret = "file:test.secret"\n', "look at user and password"),
        # It is the user its certificate names, if any.
        (guarded.ours, "the user's role may not do this"),
        (f'ca = "{other}"\n', "is `ca` the authority that signed it?"),
        (f'ca = "{guarded.authority}"\n', "are `cert` and `key` of an authority that it knows?"),
    )
    nodes = []
    for guarded.store, _ in cases:
        nodes += guarded.launch(1)
    for node, (_, reason) in zip(nodes, cases, strict=True):
        waits_for(node, reason)
        assert guarded.stack.passwords["test"] not in node.log.read_text()
