"""Labels numbered texts through a server: `python -m tests.chaos FOLDER URL TEXTS MAX_CALLS MAX_TOKENS`.

Meant to be killed at any moment and started again; prints what it has in the end as JSON.
"""

import json
import sys
from pathlib import Path

from fute.core.types import Input
from fute.labelling.budget import Budget, Caps
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label
from fute.models.backends.client import Manners
from fute.models.openai import Decoding, OpenAIModel
from fute.text.prompt import Prompt
from fute.text.template import PromptTemplate
from fute.text.verbalizer import Verbalizer


def model(url: str, **options: object) -> OpenAIModel:
    prompt = Prompt(
        PromptTemplate("{{ text }} Good or bad?"), Verbalizer({"bad": ("bad",), "good": ("good",)})
    )
    manners = Manners(concurrency=32, timeout=0.8, tries=4, first_wait=0.02, most_wait=0.1)
    return OpenAIModel(
        "chaos", prompt, name="chaos", url=url, decoding=Decoding("text"), **{"manners": manners, **options}
    )


def main(folder: Path, url: str, texts: int, max_calls: int, max_tokens: int) -> None:
    inputs = [Input(f"Text {number} is this.") for number in range(texts)]
    budget = Budget(folder / "spent.sqlite", Caps(max_calls=max_calls, max_tokens=max_tokens))
    cache = PredictionCache(folder / "predictions.sqlite")
    result = label([model(url)], inputs, cache, budget=budget, retry=True)
    answered = result.answered["chaos"]
    wrong = [
        int(row) for row, p in zip(answered.rows, answered.predictions, strict=True) if p[1] != (row % 2 == 0)
    ]
    print(
        json.dumps(
            {
                "labelled": len(answered.rows),
                "wrong": wrong,
                "failed": len(answered.failed),
                "left": result.left,
                "stopped": str(result.stopped) if result.stopped else None,
                "calls": budget.spent.calls,
                "tokens": budget.spent.tokens,
            }
        )
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), int(sys.argv[5]))
