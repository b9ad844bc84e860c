"""Every family of surrogate: how it reads, what a prefix does to it, and what the methods make of it."""

import dataclasses
import re

import numpy as np
import pytest
import scipy.stats
import torch
import transformers
from safetensors.torch import load_file, save_file
from tokenizers.processors import TemplateProcessing

from fute.core.errors import ConfigError, ModelError
from fute.core.hashing import digest
from fute.core.keyvalue import KeyValue
from fute.core.progress import silent
from fute.core.types import Examples, Input, Span
from fute.methods.base import bootstrap_counts
from fute.methods.linear_probe import LinearProbe
from fute.methods.task_emb import TaskEmb
from fute.methods.text_emb import TextEmb
from fute.methods.tupate import TuPaTE
from fute.surrogates import frozen
from fute.surrogates.adapters import BitFit, LoRA, Nothing
from fute.surrogates.base import represent, states
from fute.surrogates.features import Features
from fute.surrogates.frozen import Frozen
from fute.surrogates.prefix_attention import Prefix
from fute.surrogates.training import Training
from fute.weights.load import load_base

from .helpers import refused
from .reviews import REVIEWS
from .surrogates import CONFIGS, SIZE, VOCABULARY, make

TEXTS = [Input("A fine and moving film."), Input("Dull."), Input("It rained all day, and nobody minded it.")]


@pytest.fixture(scope="module", params=CONFIGS)
def surrogate(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module")
def t5(tmp_path_factory):
    return make("t5", tmp_path_factory.mktemp("t5"))


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make("bert", tmp_path_factory.mktemp("bert"))


def reviews(n=24, labels=("negative", "positive")) -> Examples:
    rows = REVIEWS[:n]
    targets = np.zeros((len(rows), 2), np.float32)
    for row, (_, label) in zip(targets, rows, strict=True):
        row[labels.index(["negative", "positive"][label])] = 1
    return Examples([Input(text) for text, _ in rows], targets, labels)


def test_texts_that_are_read_together_are_read_as_if_alone(surrogate):
    model = surrogate.load("float32")
    together = represent(model, surrogate.tokenize(TEXTS))
    assert together.norm(dim=-1) == pytest.approx(1, abs=1e-5)
    for row, item in zip(together, TEXTS, strict=True):
        assert torch.allclose(represent(model, surrogate.tokenize([item]))[0], row, atol=1e-5)
    mean = states(model, surrogate.tokenize(TEXTS[:1]))[0].mean(0)
    assert Features(surrogate)(TEXTS)[0] == pytest.approx((mean / mean.norm()).numpy(), abs=1e-5)


SHORT = {"max_position_embeddings": 48, "intermediate_size": 40}
RELATIVE = {"relative_attention": True, "pos_att_type": ["c2p", "p2c"], "position_biased_input": False}


@pytest.mark.parametrize(
    ("config", "most"),
    [
        (transformers.BertConfig(**SIZE, **SHORT), 48),
        (transformers.RobertaConfig(**SIZE, **SHORT, pad_token_id=0), 47),
        (transformers.MPNetConfig(**SIZE, **SHORT, pad_token_id=1), 46),
        (transformers.GPT2Config(n_embd=24, n_layer=2, n_head=4, vocab_size=VOCABULARY, n_positions=48), 48),
        (transformers.DebertaV2Config(**SIZE, **SHORT), 48),
        (transformers.DebertaV2Config(**SIZE, **SHORT, **RELATIVE), None),
    ],
    ids=["bert", "roberta", "mpnet", "gpt2", "deberta", "relative deberta"],
)
def test_a_text_is_cut_to_the_places_that_weights_have(config, most, tmp_path, monkeypatch):
    """Whatever their tokenizer says: here 512. With one token more the model itself fails."""
    monkeypatch.setitem(CONFIGS, "short", config)
    surrogate = make("short", tmp_path)
    assert surrogate.sizes([Input("word " * 100)]) == [most or 64]
    assert np.isfinite(Features(surrogate)([Input("word " * 100)])).all()
    if most:
        with pytest.raises((IndexError, RuntimeError)):
            surrogate.model(input_ids=torch.full((1, most + 1), 101))


def without_special_tokens(surrogate):
    """As GPT-2 and Llama read texts: "" has no tokens."""
    surrogate.tokenizer.bos_token = "[CLS]"
    surrogate.tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A", pair="$A $B")
    return surrogate


@pytest.mark.parametrize("pooling", ["mean", "first", "last"])
def test_a_text_without_tokens_is_read_as_the_token_that_begins_texts(pooling, tmp_path):
    surrogate = without_special_tokens(make("gpt2", tmp_path))
    begun = Features(surrogate, pooling=pooling)([Input("[CLS]")])[0]
    features = Features(surrogate, tmp_path / "features.sqlite", pooling=pooling)
    assert features([Input("")])[0] == pytest.approx(begun, abs=1e-6)
    assert Features(surrogate, pooling=pooling)([*TEXTS, Input("")])[3] == pytest.approx(begun, abs=1e-6)
    model = surrogate.load("float32")
    read = represent(model, surrogate.tokenize([*TEXTS, Input("")]))[3]
    assert torch.allclose(read, represent(model, surrogate.tokenize([Input("[CLS]")]))[0], atol=1e-5)


def test_what_was_kept_of_a_text_without_tokens_is_made_anew(tmp_path):
    features = Features(without_special_tokens(make("gpt2", tmp_path)), tmp_path / "features.sqlite")
    place = digest([features._identity, Input("").key])[:40]
    KeyValue(tmp_path / "features.sqlite").put({place: np.full(24, np.nan, "<f4").tobytes()})
    assert np.isfinite(features([Input("")])).all()


def test_spans_some_of_which_are_no_answer_are_embedded_by_a_decoder(tmp_path):
    inputs = [Input("Who?", "The old king."), Input("When?", "At noon."), Input("Why?", "Nobody knew.")]
    answers = [Span("The old king", 0), Span("", -1), Span("", -1)]
    features = Features(without_special_tokens(make("gpt2", tmp_path)))
    made = LinearProbe(replicates=2).embed(Examples(inputs, answers, (), "span"), features, 0)
    assert np.isfinite(made.left).all()
    assert made.left.any()


def test_features_that_are_no_numbers_are_refused_and_not_kept(tmp_path, monkeypatch):
    features = Features(make("gpt2", tmp_path), tmp_path / "features.sqlite")
    monkeypatch.setattr(features, "_encode", lambda batches: [np.full((1, 24), np.nan, np.float32)])
    with refused(ModelError, "makes of a text what is no number", "'Dull.'", "`dtype: float32`"):
        features([Input("Dull.")])
    monkeypatch.undo()
    assert np.isfinite(features([Input("Dull.")])).all()


def test_what_a_head_reads_is_what_transformers_own_model_says(surrogate):
    model = surrogate.load("float32")
    tokens = surrogate.tokenize(TEXTS[:1])
    if model.config.is_encoder_decoder:
        begin = torch.tensor([[model.config.decoder_start_token_id]])
        own = model(**tokens_of(tokens), decoder_input_ids=begin).last_hidden_state[0, 0]
    else:
        read = model(**tokens_of(tokens)).last_hidden_state[0]
        own = read[-1] if model.config.model_type in ("gpt2", "llama") else read.mean(0)
    assert torch.allclose(represent(model, tokens)[0], own / own.norm(), atol=1e-5)


def tokens_of(tokens):
    return {name: tokens[name] for name in ("input_ids", "attention_mask")}


def test_a_prefix_of_no_tokens_changes_nothing_and_one_of_some_does(surrogate):
    model = surrogate.load("float32")
    tokens = surrogate.tokenize(TEXTS)
    before = represent(model, tokens)
    with Prefix(model, 0, seed=0).attached():
        assert torch.allclose(represent(model, tokens), before, atol=1e-5)
    with Prefix(model, 3, seed=0).attached():
        assert not torch.allclose(represent(model, tokens), before, atol=1e-5)
    assert torch.allclose(represent(model, tokens), before, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_pass_holds_512_tokens_and_bfloat16_has_few_shapes(surrogate, dtype):
    inputs = [Input("word " * (i % 40)) for i in range(200)]
    answers = Examples(inputs, np.full((200, 2), 0.5, np.float32), ("no", "yes"))
    model = surrogate.load(dtype)
    training = Training(Frozen(surrogate, model, 64), answers, TuPaTE(), seed=0)
    passes = list(training.passes())
    assert sorted(np.concatenate(passes)) == list(range(200))
    shapes = [training._tokenize([inputs[i] for i in rows])["input_ids"].shape for rows in passes]
    assert all(256 < rows * length <= 512 for rows, length in shapes[:-1])
    lengths = {length for _, length in shapes}
    assert lengths <= {8, 12, 16, 24, 32, 48} if dtype == "bfloat16" else len(lengths) > 6


def test_a_fisher_of_texts_and_pairs_is_the_mean_of_both(surrogate):
    texts = [Input("It rains again."), Input("Nobody came to see it.")]
    pairs = [Input("It rains.", "The street is wet."), Input("It rains.", "The sun shines.")]
    method, features = TaskEmb(adapt="none"), Features(surrogate)

    def fisher(inputs):
        targets = np.tile(np.float32([0.2, 0.8]), (len(inputs), 1))
        raw = method.raw(Examples(inputs, targets, ("no", "yes")), features, 0)
        return np.concatenate([piece.ravel() for piece in raw])

    mixed, apart = fisher([texts[0], pairs[0], texts[1], pairs[1]]), (fisher(texts) + fisher(pairs)) / 2
    assert np.allclose(mixed, apart, rtol=1e-3, atol=1e-6 * apart.max())


ON_BOTH = [Input("It rains."), Input("It rains.", "The street is wet."), Input("Nobody came to see it.")]


@pytest.mark.parametrize(
    "method",
    [
        TaskEmb(adapt="head", steps=2),
        TaskEmb(adapt="full", steps=2),
        TaskEmb(adapt="none", estimator="per_batch"),
        TuPaTE(steps=2),
        TuPaTE(steps=2, adapter="lora", top_layers=1),
    ],
    ids=["head", "full", "per_batch", "prefix", "top lora"],
)
def test_texts_and_pairs_are_learnt_together(surrogate, method):
    answers = Examples(ON_BOTH * 4, np.tile(np.float32([0.2, 0.8]), (12, 1)), ("no", "yes"))
    made = method.embed(answers, Features(surrogate), 0)
    assert np.isfinite(made.left).all()
    assert made.left.any()


def test_the_loss_of_each_of_texts_and_pairs_is_its_own(surrogate):
    model = surrogate.load("float32")
    answers = Examples(ON_BOTH, np.float32([[1, 0], [0.2, 0.8], [0, 1]]), ("no", "yes"))
    training = Training(Frozen(surrogate, model, 64), answers, TuPaTE(), seed=0)
    prefix = Prefix(model, 3, seed=0)
    head = 3 * torch.randn(training.head_start.shape, generator=torch.Generator().manual_seed(0))

    def losses(*rows):
        return training.losses(prefix, head, np.array(rows)).tolist()

    alone = [losses(row)[0] for row in (0, 1, 2)]
    assert losses(2, 1, 0) == pytest.approx(alone[::-1], abs=1e-4)
    assert len({round(loss, 2) for loss in alone}) == 3


@pytest.mark.parametrize("kind", ["prefix", "bitfit", "lora"])
def test_every_number_that_is_tuned_has_a_gradient_of_its_own(surrogate, kind):
    model = surrogate.load("float32")
    if kind == "bitfit" and model.config.model_type in ("t5", "llama", "modernbert"):
        pytest.skip("has no biases, or only some")
    training = Training(Frozen(surrogate, model, 64), reviews(), TuPaTE(), seed=0)
    adapter = {
        "prefix": lambda: Prefix(model, 4, seed=0),
        "bitfit": lambda: BitFit(model),
        "lora": lambda: LoRA(model, 3, seed=0),
    }[kind]()
    if kind == "lora":
        for name, tensor in adapter.tensors.items():
            if name.endswith(".B"):
                tensor.data.normal_()
    training.losses(adapter, training.head_start, np.arange(24)).sum().backward()
    zeros = {
        name: float((tensor.grad == 0).float().mean())
        for name, tensor in adapter.tensors.items()
        if tensor.grad is None or (tensor.grad == 0).any()
    }
    # Softmax doesn't see the query of a decoder's first token, which has itself alone to attend to (on some
    # CPUs a rounding is left of it).
    allowed = re.compile(r"^decoder\..*(SelfAttention\.q|self_attn\.q_proj)\.")
    assert {name: share for name, share in zeros.items() if not allowed.search(name)} == {}


def test_the_gradient_of_a_prefix_is_that_of_finite_differences(surrogate):
    model = surrogate.load("float32").double()
    training = Training(Frozen(surrogate, model, 64), reviews(6), TuPaTE(), seed=0)
    prefix = Prefix(model, 2, seed=0).double()
    head = training.head_start.double()

    def loss():
        return training.losses(prefix, head, np.arange(6)).mean()

    loss().backward()
    for tensor in prefix.tensors.values():
        for place in [(0, 0, 0, 0), (-1, -1, -1, -1), (-1, 0, 1, 2)]:
            kept, step = tensor.data[place].item(), 2e-2  # some norms compute in float32
            found = []
            for sign in (1, -1):
                tensor.data[place] = kept + sign * step
                found.append(loss().item())
            tensor.data[place] = kept
            expected = (found[0] - found[1]) / (2 * step)
            assert tensor.grad[place].item() == pytest.approx(expected, rel=3e-2, abs=1e-6)


@pytest.mark.parametrize(
    "method",
    [
        TuPaTE(steps=4, num_virtual_tokens=3),
        TuPaTE(steps=4, adapter="lora", rank=2),
        TaskEmb(steps=4),
        TaskEmb(adapt="full", steps=2),
        TaskEmb(adapt="none", estimator="squared_mean"),
        TaskEmb(adapt="none", of="outputs"),
    ],
    ids=lambda m: f"{m.name}-{getattr(m, 'adapter', '')}{getattr(m, 'adapt', '')}{getattr(m, 'of', '')}",
)
def test_vectors_are_the_same_bit_for_bit_and_the_order_of_labels_does_not_matter(surrogate, method):
    features = Features(surrogate)
    first, again = (method.embed(reviews(), features, 0, silent) for _ in range(2))
    turned = method.embed(reviews(labels=("positive", "negative")), features, 0, silent)
    assert first.left.nbytes <= 64 * 1024
    assert np.any(first.left)
    assert np.array_equal(first.left, again.left)
    assert np.array_equal(first.left, turned.left)


def naive_gradients(model, training, head, rows):
    """For each row the gradient of its loss: one backward pass each."""
    model.requires_grad_(True)
    for row in rows:
        model.zero_grad()
        training.losses(Nothing(), head, np.array([row]), exact=True).sum().backward()
        yield {
            name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
            for name, p in model.named_parameters()
        }


@pytest.mark.parametrize(
    ("estimator", "combine"),
    [
        ("per_example", lambda g: (g**2).mean(0)),
        (
            "per_batch",
            lambda g: torch.stack([g[:8].mean(0), g[8:16].mean(0), g[16:].mean(0)]).square().mean(0),
        ),
        ("squared_mean", lambda g: g.mean(0) ** 2),
    ],
)
def test_the_three_estimators_are_what_they_say(bert, estimator, combine):
    method = TaskEmb(adapt="none", estimator=estimator, batch_size=8)
    model = bert.load("float32")
    training = Training(Frozen(bert, model, 64), reviews(20), method, seed=0)
    pieces = list(method._pieces(training, training.unfitted(), silent))
    gradients = list(naive_gradients(model, training, training.head_start, range(20)))
    for piece, name in zip(pieces, dict(model.named_parameters()), strict=True):
        expected = combine(torch.stack([g[name] for g in gradients])).numpy()
        assert piece == pytest.approx(expected, rel=1e-3, abs=1e-5 * float(expected.max()) + 1e-18), name


def test_a_tuned_surrogate_stands_in_memory_once(bert):
    method = TaskEmb(adapt="full", steps=2)
    training = Training(Frozen(bert, bert.load("float32"), 64), reviews(), method, seed=0)
    before = {name: p.detach().clone() for name, p in training.parameters.items()}
    fitted = method._adapted(training, silent)
    assert (fitted.start, fitted.tensors) == ({}, {})
    assert [name for name, p in training.parameters.items() if p.grad is not None] == []
    assert sum(not torch.equal(p, before[name]) for name, p in training.parameters.items()) > 10


def test_sampled_targets_come_from_the_model(bert):
    method = TaskEmb(adapt="none", targets="sampled")
    training = Training(Frozen(bert, bert.load("float32"), 64), reviews(), method, seed=0)
    shares = torch.zeros(24, 2)
    for seed in range(400):
        training.sample_targets(training.head_start, seed)
        shares += training.targets / 400
    outputs = training.outputs(Nothing(), training.head_start, np.arange(24), exact=True)
    assert shares.numpy() == pytest.approx(outputs.softmax(-1).numpy(), abs=0.12)


def test_scores_are_learnt_too(bert):
    rows = REVIEWS[:24]
    scores = np.array([[1.0 + 4 * label] for _, label in rows], np.float32)
    examples = Examples([Input(text) for text, _ in rows], scores, ("stars",), "score")
    made = TuPaTE(steps=20).embed(examples, Features(bert), 0, silent)
    assert np.any(made.left)
    assert made.notes["held_out_loss"] < 2


@pytest.mark.parametrize("unit", [1e-30, 1e-7, 1.0, 1e30])
@pytest.mark.parametrize("zero", [0, 2**23])
def test_scores_are_standardised_whatever_their_unit(bert, unit, zero):
    scores = (np.float32([[1], [2], [3], [4]]) + np.float32(zero)) * np.float32(unit)
    assert np.unique(scores).size == 4
    examples = Examples([*ON_BOTH, Input("Hm.")], scores, ("stars",), "score")
    training = Training(Frozen(bert, bert.load("float32"), 64), examples, TuPaTE(), seed=0)
    expected = scipy.stats.zscore(scores[:, 0].astype(np.float64))
    assert training.targets[:, 0].numpy() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("value", [0.0, 0.7, 1e8])
def test_scores_that_differ_by_rounding_alone_are_all_the_same(bert, value):
    scores = np.float32([[value], [np.nextafter(np.float32(value), np.float32(1e9))], [value]])
    examples = Examples(ON_BOTH, scores if value else 0 * scores, ("stars",), "score")
    training = Training(Frozen(bert, bert.load("float32"), 64), examples, TuPaTE(), seed=0)
    assert not training.targets.any()


def test_where_is_for_encoder_decoders(bert, t5):
    with pytest.raises(ConfigError, match="encoder-decoder"):
        TuPaTE(where="decoder").embed(reviews(), Features(bert), 0, silent)
    model = t5.load("float32")
    counts = {where: len(Prefix(model, 2, 0, where).keys) for where in ("all", "encoder", "decoder")}
    assert counts == {
        "all": 6,
        "encoder": 2,
        "decoder": 4,
    }  # the decoder attends to itself and to the encoder


@pytest.mark.parametrize(
    ("name", "sizes"), [("t5", {}), ("t5", {"d_kv": 8}), ("t5", {"d_kv": 5}), ("bart", {})], ids=str
)
@pytest.mark.parametrize("where", ["all", "decoder"])
def test_a_first_token_alone_is_what_it_is_before_a_second_one(name, sizes, where):
    """A decoder never looks ahead, and only its first token alone attends to states that aren't projected."""
    config = type(CONFIGS[name])(**CONFIGS[name].to_diff_dict() | sizes)
    transformers.set_seed(0)
    model = transformers.AutoModel.from_config(config).eval().double().requires_grad_(False)
    for p in model.parameters():
        p.data += 0.3 * torch.randn_like(p)
    prefix = Prefix(model, 3, 0, where).double()
    ids = torch.tensor([[5, 6, 7, 8, 9], [11, 12, 13, 0, 0]])
    results = []
    for begin in ([1], [1, 20]):
        prefix.zero_grad()
        with prefix.attached():
            made = model(
                input_ids=ids, attention_mask=(ids > 0).long(), decoder_input_ids=torch.tensor([begin] * 2)
            ).last_hidden_state[:, 0]
        made.sin().sum().backward()
        results.append((made.detach(), prefix.keys.grad.clone(), prefix.values.grad.clone()))
    for alone, followed in zip(*results, strict=True):
        assert alone.abs().max() > 1e-3
        assert torch.allclose(alone, followed, atol=1e-5 * followed.abs().max().item())
    with torch.no_grad():  # nothing of it is left behind
        layers = [m for m in model.modules() if isinstance(m, torch.nn.Linear)]
        assert not any("forward" in layer.__dict__ for layer in layers)


def test_a_frozen_encoder_reads_texts_of_many_batches_together(t5):
    features = Features(t5)
    sizes = []
    hook = t5.model.get_encoder().register_forward_hook(
        lambda _, args, kwargs, out: sizes.append(kwargs["attention_mask"].shape), with_kwargs=True
    )
    method = TuPaTE(where="decoder", epochs=1, batch_size=2, num_virtual_tokens=2)
    method.embed(reviews(), features, 0, silent)
    hook.remove()
    assert max(rows for rows, _ in sizes) > 10


def test_bitfit_needs_biases(t5):
    with pytest.raises(ModelError, match="no biases"):
        TuPaTE(adapter="bitfit").embed(reviews(), Features(t5), 0, silent)


def test_what_is_kept_of_a_frozen_encoder_changes_nothing(t5):
    frozen = Frozen(t5, t5.load("float32"), 64)
    training = Training(frozen, reviews(), TuPaTE(), seed=0)
    prefix = Prefix(frozen.model, 3, seed=0, where="decoder")
    rows = np.array([3, 0, 7, 5])
    for adapter in (prefix, Nothing()):
        kept = training.outputs(adapter, training.head_start, rows)
        afresh = training.outputs(adapter, training.head_start, rows, exact=True)
        assert torch.allclose(kept, afresh, atol=1e-4)
        again = training.outputs(adapter, training.head_start, rows[::-1].copy())
        assert torch.allclose(again.flip(0), kept, atol=1e-5)
    assert not torch.allclose(
        training.outputs(prefix, training.head_start, rows),
        training.outputs(Nothing(), training.head_start, rows),
        atol=1e-4,
    )


def test_a_second_model_on_the_same_texts_reads_none_of_them_again(t5):
    features = Features(t5)
    calls = []
    encoder = t5.model.get_encoder()
    hook = encoder.register_forward_hook(lambda *_: calls.append(1))
    method = TuPaTE(where="decoder", steps=3, num_virtual_tokens=2)
    first = method.embed(reviews(), features, 0, silent)
    read = len(calls)
    other = reviews()
    other.targets[:] = other.targets[:, ::-1].copy()
    second = method.embed(other, features, 0, silent)
    hook.remove()
    assert len(calls) - read <= 2, "label names, and where attention happens"
    assert not np.array_equal(first.left, second.left)


@pytest.mark.parametrize(
    ("method", "options", "words"),
    [
        (TuPaTE, {"adapter": "adapters"}, "one of prefix, bitfit, lora"),
        (TuPaTE, {"adapter": "lora", "pool": "tokens"}, "no tokens to pool"),
        (TuPaTE, {"rank": 0}, "`rank` must be at least 1"),
        (TuPaTE, {"replicates": -1}, "`replicates` must be at least 0"),
        (TuPaTE, {"learning_rate": 0.0}, "must be positive"),
        (TuPaTE, {"learning_rate": np.nan}, "must be positive and finite"),
        (TaskEmb, {"learning_rate": np.inf}, "must be positive and finite"),
        (TaskEmb, {"estimator": "mean"}, "per_example, per_batch, squared_mean"),
        (TaskEmb, {"of": "outputs", "estimator": "per_batch"}, "per example"),
        (TaskEmb, {"batch_size": 0}, "`batch_size` must be at least 1"),
    ],
)
def test_options_that_cannot_be_are_refused(method, options, words):
    with pytest.raises(ConfigError, match=words):
        method(**options)


@pytest.mark.parametrize("method", [TuPaTE(steps=2), TaskEmb(steps=2), TextEmb(replicates=2)])
@pytest.mark.parametrize("output", ["class", "score"])
def test_one_example_is_enough_not_to_fail(bert, method, output):
    targets = np.ones((1, 1), np.float32) if output == "score" else np.eye(2, dtype=np.float32)[:1]
    labels = ("stars",) if output == "score" else ("a", "b")
    made = method.embed(Examples([Input("One.")], targets, labels, output), Features(bert), 0, silent)
    assert np.isfinite(made.left).all()


def test_text_emb_is_the_mean_of_the_features_and_its_replicates_resample_it(bert):
    features = Features(bert)
    made = TextEmb(replicates=3).embed(reviews(), features, 5, silent)
    phi = features(reviews().inputs)
    assert made.left[:, 0] == pytest.approx(phi.mean(0), abs=1e-6)
    for row, counts in zip(made.replicates, bootstrap_counts(24, 3, 5), strict=True):
        assert row[:, 0] == pytest.approx(np.average(phi, axis=0, weights=counts), abs=1e-3)


@pytest.mark.parametrize("method", [TuPaTE(steps=8, num_virtual_tokens=3), TaskEmb(adapt="none")])
def test_the_order_of_labels_counts_only_where_the_head_starts_from_noise(bert, method):
    features, turned = Features(bert), ("positive", "negative")
    noisy = dataclasses.replace(method, head="noise")
    assert np.array_equal(vector(method, features), vector(method, features, turned))
    assert not np.allclose(vector(noisy, features), vector(noisy, features, turned), atol=1e-3)
    assert np.array_equal(vector(noisy, features), vector(noisy, features)), "the noise has a seed"
    assert not np.allclose(vector(noisy, features), vector(method, features), atol=1e-3)


def vector(method, features, labels=("negative", "positive")):
    made = method.embed(reviews(labels=labels), features, 0).left.astype(np.float64)
    return made / np.linalg.norm(made)


@pytest.mark.parametrize("name", CONFIGS)
def test_the_body_of_a_model_that_answers_questions_is_the_one_that_was_saved(name, tmp_path):
    """AutoModel doesn't find that of a Llama, and would draw another."""
    made = make(name, tmp_path, "QuestionAnswering")
    whole = transformers.AutoModelForQuestionAnswering.from_pretrained(tmp_path).state_dict()
    saved = {key.partition(".")[2]: tensor for key, tensor in whole.items()} | whole
    body = load_base(made.weights, "float32").state_dict()
    assert len(body) > 10
    for key, tensor in body.items():
        assert "pooler" in key or torch.equal(tensor, saved[key]), key


def test_a_body_that_lacks_weights_is_refused_not_drawn(tmp_path):
    made = make("llama", tmp_path)
    file = tmp_path / "model.safetensors"
    tensors = load_file(file)
    del tensors["layers.1.mlp.up_proj.weight"]
    save_file(tensors, file, {"format": "pt"})
    with refused(ModelError, "lacks weights of LlamaModel", "layers.1.mlp.up_proj.weight", "at random"):
        load_base(made.weights, "float32")


@pytest.mark.parametrize("estimator", ["per_example", "squared_mean"])
def test_what_a_frozen_surrogate_made_of_inputs_serves_the_next_model_too(bert, estimator, monkeypatch):
    method, read = TaskEmb(steps=20, estimator=estimator), []
    swapped = dataclasses.replace(reviews(), targets=1 - reviews().targets)
    alone = method.embed(swapped, Features(bert), 0, silent).left.astype(np.float32)
    real = frozen.side_by_side
    monkeypatch.setattr(
        frozen, "side_by_side", lambda do, some, *rest: read.extend(some) or real(do, some, *rest)
    )
    features, found = Features(bert), []
    for examples in (reviews(16), swapped):
        found.append(method.embed(examples, features, 0, silent).left.astype(np.float32))
        assert sum(len(tokens["input_ids"]) for tokens in read) <= len(examples.inputs)
    assert found[1] == pytest.approx(alone, rel=1e-2, abs=float(1e-3 * np.abs(alone).max()))
    assert np.abs(found[0] - found[1]).max() > 0.01 * np.abs(alone).max()
