"""Batches that several threads read at once give what one thread gives, in order."""

import threading

import pytest
import torch

from fute import Input
from fute.surrogates.base import Surrogate, states
from fute.surrogates.frozen import Frozen
from fute.surrogates.side_by_side import side_by_side
from tests.reviews import REVIEWS
from tests.surrogates import make


@pytest.fixture(autouse=True)
def _two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_batches_are_read_at_once_by_a_thread_each_and_stay_in_order():
    both = threading.Barrier(2)  # passed only by two at a time

    def read(batch):
        both.wait(timeout=60)
        return batch, torch.get_num_threads(), torch.is_grad_enabled()

    assert side_by_side(read, [3, 1, 2, 4]) == [(n, 1, False) for n in (3, 1, 2, 4)]
    assert torch.get_num_threads() == 2
    assert torch.is_grad_enabled()


def test_one_batch_has_all_threads():
    assert side_by_side(lambda batch: (batch, torch.get_num_threads()), ["only"]) == [("only", 2)]
    assert side_by_side(len, []) == []


def test_no_more_are_read_at_once_than_may_be():
    assert side_by_side(lambda batch: torch.get_num_threads(), [1, 2, 3], most=1) == [2, 2, 2]


def test_what_goes_wrong_in_a_thread_is_raised():
    def read(batch):
        if batch == 2:
            raise ValueError("the second")
        return batch

    with pytest.raises(ValueError, match="the second"):
        side_by_side(read, [1, 2, 3])
    assert torch.get_num_threads() == 2


def test_encoder_states_are_those_of_each_text_alone(tmp_path, monkeypatch):
    make("t5", tmp_path / "tiny")
    surrogate = Surrogate(str(tmp_path / "tiny"), dtype="float32")
    monkeypatch.setattr("fute.surrogates.base._BATCH_TOKENS", {"float32": 40})
    inputs = [Input(text) for text, _ in REVIEWS]
    assert len(surrogate.by_tokens(inputs, 64)) > 4
    read, mask = Frozen(surrogate, surrogate.model, 64).encoded(inputs)
    for item, row, kept in zip(inputs, read, mask.bool(), strict=True):
        with torch.no_grad():
            alone = states(surrogate.model, surrogate.tokenize([item], 64))[0]
        assert row[kept] == pytest.approx(alone, abs=1e-5)


def test_the_layers_below_are_read_by_one_thread_at_a_time(tmp_path, monkeypatch):
    """The model is changed meanwhile: it gives what it gives where nothing is kept."""
    make("bert", tmp_path / "tiny")
    surrogate = Surrogate(str(tmp_path / "tiny"), dtype="float32")
    monkeypatch.setattr("fute.surrogates.base._BATCH_TOKENS", {"float32": 40})
    inputs = [Input(text) for text, _ in REVIEWS]
    tokens = surrogate.tokenize(inputs, 64)
    with torch.no_grad():
        whole = states(surrogate.model, tokens)
        with Frozen(surrogate, surrogate.model, 64).resumed(inputs, 1):
            resumed = states(surrogate.model, tokens)
    kept = tokens["attention_mask"].bool()
    assert resumed[kept] == pytest.approx(whole[kept], abs=1e-5)
