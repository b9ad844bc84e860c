"""Whole replies in the forms of vLLM and Ollama, from a server on loopback, and what is read of them.

The fields and their order are those of

- vLLM: `ChatCompletionResponse` and `CompletionResponse` in
  https://github.com/vllm-project/vllm/tree/main/vllm/entrypoints/openai (chat_completion/protocol.py,
  completion/protocol.py at 002032ee); a recorded completion is in https://github.com/ggml-org/llama.cpp/pull/15189
- Ollama before it had log-probabilities: `ToChatCompletion` and `ToCompletion` in
  https://github.com/ollama/ollama/blob/00988753ff743bf26117964f6e43f9ebf10bce30/openai/openai.go
- Ollama since 0.12.11, with them: https://github.com/ollama/ollama/pull/16867
"""

import numpy as np
import pytest

from fute.core.errors import ModelError
from fute.core.types import Input
from fute.labelling.budget import Budget
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label
from fute.models.openai import Decoding, OpenAIModel
from fute.text.prompt import Prompt
from fute.text.template import PromptTemplate
from fute.text.verbalizer import Verbalizer
from tests.test_client import Script

ASKED = [Input("A wonderful film.")]
# Natural logarithms of 0.6, 0.2, 0.1 and 0.05: of the labels' 0.9 in all, 0.2 is Negative's.
LIKELY = [("Positive", -0.5108), ("Negative", -1.6094), (" pos", -2.3026), ("The", -2.9957)]
SHARES = [0.2 / 0.9, 0.7 / 0.9]


def token(text, log_probability, **more):
    return {"token": text, "logprob": log_probability, "bytes": list(text.encode()), **more}


CONTENT = [token(*LIKELY[0], top_logprobs=[token(*one) for one in LIKELY])]
VLLM_CHAT = {
    "id": "chatcmpl-8f0b3f1d6a3d4d0e9f8c2b7a5e4d3c2b",
    "object": "chat.completion",
    "created": 1756000000,
    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "choices": [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Positive",
                "refusal": None,
                "annotations": None,
                "audio": None,
                "function_call": None,
                "reasoning": None,
            },
            "logprobs": {"content": CONTENT},
            "finish_reason": "length",
            "stop_reason": None,
            "token_ids": None,
            "routed_experts": None,
        }
    ],
    "service_tier": None,
    "system_fingerprint": None,
    "usage": {
        "prompt_tokens": 41,
        "total_tokens": 42,
        "completion_tokens": 1,
        "prompt_tokens_details": None,
    },
    "prompt_logprobs": None,
    "prompt_token_ids": None,
    "kv_transfer_params": None,
    "metrics": None,
}
VLLM_COMPLETION = {
    "id": "cmpl-2b9d1c0e8f7a4b6c9d5e3f1a0b8c7d6e",
    "object": "text_completion",
    "created": 1756000000,
    "model": "HuggingFaceTB/SmolLM2-135M-Instruct",
    "choices": [
        {
            "index": 0,
            "text": " Positive",
            "logprobs": {
                "text_offset": [0],
                "token_logprobs": [-0.5108],
                "tokens": ["Positive"],
                "top_logprobs": [dict(LIKELY)],
            },
            "finish_reason": "length",
            "stop_reason": None,
            "token_ids": None,
            "prompt_logprobs": None,
            "prompt_token_ids": None,
            "routed_experts": None,
        }
    ],
    "service_tier": None,
    "system_fingerprint": None,
    "usage": {
        "prompt_tokens": 41,
        "total_tokens": 42,
        "completion_tokens": 1,
        "prompt_tokens_details": None,
    },
    "kv_transfer_params": None,
    "metrics": None,
}


def ollama_chat(content="Positive", reason="stop", message=None, **more):
    return {
        "id": "chatcmpl-730",
        "object": "chat.completion",
        "created": 1756000000,
        "model": "smollm2:135m",
        "system_fingerprint": "fp_ollama",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": content, **(message or {})},
                "finish_reason": reason,
                **more,
            }
        ],
        "usage": {"prompt_tokens": 41, "completion_tokens": 1, "total_tokens": 42},
    }


OLLAMA_COMPLETION = {
    "id": "cmpl-841",
    "object": "text_completion",
    "created": 1756000000,
    "model": "smollm2:135m",
    "system_fingerprint": "fp_ollama",
    "choices": [{"text": " Positive", "index": 0, "finish_reason": "stop"}],
    "usage": {"prompt_tokens": 41, "completion_tokens": 1, "total_tokens": 42},
}


def on(url, mode):
    words = Verbalizer({"negative": ("Negative",), "positive": ("Positive",)})
    prompt = Prompt(PromptTemplate("{{ text }}\n\nPositive or negative?"), words)
    return OpenAIModel("smollm2", prompt, name="there", url=url, decoding=Decoding(mode))


def answer(reply, mode):
    with Script((200, {}, reply, 0.0)) as server:
        return on(server.url, mode).predict(ASKED)[0]


@pytest.mark.parametrize(
    ("reply", "mode"),
    [
        (VLLM_CHAT, "logprobs"),
        (VLLM_COMPLETION, "completions"),
        (ollama_chat(logprobs={"content": CONTENT}), "logprobs"),
    ],
    ids=["vLLM, a chat", "vLLM, a completion", "Ollama, a chat"],
)
def test_probabilities_are_the_shares_of_first_tokens(reply, mode):
    assert answer(reply, mode).tolist() == pytest.approx(SHARES, abs=1e-3)


VLLM_ENDED = {**VLLM_CHAT, "choices": [{**VLLM_CHAT["choices"][0], "finish_reason": "stop"}]}


@pytest.mark.parametrize("reply", [VLLM_ENDED, ollama_chat(), ollama_chat(reason=None)])
def test_a_written_answer_is_read(reply):
    assert answer(reply, "text").tolist() == [0, 1]


def test_a_written_answer_that_was_cut_off_is_not():
    assert answer(VLLM_CHAT, "text").kind == "truncated"


@pytest.mark.parametrize(("reply", "mode"), [(ollama_chat(), "logprobs"), (OLLAMA_COMPLETION, "completions")])
def test_an_ollama_without_log_probabilities_says_what_to_do(reply, mode):
    with pytest.raises(ModelError, match="no log-probabilities") as caught:
        answer(reply, mode)
    assert "`answer: text`" in str(caught.value)


def test_a_model_that_only_thought_has_not_answered():
    thought = ollama_chat("", "length", {"reasoning": "The user asks whether it is positive"})
    assert answer(thought, "text").kind == "truncated"


@pytest.mark.parametrize(
    ("reply", "mode"), [(VLLM_CHAT, "logprobs"), (VLLM_COMPLETION, "completions"), (ollama_chat(), "text")]
)
def test_the_tokens_that_they_count_are_taken_from_the_budget(reply, mode):
    budget = Budget()
    with Script((200, {}, reply, 0.0)) as server:
        found = label([on(server.url, mode)], ASKED, PredictionCache(None), budget=budget)
    assert np.isfinite(found.predictions["there"]).all()
    assert (budget.spent.calls, budget.spent.tokens) == (1, 42)
