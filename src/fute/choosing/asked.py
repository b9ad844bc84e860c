"""Ways that ask the prompts' LLM itself, and so cost calls of their own; answers are kept."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from fute.choosing.case import Case, Scored, Way, common_rows, some
from fute.core.errors import BudgetError, ConfigError, listing
from fute.core.types import Input
from fute.data.corpus import Corpus
from fute.models.asides import Familiarity, Reply, as_written
from fute.models.backends.base import Written
from fute.models.prompted import PromptedLLM
from fute.selection.baselines.asking import familiarity, meta_prompt, self_select

_NEEDS = "prompts on a local LLM"


def _spell(case: Case) -> Scored:
    prompts = _prompts(case)
    labelled = case.ask([Familiarity(box) for box in prompts.values()], case.seen)
    places = [i for i, box in prompts.items() if box.name in labelled.answered]
    if not places:
        raise next(iter(labelled.failures.values()))
    answered = [labelled.answered[case.boxes[i].name] for i in places]
    kept = common_rows(answered, case.seen)
    read = np.stack([one.predictions[np.searchsorted(one.rows, kept), 0] for one in answered])
    return some("SPELL", case, places, familiarity(read), _NEEDS, labelled.failures)


def _self_select(case: Case) -> Scored:
    prompts = _prompts(case)
    reply = Reply(next(iter(prompts.values())))

    def ask(question: str) -> Written:
        labelled = case.ask([reply], Corpus([Input(question)]))
        for failure in labelled.failures.values():
            raise failure
        one = labelled.answered[reply.name]
        if not len(one.rows) and not one.failed:
            raise BudgetError("a cap of `budget:` kept the LLM from being asked")
        return as_written(one.answers[0] if len(one.rows) else one.failed[0])

    found = self_select([box.prompt for box in prompts.values()], _task(case), ask)
    made = some("Self-Select", case, list(prompts), found.scores, _NEEDS)
    if found.failure is None:
        return made
    said = f'{found.failure.kind}: "{" ".join(found.said.split())[:80]}"'
    return Scored(
        made.scores,
        (f"Self-Select: the LLM named none of the prompts, so all are equal ({said}).", *made.notes),
    )


ASKED: Mapping[str, Way] = {"SPELL": _spell, "Self-Select": _self_select}


def question(case: Case) -> Input:
    """What Self-Select asks.

    Raises:
        ConfigError: the candidates aren't prompts on one local LLM.
    """
    return Input(meta_prompt([box.prompt for box in _prompts(case).values()], _task(case)))


def _prompts(case: Case) -> dict[int, PromptedLLM]:
    """The candidates that are prompts on the one local LLM, by their place.

    Raises:
        ConfigError: there are none, or on several LLMs, which can't speak for each other.
    """
    prompts = {i: box for i, box in enumerate(case.boxes) if isinstance(box, PromptedLLM)}
    llms = {box.weights.digest: box.weights.id for box in prompts.values()}
    if len(llms) != 1:
        found = f"prompts on {listing(llms.values())}" if llms else "no such candidate"
        raise ConfigError("it needs prompts on one local LLM", found=found)
    return prompts


def _task(case: Case) -> str:
    """What is to be done, in words, for the LLM."""
    named = [d.task for d in case.project.config.datasets if d.name == case.seen.name and d.task]
    return ": ".join([*named, f"decide which label fits the text, {' or '.join(case.seen.labels)}."])
