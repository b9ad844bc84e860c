"""`docs/results.md`: what was measured, beside what the paper has, and which of the aims hold."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fute.choosing.states import LOG_ME_OF_LAYERS
from fute.core.errors import ConfigError, FuteError
from fute.reproduce import crossings, prompt_table
from fute.reproduce.efficiency import Efficiency
from fute.reproduce.figures import BY, FIGURES
from fute.reproduce.table import (
    CHOOSES,
    COLUMNS,
    SETTINGS,
    TransferResults,
    least_lead,
    of_bases,
    shown,
    table,
)

_LABELS = (8, 16, 32, 64)
_DATASET_WAYS = ("TaskEmb", "TuPaTE")
# The grids of prompts that MI_G was added on, and the bases that the sum of `--transfer` was made on.
_MADE_ON = ("subject-smollm2", "subject-gemma3", "finance-smollm2", "minilm", "smollm2-12")
_MODEL_WAYS = (*_DATASET_WAYS, "TextEmb", "sentence embeddings", "LogME", "H-score", "DataSize")


class Aim(NamedTuple):
    """What fute has set itself to reach.

    Attributes:
        name: of the figure.
        what: is measured.
        over: the baseline, and where, that fute is least ahead of.
        lead: how far; at least 0 is reached.
        unseen_over, unseen: the same on what fute's ways to choose were not made on; None without any.
    """

    name: str
    what: str
    over: str
    lead: prompt_table.Estimate
    unseen_over: str | None
    unseen: prompt_table.Estimate | None


def prompt_selection(out: Path) -> Aim:
    """By which metric fute's prompts are least ahead of the best label-free baseline's, over all grids."""
    cells = _prompt_cells(out)
    unseen = [cell for cell in cells if cell.grid not in _MADE_ON]
    what = "performance rate and NDCG (linear), less those of the best baseline"
    over = prompt_table.least_lead(unseen) if unseen else (None, None)
    return Aim("prompt-selection", what, *prompt_table.least_lead(cells), *over)


def model_selection(out: Path) -> Aim:
    """NDCG of source models, in class and of all classes."""
    return _sources_aim("model-selection", out, ("in class", "all classes"), _MODEL_WAYS)


def cross_domain(out: Path) -> Aim:
    """NDCG of source models for targets of other domains."""
    return _sources_aim("cross-domain", out, ("cross-domain",), _DATASET_WAYS)


def _sources_aim(name: str, out: Path, settings: Sequence[str], baselines: Sequence[str]) -> Aim:
    results = _transfer(out)
    unseen = of_bases(results, {cell.base for cell in results.cells} - {*_MADE_ON})
    what = f"NDCG (linear), less that of the best of {', '.join(baselines)}"
    over = least_lead(unseen, settings, baselines) if unseen.cells else (None, None)
    return Aim(name, what, *least_lead(results, settings, baselines), *over)


AIMS: Mapping[str, Callable[[Path], Aim]] = {
    "prompt-selection": prompt_selection,
    "model-selection": model_selection,
    "cross-domain": cross_domain,
}


def _prompt_cells(out: Path) -> list[prompt_table.Cell]:
    found = prompt_table.saved_cells(out)
    if not found:
        raise ConfigError(f"{out} holds no results of prompts", fix="fute reproduce table3 --data DIR")
    return found


def _transfer(out: Path, scale: str = "small") -> TransferResults:
    file = out / f"transfer-{scale}.json"
    if not file.is_file():
        raise ConfigError(f"{out} holds no transfer grid", fix="fute reproduce table1 --data DIR")
    return TransferResults.load(file)


def write_report(out: Path) -> str:
    """The report as Markdown, from the results saved in a folder.

    Raises:
        ConfigError: there are none.
    """
    parts = [*_aims(out), *_prompts(out), *_sources(out), *_figures(out), *_efficiency(out)]
    return "\n".join([*parts, _file("differences.md")])


def _aims(out: Path) -> Iterator[str]:
    yield "# Results"
    yield ""
    yield "Printed by `fute reproduce report --out benchmarks/results`, from what `fute reproduce table1` and"
    yield "`table3` have saved there."
    yield ""
    yield "Each is how far fute leads the baseline and setting where it leads least, with a 90 % interval; at"
    yield "least 0 is reached. Unseen: the same on the grids that its ways to choose were not made on."
    yield ""
    rows = []
    for name, make in AIMS.items():
        try:
            aim = make(out)
        except FuteError as error:
            rows.append([f"`{name}`", error.problem, "–", "–", "not measured yet"])
            continue
        reached = "**reached**" if aim.lead.value >= 0 else "**missed**"
        if aim.unseen is not None:
            reached += ", **unseen too**" if aim.unseen.value >= 0 else ", **missed unseen**"
        leads = [_lead(aim.lead, aim.over), _lead(aim.unseen, aim.unseen_over)]
        rows.append([f"`{name}`", aim.what, *leads, reached])
    yield from _markdown(["figure", "what", "least lead", "unseen", ""], rows)


def _lead(lead: prompt_table.Estimate | None, over: str | None) -> str:
    if lead is None:
        return "–"
    return f"{lead.value:+.3f} [{lead.low:+.3f}, {lead.high:+.3f}] ({over})"


def _prompts(out: Path) -> Iterator[str]:
    paper, all_cells = _paper()["table3_prompt_selection"], _prompt_cells(out)
    yield "## Table 3: the best prompt for a dataset"
    yield ""
    yield "Means over comparisons, of one LLM's prompts on one dataset each; higher is better. NDCG: linear"
    yield "gain of accuracies. `+ CBM`: after calibration by marginalisation. `fute` asks the LLM for U only,"
    yield "and for no text of the dataset. [90 %]: a bootstrap of the datasets and of their rows. ± draws:"
    yield "the standard deviation over five draws of half of U's texts and of the rows that a way sees (the"
    yield "paper's own embeddings: of their 200 texts and rows, and of the noise that they start from), where"
    yield "they were saved. A lead is fute's mean less the way's own, over the same comparisons."
    yield ""
    for name, cells in prompt_table.parts_of(all_cells).items():
        yield f"### {name}: {len({cell.dataset for cell in cells})} datasets, {len(cells)} comparisons"
        yield ""
        lines = prompt_table.lines_of(cells)
        rows = [[way, *prompt_table.shown(line._asdict())] for way, line in lines.items()]
        yield from _markdown(["way", *prompt_table.COLUMNS.values()], rows)
        yield _ahead("rate", {way: line.rate_lead for way, line in lines.items()})
        yield _ahead("NDCG (linear)", {way: line.ndcg_lead for way, line in lines.items()})
        yield ""
    yield from _with_labels(all_cells)
    columns = [column.replace(".", " ") for column in paper["columns"]]
    for task, title in (("sa", "sentiment"), ("nli", "natural language inference")):
        yield f"### The paper, {title} (per cent)"
        yield ""
        yield from _markdown(["way", *columns], [[way, *_cells(row)] for way, row in paper[task].items()])


def _ahead(metric: str, leads: Mapping[str, prompt_table.Estimate]) -> str:
    """Where fute loses, the surest first: in bold what is beyond its interval."""
    behind = sorted((lead.high, way, -lead.value) for way, lead in leads.items() if lead.value < 0)
    each = [f"{way} (**{by:.3f}**)" if high < 0 else f"{way} ({by:.3f})" for high, way, by in behind]
    return f"Ahead of fute by {metric}: {', '.join(each) or 'none'}.  "


def _with_labels(cells: Sequence[prompt_table.Cell]) -> Iterator[str]:
    yield "### What labels would buy"
    yield ""
    yield "`fute` and the paper's own embeddings see the labels of as many rows of a dataset as are held out"
    yield "(78 to 300), which cost no call; the other ways see none. With labels one may ask the LLM instead:"
    yield "the prompt that is right most often on so many of the rows held out, on the others (at least as"
    yield "many); means over 100 draws. fute's prompt leads on the same others by:"
    yield ""
    rows = [
        [str(labels), *(f"{v:.3f}" for v in line[:2]), *(f"{v:+.3f}" for v in line[2:])]
        for labels in _LABELS
        if (line := prompt_table.evaluated(cells, labels))
    ]
    columns = ["labelled rows, each asked of every prompt", "rate", "NDCG (linear)"]
    yield from _markdown([*columns, "fute's rate leads by", "fute's NDCG (linear) leads by"], rows)


def _sources(out: Path) -> Iterator[str]:
    try:
        results = _transfer(out)
    except ConfigError:
        return
    yield "## Tables 1 and 2: the source model that transfers best"
    yield ""
    bases = sorted({cell.base for cell in results.cells})
    yield f"Source models of {', '.join(bases)}; means over targets (and bases). ρ: the rank of the best"
    yield "source, lower is better. NDCG: linear gain of performances scaled within each target from 0 (worst"
    yield "source) to 1 (best). The lead is fute's NDCG less the way's own over the same targets, with a 90 %"
    yield f"bootstrap interval over targets; fute's is that of `{CHOOSES}`: similarity by relations"
    yield "of pairs, that of the datasets that the sources learnt (LinearProbe of datasets), and LogME of"
    yield f"layers thrice, standardised among the candidates. `{LOG_ME_OF_LAYERS}` (ours) sees all layers of"
    yield "a source model side by side, at the token that its head reads; where answers are spans the"
    yield "contexts' tokens, of which one begins the answer and one ends it. LogME itself sees the mean over"
    yield "layers and tokens, and says nothing of spans. Relations were chosen on the targets of `CR, in"
    yield "class`, layers and the sum on MiniLM and SmolLM2's twelve layers. `fute` are the embeddings of"
    yield "`fute run`."
    yield ""
    for setting in SETTINGS:
        lines = table(results, setting)
        if not lines:
            continue
        yield f"### {setting}"
        yield ""
        rows = [[way, *shown(line._asdict())] for way, line in lines.items()]
        yield from _markdown(["way", *COLUMNS.values()], rows)
        yield _ahead("NDCG (linear)", {way: line.lead for way, line in lines.items()})
        yield ""
    yield from _by_base(results, bases)
    paper = _paper()
    for key, title in (("table1_transferability", "table 1"), ("table2_cross_domain", "table 2")):
        yield f"### The paper, {title}"
        yield ""
        columns = [column.replace(".", " ") for column in paper[key]["columns"]]
        rows = [[way, *_cells(row)] for way, row in paper[key]["rows"].items()]
        yield from _markdown(["way", *columns], rows)
    yield from _gains(results)


def _by_base(results: TransferResults, bases: Sequence[str]) -> Iterator[str]:
    yield "### Each base alone"
    yield ""
    yield "NDCG (linear), scaled within each target."
    yield ""
    ways = (CHOOSES, LOG_ME_OF_LAYERS, *_DATASET_WAYS, "LogME", "CurveGrad", "DataSize")
    of_base = {base: of_bases(results, [base]) for base in bases}
    rows = []
    for setting in SETTINGS:
        for base, own in of_base.items():
            lines = table(own, setting)
            if lines:
                values = [f"{lines[way].ndcg:.3f}" if way in lines else "–" for way in ways]
                rows.append([setting, base, str(max(line.cells for line in lines.values())), *values])
    yield from _markdown(["setting", "base", "targets", *ways], rows)


def _gains(results: TransferResults) -> Iterator[str]:
    """Whether there was anything to choose."""
    yield "### What a source is worth"
    yield ""
    yield "Performance on the target without a source, with the worst, the mean and the best: means over"
    yield "fine-tunings with so many seeds."
    yield ""
    rows = []
    for cell in results.cells:
        reached = np.array(list(cell.reached.values()))
        alone = "–" if cell.alone is None else f"{cell.alone:.3f}"
        best = max(cell.reached, key=lambda source: cell.reached[source])
        values = [f"{v:.3f}" for v in (reached.min(), reached.mean(), reached.max())]
        rows.append([cell.base, cell.target, str(cell.seeds), alone, *values, best])
    yield from _markdown(["base", "target", "seeds", "alone", "worst", "mean", "best", "best source"], rows)


def _figures(out: Path) -> Iterator[str]:
    drawn = [
        (f"{figure}{by.ending}", f"{figure}: {FIGURES[figure].of}, by {by.title}")
        for figure in FIGURES
        for by in reversed(BY)
        if (out / f"{figure}{by.ending}.svg").is_file()
    ]
    if drawn:
        yield "## Figures 3, 4, A1 and A2"
        yield ""
        yield "t-SNE of cosines, with how faithful it is to them. `fute reproduce figure3 --out"
        yield "benchmarks/results` and so on draw them again from what is saved, also as pages. Stars in"
        yield "figure A1 are datasets; numbers in figure A2 are those of the paper's prompts."
        yield ""
    for name, says in drawn:
        yield from _picture(out, name, says)


def _efficiency(out: Path) -> Iterator[str]:
    grids = [grid for file in sorted(out.glob("efficiency-*.json")) for grid in Efficiency.read(file).grids]
    if not grids:
        return
    yield "## What choosing costs"
    yield ""
    yield "Once, and for each of d datasets: questions to the LLM, tokens as if each prompt read its text"
    yield "alone, seconds as measured, those of embeddings among them. A baseline without labels asks every"
    yield "prompt about every text of a dataset; CBM asks for nothing more. Direct evaluation needs labels,"
    yield "and fute those of the rows that its dataset embedding is made of; a race begins from fute's order."
    yield "What Self-Select reads is counted in bytes, as the ledger reserves it. SPELL wants every token's"
    yield "probability: what prompts have in common isn't read once for all, as it is for the others, so its"
    yield "tokens take longer."
    yield ""
    for grid in grids:
        yield f"### {grid.grid}"
        yield ""
        yield from crossings.sentences(grid)
        yield ""
        yield from _markdown(crossings.COLUMNS, crossings.lines(grid))
        yield from _picture(out, f"efficiency-{grid.grid}", f"Costs of {grid.grid} against d and k")


def _picture(out: Path, name: str, says: str) -> Iterator[str]:
    """A link from `docs/` to what was drawn, if it was."""
    if (out / f"{name}.svg").is_file():
        yield f"![{says}]({Path(os.path.relpath(out, 'docs')).as_posix()}/{name}.svg)"
        yield ""


def _paper() -> Any:
    return json.loads(_file("paper.json"))


def _file(name: str) -> str:
    return resources.files("fute.reproduce").joinpath(name).read_text("utf-8")


def _cells(row: Sequence[float | None]) -> list[str]:
    return ["–" if value is None else f"{value:g}" for value in row]


def _markdown(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Iterator[str]:
    yield f"| {' | '.join(columns)} |"
    yield f"| --- |{' ---: |' * (len(columns) - 1)}"
    for row in rows:
        yield f"| {' | '.join(row)} |"
    yield ""
