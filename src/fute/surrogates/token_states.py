"""What a model makes of each token of a context, and where in it the answer stands."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from fute.core.batching import cheapest_batches
from fute.core.types import Examples, Floats
from fute.surrogates.base import states

if TYPE_CHECKING:
    from fute.surrogates.base import Surrogate

_TOKENS = 2048  # that are read at once


def token_states(surrogate: Surrogate, examples: Examples, layer: int | None = -1) -> tuple[Floats, Floats]:
    """The states of all tokens of the contexts, and which of them an answer begins and ends with.

    Args:
        surrogate: reads each question with its context, cut as `surrogates.answers.Spans` says.
        examples: with spans as targets.
        layer: whose states; None: the mean of all.

    Returns:
        Of m tokens the states, each scaled to length 1, float32 (m, d); whether it is an answer's first and
        whether its last, 0 or 1, float32 (m, 2).

    Raises:
        DataError, ConfigError, ModelError: as for `Spans`.
    """
    import torch

    from fute.surrogates.answers import Spans
    from fute.surrogates.frozen import Frozen

    model = surrogate.model
    spans = Spans(Frozen(surrogate, model, surrogate.max_tokens), examples, 0)
    made, targets = [], []
    for rows in cheapest_batches(surrogate.sizes(spans.inputs), _TOKENS):
        tokens, inside, places = spans.read(np.array(rows))
        with torch.no_grad():
            read = states(model, tokens.to(model.device), layer).float()
        is_at = torch.nn.functional.one_hot(places, inside.shape[1]).transpose(1, 2)
        is_at *= (places > 0)[:, None]  # at 0: no answer
        made.append(torch.nn.functional.normalize(read, dim=-1)[inside.to(read.device)].cpu())
        targets.append(is_at[inside].float())
    return torch.cat(made).numpy(), torch.cat(targets).numpy()
