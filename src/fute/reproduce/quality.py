"""How good answers are: accuracy, rank correlation, or the overlap of words."""

from __future__ import annotations

import re
import string
from collections import Counter
from collections.abc import Sequence

import numpy as np

from fute.core.errors import DataError
from fute.core.types import Answers, Failure, Floats, Span
from fute.data.dataset import Dataset
from fute.selection.metrics import spearman

_ARTICLES = re.compile(r"\b(a|an|the)\b")
_PUNCTUATION = str.maketrans("", "", string.punctuation)


def quality(dataset: Dataset, answers: Answers) -> tuple[float, Floats]:
    """The performance on a dataset, 0 to 1, higher is better, and a number for each row (n,), float32.

    | targets | performance | for each row |
    | --- | --- | --- |
    | classes | accuracy | 1 if the most probable class is right, else 0 |
    | scores | Spearman's rank correlation, 0 where it is negative | the answer |
    | spans | mean `word_f1` | its `word_f1` |

    Args:
        dataset: n rows.
        answers: of one model to each: probabilities with columns in the order of the dataset's labels, scores
            or spans. A failure counts 0, as the lowest score.

    Raises:
        DataError: targets of another kind.
    """
    if dataset.output == "class":
        rows = np.array(
            [
                0.0 if isinstance(a, Failure) else float(np.argmax(a) == c)
                for a, c in zip(answers, dataset.classes, strict=True)
            ],
            dtype=np.float32,
        )
        return float(rows.mean()), rows
    if dataset.output == "score":
        given = [None if isinstance(a, Failure) else float(np.asarray(a).ravel()[0]) for a in answers]
        lowest = min((a for a in given if a is not None), default=0.0)
        rows = np.array([lowest if a is None else a for a in given], dtype=np.float32)
        return max(0.0, spearman(rows, np.asarray(dataset.targets, dtype=float))), rows
    if dataset.output == "span":
        truths: Sequence[str] = dataset.examples.texts
        said = [a.text if isinstance(a, Span) else "" if isinstance(a, Failure) else str(a) for a in answers]
        rows = np.array([word_f1(a, t) for a, t in zip(said, truths, strict=True)], dtype=np.float32)
        return float(rows.mean()), rows
    raise DataError(
        f"dataset {dataset.name} has targets of no known quality", found=f"output {dataset.output}"
    )


def word_f1(answer: str, truth: str) -> float:
    """The harmonic mean of precision and recall of an answer's words, 0 to 1, higher is better. Case,
    punctuation and articles don't count; no answer is right where there is none.

    Source: Rajpurkar et al. 2016, doi:10.18653/v1/D16-1264.
    """
    given, right = _words(answer), _words(truth)
    if not given or not right:
        return float(given == right)
    both = sum((Counter(given) & Counter(right)).values())
    return 2 * both / (len(given) + len(right))


def _words(text: str) -> list[str]:
    return _ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split()
