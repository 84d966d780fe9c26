"""One cluster of a stack: a primary and its streaming replicas."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from pgcat_cluster.demo.postgres import Postgres
from pgcat_cluster.demo.processes import Started, wait_until

DATABASE = "test"


class Cluster(Started):
    """A primary that is created, or taken up again where its data is, and replicas that are copied from it.

    `roles` are statements that are harmless when they ran before; `statements` run in the database of a new
    primary alone.
    """

    def __init__(
        self,
        name: str,
        primary: Postgres,
        replicas: Sequence[Postgres],
        *,
        settings: Mapping[str, str],
        roles: Sequence[str],
        statements: Sequence[str],
        report: Callable[[str], None],
    ) -> None:
        super().__init__()
        self.name = name
        self.primary = primary
        self.replicas = list(replicas)
        self._settings = settings
        self._roles = roles
        self._statements = statements
        self._report = report

    @property
    def servers(self) -> list[Postgres]:
        return [self.primary, *self.replicas]

    def _start(self) -> None:
        if (self.primary.data / "PG_VERSION").exists():
            self.primary.prepare(self._roles)
        else:
            statements = [*self._roles, f"create database {DATABASE} owner test"]
            self.primary.create(settings=self._settings, statements=statements)
            if self._statements:
                self.primary.prepare(self._statements, DATABASE)
        # Replicas close first: a primary that stops fast waits for its standbys to have it all.
        self._closing.callback(self.primary.stop, "fast")
        self.primary.start()
        self._report(f"primary {self.primary.name} on port {self.primary.port}")

        copies = [replica.copy_from(self.primary) for replica in self.replicas]
        for replica, copy in zip(self.replicas, copies, strict=True):
            replica.finish_copy(copy)
            replica.launch()
            self._closing.callback(replica.stop, "immediate")
        for replica in self.replicas:
            replica.wait_ready()
            wait_until(replica.has_streamed, within_s=60.0, what=f"{replica.name} streams from the primary")
            self._report(f"replica {replica.name} on port {replica.port}, streaming")
