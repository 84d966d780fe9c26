"""TCP ports for what is started here: each is given once, also where several demos and tests run side by side."""

from __future__ import annotations

import random
import socket
import sys

_chance = random.SystemRandom()
_given: dict[int, socket.socket] = {}


def free_port() -> int:
    """A TCP port on 127.0.0.1 that nobody listens on, outside the range that outgoing connections take theirs from.

    One of that range may be taken before it is used, or while who had it is down for a moment. For the same
    reason it stays reserved as long as this process lives: by an abstract socket of its number, on Linux.
    """
    while True:
        port = _chance.randrange(20000, 32768)
        if port in _given:
            continue
        claim = socket.socket(socket.AF_UNIX)
        try:
            if sys.platform == "linux":
                claim.bind(f"\0pgcat_cluster port {port}")
            socket.create_server(("127.0.0.1", port)).close()
        except OSError:
            claim.close()
        else:
            _given[port] = claim
            return port
