"""An event loop on virtual time: what is due next happens next, node by node, and nothing else does."""

from __future__ import annotations

import asyncio
import contextvars
import heapq
from asyncio import events
from collections import deque
from collections.abc import Callable, Coroutine, Iterable, Iterator
from contextlib import contextmanager
from itertools import count
from typing import Any, Protocol, TypeVar

_T = TypeVar("_T")
# A node that never comes to rest within one instant is a fault of its own.
_CALLBACKS_MAX = 100_000


class Owner(Protocol):
    """A process: its callbacks are kept while it is stopped; it knows its tasks, so that it can be ended."""

    is_dead: bool
    is_paused: bool
    backlog: list[events.Handle]
    tasks: set[asyncio.Task[Any]]


_OWNER: contextvars.ContextVar[Owner | None] = contextvars.ContextVar("owner", default=None)


class Clockwork(asyncio.AbstractEventLoop):
    """Runs callbacks in the order of their times; equal times in the order they were asked for.

    Each callback belongs to the process in whose context it was asked for, or to the world. A step is all that
    one process does at one instant; `settled` is called behind it.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.steps = 0
        self.settled: Callable[[Any], None] = lambda owner: None
        self.failure: BaseException | None = None
        self._ready: deque[events.Handle] = deque()
        self._due: list[tuple[float, int, events.TimerHandle]] = []
        self._order = count()
        self._touched: dict[int, Owner] = {}

    # -- what coroutines ask of a loop

    def time(self) -> float:
        return self.now

    def call_soon(
        self, callback: Callable[..., Any], *args: Any, context: contextvars.Context | None = None
    ) -> events.Handle:
        handle = events.Handle(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def call_at(
        self,
        when: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> events.TimerHandle:
        handle = events.TimerHandle(when, callback, args, self, context)
        heapq.heappush(self._due, (max(when, self.now), next(self._order), handle))
        return handle

    def call_later(
        self,
        delay: float,
        callback: Callable[..., Any],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> events.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Coroutine[Any, Any, _T],  # type: ignore[override]
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> asyncio.Task[_T]:
        context = contextvars.copy_context() if context is None else context
        task = asyncio.Task(coro, loop=self, name=name, context=context)
        if (owner := context.get(_OWNER)) is not None:
            owner.tasks.add(task)
            task.add_done_callback(owner.tasks.discard)
        return task

    def run_in_executor(self, executor: Any, func: Callable[..., Any], *args: Any) -> asyncio.Future[Any]:  # type: ignore[override]
        """Done at once: a disk is faster than what this loop is about."""
        done = self.create_future()
        done.set_result(func(*args))
        return done

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        self.failure = self.failure or context.get("exception")

    def _timer_handle_cancelled(self, handle: events.TimerHandle) -> None:
        pass

    # -- processes

    @staticmethod
    def context_of(owner: Owner | None) -> contextvars.Context:
        """Where the callbacks of a process are asked for; None: of the world."""
        context = contextvars.Context()
        context.run(_OWNER.set, owner)
        return context

    def after(
        self, delay_s: float, callback: Callable[[], object], context: contextvars.Context | None = None
    ) -> None:
        """Call back after a time; without a context as a part of the world."""
        self.call_at(self.now + max(0.0, delay_s), callback, context=context or contextvars.Context())

    def resume(self, owner: Owner) -> None:
        """What waited while the process was stopped happens now."""
        owner.is_paused = False
        backlog, owner.backlog = owner.backlog, []
        self._ready.extend(backlog)

    async def pause(self, duration_s: float) -> None:
        """Let time pass, for who asks."""
        passed = self.create_future()
        handle = self.call_later(duration_s, lambda: passed.done() or passed.set_result(None))
        try:
            await passed
        finally:
            handle.cancel()

    # -- running

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Code in here finds this loop running."""
        before = events._get_running_loop()
        events._set_running_loop(self)
        try:
            yield
        finally:
            events._set_running_loop(before)

    def run_until(self, time_s: float) -> None:  # a time on the loop's clock
        with self.entered():
            self._settle()
            while self._due and self._due[0][0] <= time_s:
                self._instant()
            self.now = max(self.now, time_s)

    def end(self, owners: Iterable[Owner]) -> None:
        """End processes at once, where they stand."""
        with self.entered():
            for owner in owners:
                owner.is_dead = True
                self.resume(owner)
                for task in tuple(owner.tasks):
                    task.cancel()
            self._settle()

    def _instant(self) -> None:
        self.now, _order, handle = heapq.heappop(self._due)
        self._ready.append(handle)
        self._settle()

    def _settle(self) -> None:
        """Let everybody go on until only time can bring more; then look at those who did something."""
        ready, touched = self._ready, self._touched
        callbacks = 0
        while ready:
            handle = ready.popleft()
            if handle.cancelled():
                continue
            context: contextvars.Context = handle._context  # type: ignore[attr-defined]
            owner = context.get(_OWNER)
            if owner is not None:
                if owner.is_paused:
                    owner.backlog.append(handle)
                    continue
                touched[id(owner)] = owner
            handle._run()
            callbacks += 1
            if callbacks > _CALLBACKS_MAX:
                raise RuntimeError(f"never at rest: {handle!r}")
        if self.failure is not None:
            raise self.failure
        for owner in touched.values():
            self.steps += 1
            if not owner.is_dead:
                self.settled(owner)
        touched.clear()
        if self.failure is not None:
            raise self.failure
