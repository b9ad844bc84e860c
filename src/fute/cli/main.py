"""The commands. Wrong input ends with one message and exit code 2; an interrupt with 130, all else with 1."""

from __future__ import annotations

import io
import logging
import os
import sys
from pathlib import Path
from typing import Any, Literal

import click

import fute
from fute.choosing import What, choose, choose_source
from fute.choosing.remarks import remarks
from fute.cli import show
from fute.cli.steps import EXIT_WRONG_INPUT, copy_example, raise_failures, summary, write_map
from fute.config import PROJECT_FILE
from fute.core.errors import ConfigError, FuteError
from fute.core.files import cache_dir
from fute.core.offline import go_offline
from fute.labelling.budget import Caps
from fute.outcomes import expected, remember, why_none
from fute.project import Project
from fute.space.similarity import Similarity
from fute.text.families import families, load_family

EXIT_UNFORESEEN = 1
EXIT_INTERRUPTED = 130
EXPERIMENTS = ["table1", "table2", "table3", "figure3", "figure4", "figureA1", "figureA2"]
EXPERIMENTS += ["efficiency", "report"]

_project = click.option(
    "--project",
    "-C",
    "folder",
    type=click.Path(path_type=Path),
    default=Path(),
    help="The project's folder [.].",
)
_json = click.option("--json", "as_json", is_flag=True, help="Print JSON on stdout.")

_retry = click.option(
    "--retry",
    is_flag=True,
    help="Also ask again where the answer held no label (empty, cut off, not understood).",
)
_offline = click.option("--offline", is_flag=True, help="Open no network connection; use what is here.")
_trust = click.option(
    "--trust", is_flag=True, help="Load models from pickles, too. A pickle can run any code: only your own."
)


def _example(*commands: str) -> str:
    return "\n  ".join(["\b\nExample:", *commands])


@click.group(context_settings={"help_option_names": ["-h", "--help"]}, epilog=_example("fute demo"))
@click.version_option(fute.__version__, prog_name="fute")
def cli() -> None:
    """One vector space for datasets, models and prompts.

    Say in fute.yaml which datasets and which models or prompts there are; `fute run` embeds them all;
    `fute rank` says which suits which.
    """


@cli.command(epilog=_example("fute init my-project && cd my-project && fute run && fute rank reviews"))
@click.argument("folder", type=click.Path(path_type=Path), default=Path())
@click.option("--force", is_flag=True, help="Overwrite files that are there.")
def init(folder: Path, force: bool) -> None:
    """Write a commented fute.yaml with a small example that runs."""
    copy_example(folder, "init.yaml", ["reviews.csv", "corpus.jsonl", "mymodels.py"], force)
    there = "" if folder == Path() else f"cd {folder}, "
    show.remark(
        f"Wrote {folder / PROJECT_FILE}. Next: {there}fute plan, fute run, fute rank reviews, fute map."
    )


@cli.command(epilog=_example("fute plan --json"))
@_retry
@_offline
@_trust
@_project
@_json
def plan(retry: bool, offline: bool, trust: bool, folder: Path, as_json: bool) -> None:
    """Show what `run` would ask the models for: calls, tokens, time, and money where prices are known.

    Calls, tokens and money are what it takes at most. Changes nothing, asks no model, downloads no weights.
    Of those that aren't here it asks the hub how large they are, unless --offline.
    """
    if offline:
        go_offline()
    project = Project(folder, trust=trust)
    rows = project.plan(retry)
    if as_json:
        show.print_json(
            {
                "models": [vars(row) for row in rows],
                "seconds": sum(row.seconds for row in rows),
                "spent": vars(project.budget.spent),
                "caps": vars(project.budget.caps),
            }
        )
    else:
        show.plan(rows, project.budget.spent, project.budget.caps)


@cli.command(epilog=_example("fute run --max-cost 2.50 --max-calls 5000"))
@click.option("--max-calls", type=click.IntRange(min=0), help="Ask at most this many questions.")
@click.option("--max-tokens", type=click.IntRange(min=0), help="Read and write at most this many tokens.")
@click.option("--max-cost", type=click.FloatRange(min=0), help="Spend at most this many US dollars.")
@_retry
@_offline
@_trust
@_project
@_json
def run(
    max_calls: int | None,
    max_tokens: int | None,
    max_cost: float | None,
    retry: bool,
    offline: bool,
    trust: bool,
    folder: Path,
    as_json: bool,
) -> None:
    """Label, embed and store everything in fute.yaml. Run it again after a stop: nothing is done twice.

    Caps are never passed, however many questions are asked at once. Those given here hold for this run,
    those of `budget:` in fute.yaml for all runs together.
    """
    if offline:
        go_offline()
    project = Project(folder, trust=trust)
    caps = Caps(max_calls, max_tokens, max_cost)
    with show.progress() as progress:
        report = project.run(progress, caps=caps, retry=retry, offline=offline)
    if as_json:
        show.print_json(
            {
                **vars(report),
                "failures": {k: str(v) for k, v in report.failures.items()},
                "stopped": str(report.stopped) if report.stopped else None,
                "spent": vars(report.spent),
            }
        )
    else:
        click.echo(summary(report))
    raise_failures(report)


@cli.command(epilog=_example("fute budget"))
@click.option("--reset", is_flag=True, help="Forget what was spent: the caps in fute.yaml begin anew.")
@_project
@_json
def budget(reset: bool, folder: Path, as_json: bool) -> None:
    """Show what all runs have spent, by model, and how far the caps of `budget:` in fute.yaml are."""
    ledger = Project(folder).budget
    if reset:
        ledger.reset()
    by_model = ledger.spent_by_model
    if as_json:
        models = {name: vars(spent) for name, spent in by_model.items()}
        show.print_json({"spent": vars(ledger.spent), "models": models, "caps": vars(ledger.caps)})
    else:
        show.spending(by_model, ledger.caps)


@cli.command(epilog=_example("fute rank reviews --json"))
@click.argument("dataset")
@click.option(
    "--accuracy",
    is_flag=True,
    help="Show the truth beside it: ask the models for the rows that `test` holds out.",
)
@click.option(
    "--similarity",
    type=click.Choice(["map", "inputs"]),
    default="map",
    show_default=True,
    help="Of the whole map from inputs to label meanings, or of its inputs alone: for other label names.",
)
@_offline
@_trust
@_project
@_json
def rank(
    dataset: str,
    accuracy: bool,
    similarity: Similarity,
    offline: bool,
    trust: bool,
    folder: Path,
    as_json: bool,
) -> None:
    """Rank the models of the space for DATASET, best first, with 90 % intervals.

    Once `--accuracy` was shown for three datasets, it also says which accuracy to expect on others. What to
    know of the models is said below: labels of other names, rows they were trained on, answers that are all
    the same.
    """
    if offline:
        go_offline()
    project = Project(folder, trust=trust)
    result = project.rank(dataset, similarity)
    tried = None
    if accuracy:
        with show.progress() as progress:
            tried = project.tried(dataset, progress, offline=offline)
        remember(project, dataset, tried.accuracies)
    hopes = expected(project, dataset, similarity)
    no_hopes = why_none(project, dataset) if hopes is None else None
    warnings = remarks(project, dataset, [c.name for c in result.candidates])
    if as_json:
        content = result.as_dict()
        for line in content["ranking"]:
            hope = (hopes or {}).get(line["name"])
            line["expected"] = None if hope is None else vars(hope)
            if tried is not None:
                line["accuracy"] = tried.accuracies.get(line["name"])
        if tried is not None:
            content["failures"] = {name: str(error) for name, error in tried.failures.items()}
            content["unanswered"] = dict(tried.unanswered)
        show.print_json({**content, "no_expected": no_hopes, "warnings": warnings})
    else:
        show.ranking(result, None if tried is None else tried.accuracies, hopes)
        show.warnings(warnings)
        if no_hopes is not None:
            click.echo(no_hopes)
    if tried is not None:
        show.failures(tried)


@cli.command(epilog=_example("fute select prompt reviews --against baselines --accuracy"))
@click.argument("what", type=click.Choice(["prompt", "model", "source"]))
@click.argument("dataset")
@click.option(
    "--against",
    multiple=True,
    help="Beside it, other ways by their names, with commas between them; `baselines` for those that are "
    "cheap, `all` for all but `direct`: trying all candidates on 8 to 128 labelled rows.",
)
@click.option("--accuracy", is_flag=True, help="Show the truth beside it, on the rows that `test` holds out.")
@click.option(
    "--budget",
    type=click.IntRange(min=1),
    help="Also race: spend this many labelled evaluations on the candidates that may still be the best. "
    "With `--against hybrid`, also what they say together with that.",
)
@click.option(
    "--transfer",
    is_flag=True,
    help="Of models, also take those that answer other labels: what to fine-tune on DATASET.",
)
@click.option(
    "--similarity",
    type=click.Choice(["map", "inputs"]),
    help="As for `rank`. By default `inputs` for sources and with --transfer, else `map`.",
)
@_offline
@_trust
@_project
@_json
def select(
    what: What | Literal["source"],
    dataset: str,
    against: tuple[str, ...],
    accuracy: bool,
    budget: int | None,
    transfer: bool,
    similarity: Similarity | None,
    offline: bool,
    trust: bool,
    folder: Path,
    as_json: bool,
) -> None:
    """Choose a prompt, a model or a source dataset for DATASET, and see what other ways would choose.

    Candidates are the models that answer the dataset's labels; for `prompt` those that are an LLM with a
    prompt. For `source` they are the other datasets: which to train on before DATASET.
    """
    if offline:
        go_offline()
    project = Project(folder, trust=trust)
    with show.progress() as progress:
        if what == "source":
            if accuracy or budget is not None or transfer:
                raise ConfigError("a source has no accuracy here", fix="leave all but `--against` out")
            found = choose_source(
                project, dataset, against=against, similarity=similarity or "inputs", progress=progress
            )
        else:
            found = choose(
                project,
                dataset,
                what,
                against=against,
                truth=accuracy,
                budget=budget,
                transfer=transfer,
                similarity=similarity,
                progress=progress,
                offline=offline,
            )
    if as_json:
        show.print_json(found.as_dict())
    else:
        show.comparison(found)


@cli.command("map", epilog=_example("fute map --out map.png"))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("map.html"),
    help="map.html (interactive), .png, .svg or .pdf.",
)
@_project
def draw_map(out: Path, folder: Path) -> None:
    """Draw the map: what lies close does the same. The ending of --out tells the format."""
    write_map(Project(folder), out)
    click.echo(out)


@cli.command(epilog=_example("fute prompts sentiment-paper"))
@click.argument("family", required=False)
@_project
@_json
def prompts(family: str | None, folder: Path, as_json: bool) -> None:
    """List the families of prompts that fute brings, or the prompts of FAMILY (a name or a YAML file)."""
    if family is None:
        found = [load_family(name) for name in families()]
        rows = [{"name": f.name, "prompts": len(f.prompts), "source": f.source} for f in found]
    else:
        one = load_family(family, folder)
        rows = [{"id": p.id, "template": p.template, "labels": dict(p.labels)} for p in one.prompts]
    if as_json:
        show.print_json(rows)
        return
    columns = [(name, "left") for name in rows[0]]
    show.table(family or "Families of prompts", columns, [[str(v) for v in row.values()] for row in rows])


@cli.group(epilog=_example("fute space ls"))
def space() -> None:
    """Look into the space and tidy it."""


@space.command("ls", epilog=_example("fute space ls --json"))
@_project
@_json
def space_ls(folder: Path, as_json: bool) -> None:
    """List the embeddings of the space."""
    project = Project(folder)
    entries = project.space.entries()
    if as_json:
        rows = [
            {"name": e.name, "kind": e.kind, "labels": e.labels, "stored_at": e.stored_at} for e in entries
        ]
        show.print_json({"space": project.embedder.spec.fingerprint, "embeddings": rows})
        return
    show.table(
        f"Space {project.embedder.spec.fingerprint} ({len(entries)})",
        [("name", "left"), ("kind", "left"), ("labels", "left"), ("stored", "left")],
        [[e.name, e.kind, ", ".join(e.labels), e.stored_at] for e in entries],
    )


@space.command("show", epilog=_example("fute space show smol-review"))
@click.argument("name")
@click.option(
    "--neighbours",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="How many nearest others to list.",
)
@_project
@_json
def space_show(name: str, neighbours: int, folder: Path, as_json: bool) -> None:
    """Show where an embedding comes from, and its nearest others."""
    project = Project(folder)
    embedding = project.space.get(name)
    near = project.space.neighbours(name, neighbours)
    if as_json:
        content = {
            "name": embedding.name,
            "kind": embedding.kind,
            "labels": embedding.labels,
            "spec": embedding.spec.as_dict(),
            "provenance": dict(embedding.provenance),
            "shape": [embedding.left.shape[0], embedding.right.shape[0]],
            "neighbours": [{"name": other, "score": score} for other, score in near],
        }
        show.print_json(content)
        return
    rows = [("kind", embedding.kind), ("labels", ", ".join(embedding.labels))]
    rows += [(field, value) for field, value in embedding.provenance.items()]
    show.table(name, [("field", "left"), ("value", "left")], rows)
    show.table(
        "Nearest", [("score", "right"), ("name", "left")], [[f"{score:+.3f}", other] for other, score in near]
    )


@space.command("rm", epilog=_example("fute space rm smol-review"))
@click.argument("names", nargs=-1, required=True)
@_project
def space_rm(names: tuple[str, ...], folder: Path) -> None:
    """Remove embeddings. Their answers stay cached, so `fute run` makes them again at once."""
    target = Project(folder).space
    for name in names:
        target.remove(name)
        click.echo(f"removed {name}")


@space.command("raw", epilog=_example("fute space raw reviews --out reviews.safetensors"))
@click.argument("name")
@click.option(
    "--out", type=click.Path(path_type=Path), required=True, help="The file, in safetensors: tensor `vector`."
)
@_trust
@_project
def space_raw(name: str, out: Path, trust: bool, folder: Path) -> None:
    """Write the whole vector of NAME, before it is projected to 64 KiB.

    Only the projection is kept, so the vector is made again, from the answers that are kept.
    """
    with show.progress() as progress:
        n = Project(folder, trust=trust).write_raw(name, out, progress)
    click.echo(f"{out}: {n:,} numbers")


@space.command("compare", epilog=_example("fute space compare reviews smol-review"))
@click.argument("a")
@click.argument("b")
@_project
@_json
def space_compare(a: str, b: str, folder: Path, as_json: bool) -> None:
    """Cosine of two embeddings: -1 to 1, higher is more alike."""
    score = Project(folder).space.compare(a, b)
    if as_json:
        show.print_json({"a": a, "b": b, "score": score})
    else:
        click.echo(f"{score:+.4f}")


@cli.command(epilog=_example("fute doctor"))
@_json
def doctor(as_json: bool) -> None:
    """Say what is installed, which weights are found, whether bfloat16 is fast, and what to do."""
    from fute.cli.doctor import examine

    findings = examine()
    if as_json:
        show.print_json([vars(finding) for finding in findings])
        return
    marks = {True: "✓", False: "✗"}
    show.table(
        f"fute {fute.__version__}",
        [("", "left"), ("what", "left"), ("found", "left"), ("do", "left")],
        [[marks[f.ok], f.what, f.found, f.advice] for f in findings],
    )


@cli.command(epilog=_example("fute demo --out my-demo"))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("fute-demo"),
    help="The demo's project folder [fute-demo].",
)
def demo(out: Path) -> None:
    """The main job on what pip brings: prompts and models ranked for two datasets, and the map."""
    from fute.cli.demo import run_demo

    run_demo(out)


@cli.group(epilog=_example("fute corpus crossfit"))
def corpus() -> None:
    """Make an unlabelled corpus U."""


@corpus.command("crossfit", epilog=_example("fute corpus crossfit --per-task 100 --out u.jsonl"))
@click.option(
    "--per-task", type=click.IntRange(min=1), default=100, help="Texts of each task, at most [100]."
)
@click.option(
    "--out", type=click.Path(path_type=Path), default=Path("u.jsonl"), help="The file of U [u.jsonl]."
)
@click.option("--seed", type=click.IntRange(min=0), default=0, help="Of the draws [0].")
@_json
def corpus_crossfit(per_task: int, out: Path, seed: int, as_json: bool) -> None:
    """Draw texts of CrossFit's tasks from the hub, as the paper does for its U.

    Tasks that are made of a dataset of the paper's tables are left out, and so are texts that share 13 words
    in a row with one of these. May be stopped and started again: a task is drawn once, one that failed is
    tried again.
    """
    from fute.cli.corpus import build, print_drawn

    with show.progress() as progress:
        drawn = build(out, per_task, seed, progress)
    if as_json:
        show.print_json([one._asdict() for one in drawn])
    else:
        print_drawn(drawn, out)


@cli.command(
    epilog=_example(
        "fute reproduce table1 --data data --plan",
        "fute reproduce table2 --data data",
        "fute reproduce table3 --data data",
        "fute reproduce efficiency --out benchmarks/results --saved",
        *(f"fute reproduce {figure} --out benchmarks/results" for figure in EXPERIMENTS if "fig" in figure),
        "fute reproduce report --out benchmarks/results > docs/results.md",
    )
)
@click.argument("what", type=click.Choice(EXPERIMENTS))
@click.option(
    "--scale",
    type=click.Choice(["small", "paper"]),
    default="small",
    help="Which recipe; `paper` is the paper's own, which needs GPUs and the hub [small].",
)
@click.option(
    "--data",
    type=click.Path(path_type=Path),
    envvar="FUTE_DATA",
    default=Path("data"),
    help="The folder of evaluation data [$FUTE_DATA or data].",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("results"),
    help="Where results are saved [results].",
)
@click.option("--saved", is_flag=True, help="Compute nothing; show what is saved.")
@click.option("--plan", "only_plan", is_flag=True, help="Of a table: show what is still to be computed.")
@_json
def reproduce(
    what: str, scale: str, data: Path, out: Path, saved: bool, only_plan: bool, as_json: bool
) -> None:
    """Run an experiment of the paper on real data, and print its table.

    A table takes hours from nothing (`--plan` says what is left), may be stopped and started again at any
    time, and takes minutes from the cache. Figures and `efficiency` are made from what the tables leave in
    the cache, and again from what they save themselves; `report` prints all saved results as Markdown.
    """
    from fute.cli import reproduce as experiment
    from fute.reproduce.report import write_report

    if what == "report":
        if as_json or only_plan:
            raise ConfigError(
                "the report is Markdown of all that is saved", fix="leave `--json` and `--plan` out"
            )
        click.echo(write_report(out), nl=False)
        return
    work = cache_dir() / "reproduce" / scale
    if only_plan:
        experiment.show_plan(what, scale, data, work, out, as_json)
        return
    with show.progress() as progress:
        if what.startswith("figure"):
            made: Any = experiment.draw_figure(what, scale, data, work, out, saved, progress)
        elif what == "efficiency":
            made = experiment.efficiency(scale, work, out, saved, progress)
        else:
            if not saved:
                experiment.compute(what, scale, data, work, out, progress)
            made = experiment.tables(what, scale, out)
    if as_json:
        show.print_json(made.model_dump() if what == "efficiency" else made)
    elif what.startswith("figure"):
        click.echo("\n".join(file for one in made for file in one["files"]))
    elif what == "efficiency":
        experiment.print_efficiency(made)
    else:
        experiment.print_tables(made)


def main() -> None:
    """The command `fute`. What nobody foresaw ends in one message, too, and code 1."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # names may be what a terminal's encoding can't write
            stream.reconfigure(errors="replace")
    log = logging.getLogger("fute")
    log.setLevel(logging.INFO)
    log.handlers = [show.Remarks()]
    try:
        cli.main(standalone_mode=False)
    except FuteError as error:
        if os.environ.get("FUTE_TRACEBACK"):
            raise
        show.remark(f"error: {error}")
        sys.exit(EXIT_WRONG_INPUT)
    except click.ClickException as error:
        error.show()
        sys.exit(EXIT_WRONG_INPUT)
    except (KeyboardInterrupt, click.Abort):
        show.remark("Stopped. What is labelled is saved; run again to go on.")
        sys.exit(EXIT_INTERRUPTED)
    except BrokenPipeError:
        _give_up_stdout()
        sys.exit(EXIT_UNFORESEEN)
    except Exception as error:
        if os.environ.get("FUTE_TRACEBACK"):
            raise
        what = f"{type(error).__name__}: {error}"[:500]
        show.remark(f"error: {what}\n  do: set FUTE_TRACEBACK=1 to see where this comes from")
        try:
            sys.stdout.flush()
        except OSError:  # a full disk, say
            _give_up_stdout()
        sys.exit(EXIT_UNFORESEEN)


def _give_up_stdout() -> None:
    """Keep Python from writing at its end what can't be written."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    main()
