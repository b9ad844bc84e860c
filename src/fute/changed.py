"""What of a space was made from other data or models than fute.yaml names now: told by fingerprints alone."""

from __future__ import annotations

from collections.abc import Collection

from fute.core.errors import FuteError
from fute.labelling.asking import faults_of
from fute.models.base import BlackBox
from fute.project import Project


def outdated(project: Project, names: Collection[str]) -> dict[str, str]:
    """Of the datasets and models of the space with these names, those that `run` would embed anew, each with
    what changed. No model is asked. What doesn't say what it was made from isn't among them.

    Raises:
        DataError: U or a dataset can't be read.
    """
    stored = [entry for entry in project.space.entries() if entry.name in names]
    boxes = {box.name: box for box in project.models if box.name in names}
    prints = fingerprints(boxes.values())
    own = {section.name for section in project.sections}
    found = {}
    for entry in stored:
        name, old = entry.name, entry.provenance
        if name in project.datasets:
            parts = [("its rows or labels", "data_fingerprint", project.datasets[name][0].fingerprint)]
        elif name in own:
            parts = [("U", "corpus_fingerprint", project.corpus.fingerprint)]
            if name in prints:
                parts.append(("the model", "model_fingerprint", prints[name]))
        else:
            continue
        changed = [what for what, field, now in parts if old.get(field, now[:16]) != now[:16]]
        if name in boxes and boxes[name].names != entry.labels:
            changed.append("what its labels are called")
        if changed:
            found[name] = changed[0]
    return found


def fingerprints(boxes: Collection[BlackBox]) -> dict[str, str]:
    """By name, of those that can say what they are."""
    prints = {}
    for box in boxes:
        try:
            with faults_of(box, "when it was asked what it is"):
                prints[box.name] = box.fingerprint
        except FuteError:
            continue
    return prints
