"""A program in any language as a black box: it reads JSON lines and writes JSON lines."""

from __future__ import annotations

import collections
import contextlib
import json
import os
import queue
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Self

from pydantic import Field

from fute.core.errors import BudgetError, ModelError
from fute.core.hashing import digest, digest_files
from fute.core.section import Name
from fute.core.types import Failure, Input, Output, Shape
from fute.models.answers import EXPECTED, Reader, as_json, labels_for, read_said
from fute.models.base import TICK, BlackBox, Meter, Streamed, Usage, answers_in_order
from fute.models.section import Here, LabelsSection

# Lines under way: enough to keep the program busy, few enough to lose little where it dies.
_WINDOW = 32
# An item that the program died on so often while it was the only one under way has failed.
_DEATHS = 2
# So many items that failed like that, without an answer between them: the program can't be used.
_IN_A_ROW = 4


class ProcessModel(BlackBox):
    """Starts the program once a run and sends it a line for each input, `{"id": 7, "text": …}`.

    It writes, in any order, a line for each: `{"id": 7, "label": …}`, or with `probabilities`, `score`,
    `text`, `span` or `error` as an HTTP endpoint does. Its standard error is shown where it fails. When it
    dies it is started again.

    Args:
        command: the program and its arguments.
        labels: for `output` "class" the label names, for "score" its name.
        folder: where it runs. Files that `command` names count in the fingerprint; of the program itself
            only one that lies there, since another is the machine's.
        timeout: seconds without an answer after which it is started again.
        version: changes when the answers may have, for what the named files don't tell.
    """

    kind = "process"
    batch = None

    def __init__(
        self,
        command: Sequence[str],
        labels: list[str] | None = None,
        *,
        name: str,
        output: Output = "class",
        shape: Shape = "text",
        folder: Path = Path(),
        timeout: float = 60.0,
        version: str = "",
    ) -> None:
        self.name, self.command, self.folder = name, list(command), folder
        self.output, self.shape = output, shape
        self.labels = labels_for(name, output, labels)
        self.timeout, self.version = timeout, version

    @cached_property
    def fingerprint(self) -> str:
        program, *words = self.command
        if (self.folder / program).resolve().is_relative_to(self.folder.resolve()):
            words.append(program)
        # Unlike Path.is_file, this takes a word that is too long for a file's name.
        named = [self.folder / word for word in words if os.path.isfile(self.folder / word)]  # noqa: PTH113
        made = [self.command, digest_files(named), self.version]
        return digest(["process", 1, made, list(self.labels), self.output, self.shape])

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {"command": " ".join(self.command), "version": self.version}

    def predict(self, inputs: Sequence[Input]) -> list[Any]:
        """The answers in order, without a budget. Raises ModelError where the program can't be used."""
        return answers_in_order(self, inputs)

    @classmethod
    def stream(
        cls, questions: Sequence[tuple[Self, Input]], meters: Mapping[str, Meter]
    ) -> Iterator[Streamed]:
        box = questions[0][0]
        meter, read = meters[box.name], Reader(box, read_said)
        waiting = collections.deque(range(len(questions)))
        careful = 0  # so many of the next go one by one, since the program died on one of them
        deaths: collections.Counter[int] = collections.Counter()
        barren = 0  # items that failed since the last answer
        stopped: tuple[int, Exception] | None = None
        while waiting and stopped is None:
            program = _Program(box)
            alive = True
            try:
                while alive:
                    window = 1 if careful else _WINDOW
                    while waiting and stopped is None and len(program.under_way) < window:
                        try:
                            meter.reserve(Usage(1))
                        except BudgetError as error:
                            stopped = (waiting[0], error)
                            break
                        index = waiting.popleft()
                        program.send(index, questions[index][1])
                    if not program.under_way:
                        break
                    line = program.receive()
                    if line is None:  # it died, or is silent for too long
                        alive = False
                    elif not line:
                        yield None
                    elif (got := program.read(line, strictly=not read.any_good)) is not None:
                        index, said = got
                        careful, barren = max(0, careful - 1), 0
                        yield index, read([said])
            except ModelError as error:
                yield (next(iter(program.under_way), 0), error)
                return
            finally:
                program.stop()
            if alive:
                continue
            lost = list(program.under_way)
            if len(lost) == 1:  # so it was this one
                deaths[lost[0]] += 1
                if deaths[lost[0]] >= _DEATHS or program.timed_out:
                    yield lost[0], [Failure("error", program.why())]
                    barren, careful = barren + 1, max(0, careful - 1)
                    if barren >= _IN_A_ROW:
                        yield lost[0], program.error()
                        return
                    continue
            careful = max(careful, len(lost))
            waiting.extendleft(reversed(lost))
        if stopped is not None:
            yield stopped


class _Program:
    """One start of the program."""

    def __init__(self, box: ProcessModel) -> None:
        self.box = box
        self.under_way: dict[int, float] = {}  # index → when it was sent, oldest first
        self.timed_out = False
        self._heard = time.monotonic()  # from it last
        self._lines: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._to_send: queue.SimpleQueue[str | None] = queue.SimpleQueue()
        self._said: collections.deque[str] = collections.deque(maxlen=20)
        try:
            self._process = subprocess.Popen(
                box.command,
                cwd=box.folder,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,  # so that what it starts can be ended with it
            )
        except OSError as error:
            raise ModelError(
                f"model {box.name}: {box.command[0]} can't be started",
                found=str(error),
                fix="check `command`",
            ) from error
        # A thread for each pipe, so that none can fill up while we wait on another.
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._write, self._collect, self._listen)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, index: int, item: Input) -> None:
        self.under_way[index] = time.monotonic()
        self._to_send.put(json.dumps({"id": index, **as_json(item)}, ensure_ascii=False))

    def receive(self) -> str | None:
        """The next line; "" where none came for a tick; None where the program ended, or said nothing for too
        long.
        """
        since = max(self._heard, next(iter(self.under_way.values())))
        left = since + self.box.timeout - time.monotonic()
        try:
            line = self._lines.get(timeout=min(max(left, 0.01), TICK))
        except queue.Empty:
            self.timed_out = left <= TICK
            return None if self.timed_out else ""
        self._heard = time.monotonic()
        return line

    def read(self, line: str, strictly: bool) -> tuple[int, Any] | None:
        """The index of the input that a line answers, and what it says; None for a line that is no answer.

        Raises:
            ModelError: there is such a line, `strictly`: the program doesn't speak this language.
        """
        try:
            said = json.loads(line)
            index = int(said["id"])
            del self.under_way[index]
        except (ValueError, LookupError, TypeError):
            if not strictly:  # a library's warning, say
                self._said.append(line.strip())
                return None
            raise ModelError(
                f"model {self.box.name} wrote a line that is no answer",
                expected=f'JSON with the "id" of a line that it read, such as {_example(self.box.output)}',
                found=line.strip()[:200],
                fix="write only answers to standard output, and the rest to standard error",
            ) from None
        return index, said

    def why(self) -> str:
        """Why there is no answer, for people."""
        if self.timed_out:
            return f"no answer within {self.box.timeout:g} s"
        return f"the program ended with code {self._process.poll()}: {' / '.join(self._said)}"

    def error(self) -> ModelError:
        return ModelError(
            f"model {self.box.name}: its program gives no answers",
            found=self.why()[:500],
            fix="it must answer, and flush, line by line; try it: "
            f'echo \'{{"id": 0, "text": "a text"}}\' | {" ".join(self.box.command)}',
        )

    def stop(self) -> None:
        """End the program: politely where it has answered all, else at once."""
        self._to_send.put(None)
        if not self.under_way:
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=5)
        # All of its group: a shell's children would keep the pipes open, and run on.
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.kill()
        self._process.wait()
        for thread in self._threads:
            thread.join(timeout=5)
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            with contextlib.suppress(OSError):
                if pipe is not None:
                    pipe.close()

    def _write(self) -> None:
        stdin = self._process.stdin
        assert stdin is not None
        with contextlib.suppress(OSError, ValueError):  # it died: `_listen` tells
            while (line := self._to_send.get()) is not None:
                stdin.write(line + "\n")
                stdin.flush()
            stdin.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.strip():
                self._lines.put(line)
        self._process.wait()
        self._lines.put(None)

    def _collect(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self._said.append(line.strip())


def _example(output: Output) -> str:
    return EXPECTED[output].replace("{", '{"id": 7, ', 1)


class ProcessSection(LabelsSection):
    """`command:` a program that reads and writes JSON lines."""

    KEY: ClassVar[str] = "command"

    command: list[str] = Field(min_length=1)
    output: Output = "class"
    shape: Shape = "text"
    timeout: float = Field(default=60.0, gt=0)
    version: Name = "1"

    def build(self, here: Here) -> BlackBox:
        return ProcessModel(
            self.command,
            list(self.labels or []),
            name=self.name,
            output=self.output,
            shape=self.shape,
            folder=here.folder,
            timeout=self.timeout,
            version=self.version,
        )
