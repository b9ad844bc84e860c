"""What the paper's prompt grids take, from their recipes alone: nothing of it needs to be here."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from fute.models.prompted import LLMSection
from fute.models.prompting import ReasonConfig
from fute.project import Project
from fute.reproduce.prompts import HELD_OUT, LLM


class PlannedGrid(NamedTuple):
    """What a grid asks its LLM, whatever is kept of it already.

    Attributes:
        grid, llm: their names.
        gigabytes: to download, once for all grids of the LLM.
        prompts: that differ.
        texts: of U and of all that is held out, each of which every prompt is asked about.
        calls: for these; for SPELL, which reads what is held out once more; and a question of Self-Select for
            each dataset.
        reads, writes: tokens at most.
        hours: all of it takes at the LLM's assumed speed.
    """

    grid: str
    llm: str
    gigabytes: int
    prompts: int
    texts: int
    calls: int
    reads: int
    writes: int
    hours: float


def plan_grid(grid: str, project: Project, llm: LLM) -> PlannedGrid:
    """What `run_grid` asks for, of a grid of the paper's scale."""
    prompts = _different(project.sections)
    held_out = sum(min(d.sample or HELD_OUT[d.name], HELD_OUT[d.name]) for d in project.config.datasets)
    texts = (project.config.corpus.sample or 0) + held_out
    calls = len(prompts) * (texts + held_out)
    reads = sum(prompt.max_tokens for prompt in prompts) * (texts + held_out)
    reasons = [prompt.reason for prompt in prompts if isinstance(prompt.reason, ReasonConfig)]
    writes = sum(reason.max_tokens for reason in reasons) * texts
    hours = (reads / llm.reads + writes / llm.writes) / 3600
    questions = len(project.config.datasets)
    return PlannedGrid(
        grid, llm.id, llm.gigabytes, len(prompts), texts, calls + questions, reads, writes, hours
    )


def _different(sections: Sequence[object]) -> list[LLMSection]:
    """The prompts of which no other one says the same."""
    prompts = [section for section in sections if isinstance(section, LLMSection)]
    return list({repr(prompt.model_dump(exclude={"name"})): prompt for prompt in prompts}.values())
