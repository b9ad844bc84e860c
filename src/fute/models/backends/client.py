"""Asking a server many questions at once: bounded, at its pace, with retries, and never past the budget."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import queue
import random
import threading
import time
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from fute.core.errors import BudgetError, ModelError
from fute.core.runtime import require
from fute.core.types import Failure
from fute.models.base import Meter, Usage

T = TypeVar("T")
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
# What no other question would be answered to either: a wrong key, no such model.
_NEVER = {401, 403, 404, 405}
# A box whose first questions are all refused, so many of them, would be refused them all.
_REFUSALS = 20


@dataclass(frozen=True)
class Manners:
    """How a server is asked.

    Attributes:
        concurrency: most requests under way at once.
        requests_per_minute, tokens_per_minute: its limits; None for none.
        timeout: seconds for one try, from sending to the last byte.
        tries: of one request, the first included.
        first_wait, most_wait: seconds; the wait before try n is drawn from 0 to `first_wait · 2ⁿ⁻²`, at most
            `most_wait` ("full jitter"), unless the server says how long (`Retry-After`).
    """

    concurrency: int = 16
    requests_per_minute: float | None = None
    tokens_per_minute: float | None = None
    timeout: float = 60.0
    tries: int = 6
    first_wait: float = 0.5
    most_wait: float = 30.0


class RefusedError(Exception):
    """The server will never answer this question, though it answers others."""


class _Pace:
    """Requests and tokens at an even pace, and pauses that the server asks for."""

    def __init__(self, manners: Manners) -> None:
        self._a_request = 60 / manners.requests_per_minute if manners.requests_per_minute else 0.0
        self._a_token = 60 / manners.tokens_per_minute if manners.tokens_per_minute else 0.0
        self._next = 0.0

    async def turn(self, tokens: int) -> None:
        """Wait until a request of so many tokens may be sent."""
        now = time.monotonic()
        at = max(now, self._next)
        self._next = at + max(self._a_request, tokens * self._a_token)
        if at > now:
            await asyncio.sleep(at - now)

    def pause(self, seconds: float) -> None:
        self._next = max(self._next, time.monotonic() + seconds)


class Line:
    """The line to one server, for all who ask it together. Lives in one event loop."""

    def __init__(self, manners: Manners, headers: Mapping[str, str]) -> None:
        require("httpx2", "api", "asking a server")
        import httpx2

        self.manners, self._pace = manners, _Pace(manners)
        self._refused: dict[int, int | None] = {}  # by meter: refusals so far; None once it had an answer
        most = httpx2.Limits(max_connections=manners.concurrency)
        self._client = httpx2.AsyncClient(headers=dict(headers), timeout=manners.timeout, limits=most)

    async def close(self) -> None:
        await self._client.aclose()

    def _refuse(self, meter: Meter, problem: str) -> None:
        """Raise for one question, or where a box has had nothing but refusals, for all of its questions."""
        before = self._refused.get(id(meter), 0)
        if before is not None:
            self._refused[id(meter)] = before + 1
            if before + 1 >= _REFUSALS:
                raise ModelError(
                    f"the server refused the first {_REFUSALS} questions",
                    found=problem,
                    fix="check the options that it names",
                )
        raise RefusedError(problem)

    async def post(
        self, url: str, body: Any, meter: Meter, most: Usage, read: Callable[[Any], tuple[T, Usage | None]]
    ) -> T | Failure:
        """The server's answer to one question, asked again where that may help.

        Every try is taken out of the budget before it is sent. What it used is then put right from the reply;
        where there is no word of that, what it may have used at most stays spent.

        Args:
            url, body: what is posted, as JSON.
            meter: the asking box's.
            most: what one try uses at most.
            read: from the reply's JSON to the answer and what it used (None where it doesn't say). Raises
                ValueError, LookupError or TypeError for a reply of another form, which is then asked for
                again.

        Returns:
            the answer, or a `Failure` of kind "error" when all tries are used up.

        Raises:
            BudgetError: a cap is reached.
            RefusedError: the server refuses this question.
            ModelError: it refuses them all.
        """
        import httpx2

        problem = ""
        for attempt in range(self.manners.tries):
            await self._pace.turn(most.tokens_in + most.tokens_out)
            meter.reserve(most)
            wait: float | None = None
            try:
                async with asyncio.timeout(self.manners.timeout):
                    reply = await self._client.post(url, json=body)
                if reply.status_code == 200:
                    answer, used = read(reply.json())
                    if used is not None:
                        meter.settle(most, used)
                    self._refused[id(meter)] = None
                    return answer
                meter.settle(most, Usage(most.calls))
                problem = f"status {reply.status_code}: {reply.text[:200]}"
                if reply.status_code in _NEVER:
                    raise ModelError(
                        f"{url} refuses to answer", found=problem, fix=_ADVICE[reply.status_code]
                    )
                if reply.status_code not in _AGAIN:
                    self._refuse(meter, problem)
                wait = retry_after(reply.headers)
                if reply.status_code == 429:
                    self._pace.pause(wait or 0.0)
            except TimeoutError:
                problem = f"no answer within {self.manners.timeout:g} s"
            except (httpx2.TransportError, httpx2.DecodingError) as error:
                problem = f"{type(error).__name__}: {error}"
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                problem = f"a reply that can't be read: {type(error).__name__}: {error}"
            if attempt + 1 < self.manners.tries:
                drawn = random.uniform(0, min(self.manners.first_wait * 2**attempt, self.manners.most_wait))
                await asyncio.sleep(drawn if wait is None else wait + drawn)
        return Failure("error", f"{self.manners.tries} tries; the last: {problem}"[:500])


_ADVICE = {
    401: "check the key: the environment variable that `key` names",
    403: "check that the key may use this model",
    404: "check `url` and the model's id",
    405: "check `url`",
}


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `Retry-After` in seconds or as a date; None without, at most 120."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except ValueError:
            return None
    return min(max(seconds, 0.0), 120.0) if seconds == seconds else None


Ask = Callable[[Line, Sequence[int]], Awaitable[Sequence[Any]]]


def answer_all(
    units: Sequence[tuple[str, Sequence[int]]], ask: Ask, manners: Manners, headers: Mapping[str, str]
) -> Iterator[tuple[int, Any]]:
    """Ask all units, `manners.concurrency` at a time, and yield (index, answer) as answers come.

    Runs in a thread with an event loop of its own, so it works inside a running loop, too. Closing the
    iterator drops what is under way.

    Args:
        units: (name of the box, indices of the questions that are asked in one request).
        ask: gives an answer for each index of a unit. A `ModelError` or any other exception that it raises
            stops its box, a `BudgetError` everything; each is yielded in the place of an answer.
        headers: of every request.
    """
    results: queue.SimpleQueue[tuple[int, Any] | None] = queue.SimpleQueue()
    loop_ready = threading.Event()
    running: dict[str, Any] = {}
    stopped: set[str] = set()

    async def worker(line: Line, work: Iterator[tuple[str, Sequence[int]]]) -> None:
        for name, unit in work:
            if name in stopped:
                continue
            try:
                answers = await ask(line, unit)
            except BudgetError as error:
                stopped.update(name for name, _ in units)
                results.put((unit[0], error))
            except Exception as error:
                if name not in stopped:
                    stopped.add(name)
                    results.put((unit[0], error))
            else:
                for index, answer in zip(unit, answers, strict=True):
                    results.put((index, answer))

    async def main() -> None:
        running["loop"], running["task"] = asyncio.get_running_loop(), asyncio.current_task()
        loop_ready.set()
        line = Line(manners, headers)
        work = iter(units)
        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(manners.concurrency, len(units))):
                    group.create_task(worker(line, work))
        finally:
            await line.close()

    def run() -> None:
        try:
            with contextlib.suppress(asyncio.CancelledError):
                asyncio.run(main())
        except BaseException as error:
            results.put((units[0][1][0], error))
        finally:
            loop_ready.set()
            results.put(None)

    if not units:
        return
    thread = threading.Thread(target=run, name="fute-client", daemon=True)
    thread.start()
    try:
        while (result := results.get()) is not None:
            yield result
    finally:
        loop_ready.wait()
        if thread.is_alive() and "loop" in running:
            with contextlib.suppress(RuntimeError):  # it may end by itself just now
                running["loop"].call_soon_threadsafe(running["task"].cancel)
        thread.join(timeout=5)
