"""`pgcat-cluster fleet`: what operators and pipelines do to a fleet, by its keys in etcd."""

from __future__ import annotations

import asyncio
import contextlib
import functools
import json
import random
import re
import sys
import tomllib
from collections.abc import Awaitable, Callable, Iterator, Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import click
import msgspec
import structlog
from msgspec import Struct

from pgcat_cluster.agreement.bundles import (
    Wrong,
    differences,
    documents_of,
    judge,
    masked,
)
from pgcat_cluster.agreement.overview import Goal, Overview, Progress
from pgcat_cluster.cli.config import EXIT_CONFIG
from pgcat_cluster.cli.fleet_views import node_lines, plain, show_history, show_status
from pgcat_cluster.fleet.operator import Impossible, Operator, Told, Written
from pgcat_cluster.fleet.store import Denied, Refused, Store, StoreFault, Unknown
from pgcat_cluster.net.clock import wall_s
from pgcat_cluster.topology.reading import InvalidSettings, Problem, nearest
from pgcat_cluster.topology.settings import NAME
from pgcat_cluster.topology.units import DURATION, HTTPS

_Answer = TypeVar("_Answer")


class Place(Struct, frozen=True, kw_only=True):
    """Which fleet, and the way to its etcd."""

    endpoints: tuple[str, ...]
    fleet: str
    authority: Path | None
    certificate: Path | None
    key: Path | None
    user: str
    password_file: Path | None


def _duration(_context: click.Context, _parameter: click.Parameter, given: str | None) -> float | None:
    try:
        return None if given is None else float(DURATION.parse(given))
    except ValueError:
        raise click.BadParameter(f"{given!r} is not allowed; allowed: {DURATION.allowed}") from None


def _endpoints(_context: click.Context, _parameter: click.Parameter, given: str | None) -> tuple[str, ...]:
    endpoints = tuple(filter(None, map(str.strip, (given or "").split(","))))
    for endpoint in endpoints:
        if not re.fullmatch(r"(https://)?(\[[0-9A-Fa-f:.%\w]+\]|[^\s/:]+):\d{1,5}", endpoint):
            raise click.BadParameter(
                f"{endpoint!r} is not allowed; allowed: HOST:PORT or https://HOST:PORT, several with commas"
            )
    return endpoints


def _fleet_name(_context: click.Context, _parameter: click.Parameter, given: str | None) -> str:
    if given and not re.fullmatch(NAME, given):
        raise click.BadParameter(f"{given!r} is not allowed; allowed: 1 to 63 of a-z, 0-9 and -")
    return given or ""


_FILE = click.Path(path_type=Path, exists=True, dir_okay=False)
_PLACE = (
    click.option(
        "--etcd", envvar="PGCAT_ETCD", metavar="HOST:PORT,…", callback=_endpoints,
        help="Members of etcd, https://HOST:PORT,… for TLS; or PGCAT_ETCD.",
    ),
    click.option(
        "--fleet", envvar="PGCAT_FLEET", metavar="NAME", callback=_fleet_name,
        help="Which fleet; or PGCAT_FLEET.",
    ),
    click.option("--tls-ca", type=_FILE, help="Who signed the members' certificates; switches TLS on."),
    click.option("--tls-cert", type=_FILE, help="Our certificate, where the members ask for one."),
    click.option("--tls-key", type=_FILE, help="Its key."),
    click.option("--user", envvar="PGCAT_ETCD_USER", default="", help="A user of etcd; or PGCAT_ETCD_USER."),
    click.option(
        "--password-file", envvar="PGCAT_ETCD_PASSWORD_FILE", type=_FILE,
        help="Its password, the first line of this file.",
    ),
)  # fmt: skip
_AS_JSON = click.option("--json", "as_json", is_flag=True, help="Answer with one JSON object.")
_PRUNE = click.option("--prune", is_flag=True, help="Delete the documents that FILE does not have.")
_WAIT = click.option(
    "--wait", "wait_s", callback=_duration, metavar="DURATION",
    help="Wait so long, 10s say, until every node runs it; say what each node thinks of it.",
)  # fmt: skip


def _placed(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options that say where the fleet is; it is given a Place."""

    @functools.wraps(command)
    def placed(
        *arguments: Any,
        etcd: tuple[str, ...],
        fleet: str,
        tls_ca: Path | None,
        tls_cert: Path | None,
        tls_key: Path | None,
        user: str,
        password_file: Path | None,
        **options: Any,
    ) -> None:
        place = Place(
            endpoints=etcd,
            fleet=fleet,
            authority=tls_ca,
            certificate=tls_cert,
            key=tls_key,
            user=user,
            password_file=password_file,
        )
        command(place, *arguments, **options)

    for option in reversed(_PLACE):
        placed = option(placed)
    return placed


@click.group()
def fleet() -> None:
    """See and change a fleet: the nodes that agree through one etcd.

    \b
    export PGCAT_ETCD=10.0.0.1:2379,10.0.0.2:2379 PGCAT_FLEET=main
    pgcat-cluster fleet apply pgcat.toml --wait 10s    # all documents of a file
    pgcat-cluster fleet status                         # who runs what; what is banned, and why
    pgcat-cluster fleet get pools/app > app.toml       # one document, to be edited
    pgcat-cluster fleet put pools/app app.toml
    pgcat-cluster fleet wait --timeout 10s             # exit code 1 if the nodes do not take it
    pgcat-cluster fleet rollback 41 --wait 10s

    What is put becomes effective when the nodes have found it valid; an edit that is wrong changes
    nothing. `etcdctl put /pgcat/FLEET/config/pools/app` works just as well.

    \b
    Exit codes: 0 done, 1 refused, rejected or too late, 2 wrong usage, 78 wrong documents.
    """


# ---- documents


@fleet.command()
@click.argument("name", required=False)
@click.option("--accepted", is_flag=True, help="What is in force instead of what is desired.")
@click.option("--secrets", is_flag=True, help="Show verifiers too.")
@_AS_JSON
@_placed
def get(place: Place, name: str | None, *, accepted: bool, secrets: bool, as_json: bool) -> None:
    """Print the documents, or the one called NAME byte for byte.

    \b
    pgcat-cluster fleet get pools/app > app.toml

    Verifiers and secrets are shown as ***, and then the document is JSON; --secrets shows them.
    """

    async def read(operator: Operator) -> dict[str, bytes]:
        await operator.must_exist()
        return operator.accepted if accepted else operator.desired

    documents = _run(place, read)
    chosen = {name: _known(documents, _document_name(name))} if name else documents
    shown = {label: text if secrets else _masked(label, text) for label, text in chosen.items()}
    if as_json:
        texts = {label: text.decode("utf-8", "replace") for label, text in shown.items()}
        click.echo(json.dumps(texts, ensure_ascii=False))
    elif name:
        click.echo(shown[name], nl=False)
        if shown != chosen:
            click.echo("secrets are hidden: not to be put back; --secrets shows the document", err=True)
    else:
        for label, text in shown.items():
            click.echo(f"# {plain(label)}")
            click.echo(text.rstrip() + b"\n")


def _known(documents: Mapping[str, bytes], name: str) -> bytes:
    if name not in documents:
        near = nearest(name, documents)
        hint = f"did you mean {near}?" if near else "there are: " + (", ".join(documents) or "none")
        raise click.ClickException(f"there is no document {name}; {hint}")
    return documents[name]


def _masked(name: str, text: bytes) -> bytes:
    try:
        return masked(text)
    except InvalidSettings as invalid:
        why = "; ".join(problem.message for problem in invalid.problems)
        raise click.ClickException(
            f"{name} can not be read ({why}) and may hold a secret; --secrets shows it"
        ) from None


def _document_name(name: str) -> str:
    return name.removeprefix("config/")


@fleet.command()
@click.argument("name")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False, allow_dash=True))
@click.option("--force", is_flag=True, help="Put it even if it is wrong; the nodes will say so.")
@_AS_JSON
@_placed
def put(place: Place, name: str, file: Path, *, force: bool, as_json: bool) -> None:
    """Put the one document NAME as FILE has it (- for standard input): TOML or JSON, byte for byte.

    \b
    echo '{"users": {"app": {"size": 40}}}' | pgcat-cluster fleet put pools/app -

    It is judged here first, together with the other documents, as the nodes will; exit 78 if any is wrong.
    Prints the revision: `pgcat-cluster fleet wait` tells what became of it.
    """
    document = {_document_name(name): _read(file)}

    async def write(operator: Operator) -> Written | tuple[Wrong, ...]:
        await operator.look()
        wrong = () if force else operator.wrong_with(operator.desired | document)
        return wrong or await operator.write(document)

    written = _run(place, write)
    if not isinstance(written, Written):
        _refuse(written, as_json)
    if as_json:
        click.echo(json.dumps({"revision": written.revision, "changed": written.names}))
    else:
        click.echo(_said(written))


def _said(written: Written) -> str:
    if not written.names:
        return "nothing to change: it is there already"
    return f"revision {written.revision}: changed {', '.join(written.names)}"


@fleet.command()
@click.argument("file", type=_FILE)
@_PRUNE
@_WAIT
@_AS_JSON
@_placed
def apply(place: Place, file: Path, *, prune: bool, wait_s: float | None, as_json: bool) -> None:
    """Put all documents of FILE at once: TOML with [fleet], [clusters.x], [users.x], [shardmaps.x], [pools.x].

    \b
    pgcat-cluster fleet apply pgcat.toml --prune --wait 10s

    The file of a single node will do: [node] is not put, since it belongs to each node's own file. Nothing is
    put if anything is wrong (exit 78). With --wait: 0 when every live node runs it, 1 when it was rejected,
    refused, or not run in time.
    """
    texts = _documents(file, as_json)

    async def write(operator: Operator) -> _Edit | tuple[Wrong, ...]:
        await operator.look()
        wrong = operator.wrong_with(texts if prune else operator.desired | texts)
        return wrong or await _edited(operator, texts, prune=prune, wait_s=wait_s, as_json=as_json)

    _tell_edit(_run(place, write), as_json)


class _Edit(Struct, frozen=True, kw_only=True):
    """What was written and, if it was waited for, what became of it."""

    written: Written
    progress: Progress | None
    view: Overview


async def _edited(
    operator: Operator, texts: Mapping[str, bytes], *, prune: bool, wait_s: float | None, as_json: bool
) -> _Edit:
    written = await operator.write(texts, prune=prune)
    if not as_json:
        click.echo(_said(written))
    goal = Goal(digest=written.digest)
    progress = None
    if wait_s is not None:
        # What was written is seen first.
        await operator.look()
        progress = await operator.wait(goal, wait_s)
    return _Edit(written=written, progress=progress, view=operator.view)


def _tell_edit(edit: _Edit | tuple[Wrong, ...], as_json: bool) -> None:
    if not isinstance(edit, _Edit):
        _refuse(edit, as_json)
    answer: dict[str, Any] = {"revision": edit.written.revision, "changed": edit.written.names}
    if edit.progress is not None:
        _tell_progress(edit.progress, edit.view, as_json, answer)
    elif as_json:
        click.echo(json.dumps(answer))


def _tell_progress(progress: Progress, view: Overview, as_json: bool, more: Mapping[str, Any]) -> None:
    """Says how it ended, and exits with it."""
    state = {"reached": "accepted", "failed": "failed", "pending": "timeout"}[progress.state]
    if as_json:
        answer = {
            **more,
            "state": state,
            "text": progress.text,
            "generation": view.accepted.gen if view.accepted else None,
            "nodes": msgspec.to_builtins(view.nodes),
        }
        click.echo(json.dumps(answer, ensure_ascii=False))
    else:
        late = "too late: " if state == "timeout" else ""
        click.echo(plain(late + progress.text))
        for line in node_lines(view.nodes, is_in_force=view.desired.state == "accepted"):
            click.echo(line)
    if state != "accepted":
        sys.exit(1)


@fleet.command()
@click.argument("file", type=_FILE)
@_PRUNE
@_AS_JSON
@_placed
def validate(place: Place, file: Path, *, prune: bool, as_json: bool) -> None:
    """Say everything that is wrong with FILE, as the nodes would; exit 78 if anything is.

    \b
    pgcat-cluster fleet validate pgcat.toml

    Without --etcd FILE is judged alone; with it (or PGCAT_ETCD) together with the documents that are there,
    as `apply` would put it. Servers and secrets are not tried: only nodes can.
    """
    texts = _documents(file, as_json)

    async def read(operator: Operator) -> tuple[Wrong, ...]:
        await operator.look()
        return operator.wrong_with(texts if prune else operator.desired | texts)

    if wrong := _run(place, read) if place.endpoints else judge(texts).wrong:
        _refuse(wrong, as_json)
    if as_json:
        click.echo(json.dumps({"valid": True, "errors": []}))
    else:
        click.echo(f"{file}: valid: {', '.join(texts)}")


@fleet.command()
@click.argument("file", type=_FILE, required=False)
@_PRUNE
@_AS_JSON
@_placed
def diff(place: Place, file: Path | None, *, prune: bool, as_json: bool) -> None:
    """Say what `apply FILE` would change, setting by setting; without FILE, what is desired but not in force.

    \b
    $ pgcat-cluster fleet diff pgcat.toml
    ~ pools.app.size = 10 -> 40
    """
    texts = _documents(file, as_json) if file is not None else None

    async def read(operator: Operator) -> tuple[dict[str, bytes], dict[str, bytes]]:
        if texts is None:
            await operator.must_exist()
            return operator.accepted, operator.desired
        desired = (await operator.look()).desired
        return desired, texts if prune else desired | texts

    before, after = _run(place, read)
    try:
        found = differences(before, after)
    except InvalidSettings as invalid:
        _refuse(tuple(Wrong(invalid.source, one.path, one.message) for one in invalid.problems), as_json)
    if as_json:
        click.echo(json.dumps([msgspec.to_builtins(one) for one in found], ensure_ascii=False))
    for one in () if as_json else found:
        click.echo(plain(str(one)))


def _read(file: Path) -> bytes:
    return sys.stdin.buffer.read() if str(file) == "-" else file.read_bytes()


def _documents(file: Path, as_json: bool) -> dict[str, bytes]:
    """The documents of a file; exits if it can not be read."""
    texts: dict[str, bytes] = {}
    problems: tuple[Problem, ...] = ()
    try:
        tree = tomllib.loads(file.read_bytes().decode())
        texts = documents_of(tree)
        if "node" in tree and not as_json:
            click.echo(f"{file}: [node] is left out: it belongs to each node's own file", err=True)
    except InvalidSettings as invalid:
        problems = invalid.problems
    except (ValueError, RecursionError) as error:
        problems = (Problem("", f"is no TOML in UTF-8: {error}"),)
    if not texts and not problems:
        problems = (Problem("", "there is no document in it"),)
    if problems:
        _refuse(tuple(Wrong(str(file), one.path, one.message) for one in problems), as_json, is_file=True)
    return texts


def _refuse(wrong: tuple[Wrong, ...], as_json: bool, *, is_file: bool = False) -> NoReturn:
    """Says what is wrong and exits."""
    if as_json:
        found = [{"key": one.name, "path": one.path, "message": one.message} for one in wrong]
        click.echo(json.dumps({"valid": False, "errors": found}, ensure_ascii=False))
    for one in () if as_json else wrong:
        where = one.name if is_file or not one.name else f"config/{one.name}"
        click.echo(plain(": ".join(filter(None, (where, one.path, one.message)))))
    sys.exit(EXIT_CONFIG)


# ---- generations


@fleet.command()
@_AS_JSON
@_placed
def history(place: Place, *, as_json: bool) -> None:
    """List the generations that were accepted, the newest first, as far as they are kept.

    Revisions are etcd's numbers of changes; etcd keeps no times.
    """

    async def read(operator: Operator) -> Operator:
        return await operator.must_exist()

    operator = _run(place, read)
    accepted = operator.view.accepted
    if as_json:
        click.echo(json.dumps([msgspec.to_builtins(one) for one in operator.history], ensure_ascii=False))
    else:
        show_history(operator.history, accepted.gen if accepted else None)


@fleet.command()
@click.argument("gen", type=click.IntRange(min=1))
@_WAIT
@_AS_JSON
@_placed
def rollback(place: Place, gen: int, *, wait_s: float | None, as_json: bool) -> None:
    """Put the documents of generation GEN back, and delete those that it did not have.

    \b
    pgcat-cluster fleet history
    pgcat-cluster fleet rollback 41 --wait 10s

    It is an edit like any other: the nodes judge it, and it becomes a new generation.
    """

    async def write(operator: Operator) -> _Edit:
        await operator.must_exist()
        texts = operator.generation(gen)
        return await _edited(operator, texts, prune=True, wait_s=wait_s, as_json=as_json)

    _tell_edit(_run(place, write), as_json)


@fleet.command("wait")
@click.option("--gen", type=click.IntRange(min=1), help="Wait for this generation or a later one.")
@click.option(
    "--timeout", "timeout_s", callback=_duration, default="10s", show_default=True, metavar="DURATION"
)
@_AS_JSON
@_placed
def wait_(place: Place, *, gen: int | None, timeout_s: float, as_json: bool) -> None:
    """Wait until every live node runs what is desired, or generation GEN or a later one.

    Exit code 1 if it is rejected, refused, or not run in time; what each node says of it is printed.
    """

    async def read(operator: Operator) -> tuple[Progress, Overview]:
        await operator.must_exist()
        goal = operator.goal() if gen is None else Goal(gen=gen)
        return await operator.wait(goal, timeout_s), operator.view

    progress, view = _run(place, read)
    _tell_progress(progress, view, as_json, {})


# ---- nodes


@fleet.command()
@click.argument("name")
@_placed
def forget(place: Place, name: str) -> None:
    """Give back the seat of node NAME, which is dead and will not come back.

    A seat says that a process may still be serving, even if it is cut off from etcd: forget it only when you
    know that the process has ended. Refused while a node of that name is live.
    """

    async def write(operator: Operator) -> None:
        await operator.must_exist()
        await operator.forget(name)

    _run(place, write)
    click.echo(f"{name} is forgotten")


@fleet.command("accept-store")
@click.option("--reason", default="", help="For those who read it later.")
@_placed
def accept_store(place: Place, reason: str) -> None:
    """Let the nodes go on with this etcd, although it was replaced or restored from a backup.

    Nodes that meet another etcd than before, or the same at an older revision, keep what they know, serve by it
    and write nothing, until this is said. Then they take bans, overrides and the accepted documents from here;
    what is not here is gone: look at `fleet status` first, and `fleet apply FILE` afterwards if documents are
    missing. It counts once, for nodes that have met this etcd already: say it again for those that come later.
    """

    async def write(operator: Operator) -> int:
        return await (await operator.look()).accept_store(reason)

    revision = _run(place, write)
    click.echo(f"revision {revision}: nodes that waited for this word go on; `fleet status` shows them")


@fleet.command()
@_AS_JSON
@_placed
def status(place: Place, *, as_json: bool) -> None:
    """Show what is in force, what became of the newest edit, and every node, ban, verdict and override."""

    async def read(operator: Operator) -> Overview:
        return (await operator.must_exist()).view

    view = _run(place, read)
    if as_json:
        click.echo(msgspec.json.encode(view))
    else:
        show_status(view)


@fleet.command()
@click.option("--follow", "-f", is_flag=True, help="Go on and tell what happens, until Ctrl-C.")
@click.option("--since", type=click.IntRange(min=1), default=1, metavar="REVISION", help="Begin there.")
@click.option("--new", "only_new", is_flag=True, help="Nothing of the past; goes on as --follow does.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object per line.")
@_placed
def events(place: Place, *, follow: bool, since: int, only_new: bool, as_json: bool) -> None:
    """Tell what happened to the fleet, in order: edits, acceptance, verdicts, bans, nodes, overrides.

    \b
    pgcat-cluster fleet events --follow

    The past is told as far as etcd remembers it, until its compaction. etcd keeps no times: what nodes wrote has
    the time of their clocks, shown in this machine's zone; the edits of operators and what vanished have that of
    this machine if they are seen happening (--follow), else none.
    """

    async def read(operator: Operator) -> None:
        await operator.must_exist()
        async for told in operator.events(None if only_new else since, follow=follow or only_new):
            _tell(told, as_json)

    with contextlib.suppress(KeyboardInterrupt):
        _run(place, read)


def _tell(told: Told, as_json: bool) -> None:
    when = told.at or (datetime.fromtimestamp(wall_s()) if told.is_new else None)
    seen = None if when is None else when.astimezone()
    if as_json:
        at = seen.isoformat(timespec="milliseconds") if seen else None
        line = json.dumps({"revision": told.revision, "at": at, "text": told.text}, ensure_ascii=False)
    else:
        time = seen.strftime("%Y-%m-%d %H:%M:%S.%f")[:-3] if seen else ""
        line = f"{time:<23} {told.revision:>8}  {plain(told.text)}"
    click.echo(line)
    sys.stdout.flush()


# ---- the way to etcd


def _run(place: Place, work: Callable[[Operator], Awaitable[_Answer]]) -> _Answer:
    """Do it, or say in one line why that can not be."""
    for given, option in ((place.endpoints, "--etcd"), (place.fleet, "--fleet")):
        if not given:
            variable = f"PGCAT_{option[2:].upper()}"
            raise click.UsageError(f"{option} or {variable} must say which fleet is meant")
    if not _speaks_tls(place) and (place.certificate or place.key):
        raise click.UsageError("--tls-cert and --tls-key need --tls-ca, or https:// in --etcd")

    async def run() -> _Answer:
        store = open_store(place)
        try:
            return await work(Operator(store, place.fleet))
        finally:
            await store.close()

    try:
        with _quietly():
            return asyncio.run(run())
    except Impossible as impossible:
        raise click.ClickException(plain(str(impossible))) from None
    except StoreFault as fault:
        raise click.ClickException(plain(_explained(fault, place))) from None


def _speaks_tls(place: Place) -> bool:
    return place.authority is not None or any(endpoint.startswith(HTTPS) for endpoint in place.endpoints)


def open_store(place: Place) -> Store:
    from pgcat_cluster.fleet.etcd import EtcdSettings, EtcdStore, members_of

    password = ""
    if place.password_file is not None:
        password = next(iter(place.password_file.read_text(encoding="utf-8").splitlines()), "")
    endpoints, tls = members_of(
        place.endpoints, authority=place.authority, certificate=place.certificate, key=place.key
    )
    # Whether this etcd is good enough is for the nodes to say.
    settings = EtcdSettings(
        endpoints=endpoints, tls=tls, user=place.user, password=password, allow_bad_version=True
    )
    return EtcdStore(settings, chance=random.Random())


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """What the store says to a node's log is not for who types a command."""
    before = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    try:
        yield
    finally:
        structlog.configure(**before)


def _explained(fault: StoreFault, place: Place) -> str:
    match fault:
        case Denied():
            remedy = f"check that the role of {place.user} may read and write below /pgcat/{place.fleet}/"
            remedy = remedy if place.user else "give --user and --password-file"
            return f"etcd refused us: {fault}; {remedy}"
        case Refused():
            return f"etcd does not do this: {fault}"
        case Unknown():
            return f"etcd's answer was lost: {fault}; `fleet status` tells whether it was done"
    where = ", ".join(place.endpoints)
    tls = "" if _speaks_tls(place) else ", and --tls-ca if it speaks TLS"
    return f"etcd can not be reached at {where}: {fault}; check --etcd{tls}"
