"""Baselines that ask the LLM itself: how familiar a prompt looks to it (SPELL), and which one it would take
(Self-Select). Both need a local LLM, and calls that the labels don't pay for.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike
from scipy.special import logsumexp

from fute.core.errors import ConfigError, DataError, listing
from fute.core.types import Failure, Input
from fute.models.backends.base import Written
from fute.models.prompted import PromptedLLM
from fute.selection.baselines.ties import Array
from fute.text.prompt import Prompt
from fute.text.verbalizer import Verbalizer


def spell(boxes: Sequence[PromptedLLM], inputs: Sequence[Input]) -> Array:
    """SPELL: `−log mean_x PPL(prompt with x)`, in nats, higher is better.

    `PPL = exp(−mean_t log p(token_t | tokens before it))` of the whole prompt with an input and without an
    answer, its first token only read. The mean is that of perplexities; the logarithm changes no order.

    Args:
        boxes: k prompts on one LLM, decoder-only.
        inputs: n unlabelled inputs of the dataset.

    Returns:
        (k,).

    Raises:
        ConfigError: no prompts, or some on different LLMs, whose perplexities can't be compared.
        DataError: no inputs.
        ModelError: an encoder-decoder, or a prompt of less than two tokens.

    Source: Gonen et al. 2023, doi:10.18653/v1/2023.findings-emnlp.679; tokens and mean as in the code of Yang
    et al. 2024 (github.com/soheeyang/unified-prompt-selection).
    """
    digests = {box.weights.digest: box.weights.id for box in boxes}
    if len(digests) != 1:
        raise ConfigError(
            "only perplexities of one LLM can be compared",
            expected="prompts on one LLM",
            found=f"prompts on {listing(digests.values())}" if digests else "no prompts",
        )
    if not inputs:
        raise DataError("there are no inputs to fill the prompts with", expected="at least one")
    return familiarity(np.array([box.log_likelihoods(inputs) for box in boxes]))


def familiarity(log_likelihoods: ArrayLike) -> Array:
    """SPELL's score of k prompts, (k,), from their mean log-likelihoods a token on n inputs, (k, n)."""
    surprise = -np.asarray(log_likelihoods, dtype=np.float64)
    return np.asarray(np.log(surprise.shape[1]) - logsumexp(surprise, axis=1))


@dataclass(frozen=True)
class Selected:
    """What came of asking an LLM which prompt it would take.

    Attributes:
        scores: (k,), 1 for the chosen prompt and 0 for the others; all 0 where none was chosen.
        chosen: its place among the prompts, from 0; None where none was.
        said: what the LLM wrote.
        failure: None, or why there is no choice.
    """

    scores: Array
    chosen: int | None
    said: str
    failure: Failure | None


def self_select(prompts: Sequence[Prompt], task: str, ask: Callable[[str], Written]) -> Selected:
    """Self-Select: the LLM is shown all prompts, numbered, and asked which suits the task best.

    There is no choice where what it writes names no number of a prompt, or several without saying which is
    the answer: then all scores are 0, a tie of all, and `failure` tells why. The order of the prompts may
    decide more than the prompts: the paper found that other orders lead to very different choices.

    Args:
        prompts: k of them.
        task: what is to be done, in words, such as "Decide whether a review is positive or negative."
        ask: writes an answer to a text: `PromptedLLM.write` of a box on the LLM.

    Raises:
        ConfigError: fewer than two prompts.

    Source: Ramji & Kyimpopkin 2023, openreview.net/forum?id=khL3G4iwd0. The wording of the question is ours.
    """
    if len(prompts) < 2:
        raise ConfigError("choosing needs at least two prompts", found=f"{len(prompts)}")
    written = ask(meta_prompt(prompts, task))
    numbers = {str(i): (str(i),) for i in range(1, len(prompts) + 1)}
    answer = Verbalizer(numbers).parse(written.text, finished=written.finished)
    scores = np.zeros(len(prompts))
    if answer is None:
        return Selected(scores, None, written.text, _failure(written))
    chosen = int(answer) - 1
    scores[chosen] = 1
    return Selected(scores, chosen, written.text, None)


def meta_prompt(prompts: Sequence[Prompt], task: str) -> str:
    """The question that Self-Select asks."""
    shown = "\n\n".join(f"Prompt {i}:\n{_shown(prompt)}" for i, prompt in enumerate(prompts, start=1))
    return (
        f"Task: {task.strip()}\n\n"
        f"Here are {len(prompts)} prompts for this task. The text is put where {{{{ text }}}} stands.\n\n"
        f"{shown}\n\n"
        "Which of these prompts lets a language model do the task best? "
        f"Answer with its number, from 1 to {len(prompts)}, and nothing else.\n"
        "Answer:"
    )


def _shown(prompt: Prompt) -> str:
    words = " / ".join(words[0].strip() for words in prompt.verbalizer.words.values())
    system = [] if prompt.system is None else [prompt.system]
    return "\n".join([*system, prompt.template.source, f"(possible answers: {words})"])


def _failure(written: Written) -> Failure:
    if not written.text.strip():
        return Failure("empty", "the model wrote nothing")
    return Failure("unparsed" if written.finished else "truncated", written.text[:200])
