"""What two nodes say to each other on the peer port: handshake, sealed frames, questions and answers.

`proto/peer.md` says the same for people, with an example.
"""

from __future__ import annotations

import hmac
from typing import Literal, TypeVar

import msgspec
from msgspec import Struct

from pgcat_cluster.agreement.cancels import Answer
from pgcat_cluster.agreement.fleet_key import DIGEST_BYTES, FleetKey, hkdf

VERSION = 1
FRAME_BYTES_MAX = 4096
LENGTH_BYTES = 4
NONCE_BYTES = 32
_NUMBER_BYTES = 8
_MAC_BYTES = 16
_SESSION_LABEL = b"pgcat session 1"
_NODE_ID_BYTES_MAX = 80

Role = Literal["dialer", "acceptor"]
Message = TypeVar("Message")


class PeerViolation(ValueError):
    """What came is not what a node of this fleet would send."""


# -- handshake


class _Hello(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The dialer's first message."""

    v: int
    fleet: str
    node: str
    nonce: bytes


class _Welcome(_Hello, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The acceptor's answer: it has the fleet key."""

    mac: bytes


class _Proof(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The dialer's second message: it has the key too."""

    mac: bytes


class Dialer:
    """The side that opens a connection and asks. `hello()`, then `proof()` of what came, then `channel`."""

    def __init__(self, fleet_key: FleetKey, fleet: str, node: str, nonce: bytes) -> None:
        self._fleet_key = fleet_key
        self._mine = _Hello(v=VERSION, fleet=fleet, node=node, nonce=nonce)
        self.peer = ""
        self.peer_key = b""
        self.channel: Channel | None = None

    def hello(self) -> bytes:
        return msgspec.json.encode(self._mine)

    def proof(self, body: bytes) -> bytes:
        """Check the acceptor; the key it signed with is that of the connection. Raises PeerViolation."""
        welcome = _read(body, _Welcome)
        _check_hello(welcome, self._mine.fleet)
        both = self._mine, welcome
        self.peer_key = _signer(self._fleet_key, "acceptor", *both, welcome.mac)
        self.peer = welcome.node
        self.channel = Channel(_session_key(self.peer_key, *both), "dialer")
        return msgspec.json.encode(_Proof(mac=_sign(self.peer_key, "dialer", *both)))


class Acceptor:
    """The side that is asked. `welcome()` of what came, then `admit()`, then `channel`."""

    def __init__(self, fleet_key: FleetKey, fleet: str, node: str, nonce: bytes) -> None:
        self._fleet = fleet
        self._node = node
        self._nonce = nonce
        self.peer = ""
        self.peer_key = fleet_key.peer[0]
        self._expected = b""
        self.channel: Channel | None = None

    def welcome(self, body: bytes) -> bytes:
        hello = _read(body, _Hello)
        _check_hello(hello, self._fleet)
        mine = _Hello(v=VERSION, fleet=self._fleet, node=self._node, nonce=self._nonce)
        self.peer = hello.node
        self._expected = _sign(self.peer_key, "dialer", hello, mine)
        self.channel = Channel(_session_key(self.peer_key, hello, mine), "acceptor")
        mac = _sign(self.peer_key, "acceptor", hello, mine)
        return msgspec.json.encode(
            _Welcome(v=VERSION, fleet=self._fleet, node=self._node, nonce=self._nonce, mac=mac)
        )

    def admit(self, body: bytes) -> None:
        if not hmac.compare_digest(_read(body, _Proof).mac, self._expected):
            raise PeerViolation("wrong MAC in the handshake")


def _read(body: bytes, form: type[Message]) -> Message:
    try:
        return msgspec.json.decode(body, type=form)
    except msgspec.DecodeError as error:
        raise PeerViolation(f"not a message: {error}") from None


def _check_hello(hello: _Hello, fleet: str) -> None:
    if hello.v != VERSION:
        raise PeerViolation(f"version {hello.v} is not spoken here")
    if hello.fleet != fleet:
        raise PeerViolation("another fleet")
    if len(hello.nonce) != NONCE_BYTES:
        raise PeerViolation("a nonce of the wrong size")
    if not 0 < len(hello.node) <= _NODE_ID_BYTES_MAX or "\0" in hello.node:
        raise PeerViolation("not a node id")


def _sign(key: bytes, role: Role, dialer: _Hello, acceptor: _Hello) -> bytes:
    names = f"{dialer.node}\0{acceptor.node}".encode()
    return hmac.digest(key, role.encode() + dialer.nonce + acceptor.nonce + names, "sha256")


def _signer(fleet_key: FleetKey, role: Role, dialer: _Hello, acceptor: _Hello, mac: bytes) -> bytes:
    """Which of our keys the other side has signed with."""
    for key in fleet_key.peer:
        if hmac.compare_digest(_sign(key, role, dialer, acceptor), mac):
            return key
    raise PeerViolation("wrong MAC in the handshake")


def _session_key(key: bytes, dialer: _Hello, acceptor: _Hello) -> bytes:
    return hkdf(key, dialer.nonce + acceptor.nonce, _SESSION_LABEL)


# -- frames


def with_length(content: bytes) -> bytes:
    """A message as it goes over the wire."""
    if len(content) > FRAME_BYTES_MAX:
        raise PeerViolation(f"a frame of {len(content)} bytes")
    return len(content).to_bytes(LENGTH_BYTES, "big") + content


def length_of(header: bytes) -> int:
    """How many bytes follow these four. Raises PeerViolation before anything is allocated."""
    length = int.from_bytes(header, "big")
    if not 0 < length <= FRAME_BYTES_MAX:
        raise PeerViolation(f"a frame of {length} bytes")
    return length


class Channel:
    """Seals what one side says and opens what the other says; each frame counts, in its direction."""

    def __init__(self, key: bytes, role: Role) -> None:
        assert len(key) == DIGEST_BYTES
        self._key = key
        self._here, self._there = (b"d", b"a") if role == "dialer" else (b"a", b"d")
        self._sealed = 0
        self._opened = 0

    def seal(self, body: bytes) -> bytes:
        number = self._sealed.to_bytes(_NUMBER_BYTES, "big")
        self._sealed += 1
        return number + body + self._mac(self._here, number, body)

    def open(self, content: bytes) -> bytes:
        if len(content) < _NUMBER_BYTES + _MAC_BYTES:
            raise PeerViolation("a frame without a body")
        number, body, mac = content[:_NUMBER_BYTES], content[_NUMBER_BYTES:-_MAC_BYTES], content[-_MAC_BYTES:]
        if not hmac.compare_digest(self._mac(self._there, number, body), mac):
            raise PeerViolation("wrong MAC")
        if int.from_bytes(number, "big") != self._opened:
            raise PeerViolation("wrong number")
        self._opened += 1
        return body

    def _mac(self, direction: bytes, number: bytes, body: bytes) -> bytes:
        return hmac.digest(self._key, direction + number + body, "sha256")[:_MAC_BYTES]


# -- questions


class _Asked(Struct, frozen=True, kw_only=True, tag_field="ask", forbid_unknown_fields=True):
    """A question; its answer carries the same `id`."""

    id: int = 0


class Cancel(_Asked, frozen=True, kw_only=True, tag="cancel"):
    """End what the client of this process id runs; `proof` shows that somebody knows its secret."""

    pid: int
    nonce: bytes
    proof: bytes
    hops: int


class Probe(_Asked, frozen=True, kw_only=True, tag="probe"):
    """How is this server, seen from where you are? `within_ms` is how long you may look."""

    cluster: str
    server: str
    within_ms: int


class Nudge(_Asked, frozen=True, kw_only=True, tag="nudge"):
    """Somebody met a failure of this class: a juror had better look at once. No answer."""

    cluster: str
    server: str
    evidence: str = msgspec.field(name="class")


class Ping(_Asked, frozen=True, kw_only=True, tag="ping"):
    """Who are you, and how far are you?"""


Question = Cancel | Probe | Nudge | Ping


# -- answers


class _Answered(Struct, frozen=True, kw_only=True, tag_field="answer", forbid_unknown_fields=True):
    id: int


class Cancelled(_Answered, frozen=True, kw_only=True, tag="cancel"):
    result: Answer


class Seen(_Answered, frozen=True, kw_only=True, tag="probe"):
    """What a probe found, `age_ms` ago: `ok`, or the class of its failure."""

    evidence: str = msgspec.field(name="class")
    rtt_ms: float
    age_ms: float


class Alive(_Answered, frozen=True, kw_only=True, tag="ping"):
    """`applied` is the newest revision applied, for each prefix of the store."""

    node: str
    applied: dict[str, int]


class Declined(_Answered, frozen=True, kw_only=True, tag="declined"):
    """The question makes no sense here."""

    why: str


Reply = Cancelled | Seen | Alive | Declined


def read_question(body: bytes) -> Question:
    return _read(body, Question)  # type: ignore[arg-type]


def read_reply(body: bytes) -> Reply:
    return _read(body, Reply)  # type: ignore[arg-type]


def encode(message: Question | Reply) -> bytes:
    return msgspec.json.encode(message)


# -- who misbehaves


class Strikes:
    """Which addresses are refused: those with three violations within ten seconds, for ten seconds."""

    COUNT = 3
    SPAN_S = 10.0
    ADDRESSES_MAX = 1024

    def __init__(self) -> None:
        # Of each address when it struck; the one that struck last stands last.
        self._struck: dict[str, list[float]] = {}

    def strike(self, address: str, now_s: float) -> None:
        struck = [at for at in self._struck.pop(address, []) if now_s - at < self.SPAN_S]
        if len(self._struck) >= self.ADDRESSES_MAX:
            del self._struck[next(iter(self._struck))]
        self._struck[address] = [*struck, now_s][-self.COUNT :]

    def refuses(self, address: str, now_s: float) -> bool:
        struck = self._struck.get(address, [])
        return len(struck) == self.COUNT and now_s - struck[-1] < self.SPAN_S
