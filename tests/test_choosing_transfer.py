"""What to fine-tune, and which dataset to train on first: each column against the function behind it."""

import json
import shutil

import numpy as np
import pytest
import torch
import transformers

from fute import Input, Project
from fute.choosing import choose, choose_source
from fute.choosing.transfer import together
from fute.core.errors import ConfigError
from fute.selection.baselines.features import (
    h_score,
    knn_accuracy,
    leep,
    linear_probe_accuracy,
    log_me,
    log_me_of_kernel,
)
from fute.selection.baselines.sources import curve_grad, fit_loss_curve
from fute.space.similarity import cosine
from fute.surrogates.base import Surrogate
from fute.surrogates.features import Features
from fute.surrogates.kernel import layer_kernel
from fute.surrogates.loss_curve import FineTuning, loss_curve
from tests.helpers import refused
from tests.reviews import REVIEWS
from tests.surrogates import make

MODELS = """
def lexicon(texts):
    return [['bad', 'good'][any(w in t for w in ('love', 'best', 'great', 'kind', 'perfect'))] for t in texts]
def length(texts):
    return ["long" if len(t) > 30 else "short" for t in texts]
"""


def rows_of(texts, labels):
    return "\n".join(json.dumps({"text": t, "label": label}) for t, label in zip(texts, labels, strict=True))


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    folder = tmp_path_factory.mktemp("transfer")
    make("bert", folder / "tiny")
    for seed, name in enumerate(("one", "two")):
        transformers.set_seed(seed)
        config = transformers.BertConfig.from_pretrained(folder / "tiny", num_labels=3)
        config.id2label = dict(enumerate("abc"))
        transformers.BertForSequenceClassification(config).save_pretrained(folder / name)
        transformers.AutoTokenizer.from_pretrained(folder / "tiny").save_pretrained(folder / name)
    texts, labels = [t for t, _ in REVIEWS], [["bad", "good"][y] for _, y in REVIEWS]
    (folder / "mymodels.py").write_text(MODELS)
    (folder / "d.jsonl").write_text(rows_of(texts, labels))
    (folder / "same.jsonl").write_text(rows_of([t.replace("e", "é") for t in texts], labels))
    sizes = ["long" if len(t) > 30 else "short" for t in texts[:16]]
    (folder / "sizes.jsonl").write_text(rows_of(texts[:16], sizes))
    (folder / "u.jsonl").write_text("\n".join(json.dumps({"text": f"Well: {t}"}) for t in texts))
    (folder / "fute.yaml").write_text(
        "\n".join(
            [
                "corpus: {path: u.jsonl}",
                "surrogate: tiny",
                "dtype: float32",
                "method: {name: linear-probe, replicates: 0}",
                "datasets:",
                "  - {name: d, path: d.jsonl, test: 0.25}",
                "  - {name: same, path: same.jsonl}",
                "  - {name: sizes, path: sizes.jsonl}",
                "models:",
                '  - {name: lexicon, python: "mymodels:lexicon", labels: [bad, good]}',
                '  - {name: length, python: "mymodels:length", labels: [long, short]}',
                "  - {name: one, transformers: one, trained_on: sizes.jsonl}",
                "  - {name: two, transformers: two, labels: {a: bad, b: bad, c: good}}",
            ]
        )
    )
    made = Project(folder)
    assert made.run().failures == {}
    return made


def layer_means(folder, inputs):
    """The mean over layers, then over tokens, of BERT's states, scaled to length 1: one text at a time."""
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModel.from_pretrained(folder).eval()
    rows = []
    for item in inputs:
        with torch.inference_mode():
            every = model(
                **tokenizer(item.text, return_tensors="pt"), output_hidden_states=True
            ).hidden_states
        mean = torch.stack(every[1:]).mean(0)[0].mean(0)
        rows.append((mean / mean.norm()).numpy())
    return np.array(rows)


def test_evidence_is_that_of_each_models_own_states_and_answers(project):
    names, of_training = ["LEEP", "LogME", "H-score", "kNN", "probe"], ["DataSize", "TextEmb", "SEmb"]
    ours = "LogME of layers"
    found = choose(project, "d", "model", transfer=True, against=["all"])
    assert found.candidates == ("lexicon", "length", "one", "two")
    ways = {way.name: way for way in found.ways}
    assert list(ways) == ["fute", "similarity alone", "LEEP", ours, *names[1:], *of_training]
    train = project.datasets["d"][0]
    answers = project.ask(project.models, train).answered
    assert ways["LEEP"].scores == pytest.approx(
        [leep(answers[name].predictions, train.classes) for name in found.candidates]
    )
    assert ways["LEEP"].picks == ("lexicon",)
    measures = (log_me, lambda phi, y: h_score(phi, y, shrinkage=True), knn_accuracy, linear_probe_accuracy)
    for name, measure in zip(names[1:], measures, strict=True):
        own = [measure(layer_means(project.folder / m, train.inputs), train.classes) for m in ("one", "two")]
        assert ways[name].scores[:2] == (None, None)
        assert ways[name].scores[2:] == pytest.approx(own, abs=1e-3), name
    kernels = [
        layer_kernel(Surrogate(str(project.folder / m), dtype="float32", segments=True), train.inputs)
        for m in ("one", "two")
    ]
    assert ways[ours].scores[:2] == (None, None)
    assert ways[ours].scores[2:] == pytest.approx(
        [log_me_of_kernel(k, train.classes) for k in kernels], abs=1e-6
    )
    assert "one: trained on 16 of the 24 rows of d, " in found.warnings[0]
    assert any("LogME needs hidden states" in w and "lexicon, length" in w for w in found.warnings)
    target, models = project.space.get("d"), [project.space.get(name) for name in found.candidates]
    assert ways["similarity alone"].scores == pytest.approx([cosine(target, m, "inputs") for m in models])
    assert found.ranked_by == "similarity alone"


def test_all_that_is_known_of_candidates_is_one_score():
    """LogME counts three times; z of (1, 2, 3) is ∓1.2247, of two values ∓1."""
    z, nan = 1.2247449, float("nan")
    assert together([1, 2, 3], [3, 2, 1], [10, 20, 30]) == pytest.approx([-3 * z, 0, 3 * z])
    assert together([1, 2, 3], [nan] * 3, [30, 20, 10]) == pytest.approx([2 * z, 0, -2 * z])
    assert together([5, 5, 5], [1, nan, 3], [nan, 7, 9]) == pytest.approx([-1, -3, 4])


def test_what_to_fine_tune_goes_by_all_that_is_known(project, tmp_path):
    """Of the four, one was trained on the dataset "sizes", two on "same" and "d"; they alone show states."""
    folder = tmp_path / "told"
    shutil.copytree(project.folder, folder)
    file = folder / "fute.yaml"
    told = file.read_text().replace(
        "transformers: two,", "transformers: two, trained_on: [d.jsonl, same.jsonl],"
    )
    file.write_text(told)
    opened = Project(folder)
    found = choose(opened, "d", "model", transfer=True, against=["LogME of layers"])
    ways, space = {way.name: way.scores for way in found.ways}, opened.space
    target = space.get("d")
    nan = float("nan")
    trained = [nan, nan, *(cosine(target, space.get(name), "inputs") for name in ("sizes", "same"))]
    states = [nan if score is None else score for score in ways["LogME of layers"]]
    assert np.isfinite(states[2:]).all()
    assert trained[2] != trained[3]
    assert ways["fute"] == pytest.approx(together(ways["similarity alone"], trained, states), abs=1e-8)
    assert [w for w in found.warnings if "can't go by" in w] == [
        "fute can't go by `trained_on:` for lexicon, length: there they count as the mean.",
        "fute can't go by hidden states for lexicon, length: there they count as the mean.",
    ]


def test_what_a_model_was_trained_on_is_compared_with_the_dataset(project):
    """Of two's training data nothing is known; one's are the texts of the dataset "sizes"."""
    found = choose(project, "d", "model", transfer=True, against=["datasize,textemb,semb"])
    ways = {way.name: way for way in found.ways}
    assert ways["DataSize"].scores == (None, None, 16, None)
    for name, surrogate in (("TextEmb", str(project.folder / "tiny")), ("SEmb", Surrogate().id)):
        features = Features(Surrogate(surrogate, dtype="float32"))
        mine, theirs = (features(project.datasets[d][0].inputs).mean(0) for d in ("d", "sizes"))
        by_hand = mine @ theirs / np.linalg.norm(mine) / np.linalg.norm(theirs)
        assert ways[name].scores[2] == pytest.approx(by_hand, abs=1e-3), name
        missing = f"{name} needs `trained_on:` of a model: it has no score for lexicon, length, two."
        assert missing in found.warnings
    assert not any("SEmb is the same" in warning for warning in found.warnings)


def test_where_no_training_data_are_told_that_is_said(project, tmp_path):
    """And through the default surrogate TextEmb is SEmb, of models and of datasets."""
    config = (project.folder / "fute.yaml").read_text().replace("surrogate: tiny\n", "")
    lines = [line for line in config.splitlines() if "transformers:" not in line]
    for name in ("d", "same", "sizes", "u"):
        (tmp_path / f"{name}.jsonl").write_text((project.folder / f"{name}.jsonl").read_text())
    (tmp_path / "mymodels.py").write_text(MODELS)
    (tmp_path / "fute.yaml").write_text("\n".join(lines))
    opened = Project(tmp_path)
    opened.run()
    found = choose(opened, "d", "model", transfer=True, against=["DataSize"])
    assert found.ways[2].picks == ()
    assert found.ways[0].scores == found.ways[1].scores
    assert "fute goes by similarity alone: no more is known of the candidates." in found.warnings
    assert any("DataSize can't choose: it needs what models were trained on" in w for w in found.warnings)
    same = "SEmb is the same as TextEmb here: the project's surrogate is the one that SEmb reads."
    assert choose_source(opened, "d", against=["TextEmb", "SEmb"]).warnings == (same,)
    told = "\n".join(lines).replace("labels: [long, short]", "labels: [long, short], trained_on: sizes.jsonl")
    (tmp_path / "fute.yaml").write_text(told)
    found = choose(Project(tmp_path), "d", "model", transfer=True, against=["TextEmb", "SEmb"])
    assert same in found.warnings
    assert found.ways[2].scores == found.ways[3].scores


def test_states_are_made_once(project):
    choose(project, "d", "model", transfer=True, against=["kNN"])
    done = []
    choose(project, "d", "model", transfer=True, against=["LogME"], progress=lambda *told: done.append(told))
    assert [told for told in done if told[0] == "features"] == []


def test_all_layers_are_read_of_some_rows(project, monkeypatch):
    monkeypatch.setattr("fute.choosing.evidence._READ", 12)
    rows = project.datasets["d"][0].few(12, project.config.seed)
    found = choose(project, "d", "model", transfer=True, against=["LogME of layers"])
    kernel = layer_kernel(Surrogate(str(project.folder / "one"), dtype="float32"), rows.inputs)
    assert len(kernel) == 12
    assert found.ways[2].scores[2] == pytest.approx(log_me_of_kernel(kernel, rows.classes), abs=1e-6)


def test_only_who_answers_the_labels_can_be_right(project):
    found = choose(project, "d", "model", against=["LEEP"], truth=True)
    assert found.candidates == ("lexicon", "two"), "a and b are called bad, c good"
    held_out = project.datasets["d"][1]
    p = project.ask(project.models, held_out).answered["two"].predictions
    is_good = p[:, 2] > p[:, 0] + p[:, 1]
    assert found.performances[1] == np.mean(
        is_good == [held_out.labels[i] == "good" for i in held_out.classes]
    )
    for options in ({"truth": True}, {"budget": 10}, {"against": ["MI"]}):
        with refused(ConfigError, "no accuracy here", "LEEP"):
            choose(project, "d", "model", transfer=True, **options)


def test_sources_are_the_other_datasets_and_each_way_is_its_own(project):
    found = choose_source(project, "d", against=["data size", "TextEmb", "SEmb", "CurveGrad", "taskemb"])
    assert found.candidates == ("same", "sizes")
    ways = {way.name: way.scores for way in found.ways}
    assert list(ways) == ["fute", "DataSize", "text-emb", "SEmb", "CurveGrad", "task-emb"]
    assert ways["DataSize"] == (24, 16)
    space = project.space
    inputs = [cosine(space.get("d"), space.get(name), "inputs") for name in found.candidates]
    assert ways["fute"] == pytest.approx(inputs)
    for name, surrogate in (("text-emb", Surrogate(str(project.folder / "tiny"))), ("SEmb", Surrogate())):
        features = Features(Surrogate(surrogate.id, dtype="float32"))
        means = [features(project.datasets[d][0].inputs).mean(0) for d in ("d", *found.candidates)]
        by_hand = [m @ means[0] / np.linalg.norm(m) / np.linalg.norm(means[0]) for m in means[1:]]
        assert ways[name] == pytest.approx(by_hand, abs=1e-3), name
    surrogate = Surrogate(str(project.folder / "tiny"), dtype="float32")
    losses = [loss_curve(project.datasets[d][0].examples, surrogate, FineTuning()) for d in found.candidates]
    curves = [fit_loss_curve(np.arange(1, len(one) + 1), one) for one in losses]
    assert ways["CurveGrad"] == pytest.approx(curve_grad(curves))
    assert ways["task-emb"] != pytest.approx(ways["text-emb"], abs=1e-3)


def test_what_was_embedded_for_one_question_is_there_for_the_next(project):
    choose_source(project, "d", against=["task-emb", "CurveGrad"])
    done = []
    choose_source(project, "d", against=["task-emb", "CurveGrad"], progress=lambda *told: done.append(told))
    assert done == []


def test_a_way_that_fails_leaves_the_others_alone(project, tmp_path):
    """An encoder writes nothing, so no method that trains can learn the answers that are texts."""
    config = (project.folder / "fute.yaml").read_text().replace(": tiny", f": {project.folder / 'tiny'}")
    for name in ("d", "sizes", "u"):
        (tmp_path / f"{name}.jsonl").write_text((project.folder / f"{name}.jsonl").read_text())
    (tmp_path / "mymodels.py").write_text(MODELS)
    config = config.replace("path: same.jsonl", "path: d.jsonl, output: text")
    lines = [line for line in config.splitlines() if "transformers:" not in line]
    (tmp_path / "fute.yaml").write_text("\n".join(lines))
    opened = Project(tmp_path)
    opened.run()
    found = choose_source(opened, "d", against=["task-emb", "DataSize"])
    ways = {way.name: way for way in found.ways}
    assert (ways["task-emb"].scores, ways["task-emb"].picks) == ((None, None), ())
    assert ways["DataSize"].picks == ("same",)
    assert "task-emb can't choose: " in found.warnings[0]


def test_there_must_be_another_dataset(project, tmp_path):
    config = (project.folder / "fute.yaml").read_text().replace(": tiny", f": {project.folder / 'tiny'}")
    lines = [
        line for line in config.splitlines() if not any(n in line for n in ("same", "sizes", "transformers:"))
    ]
    for name in ("d", "u"):
        (tmp_path / f"{name}.jsonl").write_text((project.folder / f"{name}.jsonl").read_text())
    (tmp_path / "mymodels.py").write_text(MODELS)
    (tmp_path / "fute.yaml").write_text("\n".join(lines))
    alone = Project(tmp_path)
    alone.run()
    with refused(ConfigError, "no other dataset", "datasets:"):
        choose_source(alone, "d")
    with refused(ConfigError, 'no dataset "e"'):
        choose_source(alone, "e")
    with refused(ConfigError, 'no baseline "TextEmbb"', "text-emb"):
        choose_source(alone, "d", against=["TextEmbb"])


def test_features_of_all_layers_are_their_mean(project):
    inputs = [Input("It rained all day."), Input("Hm.")]
    surrogate = Surrogate(str(project.folder / "one"), dtype="float32")
    made = Features(surrogate, layer=None)(inputs)
    assert made == pytest.approx(layer_means(project.folder / "one", inputs), abs=1e-5)
    assert made != pytest.approx(Features(surrogate)(inputs), abs=1e-3)


def test_of_pairs_transfer_goes_by_how_their_texts_are_related(project, tmp_path):
    texts = [t for t, _ in REVIEWS]
    rows = [
        {"text": t, "pair": texts[i - i % 2], "label": ["other", "same"][i % 2 == 0]}
        for i, t in enumerate(texts)
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "u.jsonl").write_text(
        "\n".join(json.dumps({"text": f"{t} {row['pair']}"}) for t, row in zip(texts, rows, strict=True))
    )
    (tmp_path / "mymodels.py").write_text(
        "def overlap(pairs):\n"
        "    return [['no', 'yes'][len(set(a.split()) & set(b.split())) > 3] for a, b in pairs]\n"
        "def length(texts):\n    return ['long' if len(a) > len(b) else 'short' for a, b in texts]\n"
    )
    model = '  - {name: NAME, python: "mymodels:NAME", labels: LABELS, shape: pair}'
    content = [
        "corpus: {path: u.jsonl}",
        f"surrogate: {project.folder / 'tiny'}",
        "dtype: float32",
        "method: METHOD",
        "datasets:",
        "  - {name: pairs, path: pairs.jsonl, text_pair: pair}",
        "models:",
        model.replace("NAME", "overlap").replace("LABELS", "['no', 'yes']"),
        model.replace("NAME", "length").replace("LABELS", "[long, short]"),
    ]

    def opened(method):
        (tmp_path / "fute.yaml").write_text("\n".join(content).replace("METHOD", method))
        made = Project(tmp_path)
        assert made.run().failures == {}
        return made

    usual = opened("{name: linear-probe, replicates: 0}")
    found = choose(usual, "pairs", "model", transfer=True).ways[0].scores
    related = opened("{name: linear-probe, replicates: 0, pairs: relation}")
    by_hand = {c.name: c.score for c in related.rank("pairs", "inputs").candidates}
    assert found == pytest.approx([by_hand["overlap"], by_hand["length"]], abs=1e-8)
    told = opened("{name: linear-probe, replicates: 0, pairs: both}")
    plain = {c.name: c.score for c in told.rank("pairs", "inputs").candidates}
    assert plain["length"] != pytest.approx(by_hand["length"], abs=1e-3)
    kept = choose(told, "pairs", "model", transfer=True).ways[0].scores
    assert kept == pytest.approx([plain["overlap"], plain["length"]], abs=1e-8)
