"""Asking a server many questions at once: bounded, at its pace, with retries, and never past the budget."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import os
import queue
import random
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar
from urllib.parse import urlsplit

from fute.core.errors import BudgetError, ConfigError, ModelError
from fute.core.runtime import require
from fute.core.types import Failure
from fute.models.base import TICK, Meter, Usage

T = TypeVar("T")
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504, 520, 522, 524, 529}
_MOVED = {301, 302, 303, 307, 308}
# What no other question would be answered to either: a wrong key, no such model, an option it doesn't know.
_NEVER = {401, 402, 403, 404, 405, *_MOVED}
_NEVER_CODES = {
    "billing_hard_limit_reached",
    "insufficient_quota",
    "invalid_api_key",
    "model_not_found",
    "unknown_parameter",
    "unsupported_parameter",
    "unsupported_value",
}
# A box that gets no answer to so many questions in a row would get none to the others either. Where more are
# under way at once, one short outage must not stop it: twice as many as those.
_IN_A_ROW = 20
# Seconds that a server may tell us to wait; a question that is to wait longer fails.
_MOST_TOLD = 600.0
# Most answers that wait to be taken before no more are asked for.
_WAITING = 256


@dataclass(frozen=True)
class Manners:
    """How a server is asked.

    Attributes:
        concurrency: most requests under way at once.
        requests_per_minute, tokens_per_minute: its limits; None for none.
        timeout: seconds for one try, from sending to the last byte.
        tries: of one request, the first included.
        first_wait, most_wait: seconds; the wait before try n is drawn from 0 to `first_wait · 2ⁿ⁻²`, at most
            `most_wait` ("full jitter"), after the time that the server says (`Retry-After`). That may be up
            to 10 minutes; a question that is to wait longer fails.
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
        self._paused_until = 0.0

    async def turn(self, tokens: int) -> None:
        """Wait until a request of so many tokens may be sent."""
        while True:
            now = time.monotonic()
            at = max(now, self._next, self._paused_until)
            self._next = at + max(self._a_request, tokens * self._a_token)
            await asyncio.sleep(at - now)
            if time.monotonic() >= self._paused_until:  # else a pause began meanwhile
                return

    def put_back(self, tokens: int) -> None:
        """Tokens that a request was to take and didn't: the next may go so much earlier."""
        self._next -= max(0, tokens) * self._a_token

    def pause(self, seconds: float) -> None:
        self._paused_until = max(self._paused_until, time.monotonic() + seconds)


class Line:
    """The line to one server, for all who ask it together. Lives in one event loop.

    Args:
        manners: how it is asked.
        headers: of every request; their values are secrets.
    """

    def __init__(self, manners: Manners, headers: Mapping[str, str]) -> None:
        require("httpx2", "api", "asking a server")
        import httpx2

        self.manners, self._pace = manners, _Pace(manners)
        self._secrets = [value.removeprefix("Bearer ") for value in headers.values()]
        # By meter, so by box: questions in a row without an answer, and whether there ever was one.
        self._in_a_row: dict[int, int] = {}
        self._answered: set[int] = set()
        self._under_way, self._settled = 0, asyncio.Event()  # tries, and when one of them ends
        most = httpx2.Limits(max_connections=manners.concurrency)
        self._client = httpx2.AsyncClient(headers=dict(headers), timeout=manners.timeout, limits=most)

    async def close(self) -> None:
        await self._client.aclose()

    def _no_answer(self, meter: Meter, problem: str, fix: str) -> None:
        """Count a question without an answer. Raises ModelError where there were too many in a row."""
        count = self._in_a_row[id(meter)] = self._in_a_row.get(id(meter), 0) + 1
        if count >= max(_IN_A_ROW, 2 * self.manners.concurrency):
            raise ModelError(
                f"the server gave no answer to {count} questions in a row", found=problem, fix=fix
            )

    def _clean(self, text: str) -> str:
        """What a server or a library says, without the key that it may repeat."""
        for secret in self._secrets:
            text = text.replace(secret, "…")
        return text[:400]

    @contextlib.asynccontextmanager
    async def _reserved(self, meter: Meter, most: Usage) -> AsyncIterator[None]:
        """Take what a try uses at most out of the budget. Where a cap would be passed, wait for what is under
        way: it may put something back. Raises BudgetError where nothing is.
        """
        while True:
            try:
                meter.reserve(most)
                break
            except BudgetError:
                if not self._under_way:
                    raise
                await self._settled.wait()
        self._under_way += 1
        try:
            yield
        finally:
            # Who waits goes on when this task waits next, so when it has put back what it didn't use.
            self._under_way -= 1
            self._settled.set()
            self._settled.clear()

    async def post(
        self,
        url: str,
        body: Any,
        meter: Meter,
        most: Usage,
        read: Callable[[Any], T],
        used: Callable[[Any], Usage | None] = lambda reply: None,
    ) -> T | Failure:
        """The server's answer to one question, asked again where that may help.

        Every try is taken out of the budget before it is sent. What it used is then put right from the reply;
        where there is no word of that, what it may have used at most stays spent.

        Args:
            url, body: what is posted, as JSON.
            meter: the asking box's.
            most: what one try uses at most.
            read: from the reply's JSON to the answer. Raises ValueError, LookupError or TypeError for a reply
                of another form, which is then asked for again.
            used: from the reply's JSON, whatever it is, to what the try used; None where it doesn't say.

        Returns:
            the answer, or a `Failure` of kind "error" when all tries are used up.

        Raises:
            BudgetError: a cap is reached.
            RefusedError: the server refuses this question.
            ModelError: it refuses them all.
        """
        import httpx2

        problem, attempt = "", 0
        for attempt in range(self.manners.tries):
            await self._pace.turn(most.tokens_in + most.tokens_out)
            drawn = random.uniform(0, min(self.manners.first_wait * 2**attempt, self.manners.most_wait))
            wait, said = 0.0, ""
            try:
                async with self._reserved(meter, most), asyncio.timeout(self.manners.timeout):
                    reply = await self._client.post(url, json=body)
                said = self._clean(reply.text)
                if reply.is_success:
                    content = reply.json()
                    self._settle(meter, most, used(content))
                    answer = read(content)
                    self._in_a_row[id(meter)] = 0
                    self._answered.add(id(meter))
                    return answer
                self._settle(meter, most, Usage(most.calls))
                moved = f", moved to {self._clean(reply.headers.get('location', '?'))}"
                problem = f"status {reply.status_code}{moved if reply.status_code in _MOVED else ''}: {said}"
                if reply.status_code in _NEVER or _code(reply) in _NEVER_CODES:
                    raise ModelError(
                        f"{url} refuses to answer",
                        found=problem,
                        fix=_ADVICE.get(reply.status_code, "check the account and the options"),
                    )
                if reply.status_code not in _AGAIN:
                    if id(meter) not in self._answered:
                        self._no_answer(meter, problem, "check the options that it names")
                    raise RefusedError(problem)
                wait = retry_after(reply.headers) or 0.0
                if wait > _MOST_TOLD:
                    problem = f"told to wait {wait:.0f} s, longer than {_MOST_TOLD:g} s; {problem}"
                    break
                if reply.status_code == 429:
                    self._pace.pause(wait or drawn)
            except TimeoutError:
                problem = f"no answer within {self.manners.timeout:g} s"
            except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:  # nothing was sent
                self._settle(meter, most, Usage(most.calls))
                problem = f"{type(error).__name__}: {error}"
            except (httpx2.TransportError, httpx2.DecodingError) as error:
                problem = self._clean(f"{type(error).__name__}: {error}")
            except (ValueError, LookupError, TypeError, AttributeError, OverflowError) as error:
                why = self._clean(f"{type(error).__name__}: {error}")
                problem = f"a reply that can't be read ({why:.150}): {said:.200}"
            if attempt + 1 < self.manners.tries:
                await asyncio.sleep(wait + drawn)
        problem = f"{attempt + 1} tries; the last: {problem}"
        self._no_answer(meter, problem, "see whether the server works; what is labelled is kept")
        return Failure("error", problem)

    def _settle(self, meter: Meter, most: Usage, used: Usage | None) -> None:
        if used is not None:
            meter.settle(most, used)
            self._pace.put_back(most.tokens_in + most.tokens_out - used.tokens_in - used.tokens_out)


_ADVICE = {
    401: "check the key: the environment variable that `key` names",
    402: "check the account: it has to be paid for",
    403: "check that the key may use this model",
    404: "check `url` and the model's id",
    **dict.fromkeys([405, *_MOVED], "check `url`"),
}


def _code(reply: Any) -> str:
    """The code that OpenAI's protocol has for what went wrong, or ""."""
    try:
        return str(reply.json()["error"]["code"])
    except (ValueError, LookupError, TypeError):
        return ""


def check_url(name: str, url: str) -> str:
    """The URL. Raises ConfigError unless it is one that a model can be asked at, without a secret in it."""
    expected = "https://host/path or http://host:port/path"
    try:
        parts = urlsplit(url)
        good = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        good = False
    if not good:
        raise ConfigError(f"model {name}: no URL that can be asked", expected=expected, found=url)
    if parts.username or parts.password:
        raise ConfigError(
            f"model {name}: the URL has a user's name or password in it",
            expected=expected,
            fix="put secrets into environment variables, and name these",
        )
    return url


def secret(name: str, variable: str, purpose: str) -> str:
    """The value of an environment variable that goes into a header of model `name`.

    Raises:
        ModelError: it isn't set, or can't be sent; the value isn't shown.
    """
    value = os.environ.get(variable, "").strip()
    if not value:
        raise ModelError(
            f"model {name}: no {purpose}",
            expected=f"the environment variable {variable}",
            fix=f"export {variable}=…, or name another",
        )
    if not (value.isascii() and value.isprintable()):
        raise ModelError(
            f"model {name}: the {purpose} can't be sent",
            expected=f"one line of plain characters in the environment variable {variable}",
        )
    return value


def retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds to wait, from `Retry-After` in seconds or as a date; None without."""
    value = headers.get("retry-after")
    if value is None:
        return None
    try:
        seconds = float(value)
    except ValueError:
        try:
            seconds = email.utils.parsedate_to_datetime(value).timestamp() - time.time()
        except (ValueError, OverflowError):
            return None
    return max(seconds, 0.0) if seconds == seconds else None


Ask = Callable[[Line, Sequence[int]], Awaitable[Sequence[Any]]]


def answer_all(
    units: Sequence[tuple[str, Sequence[int]]], ask: Ask, manners: Manners, headers: Mapping[str, str]
) -> Iterator[tuple[int, Any] | None]:
    """Ask all units, `manners.concurrency` at a time, and yield (index, answer) as answers come, or None
    where none came for a tick.

    Runs in a thread with an event loop of its own, so it works inside a running loop, too. Closing the
    iterator drops what is under way.

    Args:
        units: (name of the box, indices of the questions that are asked in one request).
        ask: gives an answer for each index of a unit. A `ModelError` or any other exception that it raises
            stops its box, a `BudgetError` everything; each is yielded in the place of an answer.
        headers: of every request.
    """
    results: queue.SimpleQueue[tuple[int, Any] | BaseException | None] = queue.SimpleQueue()
    loop_ready = threading.Event()
    running: dict[str, Any] = {}
    stopped: set[str] = set()

    async def worker(line: Line, work: Iterator[tuple[str, Sequence[int]]]) -> None:
        for name, unit in work:
            while results.qsize() > _WAITING:  # nobody takes, and so keeps, what is paid for
                await asyncio.sleep(0.02)
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
            results.put(error)
        finally:
            loop_ready.set()
            results.put(None)

    if not units:
        return
    thread = threading.Thread(target=run, name="fute-client", daemon=True)
    thread.start()
    try:
        while True:
            try:
                result = results.get(timeout=TICK)
            except queue.Empty:
                yield None
                continue
            if result is None:
                return
            if isinstance(result, BaseException):
                raise result
            yield result
    finally:
        loop_ready.wait()
        if thread.is_alive() and "loop" in running:
            with contextlib.suppress(RuntimeError):  # it may end by itself just now
                running["loop"].call_soon_threadsafe(running["task"].cancel)
        thread.join(timeout=5)
