"""Questions with their contexts and answers, as SQuAD's nested files have them, one a row."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from fute.core.errors import DataError
from fute.data.readers import fetch

Row = dict[str, Any]


def row(question: str, context: str, answer: str = "", start: int = -1) -> Row:
    """`question`, `context` and `answer`, as `Dataset` reads them; an empty text is no answer."""
    return {"question": question, "context": context, "answer": {"text": [answer], "answer_start": [start]}}


def read_squad(place: str) -> list[Row]:
    """Of a file as SQuAD's own, which may be gzipped and lie on the web: the first answer counts.

    Raises:
        DataError: it can't be had, or is no such file.
    """
    file = fetch(place)
    try:
        return list(_questions(json.loads(file.read_text(encoding="utf-8"))))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise DataError(
            f"{place} is no file as SQuAD's",
            expected="data, paragraphs and qas, one within the other",
            found=f"{type(error).__name__}: {error}"[:200],
        ) from error


def _questions(content: Any) -> Iterator[Row]:
    for paragraph in (one for article in content["data"] for one in article["paragraphs"]):
        for asked in paragraph["qas"]:
            question, context = asked["question"], paragraph["context"]
            if not asked.get("answers"):
                yield row(question, context)
                continue
            answer = asked["answers"][0]
            yield row(question, context, answer["text"], int(answer["answer_start"]))
