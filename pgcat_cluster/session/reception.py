"""Lets clients in who have logged in, tells them what they must know before they ask, and sees them out."""

from __future__ import annotations

from pgcat_cluster.agreement.cancels import CancelKeys
from pgcat_cluster.errors import Fault
from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.server import Server
from pgcat_cluster.session import paths
from pgcat_cluster.session.account import Visitor, account_of, backend_of, desk_of, visitor_of
from pgcat_cluster.session.answers import ground_of
from pgcat_cluster.session.consistency import wait_for
from pgcat_cluster.session.parameters import Catalogue, Parameters, read_as, shuns_replicas
from pgcat_cluster.session.refusals import refuse_login
from pgcat_cluster.session.wishes import WAIT_FOR, for_servers, short_name, wishes_of, wishes_of_pool
from pgcat_cluster.wire import messages


class Reception:
    """One for all accounts of a node."""

    def __init__(self, catalogue: Catalogue, keys: CancelKeys[Client]) -> None:
        self._catalogue = catalogue
        self.keys = keys

    def enter(self, client: Client, visitor: Visitor, values: dict[str, str]) -> None:
        """A client has logged in: tell it what it needs to know, from memory or from a server."""
        account = visitor.account
        parameters = self._catalogue.of({name.lower(): value for name, value in for_servers(values).items()})
        visitor.startup = parameters
        client.detail = visitor
        account.clients.add(client)
        client.join(desk_of(account), parameters)
        client.shuns_replicas = shuns_replicas(parameters)
        try:
            _begin_wishes(client, visitor, values)
        except Fault as fault:
            refuse_login(client, fault)
            return
        known = account.greetings.get(parameters)
        if known is not None:
            self._welcome(client, known)
            client.flush()
        else:
            client.greet()

    def greet(self, client: Client, server: Server) -> None:
        """A server with the client's parameters is there, and has reported what it is to be told."""
        client.greeting = False
        reported = dict(backend_of(server).reported)
        parameters = client.parameters
        assert isinstance(parameters, Parameters)
        account_of(client).remember_greeting(parameters, reported)
        self._welcome(client, reported)
        server.release()
        client.flush()

    def _welcome(self, client: Client, reported: dict[str, str]) -> None:
        """What follows AuthenticationOk: parameters, the cancel key, ready."""
        visitor = visitor_of(client)
        paths.settle(client, reported)
        read_as(client, reported)
        visitor.application_name = reported.get("application_name", "")
        visitor.key_pid, visitor.secret = self.keys.issue(client, visitor.protocol_minor)
        client.put_bytes(
            b"".join(messages.parameter_status(name, value) for name, value in reported.items())
            + messages.backend_key_data(visitor.key_pid, visitor.secret)
            + messages.ready_for_query(b"I")
        )

    def leave(self, client: Client) -> None:
        """A client is gone: what it moved stays counted."""
        visitor = visitor_of(client)
        visitor.account.clients.discard(client)
        desk = desk_of(visitor.account)
        desk.client_bytes_received += client.bytes_received
        desk.client_bytes_sent += client.bytes_sent
        if desk.mirror is not None:
            desk.mirror.gone(client)
        self.keys.revoke(visitor.key_pid)


def _begin_wishes(client: Client, visitor: Visitor, values: dict[str, str]) -> None:
    """What the pool and then the start-up packet say; raises the fault to tell."""
    account = visitor.account
    ground = ground_of(account)
    wishes = wishes_of_pool(account.settings, ground)
    visitor.wishes_at_start = visitor.wishes = wishes_of(values, wishes, ground)
    visitor.wish(client, visitor.wishes)
    for name, value in values.items():
        if short_name(name) == WAIT_FOR:
            wait_for(client, value)
