"""What to know of a ranking's models before one is taken; no model is asked."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from functools import partial

from fute.api import about_labels
from fute.changed import outdated
from fute.choosing.doubts import doubts
from fute.choosing.leaks import leaks
from fute.core.errors import FuteError, listing
from fute.project import Project

# Of a ranking's models so many are compared, each with all others: the best.
_COMPARED = 100


def remarks(project: Project, dataset: str, models: Sequence[str]) -> list[str]:
    """Sentences on models of the space, given best first: those that fute.yaml doesn't name any more; what
    changed since it was embedded; labels that aren't just the dataset's; leaks; and doubts, of the first 100.
    What can't be told, and why, is a sentence too: a ranking needs nothing but the space.
    """
    named = {section.name for section in project.sections}
    gone = [name for name in models if name not in named]
    found = []
    if gone:
        found.append(f"{listing(gone)}: no longer in fute.yaml, but still ranked (see `fute space rm`).")
    parts: dict[str, Callable[[], list[str]]] = {
        "changes": partial(changes, project, [dataset, *models]),
        "labels": partial(_labels, project, dataset, models),
        "leaks": partial(leaks, project, dataset, list(models)),
        "doubts": partial(doubts, project, models[:_COMPARED]),
    }
    if dataset not in {d.name for d in project.config.datasets}:
        found.append(f"{dataset}: no longer in fute.yaml, so nothing is known of its rows.")
        parts = {"changes": parts["changes"], "doubts": parts["doubts"]}
    for what, part in parts.items():
        try:
            found += part()
        except FuteError as error:
            found.append(f"Nothing is known of {what}: {error.problem}.")
    return found


def changes(project: Project, names: Sequence[str]) -> list[str]:
    """A sentence for each thing that changed since datasets or models of the space were embedded: their
    scores are of what was. Raises DataError where U or a dataset can't be read.
    """
    by_change: dict[str, list[str]] = defaultdict(list)
    for name, what in outdated(project, names).items():
        by_change[what].append(name)
    return [
        f"{listing(those)}: {what} changed since; scores are of what was (`fute run` embeds anew)."
        for what, those in by_change.items()
    ]


def _labels(project: Project, dataset: str, models: Sequence[str]) -> list[str]:
    ranked = [model for model in project.models if model.name in models]
    return about_labels(ranked, project.datasets[dataset][0], so="no accuracy")
