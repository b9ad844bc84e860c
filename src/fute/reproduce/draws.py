"""A prompt grid's selection repeated on draws of U's texts and of the datasets' rows: how much is chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np
from numpy.typing import NDArray

from fute.api import model_examples
from fute.choosing.asked import ASKED
from fute.choosing.candidates import OURS, SIMILAR, by_answers, decided
from fute.choosing.case import Case, scored
from fute.core.progress import Progress, silent
from fute.models.base import BlackBox
from fute.project import Project
from fute.selection.baselines.prompts import PROMPT_BASELINES
from fute.space.similarity import cosines

SPELL = "SPELL"  # Self-Select reads no rows
_SHARE = 0.5  # halves vary about the whole as new samples of the whole's size would


def drawn_scores(
    project: Project,
    candidates: Mapping[str, Sequence[BlackBox]],
    draws: int,
    progress: Progress = silent,
) -> dict[str, dict[str, NDArray[np.float32]]]:
    """What each way that needs kept answers alone, SPELL's too, says on half of what it has seen, drawn anew
    each time: of U's texts and a dataset's labelled rows, and of the rows held out, whose labels it doesn't
    see.

    Args:
        project: after all was asked: the answers are kept, and no model is asked.
        candidates: dataset → the k prompts.
        draws: how many (S).

    Returns:
        {dataset: {way: scores (S, k)}}.
    """
    made: dict[str, dict[str, list[NDArray[np.float64]]]] = {name: {} for name in candidates}
    boxes = list({box.name: box for several in candidates.values() for box in several}.values())
    embedder = project.embedder
    for seed in range(draws):
        progress("drawing", seed, draws)
        rng = np.random.default_rng(seed)
        inputs = project.corpus.inputs
        u = replace(project.corpus, inputs=[inputs[i] for i in _some(len(inputs), rng)])
        asked = project.ask(boxes, u, offline=True)
        examples = {b.name: model_examples(b, asked) for b in boxes}
        models = {name: embedder.embed(name, "model", some, {}) for name, some in examples.items()}
        for name, several in candidates.items():
            train, seen = (part.take(_some(len(part), rng)) for part in project.datasets[name])
            similar = cosines(embedder.embed_dataset(train), [models[box.name] for box in several])
            answered = project.ask(several, seen, offline=True).answered
            case = Case(project, several, train, seen, silent, offline=True)
            others, _ = by_answers(case, answered, similar, list(PROMPT_BASELINES))
            ours = decided(similar, [examples[box.name].probabilities for box in several])
            others[SPELL] = scored(SPELL, partial(ASKED[SPELL], case), len(several))
            ways = {OURS: ours, SIMILAR: similar, **{way: one.scores for way, one in others.items()}}
            for way, scores in ways.items():
                made[name].setdefault(way, []).append(scores)
    progress("drawing", draws, draws)
    return {
        name: {way: np.array(several, dtype=np.float32) for way, several in ways.items()}
        for name, ways in made.items()
    }


def _some(n: int, rng: np.random.Generator) -> NDArray[np.int64]:
    return np.sort(rng.permutation(n)[: max(2, round(_SHARE * n))])
