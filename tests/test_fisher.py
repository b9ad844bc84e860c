"""The exact diagonal Fisher against a loop over single examples, on every family."""

import pytest
import torch
import transformers
from torch import nn

from fute.core.errors import ModelError
from fute.surrogates.fisher import Fisher

SIZE = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
T5 = {"d_model": 24, "d_kv": 6, "d_ff": 40, "num_layers": 2, "num_heads": 4, "vocab_size": 50}
BART = {
    "d_model": 24,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 40,
    "decoder_ffn_dim": 40,
    "vocab_size": 50,
    "max_position_embeddings": 32,
}
GATED = {**SIZE, "intermediate_size": 40, "num_key_value_heads": 2}
CONFIGS = {
    "bert": transformers.BertConfig(**SIZE, intermediate_size=40),
    "albert": transformers.AlbertConfig(**SIZE, embedding_size=12, intermediate_size=40),
    "modernbert": transformers.ModernBertConfig(
        **SIZE, intermediate_size=40, pad_token_id=0, local_attention=8, global_attn_every_n_layers=2
    ),
    "gpt2": transformers.GPT2Config(n_embd=24, n_layer=2, n_head=4, vocab_size=50),
    "llama": transformers.LlamaConfig(**GATED),
    "qwen3": transformers.Qwen3Config(**GATED, head_dim=6),
    "t5": transformers.T5Config(**T5),
    "t5-gated": transformers.T5Config(**T5, feed_forward_proj="gated-gelu"),
    "bart": transformers.BartConfig(**BART, scale_embedding=True),
    "mpnet": transformers.MPNetConfig(**SIZE, intermediate_size=40),
    "mt5": transformers.MT5Config(**T5),
    "umt5": transformers.UMT5Config(**T5),
    "pegasus": transformers.PegasusConfig(**BART, scale_embedding=True),
    "gemma3": transformers.Gemma3TextConfig(**GATED, head_dim=6),
}
IDS = torch.tensor([[5, 6, 7, 8, 5, 9], [11, 12, 13, 0, 0, 0], [5, 5, 5, 5, 0, 0], [3, 4, 9, 30, 31, 6]])
TARGETS = torch.tensor([[1.0, 0.0], [0.25, 0.75], [0.0, 1.0], [0.5, 0.5]])


@pytest.fixture(params=CONFIGS)
def model(request):
    transformers.set_seed(0)
    made = transformers.AutoModel.from_config(CONFIGS[request.param]).eval()
    for p in made.parameters():  # norms and biases that are all ones or zeros would hide what multiplies them
        p.data += 0.1 * torch.randn_like(p)
    return made


def losses(model, rows):
    given = {"input_ids": IDS[rows], "attention_mask": (IDS[rows] > 0).long()}
    if model.config.is_encoder_decoder:
        # The same word to the decoder as to the encoder: a tied embedding is used twice by one example.
        given["decoder_input_ids"] = torch.tensor([[5, 7]]).expand(len(rows), -1)
        states = model(**given).last_hidden_state.mean(1)
    else:
        mask = given["attention_mask"][..., None]
        states = (model(**given).last_hidden_state * mask).sum(1) / mask.sum(1)
    head = torch.linspace(-1, 1, 2 * states.shape[1]).reshape(2, -1).sin()
    return -(TARGETS[rows] * (states.float() @ head.T).log_softmax(-1)).sum(-1)


def by_loop(model, rows):
    """`Σ_i (∂L_i/∂θ)²`, one backward pass for each example."""
    model.requires_grad_(True)
    total = {name: torch.zeros_like(p) for name, p in model.named_parameters()}
    for row in rows:
        model.zero_grad()
        losses(model, [row]).sum().backward()
        for name, p in model.named_parameters():
            if p.grad is not None:
                total[name] += p.grad.square()
    model.requires_grad_(False)
    return total


def test_in_bfloat16_it_is_nearly_the_same(model):
    for p in model.parameters():  # what the weights themselves lose is not the passes'
        p.data = p.data.bfloat16().float()
    expected = by_loop(model, [0, 1, 2, 3])
    fisher = Fisher(model.to(torch.bfloat16))
    fisher.add(4, lambda: losses(model, [0, 1, 2, 3]))
    pairs = [(fisher.squares[name][0].flatten(), total.flatten()) for name, total in expected.items()]
    ours, theirs = (torch.cat(side).double() for side in zip(*pairs, strict=True))
    assert nn.functional.cosine_similarity(ours, theirs, dim=0) > 0.999
    assert ours.norm() / theirs.norm() == pytest.approx(1, abs=0.05)


def test_it_equals_a_loop_over_single_examples(model):
    expected = by_loop(model, [0, 1, 2, 3])
    fisher = Fisher(model)
    fisher.add(3, lambda: losses(model, [0, 1, 2]))
    fisher.add(1, lambda: losses(model, [3]))
    assert fisher.examples == 4
    assert fisher.squares.keys() == expected.keys(), "each parameter once, tied ones too"
    for name, found in fisher.squares.items():
        scale = float(expected[name].max())
        assert torch.allclose(found[0], expected[name], rtol=1e-3, atol=1e-5 * scale + 1e-12), name
    assert sum(float(v.sum()) > 0 for v in expected.values()) > 0.8 * len(expected)


def test_of_a_logistic_model_by_hand():
    """`L = −log σ(y wᵀx)`: the gradient is `(σ(wᵀx) − t) x`, so `F_j = Σ_i (σ − t_i)² x_ij²`."""
    config = transformers.BertConfig(**SIZE, intermediate_size=40)
    model = transformers.BertModel(config)
    x, t = torch.randn(5, 1, 24), torch.tensor([0.0, 1, 1, 0, 1])
    layer: nn.Linear = model.pooler.dense
    fisher = Fisher(model)
    fisher.add(
        5, lambda: nn.functional.binary_cross_entropy_with_logits(layer(x)[:, 0, 0], t, reduction="none")
    )
    off = torch.sigmoid(x[:, 0] @ layer.weight[0] + layer.bias[0]) - t
    expected = (off.square()[:, None] * x[:, 0].square()).sum(0)
    assert torch.allclose(fisher.squares["pooler.dense.weight"][0, 0], expected, rtol=1e-5)
    assert fisher.squares["pooler.dense.weight"][0, 1:].abs().sum() == 0
    assert fisher.squares["pooler.dense.bias"][0, 0] == pytest.approx(float(off.square().sum()), rel=1e-5)


def test_a_layer_without_a_rule_is_named():
    model = transformers.BertModel(transformers.BertConfig(**SIZE, intermediate_size=40))
    model.extra = nn.Conv1d(3, 3, 1)
    with pytest.raises(ModelError, match="extra, a Conv1d"):
        Fisher(model)


def test_a_table_that_is_read_without_being_called_is_named():
    config = transformers.DebertaV2Config(
        **SIZE, intermediate_size=40, relative_attention=True, pos_att_type=["p2c", "c2p"]
    )
    with pytest.raises(ModelError, match=r"encoder\.rel_embeddings(.|\n)*squared_mean"):
        Fisher(transformers.DebertaV2Model(config))
