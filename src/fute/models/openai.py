"""An LLM with a prompt behind a server that speaks OpenAI's protocol: OpenAI, vLLM, llama.cpp, Ollama."""

from __future__ import annotations

import ipaddress
import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar, Literal, Self, TypeVar
from urllib.parse import urlsplit

import numpy as np
from pydantic import Field

from fute.core.errors import ConfigError, ModelError, listing
from fute.core.hashing import digest
from fute.core.types import Answers, Failure, Floats, Input
from fute.models.backends.client import Line, Manners, RefusedError, answer_all, check_url, secret
from fute.models.base import FREE, BlackBox, Meter, Price, Streamed, Usage, answers_in_order
from fute.models.prices import price_of
from fute.models.prompting import PromptSection
from fute.models.section import Here
from fute.text.prompt import Prompt, Turn

log = logging.getLogger("fute")

T = TypeVar("T")
Mode = Literal["logprobs", "completions", "text"]
OPENAI = "https://api.openai.com/v1"
# Tokens that a server puts around a message, and around a chat: more than any template known.
_AROUND_MESSAGE, _AROUND_CHAT = 16, 64
# Less probability than this on all labels together says nothing about them.
_LEAST_MASS = 1e-3
# A log-probability is at most 0, but for a server's rounding, or where it gives logits: shares are the same.
_LEAST_WRONG = 100.0
# No request takes so many tokens: a reply that says so is wrong.
_MOST_TOKENS = 10**9
# Fields of a request that fute sets itself, since caps count with them or replies are read by them, and the
# option that says them.
_OWN = {
    "model": "openai",
    "messages": "template",
    "prompt": "template",
    "n": "samples",
    "best_of": "samples",
    "max_tokens": "max_new_tokens",
    "max_completion_tokens": "max_new_tokens",
    "n_predict": "max_new_tokens",
    "stream": "",
}


@dataclass(frozen=True)
class Decoding:
    """How the server's model is asked to answer.

    Attributes:
        mode: "logprobs" (chat; probabilities from the first token's alternatives), "completions" (the same
            after a plain prompt), "text" (chat; the answer is parsed by the verbalizer).
        samples: with "text", this many answers are drawn, each with reasons of its own where the prompt asks
            for some, and a label's probability is its share of those that name one; 1 asks for the most
            probable answer. Where the server answers more than half of them, that is enough.
        temperature: of the samples.
        alternatives: how many of a token's alternatives to ask for; None for 20, or where OpenAI completes,
            5: its most. llama.cpp gives more.
        max_tokens: of an answer in "text" mode.
        token_field: the name that the server has for that: "max_tokens", or "max_completion_tokens".
        extra: more fields of the request, such as {"reasoning_effort": "low"}; None leaves one out that fute
            would send, such as {"temperature": None}. Not the model, the prompt, or how much is written: caps
            count with these.
    """

    mode: Mode = "logprobs"
    samples: int = 1
    temperature: float = 1.0
    alternatives: int | None = None
    max_tokens: int = 16
    token_field: str = "max_tokens"
    extra: Mapping[str, Any] = field(default_factory=dict)


class OpenAIModel(BlackBox):
    """LLM + prompt, on a server. Its answers are class probabilities, or hard labels where it gives text
    only.

    With "logprobs" and "completions" a label's probability is that of the tokens that can begin one of its
    words and no other label's, as a share of what all labels have. So words of one label should not begin
    like another's.

    Args:
        model: the server's name for it.
        prompt: what is asked.
        name: what rankings call it.
        url: the server's, up to and with "/v1".
        key: the environment variable with the key; servers on this machine need none.
        price: dollars per million tokens; servers on this machine are free.
        decoding: how it answers.
        manners: how the server is asked.

    Raises:
        ConfigError: options that exclude each other.
    """

    kind = "api"
    batch = None
    is_remote = True

    def __init__(
        self,
        model: str,
        prompt: Prompt,
        *,
        name: str,
        url: str = OPENAI,
        key: str = "OPENAI_API_KEY",
        price: Price | None = None,
        decoding: Decoding = Decoding(),
        manners: Manners = Manners(),  # noqa: B008
    ) -> None:
        self.name, self.model, self.prompt = name, model, prompt
        self.labels, self.shape = prompt.labels, prompt.shape
        self.url, self.key = check_url(name, url).rstrip("/"), key
        self.decoding, self.manners = decoding, manners
        self.price = price if price is not None else (FREE if is_loopback(url) else None)
        if decoding.samples > 1 and decoding.mode != "text":
            raise ConfigError(f"model {name}: `samples` needs `answer: text`")
        _check_extra(name, decoding.extra)
        if decoding.mode != "text":
            _check_tellable(name, prompt)
        self.group = digest([self.url, key, vars(manners)])
        self._gave_alternatives = False
        self._short: list[int] = []  # of how many samples those answers are that aren't of all

    @cached_property
    def fingerprint(self) -> str:
        d = self.decoding
        drawn = [d.samples, d.temperature if d.samples > 1 else 0]
        # The name of a field counts too: what a server refused for it isn't refused under another.
        written = [d.max_tokens if d.mode == "text" else d.alternatives, d.token_field, dict(d.extra)]
        version = 3 if d.mode == "text" else 2
        return digest(
            ["openai", version, self.url, self.model, self.prompt.identity(), d.mode, drawn, written]
        )

    @property
    def provenance(self) -> Mapping[str, Any]:
        prompt = self.prompt
        return {
            "llm": self.model,
            "url": self.url,
            "template": prompt.template.source,
            "words": {label: list(words) for label, words in prompt.verbalizer.words.items()},
            "system": prompt.system,
            "shots": len(prompt.shots),
            "reasoning": prompt.reasoning is not None,
            "answer": self.decoding.mode,
            "samples": self.decoding.samples,
        }

    def predict(self, inputs: Sequence[Input]) -> list[Any]:
        """The answers in order, without a budget. Raises ModelError where the server refuses them all."""
        return answers_in_order(self, inputs)

    @classmethod
    def stream(
        cls, questions: Sequence[tuple[Self, Input]], meters: Mapping[str, Meter]
    ) -> Iterator[Streamed]:
        first = questions[0][0]

        async def ask(line: Line, unit: Sequence[int]) -> list[Answers]:
            box, item = questions[unit[0]]
            return [[await box._answer(line, item, meters[box.name])]]

        units = [(box.name, [index]) for index, (box, _) in enumerate(questions)]
        yield from answer_all(units, ask, first.manners, first._headers())
        for box in {box.name: box for box, _ in questions}.values():
            if box._short:
                log.info(
                    "%s: answers of fewer than %d samples, for the others got no reply: %d (the fewest: %d).",
                    *(box.name, box.decoding.samples, len(box._short), min(box._short)),
                )
                box._short.clear()

    def usage(self, inputs: Sequence[Input]) -> Usage:
        """At most: the most that each question's requests may use, when each succeeds at the first try."""
        calls = tokens_in = tokens_out = 0
        reasoning = self.prompt.reasoning
        for item in inputs:
            most = [self._most(self._turns(item), self._max_tokens)]
            if reasoning is not None:
                after = self._most(self._turns_after(item, ""), self._max_tokens)
                reasons = Usage(1, most[0].tokens_in, reasoning.max_tokens)
                most = [reasons, Usage(1, after.tokens_in + reasoning.max_tokens, after.tokens_out)]
            calls += self.decoding.samples * len(most)
            tokens_in += self.decoding.samples * sum(one.tokens_in for one in most)
            tokens_out += self.decoding.samples * sum(one.tokens_out for one in most)
        return Usage(calls, tokens_in, tokens_out)

    def _headers(self) -> dict[str, str]:
        if is_loopback(self.url) and not os.environ.get(self.key):
            return {}
        return {"Authorization": f"Bearer {secret(self.name, self.key, f'key for {self.url}')}"}

    @property
    def _max_tokens(self) -> int:
        return self.decoding.max_tokens if self.decoding.mode == "text" else 1

    @property
    def _plain(self) -> bool:
        return self.decoding.mode == "completions"

    def _turns(self, item: Input) -> list[Turn]:
        """What is sent: a chat, or one turn with the whole plain prompt."""
        return [Turn("user", self.prompt.plain(item))] if self._plain else self.prompt.turns(item)

    def _turns_after(self, item: Input, reasons: str) -> list[Turn]:
        if self._plain:
            return [Turn("user", self.prompt.plain_after(item, reasons))]
        return self.prompt.turns_after(item, reasons)

    def _most(self, turns: Sequence[Turn], max_tokens: int) -> Usage:
        """What one request uses at most: a tokenizer that knows all bytes makes no more tokens than bytes."""
        tokens = sum(len(turn.content.encode()) + _AROUND_MESSAGE for turn in turns) + _AROUND_CHAT
        return Usage(1, tokens, max_tokens)

    async def _answer(self, line: Line, item: Input, meter: Meter) -> Floats | Failure:
        samples = self.decoding.samples
        answers: list[Floats | Failure] = []
        lost = 0
        for number in range(samples):
            how = (
                {"temperature": self.decoding.temperature, "seed": number}
                if samples > 1
                else {"temperature": 0}
            )
            try:
                answer = await self._answer_once(line, item, meter, how)
            except RefusedError as error:
                answer = Failure("refused", str(error))
            if not (isinstance(answer, Failure) and answer.kind in ("error", "refused")):
                answers.append(answer)
                continue
            lost += 1
            if not answers or 2 * lost >= samples:  # the shares would be of half of the samples, or fewer
                return answer
        if lost:
            self._short.append(len(answers))
        named = [answer for answer in answers if not isinstance(answer, Failure)]
        return np.asarray(np.mean(named, axis=0), dtype=np.float32) if named else answers[-1]

    async def _answer_once(
        self, line: Line, item: Input, meter: Meter, how: Mapping[str, Any]
    ) -> Floats | Failure:
        turns = self._turns(item)
        if self.prompt.reasoning is not None:
            reasons = await self._post(line, turns, self.prompt.reasoning.max_tokens, meter, how, _text)
            if isinstance(reasons, Failure):
                return reasons
            turns = self._turns_after(item, reasons[0])
        if self.decoding.mode == "text":
            said = await self._post(line, turns, self.decoding.max_tokens, meter, how, _text)
            return said if isinstance(said, Failure) else self._parsed(*said)
        how = self._ask_for_alternatives()
        alternatives = await self._post(line, turns, 1, meter, how, self._read_alternatives)
        return alternatives if isinstance(alternatives, Failure) else self._probabilities(alternatives)

    def _read_alternatives(self, reply: Any) -> dict[str, float] | Failure:
        """`_alternatives`, where a server that gave some before is asked again for a reply without."""
        try:
            found = _alternatives(reply)
        except ModelError as error:
            if not self._gave_alternatives:
                raise
            raise LookupError("no log-probabilities, though the server gave some before") from error
        self._gave_alternatives = self._gave_alternatives or not isinstance(found, Failure)
        return found

    def _ask_for_alternatives(self) -> dict[str, Any]:
        count = self.decoding.alternatives or (5 if self._plain and self.url == OPENAI else 20)
        if self._plain:
            return {"temperature": 0, "logprobs": count}
        return {"temperature": 0, "logprobs": True, "top_logprobs": count}

    def _parsed(self, text: str, finished: bool) -> Floats | Failure:
        """A hard label from what the model wrote."""
        label = self.prompt.verbalizer.parse(text, self.prompt.reasoning is not None, finished)
        if label is not None:
            row: Floats = np.eye(len(self.labels), dtype=np.float32)[self.labels.index(label)]
            return row
        if not finished:
            return Failure("truncated", text[:200])
        return (
            Failure("unparsed", text[:200]) if text.strip() else Failure("empty", "the model wrote nothing")
        )

    def _probabilities(self, alternatives: Mapping[str, float]) -> Floats | Failure:
        """From probabilities of first tokens to those of labels."""
        words = list(_plain_words(self.prompt).values())
        mass = np.zeros(len(self.labels))
        for token, probability in alternatives.items():
            start = token.strip().casefold()
            begun = [i for i, ws in enumerate(words) if start and any(w.startswith(start) for w in ws)]
            if len(begun) == 1:
                mass[begun[0]] += probability
        if mass.sum() < _LEAST_MASS:
            likely = sorted(alternatives, key=lambda token: -alternatives[token])[:5]
            return Failure("unparsed", f"no label among the likely first tokens: {likely}")
        return np.asarray(mass / mass.sum(), dtype=np.float32)

    async def _post(
        self,
        line: Line,
        turns: Sequence[Turn],
        max_tokens: int,
        meter: Meter,
        fields: Mapping[str, Any],
        read: Callable[[Any], T | Failure],
    ) -> T | Failure:
        body = {"model": self.model, self.decoding.token_field: max_tokens, **fields, **self.decoding.extra}
        body = {key: value for key, value in body.items() if value is not None}
        if self._plain:
            body["prompt"], path = turns[0].content, "/completions"
        else:
            body["messages"] = [{"role": turn.role, "content": turn.content} for turn in turns]
            path = "/chat/completions"
        most = self._most(turns, max_tokens)
        return await line.post(self.url + path, body, meter, most, read, _used)


def _check_extra(name: str, extra: Mapping[str, Any]) -> None:
    """Raise ConfigError where there is a field that fute sets itself."""
    own = [field for field in extra if field in _OWN]
    if own:
        instead = listing(f"`{_OWN[field]}`" for field in own if _OWN[field])
        raise ConfigError(
            f"model {name}: `extra` holds what fute sets itself",
            found=listing(own),
            fix="leave it out" + (f", and set {instead} instead" if instead else ""),
        )


def _plain_words(prompt: Prompt) -> dict[str, list[str]]:
    """Each label's words, without spaces around them and case: these mean nothing to a server's tokens."""
    return {label: [w.strip().casefold() for w in ws] for label, ws in prompt.verbalizer.words.items()}


def _check_tellable(name: str, prompt: Prompt) -> None:
    """Raise ConfigError where a label's every word begins one of another label: no first token would be its
    own.
    """
    words = _plain_words(prompt)
    for label, own in words.items():
        others = [word for other, ws in words.items() if other != label for word in ws]
        if all(any(other.startswith(word) for other in others) for word in own):
            raise ConfigError(
                f'model {name}: every word of "{label}" is the beginning of another label\'s, '
                "so no first token tells the two apart",
                found=f"{listing(own)}; {listing(others)}",
                fix="choose words of which none is the beginning of another, or set `answer: text`",
            )


def _used(reply: Any) -> Usage | None:
    """What a reply says it used; None for numbers that nobody can have used."""
    usage = reply.get("usage") if isinstance(reply, Mapping) else None
    if not isinstance(usage, Mapping):
        return None
    read, written = _count(usage.get("prompt_tokens")), _count(usage.get("completion_tokens") or 0)
    return Usage(1, read, written) if read is not None and written is not None else None


def _count(tokens: Any) -> int | None:
    return tokens if type(tokens) is int and 0 <= tokens < _MOST_TOKENS else None


def _choice(reply: Any) -> Any:
    """The reply's one choice, or a `Failure` where a filter kept it back."""
    choice = reply["choices"][0]
    if choice.get("finish_reason") == "content_filter":
        return Failure("refused", "the server's content filter kept the answer back")
    return choice


def _text(reply: Any) -> tuple[str, bool] | Failure:
    """What the model wrote, and whether it came to its end. Raises LookupError or TypeError for a reply of
    another form.
    """
    choice = _choice(reply)
    if isinstance(choice, Failure):
        return choice
    said = choice["text"] if "text" in choice else choice["message"].get("content")
    if said is not None and not isinstance(said, str):
        raise TypeError(f"content is a {type(said).__name__}")
    return said or "", choice.get("finish_reason") != "length"


def _alternatives(reply: Any) -> dict[str, float] | Failure:
    """Probabilities of the first token's alternatives.

    Raises:
        ModelError: the server gives none.
        ValueError: it gives what no probability has as its logarithm.
    """
    choice = _choice(reply)
    if isinstance(choice, Failure):
        return choice
    given = choice.get("logprobs") or {}
    if given.get("content") and given["content"][0].get("top_logprobs"):
        return _summed((one["token"], one["logprob"]) for one in given["content"][0]["top_logprobs"])
    if given.get("top_logprobs") and given["top_logprobs"][0]:
        return _summed(given["top_logprobs"][0].items())
    if [] in (given.get("content"), given.get("top_logprobs")):  # it ended before its first token
        return Failure("empty", "the model wrote nothing")
    raise ModelError(
        "the server gives no log-probabilities",
        fix="set `answer: text`: its answers are then read as words (`samples: 10`: shares of words)",
    )


def _summed(pairs: Any) -> dict[str, float]:
    odds: dict[str, float] = {}
    for token, given in pairs:
        log_probability = float(given)
        if not log_probability < _LEAST_WRONG:
            raise ValueError(f"a log-probability of {log_probability}")
        odds[str(token)] = odds.get(str(token), 0.0) + math.exp(log_probability)
    return odds


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class ServerSection(PromptSection):
    """`openai:` an LLM on a server that speaks OpenAI's protocol."""

    KEY: ClassVar[str] = "openai"

    openai: str
    url: str = OPENAI
    key: str = "OPENAI_API_KEY"
    answer: Mode = "logprobs"
    samples: int = Field(default=1, ge=1, le=100)
    temperature: float = Field(default=1.0, ge=0)
    alternatives: int | None = Field(default=None, ge=1)
    max_new_tokens: int = Field(default=16, ge=1)
    token_field: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    extra: dict[str, Any] = Field(default_factory=dict)
    concurrency: int = Field(default=16, ge=1, le=1000)
    requests_per_minute: float | None = Field(default=None, gt=0)
    tokens_per_minute: float | None = Field(default=None, gt=0)
    timeout: float = Field(default=60.0, gt=0)
    tries: int = Field(default=6, ge=1)

    def build(self, here: Here) -> BlackBox:
        return OpenAIModel(
            self.openai,
            self.prompt(here),
            name=self.name,
            url=self.url,
            key=self.key,
            price=price_of(self.openai, here.prices),
            decoding=Decoding(
                mode=self.answer,
                samples=self.samples,
                temperature=self.temperature,
                alternatives=self.alternatives,
                max_tokens=self.max_new_tokens,
                token_field=self.token_field,
                extra=self.extra,
            ),
            manners=Manners(
                concurrency=self.concurrency,
                requests_per_minute=self.requests_per_minute,
                tokens_per_minute=self.tokens_per_minute,
                timeout=self.timeout,
                tries=self.tries,
            ),
        )
