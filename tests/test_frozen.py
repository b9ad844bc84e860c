"""What a frozen surrogate made of inputs, where there isn't room for all of it."""

import numpy as np
import pytest
import torch

from fute.core.types import Examples, Input
from fute.methods.tupate import TuPaTE
from fute.surrogates import frozen
from fute.surrogates.features import Features
from fute.surrogates.frozen import Kept

from .reviews import REVIEWS
from .surrogates import make

INPUTS = [Input(text) for text, _ in REVIEWS]
RIGHT = np.eye(2, dtype=np.float32)[[label for _, label in REVIEWS]]
METHOD = TuPaTE(where="decoder", epochs=2, batch_size=8, stop_early=False, num_virtual_tokens=2)


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return make("t5", tmp_path_factory.mktemp("t5"))


@pytest.fixture
def reading(t5):
    """Embed two models: how many texts the encoder reads for each, and the memory that they take."""
    counts = []
    handle = t5.model.get_encoder().register_forward_hook(
        lambda _, args, kwargs, out: counts.append(len(kwargs["input_ids"])), with_kwargs=True
    )

    def read():
        features, each = Features(t5), []
        for targets in (RIGHT, 1 - RIGHT):
            counts.clear()
            METHOD.embed(Examples(INPUTS, targets, ("bad", "good")), features, 0)
            each.append(sum(counts))
        return each, features.frozen(METHOD.max_tokens).kept.bytes

    yield read
    handle.remove()


def test_where_most_has_room_the_next_model_reads_only_the_rest(reading, monkeypatch):
    (first, second), whole = reading()
    assert (first, second) == (len(INPUTS) + 3, 3), "label names, and the text that a prefix finds layers by"
    monkeypatch.setattr(frozen, "_MOST_KEPT", int(0.9 * whole))
    (first, second), less = reading()
    assert 0.8 * whole < less <= 0.9 * whole
    assert first == len(INPUTS) + 3, "what was read ahead is there as long as it is needed"
    assert second < 0.2 * len(INPUTS) + 3


def test_what_is_of_other_inputs_makes_room(monkeypatch):
    monkeypatch.setattr(frozen, "_MOST_KEPT", 3 * 4)
    made = {("states", item): torch.ones(1) for item in INPUTS[:5]}
    kept = Kept()
    kept.add({item: made[item] for item in list(made)[:4]})
    assert list(kept) == list(made)[:3]
    kept.make_room(INPUTS[2:5])
    kept.add({item: made[item] for item in list(made)[3:]})
    assert list(kept) == list(made)[2:]
    kept.make_room(INPUTS[:1])
    assert len(kept) == 3, "all had room, so none need go"
