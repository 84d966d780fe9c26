"""Runs a node as a process: its log, the loop, what signals ask for, and the exit code."""

from __future__ import annotations

import asyncio
import gc
import signal
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from pgcat_cluster.errors import ConfigFault
from pgcat_cluster.net.config_file import load
from pgcat_cluster.net.tasks import spawn
from pgcat_cluster.node import EXIT_CONFIG, Node
from pgcat_cluster.relay.own_copies import give_own_copies
from pgcat_cluster.telemetry.logs import LineWriter, configure_logs
from pgcat_cluster.topology.reading import InvalidSettings
from pgcat_cluster.topology.settings import Log


def run(path: Path) -> int:
    """Run a node until it is told to stop; the exit code: 0, or 78 if it could not start."""
    try:
        topology = load(path, say)
    except InvalidSettings as error:
        for line in error.lines():
            say(line)
        return EXIT_CONFIG

    async def main(writer: LineWriter) -> int:
        return await serve(Node(topology, path, asyncio.get_running_loop()), writer)

    return run_logging(topology.node.log, main)


def run_logging(log: Log, main: Callable[[LineWriter], Coroutine[Any, Any, int]]) -> int:
    """Run `main` on the fastest loop there is, its log written by a thread."""
    writer = LineWriter(sys.stderr)
    configure_logs(writer, form=log.format, level=log.level)
    give_own_copies()
    try:
        try:
            import uvloop
        except ImportError:
            return asyncio.run(main(writer))
        return uvloop.run(main(writer))
    finally:
        writer.close()


def say(text: str) -> None:
    """For the person who starts the node, before there is a log."""
    sys.stderr.write(f"{text}\n")


async def serve(node: Node, writer: LineWriter) -> int:
    """Start a node, heed signals until it has ended; its exit code."""
    loop = asyncio.get_running_loop()
    node.operations.writer = writer
    try:
        await node.start()
    except OSError as error:
        node.can_not_listen(error)
        return node.exit_code
    # What is alive now stays: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10000, 20, 50)
    loop.add_signal_handler(signal.SIGHUP, lambda: spawn(_reload(node), "reload"))
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, node.shutdown, "drain")
    loop.add_signal_handler(signal.SIGQUIT, node.shutdown, "immediate")
    await node.stopped.wait()
    return node.exit_code


async def _reload(node: Node) -> None:
    try:
        await node.reload()
    except ConfigFault:
        # Said in the log by whoever raised it; the node goes on as it was.
        return
