"""`fute reproduce`: the paper's tables and figures, from real data."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fute.cli import show
from fute.cli.steps import faithfulness
from fute.core.errors import ConfigError
from fute.core.progress import Progress, silent
from fute.project import Project
from fute.reproduce import crossings, figures, prompt_table
from fute.reproduce.archive import Conditions, kept, pack, unpack
from fute.reproduce.efficiency import Efficiency, measured
from fute.reproduce.evidence import Evidence
from fute.reproduce.figures import BY, FIGURES, By, Map, draw, fullest_map, source_models
from fute.reproduce.planning import downloads, plan
from fute.reproduce.planning_prompts import PlannedGrid, plan_grid
from fute.reproduce.prompt_table import lines_of, parts_of, saved_cells
from fute.reproduce.prompts import GRIDS, complete_grids, open_grid, run_grid
from fute.reproduce.table import COLUMNS, SETTINGS, TransferResults, shown, table
from fute.reproduce.transfer import Transfer, TransferRecipe

TABLES = {"table1": list(SETTINGS)[:4], "table2": ["cross-domain"], "table3": []}


def compute(what: str, scale: str, data: Path, work: Path, out: Path, progress: Progress) -> None:
    """Run what is missing of an experiment, and save its results, those that figures are drawn from too."""
    _check(data)
    out.mkdir(parents=True, exist_ok=True)
    if what == "table3":
        for name in GRIDS[scale]:
            run_grid(name, data, work / "prompts" / name, out, progress, scale=scale)
        fullest_map(
            partial(figures.prompts, work / "prompts", scale, BY[0], progress), out, "prompts", BY[0], scale
        )
        return
    evidence = _open_transfer(scale, data, work, progress)
    grid, to, conditions = evidence.grid, _kept_in(out, scale), _conditions(evidence)
    unpack(to, grid.folder, conditions)
    try:
        grid.run(progress, after=_now_and_then(lambda: pack(grid.folder, conditions, to)))
        TransferResults.gather(scale, grid, evidence).save(out)
        for by in BY:
            fullest_map(partial(source_models, evidence, by), out, "models", by, scale)
    finally:
        pack(grid.folder, conditions, to)


def _check(data: Path) -> None:
    if not data.is_dir():
        raise ConfigError(
            f"there is no evaluation data in {data}", fix="name its folder: `--data DIR`, or FUTE_DATA=DIR"
        )


def _now_and_then(do: Callable[[], object], seconds: float = 600) -> Callable[[], None]:
    """A function that does it when so long has passed since it was last done."""
    last = time.monotonic()

    def maybe() -> None:
        nonlocal last
        if time.monotonic() - last >= seconds:
            do()
            last = time.monotonic()

    return maybe


def show_plan(what: str, scale: str, data: Path, work: Path, out: Path, as_json: bool) -> None:
    """Print what `compute` would still do; change nothing but the projects of prompt grids."""
    if what not in TABLES:
        raise ConfigError(f"{what} is drawn from what tables have left", fix="name a table with `--plan`")
    _check(data)
    if what == "table3":
        _plan_prompts(scale, data, work, as_json)
    else:
        _plan_transfer(scale, data, work, out, as_json)


def _plan_prompts(scale: str, data: Path, work: Path, as_json: bool) -> None:
    projects = {name: open_grid(name, data, work / "prompts" / name, scale=scale) for name in GRIDS[scale]}
    llms = {name: recipe.llm for name, recipe in GRIDS[scale].items()}
    grids = [plan_grid(name, projects[name], llm) for name, llm in llms.items() if llm is not None]
    if grids:
        _show_grids(grids, as_json)
        return
    planned = {
        name: project.plan(also=[held_out.inputs for _, held_out in project.datasets.values()])
        for name, project in projects.items()
    }
    if as_json:
        show.print_json({name: [vars(row) for row in rows] for name, rows in planned.items()})
        return
    for name, rows in planned.items():
        show.remark(f"{name}:")
        show.plan(rows, projects[name].budget.spent, projects[name].budget.caps)


def _show_grids(grids: Sequence[PlannedGrid], as_json: bool) -> None:
    if as_json:
        show.print_json([grid._asdict() for grid in grids])
        return
    numbers = ("gigabytes", "prompts", "texts", "calls", "reads", "writes", "hours")
    columns = [("grid", "left"), ("llm", "left"), *((name, "right") for name in numbers)]
    cells = [[g.grid, g.llm, *(f"{getattr(g, name):,.0f}" for name in numbers)] for g in grids]
    show.table("To ask, whatever is kept already", columns, cells)
    llms = dict.fromkeys(recipe.llm for recipe in GRIDS["paper"].values() if recipe.llm)
    speeds = "; ".join(f"{one.id} reads {one.reads:,} and writes {one.writes:,}" for one in llms)
    show.remark(
        "Each text is counted as so many tokens as are read or written of it at most. Assumed, of one GPU of"
        f" 80 GB, in tokens a second: {speeds}. T5-base (0.9 GB) and the datasets are downloaded, too; the"
        " training of task embeddings isn't counted."
    )


def _plan_transfer(scale: str, data: Path, work: Path, out: Path, as_json: bool) -> None:
    evidence = _open_transfer(scale, data, work)
    recipe, needs = evidence.grid.recipe, list(downloads(evidence))
    bases = plan(evidence, set(kept(_kept_in(out, scale), _conditions(evidence))))
    if as_json:
        made = {"bases": [row._asdict() for row in bases], "downloads": [need._asdict() for need in needs]}
        show.print_json({**made, "tokens_per_second": recipe.tokens_per_second})
        return
    if needs:
        columns = [("what", "left"), ("name", "left"), ("rows to learn from", "right")]
        rows = [[n.what, n.name, "" if n.what == "model" else _number(n.rows)] for n in needs]
        show.table("To download, where it isn't here", columns, rows)
    numbers = ("models", "pairs", "kept", "steps", "tokens", "calls", "read")
    columns = [("base", "left"), ("weights", "left"), *((name, "right") for name in numbers)]
    cells = [[r.base, r.weights, *(_number(getattr(r, name)) for name in numbers)] for r in bases]
    if recipe.tokens_per_second is not None:
        columns.append(("hours", "right"))
        cells = [[*own, f"{row.hours:,.0f}"] for own, row in zip(cells, bases, strict=True)]
    show.table("To fine-tune, and calls that label U", columns, cells)
    if recipe.tokens_per_second is not None:
        show.remark(
            f"Assumed: one GPU that trains on {recipe.tokens_per_second:,} tokens a second and reads"
            " three times as many, and rows of as many tokens as are read at most. The training of task"
            " embeddings isn't counted: that of a dataset's ends when it no longer improves."
        )
    if bases[0].unknown:
        show.remark(
            f"Of unknown size until they are downloaded, and not counted: {', '.join(bases[0].unknown)}"
        )


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _open_transfer(scale: str, data: Path, work: Path, progress: Progress = silent) -> Evidence:
    grid = Transfer(TransferRecipe.read(scale, data), work / "transfer")
    return Evidence(grid, grid.folder / "evidence", progress)


def _kept_in(out: Path, scale: str) -> Path:
    """The file beside the results that holds what a grid has found so far."""
    return out / f"transfer-{scale}.zip"


def _conditions(evidence: Evidence) -> Conditions:
    of_evidence = {f"{evidence.folder.name}/{part}": made for part, made in evidence.conditions().items()}
    return {**evidence.grid.conditions(), **of_evidence}


def draw_figure(
    what: str, scale: str, data: Path, work: Path, out: Path, saved: bool, progress: Progress
) -> list[dict[str, Any]]:
    """Draw maps of what the tables have left in the cache, or in the results: by fute's task embeddings and
    by the paper's. Returns the files of each, and how faithful it is.
    """
    figure, made = FIGURES[what], list[dict[str, Any]]()
    transfer = work / "transfer"
    for by in BY:

        def fresh(by: By = by) -> Map | None:
            if saved:
                return None
            if figure.of == "prompts":
                return figures.prompts(work / "prompts", scale, by, progress)
            if not data.is_dir() or not (transfer / "evidence" / "spaces").is_dir():
                return None
            return source_models(_open_transfer(scale, data, work, progress), by)

        found = fullest_map(fresh, out, figure.of, by, scale)
        if found is not None:
            to = out / f"{what}{by.ending}"
            faith = draw(found, figure, to, by)
            show.remark(f"{to}: {faithfulness(faith)}")
            files = [str(to.with_suffix(ending)) for ending in (".svg", ".png", ".html")]
            made.append({"files": files, **faith._asdict()})
    if not made:
        table = "table1" if figure.of == "models" else "table3"
        raise ConfigError(
            f"{out} holds nothing to draw {what} from, and no such grid has run here",
            fix=f"fute reproduce {table} --scale {scale} --data DIR",
        )
    return made


def efficiency(scale: str, work: Path, out: Path, saved: bool, progress: Progress) -> Efficiency:
    """What the grids that table 3 has run cost: measured, each saved beside those that are there, or as it is
    saved; and drawn.
    """
    if not saved:
        for folder in complete_grids(work / "prompts", scale):
            Efficiency(scale=scale, grids=[measured(folder.name, Project(folder), progress)]).save(out)
    made = Efficiency.load(out, scale)
    for one in made.grids:
        for path in crossings.draw(one, out):
            show.remark(str(path))
    return made


def print_efficiency(made: Efficiency) -> None:
    for one in made.grids:
        columns = [(name, "left" if name == "way" else "right") for name in crossings.COLUMNS]
        show.table(one.grid, columns, crossings.lines(one))
        for sentence in crossings.sentences(one):
            show.remark(sentence)


def tables(what: str, scale: str, out: Path) -> dict[str, dict[str, dict[str, Any]]]:
    """The saved results as {part: {way: {metric: value}}}.

    Raises:
        ConfigError: nothing is saved.
    """
    if what == "table3":
        cells = [cell for cell in saved_cells(out) if cell.grid in GRIDS[scale]]
        if cells:
            return {part: _as_dicts(lines_of(own)) for part, own in parts_of(cells).items()}
    else:
        file = out / f"transfer-{scale}.json"
        if file.is_file():
            results = TransferResults.load(file)
            return {part: _as_dicts(table(results, part)) for part in TABLES[what]}
    again = f"fute reproduce {what} --scale {scale} --data DIR"
    raise ConfigError(f"{out} holds no results of {what} at the scale {scale}", fix=again)


def _as_dicts(lines: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    return {way: line._asdict() for way, line in lines.items()}


def print_tables(parts: dict[str, dict[str, dict[str, Any]]]) -> None:
    for part, lines in parts.items():
        if not lines:
            show.remark(f"{part}: too few pairs were run yet")
            continue
        of_sources = "rho" in next(iter(lines.values()))
        headings, texts = (COLUMNS, shown) if of_sources else (prompt_table.COLUMNS, prompt_table.shown)
        columns = [("way", "left"), *((name, "right") for name in headings.values())]
        show.table(part, columns, [[way, *texts(line)] for way, line in lines.items()])
