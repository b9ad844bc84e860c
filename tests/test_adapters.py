"""Which biases BitFit trains: those that have a gradient. Where steps are made, and how precise."""

import pytest
import torch
import transformers

from fute.surrogates.adapters import BitFit, LoRA

SIZE = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 50}
CONFIGS = {
    "bert": transformers.BertConfig(**SIZE, intermediate_size=40),
    "distilbert": transformers.DistilBertConfig(dim=32, n_layers=2, n_heads=4, hidden_dim=40, vocab_size=50),
    "mpnet": transformers.MPNetConfig(**SIZE, intermediate_size=40),
    "deberta-v2": transformers.DebertaV2Config(
        **SIZE, intermediate_size=40, relative_attention=True, pos_att_type=["p2c", "c2p"]
    ),
    "gpt2": transformers.GPT2Config(n_embd=32, n_layer=2, n_head=4, vocab_size=50),
    "gpt_neox": transformers.GPTNeoXConfig(**SIZE, intermediate_size=40),  # a quarter of a key is rotated
    "qwen2": transformers.Qwen2Config(**SIZE, intermediate_size=40, num_key_value_heads=2),  # all of it is
}


@pytest.mark.parametrize("name", CONFIGS)
def test_it_trains_the_biases_that_have_a_gradient(name):
    transformers.set_seed(0)
    model = transformers.AutoModel.from_config(CONFIGS[name]).eval().double()
    for p in model.parameters():
        p.data += 0.2 * torch.randn_like(p)
    ids = torch.tensor([[5, 6, 7, 8, 5, 9], [11, 12, 13, 3, 4, 2]])

    def loss():
        return model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state.sin().sum()

    loss().backward()
    biases = {name: p.grad for name, p in model.named_parameters() if name.endswith("bias")}
    biases = {name: grad[grad.abs() > 1e-8] for name, grad in biases.items() if grad is not None}
    adapter = BitFit(model)
    with adapter.attached():
        loss().backward()
    expected = {name: grad for name, grad in biases.items() if len(grad)}
    assert adapter.tensors.keys() == expected.keys()
    for name, step in adapter.tensors.items():
        assert torch.allclose(step.grad, expected[name], rtol=1e-6), name


def test_steps_are_no_rounder_than_single_precision():
    model = transformers.AutoModel.from_config(CONFIGS["bert"]).bfloat16()
    assert {step.dtype for step in BitFit(model).tensors.values()} == {torch.float32}


def test_steps_stand_where_the_weights_do():
    model = transformers.AutoModel.from_config(CONFIGS["bert"]).to("meta")
    for adapter in (BitFit(model), LoRA(model, 2, seed=0)):
        assert {step.device.type for step in adapter.tensors.values()} == {"meta"}
