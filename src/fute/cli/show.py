"""How the command line shows things: data on stdout, progress and remarks on stderr."""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.progress import Task as RichTask
from rich.table import Table
from rich.text import Text

from fute.core.errors import listing
from fute.core.progress import Progress as Report
from fute.labelling.budget import Caps, Spent
from fute.project import PlannedModel, Tried
from fute.selection.compare import Comparison, Way
from fute.selection.expected import Expected
from fute.selection.rank import Ranking
from fute.weights.hub import size_in_words

_STDERR = Console(stderr=True, highlight=False)


def stdout() -> Console:
    """A console on stdout: as wide as the terminal, or wide enough where there is none."""
    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=160)


def remark(text: str) -> None:
    """A line on stderr, not broken to the terminal's width: paths stay whole."""
    _STDERR.print(Text(text), soft_wrap=True)


class Remarks(logging.Handler):
    """What the library logs, as remarks."""

    def emit(self, record: logging.LogRecord) -> None:
        remark(record.getMessage())


def print_json(value: Any) -> None:
    """What stdout's encoding can't write, such as half a surrogate pair, is escaped."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(value, indent=2)
    click.echo(text)


class _Rate(TextColumn):
    def __init__(self) -> None:
        super().__init__("")

    def render(self, task: RichTask) -> Text:
        return Text(f"{task.speed:,.0f}/s" if task.speed else "", style="dim")


@contextmanager
def progress() -> Iterator[Report]:
    """Bars with count, rate and time left on stderr; nothing where stderr is no terminal."""
    bars = Progress(
        TextColumn("{task.description:<10}"),
        BarColumn(),
        MofNCompleteColumn(),
        _Rate(),
        TimeRemainingColumn(),
        console=_STDERR,
        disable=not _STDERR.is_terminal,
        transient=True,
    )
    tasks: dict[str, TaskID] = {}

    def report(what: str, done: int, total: int) -> None:
        if what not in tasks:
            tasks[what] = bars.add_task(what, total=total)
        bars.update(tasks[what], completed=done, total=total)

    with bars:
        yield report


def table(title: str, columns: Sequence[tuple[str, str]], rows: Sequence[Sequence[Any]]) -> None:
    """Print a table; `columns` are (heading, "left" | "right")."""
    shown = Table(
        title=Text(title, "bold"), title_justify="left", box=None, header_style="dim", pad_edge=False
    )
    for heading, justify in columns:
        shown.add_column(heading, justify="right" if justify == "right" else "left", overflow="fold")
    for row in rows:
        shown.add_row(
            *(
                value if isinstance(value, Text) else Text("" if value is None else str(value))
                for value in row
            )
        )
    stdout().print(shown)


def plan(rows: Sequence[PlannedModel], spent: Spent, caps: Caps) -> None:
    """Print what labelling would take, what is spent, and which cap would stop it."""
    columns = [
        (name, "right")
        for name in ("items", "cached", "to label", "calls", "tokens in", "out", "cost", "time")
    ]
    table(
        "To label",
        [("model", "left"), ("kind", "left"), *columns],
        [
            [
                *(r.name, r.kind, r.items, r.cached, r.to_label, f"{r.calls:,}"),
                *(f"{n:,}" if n else "–" for n in (r.tokens_in, r.tokens_out)),
                "?" if r.cost is None else money(r.cost) if r.cost else "–",
                "?" if r.download != 0 else duration(r.seconds) if r.to_label else "–",
            ]
            for r in rows
        ],
    )
    for failure in (r.failure for r in rows if r.failure):
        remark(failure)
    for size in dict.fromkeys(r.download for r in rows if r.download != 0):
        those = listing([r.name for r in rows if r.download == size])
        what = size_in_words(size)
        remark(f"{those}: `run` downloads {what} first; what it takes is counted once they are here.")
    todo = sum(r.to_label for r in rows if not r.failure)
    cost = sum(r.cost or 0.0 for r in rows)
    unknown = [r.name for r in rows if r.cost is None and r.to_label]
    time = duration(sum(r.seconds for r in rows))
    line = f"{todo:,} answers to ask for, about {time}" if todo else "Nothing to label"
    if not todo and any(r.failure for r in rows):
        line = "No model can be asked" if all(r.failure for r in rows) else "Nothing to label by the others"
    absent = [r.name for r in rows if r.download != 0]
    line += f" beside what {listing(absent)} will take" if absent else ""
    line += f", at most {money(cost)}" if cost else ""
    line += f", and what {listing(unknown)} may cost (see `prices:`)" if unknown else ""
    click.echo(f"{line}.")
    for advice in dict.fromkeys(r.advice for r in rows if r.advice):
        remark(f"{listing([r.name for r in rows if r.advice == advice])}: {advice}.")
    if spent.calls:
        click.echo(f"Spent so far: {spent.calls:,} calls, {spent.tokens:,} tokens, {money(spent.cost)}.")
    wanted = Spent(sum(r.calls for r in rows), sum(r.tokens_in + r.tokens_out for r in rows), cost)
    for name, value in vars(wanted).items():
        cap = getattr(caps, f"max_{name}")
        if cap is not None and getattr(spent, name) + value > cap:
            remark(f"`max_{name}: {cap:g}` may stop this before its end.")


def spending(by_model: Mapping[str, Spent], caps: Caps) -> None:
    """Print what all runs have spent, by model, and how far the caps are."""
    total = sum(by_model.values(), Spent())
    rows = [
        [name, f"{s.calls:,}", f"{s.tokens:,}", money(s.cost)]
        for name, s in [*by_model.items(), ("all", total)]
    ]
    table("Spent", [("model", "left"), *((name, "right") for name in ("calls", "tokens", "cost"))], rows)
    for name, value in vars(total).items():
        cap = getattr(caps, f"max_{name}")
        if cap is not None:
            click.echo(f"`max_{name}`: {value:,.10g} of {cap:,.10g}.")


def money(dollars: float) -> str:
    """`$0.0042`, `$12.50`: with two digits that tell something."""
    return f"${dollars:,.2f}" if dollars >= 1 or not dollars else f"${dollars:.2g}"


_METRICS = {
    "performance_rate": "rate ↑",
    "ndcg_linear": "NDCG (linear) ↑",
    "spearman": "Spearman ↑",
    "regret@1": "regret@1 ↓",
}


def comparison(found: Comparison) -> None:
    """Print what each way chooses, how sure fute is, and how good each order is where the truth is known."""
    known = found.performances is not None
    chances = {} if found.ranking is None else {c.name: c.p_best for c in found.ranking.candidates}
    sure = any(chance is not None for chance in chances.values())
    columns = [("way", "left"), ("takes", "left")]
    columns += [("P(best)", "right")] if sure else []
    if not known:
        columns += [("then", "left")]
    else:
        columns += [("accuracy", "right"), ("90 % interval", "left")]
        columns += [(heading, "right") for heading in _METRICS.values()]
    rows = []
    ranked = found.ranked_by
    for way in found.ways:
        row = [way.name, f"{len(way.picks)} are equal" if len(way.picks) > 1 else "".join(way.picks) or "–"]
        if sure:
            row += [f"{sum(chances[name] or 0 for name in way.picks):.2f}" if way.name == ranked else ""]
        if not known:
            row += [", ".join(_runners_up(way, found.candidates))]
        elif way.metrics is None:
            row += ["–"] * (len(columns) - len(row))
        else:
            row += [f"{way.metrics['performance']:.3f}", _interval(found, way)]
            row += [f"{way.metrics[name]:.3f}" if name in way.metrics else "–" for name in _METRICS]
        rows.append(row)
    count = len(found.candidates)
    table(f"{count} candidate{'s' if count > 1 else ''} for {found.dataset}", columns, rows)
    if found.ranking is not None and found.ranking.verdict:
        stdout().print(Text(f"{ranked}: {found.ranking.verdict}", "yellow"))
    if found.performances is not None:
        best = max(zip(found.performances, found.candidates, strict=True))
        click.echo(f"The best is {best[1]} with {best[0]:.3f}, on {found.rows} rows held out.")
    warnings(found.warnings)


def _interval(found: Comparison, way: Way) -> str:
    """That of the accuracy of what the way takes, if it is one candidate."""
    if found.intervals is None or len(way.picks) != 1:
        return ""
    low, high = found.intervals[found.candidates.index(way.picks[0])]
    return f"{low:.3f} … {high:.3f}"


def warnings(found: Sequence[str]) -> None:
    """Print what to know before taking the first."""
    for warning in found:
        stdout().print(Text(warning, "yellow"))


def failures(tried: Tried) -> None:
    """Print which models have no accuracy and why, and which left rows without an answer."""
    for name, error in tried.failures.items():
        remark(f"{name} has no accuracy: {error}")
    for name, count in tried.unanswered.items():
        rows = f"{count} rows have no answer and count" if count > 1 else "1 row has no answer and counts"
        remark(f"{name}: {rows} as wrong")


def _runners_up(way: Way, candidates: Sequence[str]) -> list[str]:
    """The two that come after what the way takes."""
    others = [
        (-score, name)
        for score, name in zip(way.scores, candidates, strict=True)
        if score is not None and name not in way.picks
    ]
    return [name for _, name in sorted(others)[:2]]


_BAR = 20


def ranking(
    result: Ranking,
    accuracies: Mapping[str, float] | None = None,
    hopes: Mapping[str, Expected] | None = None,
) -> None:
    """Print a ranking; what the score would be with more texts as numbers and as a bar from -1 to 1."""
    columns = [
        ("rank", "right"),
        ("score", "right"),
        ("with more texts", "left"),
        ("−1       0        +1", "left"),
        ("P(best)", "right"),
    ]
    columns += [("expected accuracy", "left")] if hopes is not None else []
    columns += [("accuracy", "right")] if accuracies is not None else []
    rows = []
    for c in result.candidates:
        bounds = "no interval" if c.low is None else f"{c.low:+.3f} … {c.high:+.3f}"
        place = c.score if c.limit is None else c.limit
        chance = "" if c.p_best is None else f"{c.p_best:.2f}"
        row = [c.rank, f"{c.score:+.3f}", bounds, Text(_bar(c.low, place, c.high), style="cyan"), chance]
        if hopes is not None:
            hope = hopes.get(c.name)
            row.append("–" if hope is None else f"{hope.performance:.2f} ({hope.low:.2f} … {hope.high:.2f})")
        if accuracies is not None:
            row.append(f"{accuracies[c.name]:.3f}" if c.name in accuracies else "–")
        rows.append([*row, c.name])
    table(f"Models for {result.dataset}", [*columns, ("name", "left")], rows)
    if result.verdict:
        stdout().print(Text(result.verdict, "yellow"))
    if result.best.low is None:
        stdout().print(
            Text("No intervals: this method has no replicates (see the option `replicates`).", "yellow")
        )


def _bar(low: float | None, score: float, high: float | None) -> str:
    """`·······├──●─┤·······` on the scale from -1 to 1."""

    def place(value: float) -> int:
        return round((value + 1) / 2 * _BAR)

    cells = ["·"] * (_BAR + 1)
    if low is not None and high is not None:
        for i in range(place(low), place(high) + 1):
            cells[i] = "─"
    cells[place(score)] = "●"
    return "".join(cells)


def duration(seconds: float) -> str:
    """`48 s`, `3 min 20 s`, `2 h 30 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s" if seconds >= 1 else "< 1 s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
