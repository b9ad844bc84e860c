"""LinearProbe against scikit-learn's Ridge, and what must not change its vector."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import Ridge, RidgeCV

from fute.core.errors import ConfigError
from fute.core.progress import silent
from fute.core.types import Examples, Input, SpaceSpec, TaskEmbedding
from fute.methods import linear_probe
from fute.methods.base import bootstrap_counts, make_method
from fute.methods.linear_probe import LinearProbe, leave_one_out, ridge, strongest
from fute.selection.rank import rank

from .reviews import REVIEWS


def examples(probabilities=None, labels=("negative", "positive")) -> Examples:
    hard = np.eye(2, dtype=np.float32)[[label for _, label in REVIEWS]]
    return Examples(
        [Input(text) for text, _ in REVIEWS], hard if probabilities is None else probabilities, labels
    )


def weighted_random(seed, n=40, d=6, c=3):
    rng = np.random.default_rng(seed)
    return (
        rng.normal(size=(n, d)),
        rng.dirichlet(np.ones(c), size=n),
        rng.integers(0, 4, size=n).astype(float),
    )


def test_ridge_equals_scikit_learn():
    phi, targets, _ = weighted_random(0)
    ours = ridge(phi, targets, np.ones(len(phi)), 0.3)
    # scikit-learn minimises the sum, we the mean: alpha = n λ
    theirs = Ridge(alpha=0.3 * len(phi), fit_intercept=False).fit(phi, targets - targets.mean(0)).coef_.T
    assert ours == pytest.approx(theirs, abs=1e-6)


def test_a_weight_counts_like_so_many_copies_of_the_row():
    phi, targets, weights = weighted_random(1)
    copies = np.repeat(np.arange(len(phi)), weights.astype(int))
    plain = ridge(phi[copies], targets[copies], np.ones(len(copies)), 0.1)
    assert ridge(phi, targets, weights, 0.1) == pytest.approx(plain, abs=1e-6)


def test_the_matrix_maps_inputs_to_their_label_names(features):
    made = LinearProbe(regularisation=0.01, replicates=0).embed(examples(), features, seed=0)
    W = made.left @ made.right.T
    phi, names = features([Input(text) for text, _ in REVIEWS]), features.of_texts(["negative", "positive"])
    assert W.shape == (384, 384)
    nearer = (phi @ W @ names.T).argmax(axis=1)
    assert (nearer == [label for _, label in REVIEWS]).mean() > 0.9


@pytest.mark.parametrize("kind", ["relation", "both", "joint"])
def test_features_of_a_pair_written_out(kind, features):
    pairs = [Input(text, REVIEWS[number // 2][0]) for number, (text, _) in enumerate(REVIEWS)]
    pairs[0] = Input(REVIEWS[0][0])  # a single text among them has no second
    some = Examples(pairs, examples().probabilities, ("no", "yes"))
    made = LinearProbe(pairs=kind, replicates=2).embed(some, features, seed=0)
    rows = []
    for pair in pairs:
        both, nothing = features([pair])[0], np.zeros(384, dtype=np.float32)
        a, b = (features([Input(text)])[0] for text in (pair.text, pair.text_pair or ""))
        related = [b, abs(a - b), 384**0.5 * a * b] if pair.text_pair else [nothing] * 3
        rows.append(np.concatenate([both, *related]))
    phi = np.array(rows)[:, : {"relation": 4, "both": 2, "joint": 1}[kind] * 384]
    expected = ridge(phi, some.probabilities, np.ones(len(phi)), 0.1) @ features.of_texts(["no", "yes"])
    assert made.left @ made.right.T == pytest.approx(expected, abs=1e-6)
    assert made.replicates.shape == (2, phi.shape[1], 2)


def test_a_relation_tells_whether_texts_are_the_same_where_neither_alone_does(features):
    """Half of the pairs say the same twice: neither text, nor which two, tells which half."""
    texts = [text for text, _ in REVIEWS]
    same = [Input(text, text) for text in texts]
    other = [Input(text, texts[i - 1]) for i, text in enumerate(texts)]
    some = Examples(
        [*same, *other], np.eye(2, dtype=np.float32)[[0] * len(same) + [1] * len(other)], ("same", "other")
    )
    found = {}
    for kind in ("relation", "both"):
        made = LinearProbe(pairs=kind, replicates=0).embed(some, features, seed=0)
        fresh = [
            Input("the boat is late", "the boat is late"),
            Input("the boat is late", "cheese is on sale"),
        ]
        phi = LinearProbe(pairs=kind)._features(features, fresh, silent)
        found[kind] = phi @ (made.left @ made.right.T) @ features.of_texts(["same", "other"]).T
    assert found["relation"].argmax(axis=1).tolist() == [0, 1]
    margins = {kind: np.ptp(values[:, 0] - values[:, 1]) for kind, values in found.items()}
    assert margins["relation"] > 3 * margins["both"]


def test_the_order_of_the_labels_does_not_matter(features):
    method = LinearProbe(replicates=0)
    one = method.embed(examples(), features, seed=0)
    turned = method.embed(
        examples(examples().probabilities[:, ::-1].copy(), ("positive", "negative")), features, 0
    )
    assert one.left @ one.right.T == pytest.approx(turned.left @ turned.right.T, abs=1e-7)


def test_swapping_which_label_is_which_turns_the_input_side_around(features):
    method = LinearProbe(replicates=0)
    one = method.embed(examples(), features, seed=0)
    opposite = method.embed(examples(examples().probabilities[:, ::-1].copy()), features, seed=0)
    assert opposite.left == pytest.approx(-one.left, abs=1e-6)


def same(first):
    """The same two probabilities for each review, but for the last bit of some."""
    rows = np.tile(np.array([[first, 1 - first]], dtype=np.float32), (len(REVIEWS), 1))
    rows[::3] = np.nextafter(rows[::3], np.float32(1))
    return rows


def of_one_text(said):
    return Examples([Input(text) for text, _ in REVIEWS], [said] * len(REVIEWS), (), "text")


@pytest.mark.parametrize("given", [examples(same(0.3)), examples(same(1.0)), of_one_text("I can't say.")])
@pytest.mark.parametrize("regularisation", [0.1, "loo"])
def test_constant_answers_give_a_zero_vector(features, given, regularisation):
    made = LinearProbe(regularisation=regularisation, replicates=5).embed(given, features, seed=0)
    assert not made.left.any()
    assert not made.replicates.any()
    assert made.replicates.shape == (5, *made.left.shape)


def leaning(by):
    """Answers that lean to the right label by this much."""
    hard = examples().probabilities
    return np.float32(0.5) + np.float32(by) * (hard - np.float32(0.5))


def test_replicates_of_answers_that_hardly_vary_are_as_exact_as_others(features):
    """W grows with what answers lean by, so its resamples do, and noise stays the same share of it."""
    method = LinearProbe(replicates=10)
    strong, faint = (method.embed(examples(leaning(by)), features, seed=0) for by in (0.8, 3e-6))
    assert np.linalg.norm(faint.left @ faint.right.T) > 0
    relative = [(m.replicates.astype(float) / np.linalg.norm(m.left)) for m in (strong, faint)]
    assert relative[1] == pytest.approx(relative[0], abs=0.01 * np.abs(relative[0]).max())


def test_scores_in_large_units_have_finite_replicates(features):
    prices = np.array([[1e7 * label] for _, label in REVIEWS], dtype=np.float32)
    priced = Examples([Input(text) for text, _ in REVIEWS], prices, ("price",), "score")
    assert np.isfinite(LinearProbe(replicates=3).embed(priced, features, seed=0).replicates).all()


def ranked(features, answers, replicates=50):
    """A ranking of models that answer the reviews themselves so, for the reviews."""
    method, spec = LinearProbe(replicates=replicates), SpaceSpec("linear-probe", {}, "pkg:small", "a" * 64)

    def embedded(name, kind, given):
        made = method.embed(examples(given), features, seed=0)
        return TaskEmbedding(
            name, kind, spec, made.left, made.right, made.replicates, ("negative", "positive")
        )

    models = [embedded(name, "model", given) for name, given in answers.items()]
    return rank(embedded("reviews", "dataset", None), models)


def test_a_constant_model_has_no_chance_to_be_the_best(features):
    rng = np.random.default_rng(0)
    varied = {f"m{i}": rng.dirichlet([1, 1], size=len(REVIEWS)).astype(np.float32) for i in range(2)}
    result = ranked(
        features,
        {"right": leaning(0.8), "const1": same(1.0), "const3": same(0.1), "half": same(0.5), **varied},
    )
    lines = {c.name: c for c in result.candidates}
    for name in ("const1", "const3", "half"):
        line = lines[name]
        assert (line.score, line.limit, line.low, line.high) == (0, 0, 0, 0)
        assert (line.p_best, line.p_beats_first) == (0, 0)
    assert lines["right"].p_best == 1
    assert result.verdict is None


def test_models_that_differ_in_how_sure_they_are_alone_have_the_same_chance(features):
    rng = np.random.default_rng(1)
    noise = rng.normal(0, 0.25, size=(len(REVIEWS), 1)).astype(np.float32) * np.float32([-1, 1])
    answers = {"sure": leaning(0.8), "unsure": leaning(0.3), "other": leaning(0.8) + noise}
    lines = {c.name: c for c in ranked(features, answers).candidates}
    assert lines["sure"].p_best == pytest.approx(lines["unsure"].p_best, abs=0.02)
    assert sum(line.p_best for line in lines.values()) == pytest.approx(1)


def test_factors_that_would_fill_the_memory_are_not_kept(features, monkeypatch):
    method = LinearProbe(replicates=3)
    kept = method.embed(examples(), features, seed=6)
    monkeypatch.setattr(linear_probe, "_MOST_KEPT", 3 * 384**2 * 4 - 1)
    linear_probe._kept.cache_clear()
    made = method.embed(examples(), features, seed=6)
    assert np.array_equal(made.replicates, kept.replicates)
    assert linear_probe._kept.cache_info().currsize == 0


def test_replicates_are_fits_on_the_resampled_rows(features):
    made = LinearProbe(replicates=3).embed(examples(), features, seed=5)
    counts = bootstrap_counts(len(REVIEWS), 3, 5)
    phi = features(examples().inputs).astype(float)
    for weight, replicate in zip(counts, made.replicates, strict=True):
        expected = ridge(phi, examples().probabilities.astype(float), weight, 0.1)
        unit = float(np.abs(expected).max())  # kept as float16, whatever the scale
        found = replicate.astype(float) @ made.right.T
        assert found == pytest.approx(expected @ features.of_texts(examples().labels), abs=1e-3 * unit)


def test_options_are_checked():
    with pytest.raises(ConfigError, match="regularisation > 0"):
        LinearProbe(regularisation=0.0)


def test_leave_one_out_equals_leaving_each_row_out():
    phi, targets, _ = weighted_random(2)
    centred = targets - targets.mean(0)
    for value, found in zip((0.01, 1.0), leave_one_out(phi, targets, (0.01, 1.0)), strict=True):
        errors = []
        for i in range(len(phi)):
            rest = np.arange(len(phi)) != i
            gram = phi[rest].T @ phi[rest] + value * len(phi) * np.eye(phi.shape[1])
            errors.append(
                ((centred[i] - phi[i] @ np.linalg.solve(gram, phi[rest].T @ centred[rest])) ** 2).sum()
            )
        assert found == pytest.approx(np.mean(errors))


def test_the_chosen_regularisation_is_scikit_learns(features):
    method = LinearProbe(regularisation="loo", replicates=0)
    made = method.embed(examples(), features, seed=0)
    phi = features([Input(text) for text, _ in REVIEWS]).astype(float)
    targets = examples().probabilities - examples().probabilities.mean(0)
    lambdas = np.logspace(-4, 1, 16)
    theirs = RidgeCV(lambdas * len(phi), fit_intercept=False).fit(phi, targets)
    assert made.notes["regularisation"] == pytest.approx(theirs.alpha_ / len(phi))
    plain = LinearProbe(regularisation=made.notes["regularisation"], replicates=0)
    assert np.array_equal(plain.embed(examples(), features, seed=0).left, made.left)


@pytest.mark.parametrize("bad", [0, -1.0, np.nan, np.inf, "best"])
def test_a_regularisation_that_is_none_is_refused(bad):
    with pytest.raises(ConfigError, match="loo"):
        LinearProbe(regularisation=bad)


def test_features_come_from_any_layer_and_pooling(features):
    inputs = [Input(text) for text, _ in REVIEWS[:3]]
    surrogate = features.surrogate
    with torch.inference_mode():
        tokens = surrogate.tokenize(inputs)
        every = surrogate.model(**tokens, output_hidden_states=True).hidden_states
    expected = every[3][:, 0] / every[3][:, 0].norm(dim=-1, keepdim=True)
    assert features.at(3, "first")(inputs) == pytest.approx(expected.numpy(), abs=1e-5)
    last = every[6][range(3), tokens["attention_mask"].sum(1) - 1]
    assert features.at(-1, "last")(inputs) == pytest.approx(
        (last / last.norm(dim=-1, keepdim=True)).numpy(), abs=1e-5
    )
    middle = torch.stack(every[1:]).mean(0)[0, : tokens["attention_mask"][0].sum()].mean(0)
    assert features.at(None, "mean")(inputs)[0] == pytest.approx((middle / middle.norm()).numpy(), abs=1e-5)
    one, other, mean = (
        LinearProbe(layer=layer, replicates=0).embed(examples(), features, 0).left
        for layer in (3, -1, "mean")
    )
    assert not np.allclose(one, other)
    assert not np.allclose(mean, other)
    made = make_method("linear-probe", {"layer": "mean"}, {"linear-probe": LinearProbe})
    made.check(features)
    with pytest.raises(ConfigError, match="`layer` is 'middle'"):
        LinearProbe(layer="middle")
    with pytest.raises(ConfigError, match="no layer 7"):
        features.at(7, "mean")(inputs)
    with pytest.raises(ConfigError, match="no pooling"):
        LinearProbe(pooling="max").embed(examples(), features, 0)


def test_many_labels_are_kept_within_64_kib_by_their_strongest_directions(features):
    labels = tuple(
        f"{adjective} {noun}" for adjective in ["red", "big", "old", "new"] for noun in "abcdefghijklmn"
    )
    rng = np.random.default_rng(0)
    inputs = [Input(f"{label} {i}") for i in range(3) for label in labels]
    made = LinearProbe(replicates=3).embed(
        Examples(inputs, np.tile(np.eye(len(labels), dtype=np.float32), (3, 1)), labels), features, seed=0
    )
    assert made.left.nbytes + made.right.nbytes <= 64 * 1024
    assert made.replicates.shape == (3, *made.left.shape)
    phi, E = features(inputs), features.of_texts(labels)
    W = ridge(phi, np.tile(np.eye(len(labels)), (3, 1)), np.ones(len(phi)), 0.1) @ E
    kept = made.left @ made.right.T
    assert (W * kept).sum() / np.linalg.norm(W) / np.linalg.norm(kept) > 0.98
    values = np.linalg.svd(W, compute_uv=False)
    assert np.linalg.norm(W - kept) == pytest.approx(np.linalg.norm(values[made.left.shape[1] :]), rel=1e-3)
    left, right = rng.normal(size=(7, 5)), rng.normal(size=(6, 5))
    short, axes, turn = strongest(left, right, 2)
    assert left @ turn == pytest.approx(short)
    assert axes.T @ axes == pytest.approx(np.eye(2))
