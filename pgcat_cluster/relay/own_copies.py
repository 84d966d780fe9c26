"""Gives clients and servers each their own copy of the methods they inherit, for the interpreter's sake."""

from types import FunctionType

from pgcat_cluster.relay.client import Client
from pgcat_cluster.relay.server import Server


def give_own_copies() -> None:
    """Copy what both kinds of links inherit, unless it is compiled.

    The interpreter adapts a function's instructions to the type they meet. Those of `Link` meet two in turn, and
    would look up each attribute the slow way.
    """
    for owner in (Client, Server):
        for name in dir(owner):
            function = getattr(owner, name)
            if isinstance(function, FunctionType) and name not in vars(owner):
                code = function.__code__.replace()
                copy = FunctionType(
                    code, function.__globals__, name, function.__defaults__, function.__closure__
                )
                setattr(owner, name, copy)
