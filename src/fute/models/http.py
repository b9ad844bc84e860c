"""An HTTP endpoint as a black box: it is posted inputs as JSON, and replies with as many answers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar, Self

from pydantic import Field

from fute.core.hashing import digest
from fute.core.section import Name
from fute.core.types import Answers, Failure, Input, Output, Shape
from fute.models.answers import Reader, as_json, labels_for, read_said
from fute.models.backends.client import Line, Manners, RefusedError, answer_all, check_url, secret
from fute.models.base import BlackBox, Meter, Streamed, Usage, answers_in_order
from fute.models.section import Here, LabelsSection


class HTTPModel(BlackBox):
    """POSTs `{"inputs": [{"text": …}, …]}`, reads `{"answers": [{…}, …]}` (or the bare list).

    An answer is `{"label": …}`, `{"probabilities": {…}}`, `{"score": …}`, `{"text": …}`, `{"span": {"text":
    …, "start": …}}` or `{"error": "why"}`.

    Args:
        url: where to post.
        labels: for `output` "class" the label names, for "score" its name.
        inputs_per_call: how many inputs one request has.
        headers: header → the environment variable with its value, so that no secret stands in a file.
        version: changes when the endpoint's answers may have.
        manners: how it is asked.
    """

    kind = "http"
    batch = None
    is_remote = True

    def __init__(
        self,
        url: str,
        labels: list[str] | None = None,
        *,
        name: str,
        output: Output = "class",
        shape: Shape = "text",
        inputs_per_call: int = 1,
        headers: Mapping[str, str] | None = None,
        version: str = "",
        manners: Manners = Manners(),  # noqa: B008
    ) -> None:
        self.name, self.url, self.output, self.shape = name, check_url(name, url), output, shape
        self.labels = labels_for(name, output, labels)
        self.inputs_per_call, self.headers = inputs_per_call, dict(headers or {})
        self.version, self.manners = version, manners
        self.group = digest([url, self.headers, vars(manners)])

    @property
    def fingerprint(self) -> str:
        return digest(["http", 1, self.url, list(self.labels), self.output, self.shape, self.version])

    @property
    def provenance(self) -> Mapping[str, Any]:
        return {"url": self.url, "version": self.version}

    def predict(self, inputs: Sequence[Input]) -> list[Any]:
        """The answers in order, without a budget. Raises ModelError where the endpoint refuses them all, or
        none of its first answers can be read.
        """
        return answers_in_order(self, inputs)

    def usage(self, inputs: Sequence[Input]) -> Usage:
        """What it takes where no call is refused: the inputs of one that is are asked in smaller calls."""
        return Usage(-(-len(inputs) // self.inputs_per_call))

    @classmethod
    def stream(
        cls, questions: Sequence[tuple[Self, Input]], meters: Mapping[str, Meter]
    ) -> Iterator[Streamed]:
        readers = {box.name: Reader(box, read_said) for box, _ in questions}

        async def ask(line: Line, unit: Sequence[int]) -> list[Answers]:
            box = questions[unit[0]][0]
            body = {"inputs": [as_json(questions[index][1]) for index in unit]}

            def read(reply: Any) -> Answers:
                said = reply["answers"] if isinstance(reply, Mapping) else reply
                if len(said) != len(unit):
                    raise ValueError(f"{len(said)} answers to {len(unit)} inputs")
                return readers[box.name](said)

            try:
                answers = await line.post(box.url, body, meters[box.name], Usage(1), read)
            except RefusedError as error:
                if len(unit) > 1:  # it may be one of them, or too many at once
                    half = len(unit) // 2
                    return [*await ask(line, unit[:half]), *await ask(line, unit[half:])]
                answers = Failure("refused", str(error))
            if isinstance(answers, Failure):
                return [[answers] for _ in unit]
            return [[answer] for answer in answers]

        units = []
        for name, indices in _by_box(questions).items():
            size = questions[indices[0]][0].inputs_per_call
            units += [(name, indices[i : i + size]) for i in range(0, len(indices), size)]
        first = questions[0][0]
        yield from answer_all(units, ask, first.manners, first._header_values())

    def _header_values(self) -> dict[str, str]:
        return {
            header: secret(self.name, variable, f"value for the header {header}")
            for header, variable in self.headers.items()
        }


def _by_box(questions: Sequence[tuple[HTTPModel, Input]]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for index, (box, _) in enumerate(questions):
        found.setdefault(box.name, []).append(index)
    return found


class HTTPSection(LabelsSection):
    """`http:` the URL of an endpoint."""

    KEY: ClassVar[str] = "http"

    http: str
    output: Output = "class"
    shape: Shape = "text"
    inputs_per_call: int = Field(default=1, ge=1)
    headers: dict[str, str] = Field(default_factory=dict)
    version: Name = "1"
    concurrency: int = Field(default=16, ge=1, le=1000)
    requests_per_minute: float | None = Field(default=None, gt=0)
    timeout: float = Field(default=60.0, gt=0)
    tries: int = Field(default=6, ge=1)

    def build(self, here: Here) -> BlackBox:
        return HTTPModel(
            self.http,
            list(self.labels or []),
            name=self.name,
            output=self.output,
            shape=self.shape,
            inputs_per_call=self.inputs_per_call,
            headers=self.headers,
            version=self.version,
            manners=Manners(self.concurrency, self.requests_per_minute, None, self.timeout, self.tries),
        )
