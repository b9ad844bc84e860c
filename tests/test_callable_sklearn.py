"""Python functions and scikit-learn estimators as black boxes: answers, mistakes, fingerprints, imports."""

import functools
import pickle
import re
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from sklearn.feature_extraction.text import CountVectorizer, TfidfVectorizer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer
from sklearn.svm import LinearSVC

from fute import CallableModel, Input, SklearnModel
from fute.core.errors import ConfigError, ModelError
from fute.core.hashing import digest_object
from fute.core.types import Failure
from fute.labelling.budget import Budget
from fute.labelling.cache import PredictionCache
from fute.labelling.runner import label
from fute.models.base import check_answers
from fute.models.callable import PythonSection, import_object
from fute.models.section import Here
from fute.models.sklearn import SklearnSection
from fute.models.sources import imported_files
from fute.models.users_code import users_code
from tests.helpers import refused, write

LABELS = ["negative", "positive"]
INPUTS = [Input("a fine day"), Input("rain"), Input("fine again")]


def answering(answers, labels=LABELS):
    return CallableModel(lambda texts: answers, labels, name="fixed")


def checked(model, inputs=INPUTS):
    return [row.tolist() for row in check_answers(model, model.predict(inputs), len(inputs))]


@pytest.mark.parametrize(
    "answers",
    [
        ["positive", "negative", "positive"],
        ("positive", "negative", "positive"),
        np.array(["positive", "negative", "positive"]),
        pd.Series(["positive", "negative", "positive"], index=[7, 8, 9]),
        [{"positive": 1}, {"negative": 1.0}, {"negative": 0, "positive": 1}],
        [[0, 1], [1, 0], [0, 1]],
        [(0.0, 1.0), np.array([1.0, 0.0]), [0, 1]],
        np.array([[0, 1], [1, 0], [0, 1]]),
    ],
    ids=["list", "tuple", "array", "series", "mappings", "rows", "mixed rows", "matrix"],
)
def test_an_answer_may_have_many_shapes(answers):
    assert checked(answering(answers)) == [[0, 1], [1, 0], [0, 1]]


def test_probabilities_stand_in_the_columns_of_their_labels():
    answers = [{"positive": 0.75, "negative": 0.25}, [0.5, 0.5], {"negative": 1}]
    assert checked(answering(answers)) == [[0.25, 0.75], [0.5, 0.5], [1, 0]]
    assert checked(answering(answers, LABELS[::-1])) == [[0.75, 0.25], [0.5, 0.5], [0, 1]]


@pytest.mark.parametrize("answers", [[0, 1, 0], np.array([0, 1, 0]), [False, True, False]])
def test_labels_may_be_numbers_and_truth_values(answers):
    labels = ["False", "True"] if isinstance(answers[0], bool) else [0, 1]
    model = answering(answers, labels)
    assert model.labels == tuple(map(str, labels))
    assert checked(model) == [[1, 0], [0, 1], [1, 0]]


def test_a_generator_answers_too():
    def lazy(texts):
        for text in texts:
            yield "positive" if "fine" in text else "negative"

    assert checked(CallableModel(lazy, LABELS)) == [[0, 1], [1, 0], [0, 1]]


def test_a_model_of_pairs_gets_both_texts():
    def same(pairs):
        return ["positive" if text == other else "negative" for text, other in pairs]

    model = CallableModel(same, LABELS, pair=True)
    assert checked(model, [Input("a", "a"), Input("a", "b")]) == [[0, 1], [1, 0]]


@pytest.mark.parametrize(
    ("answers", "words"),
    [
        (["positive"], ["answered 1 times to 3 inputs", "one answer per input", "a list of length 1"]),
        (["positive"] * 4, ["answered 4 times to 3 inputs"]),
        ([], ["answered 0 times to 3 inputs"]),
        (None, ["a NoneType, not with a list", "a list of 3 answers"]),
        (0.5, ["a float, not with a list"]),
        ("pos", ["a str, not with a list"]),
        ({"positive": 1, "negative": 0, "other": 0}, ["a dict, not with a list"]),
        ({"positive", "negative", "other"}, ["a set, not with a list"]),
        (pd.DataFrame([[0, 1, 0]] * 3), ["a DataFrame, not with a list"]),
    ],
)
def test_what_is_no_list_of_answers_is_refused(answers, words):
    with refused(ModelError, "model fixed", *words):
        checked(answering(answers))


WRONG = [
    ("negativ", ['"negativ", which is none of its labels. Did you mean "negative"?', "found: 'negativ'"]),
    ({"good": 1}, ['"good"', "'good': 1"]),
    (1, ['"1", which is none of its labels']),
    ([0, 0, 1], ["an answer fute can't read", "found: [0, 0, 1]"]),
    (0.5, ["an answer fute can't read", "0.5"]),
    ({"positive": "very"}, ["an answer fute can't read", "'very'"]),
    ([float("nan"), 1], ["NaN or infinity"]),
    ([0, float("inf")], ["NaN or infinity"]),
    ({"positive": None}, ["NaN or infinity"]),
    ([-0.5, 1.5], ["a negative probability", "[-0.5, 1.5]"]),
    ([0.5, 0.4], ["don't sum to 1"]),
    ({}, ["don't sum to 1", "[0.0, 0.0]"]),
    ([1e300, 0], ["NaN or infinity"]),
    ({"positive": 1e300}, ["NaN or infinity"]),
    ([3e38, 3e38], ["don't sum to 1"]),
    ([10**400, 0], ["an answer fute can't read"]),
    ("x" * 10**6, ["none of its labels"]),
]


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(("wrong", "words"), WRONG, ids=range(len(WRONG)))
def test_a_wrong_answer_is_that_items_failure_and_a_model_that_gives_only_such_is_refused(wrong, words):
    box = answering([[0, 1], wrong, "negative"])
    good, failed, other = check_answers(box, box.predict(INPUTS), 3)
    assert [good.tolist(), other.tolist()] == [[0, 1], [1, 0]]
    assert failed.kind == "unparsed"
    assert all(word in failed.detail for word in words)
    assert len(failed.detail) < 300
    with refused(ModelError, "model fixed", *(word.removeprefix("found: ") for word in words)):
        answering([wrong] * 9).predict(INPUTS * 3)


def test_a_few_wrong_answers_are_recorded_and_nothing_is_asked_twice(tmp_path):
    """Of 1,000 texts every 23rd gets an answer that is no label, the first eight of all included."""
    asked = []

    def odd(texts):
        asked.extend(texts)
        return ["maybe" if int(text) < 8 or int(text) % 23 == 0 else "positive" for text in texts]

    inputs, cache = [Input(str(i)) for i in range(1000)], PredictionCache(tmp_path / "answers.sqlite")
    budget = Budget()
    for _ in range(2):
        result = label([CallableModel(odd, LABELS, version="1")], inputs, cache, budget=budget)
        assert result.failures == {}
        assert result.failed_items() == {"odd": {"unparsed": 8 + 43}}
        assert sorted(asked, key=int) == [str(i) for i in range(1000)]
    assert budget.spent.calls == 1000


def test_a_function_that_raises_is_shown_with_file_and_line(tmp_path):
    write(tmp_path / "raising.py", "def rule(texts):\n    first = texts[0]\n    return first.nonsense\n")
    model = CallableModel(import_object("raising:rule", tmp_path), LABELS)
    with refused(
        ModelError, "model rule failed on a batch of 3", "AttributeError", "nonsense", "raising.py, line 3"
    ):
        model.predict(INPUTS)


def test_a_generator_that_raises_midway_is_shown_too():
    def lazy(texts):
        yield "positive"
        raise RuntimeError("out of luck")

    with refused(ModelError, "model lazy failed", "RuntimeError: out of luck", "test_callable_sklearn.py"):
        CallableModel(lazy, LABELS).predict(INPUTS)


def printing_and_ending(folder):
    """Boxes whose module, function and estimator print; `bad` ends the program."""
    text = "import sys\n\nprint('imported')\n\n\ndef rule(texts):\n    print('asked')\n"
    text += "    return ['positive' for text in texts]\n\n\ndef bad(texts):\n    sys.exit(7)\n\n\n"
    text += "def make():\n    sys.exit()\n"
    write(folder / "printing.py", text)
    return lambda name: CallableModel(import_object(f"printing:{name}", folder), LABELS)


def test_what_the_users_code_prints_goes_to_stderr(tmp_path, capsys):
    printing_and_ending(tmp_path)("rule").predict(INPUTS)
    talking = FunctionTransformer(lambda texts: print("fitted") or [[len(text)] for text in texts])
    fitted = make_pipeline(talking, LogisticRegression()).fit(["a", "bbb"], LABELS)
    capsys.readouterr()
    SklearnModel(fitted, name="estimator").predict(INPUTS)
    printing_and_ending(tmp_path)("rule").predict(INPUTS)
    print("data")
    out, err = capsys.readouterr()
    assert (out, err) == ("data\n", "fitted\nasked\n")


def test_stdout_comes_back_when_blocks_in_two_threads_overlap():
    before, inside, may_end = sys.stdout, threading.Event(), threading.Event()

    def longer(texts):
        inside.set()
        may_end.wait(10)
        return ["positive"] * len(texts)

    model = CallableModel(longer, LABELS, version="1")
    with users_code():
        thread = threading.Thread(target=model.predict, args=[INPUTS])
        thread.start()
        assert inside.wait(10)
    assert sys.stdout is sys.stderr
    may_end.set()
    thread.join()
    assert sys.stdout is before


def test_code_that_ends_the_program_is_a_failure_like_any_other(tmp_path):
    box = printing_and_ending(tmp_path)("bad")
    with refused(ModelError, "model bad failed", "it would end the program: SystemExit(7)", "line 12"):
        box.predict(INPUTS)
    write(tmp_path / "leaving.py", "import sys\nsys.exit('no licence')\n")
    with refused(ConfigError, '"leaving" of "leaving:rule" can\'t be imported', "SystemExit('no licence')"):
        import_object("leaving:rule", tmp_path)
    with refused(ConfigError, "the function that makes the estimator failed", "SystemExit(None)"):
        SklearnSection(name="e", sklearn="printing:make").build(Here(tmp_path))

    class Ending:
        def __reduce__(self):
            return sys.exit, (3,)

    write(tmp_path / "ending.pkl", pickle.dumps(Ending()))
    with refused(ConfigError, "ending.pkl can't be loaded", "SystemExit(3)"):
        SklearnSection(name="e", sklearn="ending.pkl").build(Here(tmp_path, trust=True))


def test_what_is_no_function_is_refused():
    with refused(ConfigError, "model int: no function", "found: 7, which can't be called"):
        CallableModel(7, LABELS)


@pytest.mark.parametrize("labels", [[], ["one"], ["one", "one"], [1, "1"]])
def test_a_model_needs_two_different_labels(labels):
    with refused(ConfigError, "model fixed needs at least two different labels"):
        answering([], labels)


MODULE = """\
import functools

LIMIT = 3

def rule(texts):
    return ["positive" if len(text) > LIMIT else "negative" for text in texts]

def other(texts, limit=2):
    return rule(texts)

def above(limit):
    def decide(texts):
        return ["positive" if len(text) > limit else "negative" for text in texts]
    return decide

class Above:
    def __init__(self, limit):
        self.limit = limit
    def __call__(self, texts):
        return above(self.limit)(texts)

def logged(function):
    @functools.wraps(function)
    def wrapper(texts):
        return function(texts)
    return wrapper

@logged
def decorated(texts):
    return rule(texts)

@functools.lru_cache
def remembered(texts):
    return rule(texts)

above_2, above_3 = above(2), above(3)
object_2, object_3 = Above(2), Above(3)
part_2, part_3 = functools.partial(other, limit=2), functools.partial(other, limit=3)
part_of_rule = functools.partial(rule)
bound_2, bound_3 = object_2.__call__, object_3.__call__
one, two = (lambda texts: ["positive"] * len(texts)), (lambda texts: ["negative"] * len(texts))
"""
FUNCTIONS = ["rule", "other", "decorated", "remembered", "above_2", "above_3", "object_2", "object_3"]
FUNCTIONS += ["part_2", "part_3", "part_of_rule", "bound_2", "bound_3", "one", "two"]


def fingerprints(folder, names=FUNCTIONS):
    return {name: CallableModel(import_object(f"rules:{name}", folder), LABELS).fingerprint for name in names}


def elsewhere(code, *arguments):
    """What another Python process prints."""
    command = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout.split()


def test_no_two_functions_of_a_module_share_a_fingerprint(tmp_path):
    write(tmp_path / "rules.py", MODULE)
    assert len(set(fingerprints(tmp_path).values())) == len(FUNCTIONS)


def test_a_fingerprint_is_the_same_in_another_process_and_another_folder(tmp_path):
    for folder in ("a", "b"):
        write(tmp_path / folder / "rules.py", MODULE)
    code = (
        "import sys; from pathlib import Path; from fute import CallableModel\n"
        "from fute.models.callable import import_object\n"
        "for name in sys.argv[2:]:\n"
        "    function = import_object('rules:' + name, Path(sys.argv[1]))\n"
        "    print(CallableModel(function, ['negative', 'positive']).fingerprint)"
    )
    assert elsewhere(code, tmp_path / "b", *FUNCTIONS) == list(fingerprints(tmp_path / "a").values())


def test_a_fingerprint_changes_with_the_modules_source_and_comes_back_with_it(tmp_path):
    write(tmp_path / "rules.py", MODULE)
    before = fingerprints(tmp_path)
    write(tmp_path / "rules.py", MODULE.replace("LIMIT = 3", "LIMIT = 30"))
    changed = fingerprints(tmp_path)
    write(tmp_path / "rules.py", MODULE)
    assert all(before[name] != changed[name] for name in FUNCTIONS)
    assert fingerprints(tmp_path) == before


HELPED = {
    "mine.py": "from words import GOOD\n\ndef rule(texts):\n    from kit.deep import last\n"
    "    return [last(t in GOOD) for t in texts]\n",
    "words.py": "GOOD = ['good']\n",
    "kit/__init__.py": "from . import plain\n",
    "kit/plain.py": "import numpy\n",
    "kit/deep.py": "from .deeper import ANSWERS\n\ndef last(yes):\n    return ANSWERS[yes]\n",
    "kit/deeper.py": "import words\n\nANSWERS = ['negative', 'positive']\n",
    "kit/unused.py": "A = 1\n",
    "numbers_of_no_one.py": "A = 1\n",
}


def helped(folder, changed=None):
    """The function of `HELPED`, where one file has one more line."""
    for name, content in HELPED.items():
        write(folder / name, content + ("B = 2\n" if name == changed else ""))
    return CallableModel(import_object("mine:rule", folder), LABELS)


@pytest.mark.parametrize("file", HELPED)
def test_a_fingerprint_changes_with_the_modules_of_the_users_own_that_are_imported(tmp_path, file):
    before = helped(tmp_path).fingerprint
    assert (helped(tmp_path, file).fingerprint != before) == ("unused" not in file and "no_one" not in file)
    assert helped(tmp_path).fingerprint == before
    assert helped(tmp_path / "elsewhere").fingerprint == before


def test_a_module_whose_helper_changed_is_imported_again(tmp_path):
    assert helped(tmp_path).function(["good", "poor"]) == ["positive", "negative"]
    for folder in (tmp_path, tmp_path / "another project"):
        helped(folder)
        write(folder / "words.py", "GOOD = ['poor']\n")
        assert import_object("mine:rule", folder)(["good", "poor"]) == ["negative", "positive"]


def test_what_is_installed_is_no_module_of_the_users_own():
    for module in (np, pytest, re):
        assert imported_files(module.__name__, Path(module.__file__)) == {}


def test_a_fingerprint_counts_labels_and_pairs_but_not_the_name():
    def rule(texts):
        return texts

    made = CallableModel(rule, LABELS)
    assert made.fingerprint == CallableModel(rule, LABELS, name="another").fingerprint
    assert made.fingerprint != CallableModel(rule, LABELS[::-1]).fingerprint
    assert made.fingerprint != CallableModel(rule, LABELS, pair=True).fingerprint


def test_a_function_without_source_needs_a_version():
    built = eval("lambda texts: ['positive' for text in texts]")
    with refused(ConfigError, "model mystery: the source", 'version="1"'):
        _ = CallableModel(built, LABELS, name="mystery").fingerprint
    one, same, two = (CallableModel(built, LABELS, version=v).fingerprint for v in ("1", "1", "2"))
    assert one == same
    assert one != two


def test_a_function_that_holds_a_lock_needs_a_version():
    def locked(texts, lock=threading.Lock()):  # noqa: B008
        return ["positive"] * len(texts)

    with refused(ConfigError, "model locked", "can't be hashed", "_thread.lock", 'version="1"'):
        _ = CallableModel(locked, LABELS).fingerprint
    assert CallableModel(locked, LABELS, version="1").fingerprint


def test_a_function_may_hold_itself_and_a_module():
    def make(word):
        def again(texts):
            return [word] if len(texts) == 1 else [*again(texts[:1]), *again(texts[1:]), np.pi][:-1]

        return again

    made = [CallableModel(make(word), LABELS).fingerprint for word in ("positive", "positive", "negative")]
    assert made[0] == made[1] != made[2]


def test_two_projects_with_a_module_of_one_name_do_not_mix(tmp_path):
    for word in LABELS:
        write(tmp_path / word / "rules.py", f"def rule(texts):\n    return [{word!r} for text in texts]\n")
    for word in (*LABELS, *LABELS):
        assert import_object("rules:rule", tmp_path / word)(["x"]) == [word]


def test_a_module_that_changed_is_imported_again_and_one_that_did_not_is_not(tmp_path):
    source = "def rule(texts):\n    return ['{}' for text in texts]\n"
    write(tmp_path / "rules.py", source.format("first"))
    first = import_object("rules:rule", tmp_path)
    assert import_object("rules:rule", tmp_path) is first
    write(tmp_path / "rules.py", source.format("second"))
    assert import_object("rules:rule", tmp_path)(["x"]) == ["second"]


def test_what_is_installed_can_be_named_and_the_users_folder_hides_nothing_afterwards(tmp_path):
    before = list(sys.path)
    assert import_object("functools:partial", tmp_path) is functools.partial
    assert sys.path == [*before, str(tmp_path)]


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("rules", ['"rules" names no object', "module:name"]),
        ("rules:", ["names no object"]),
        (":rule", ["names no object"]),
        ("no_such_rules:rule", ['"no_such_rules"', "ModuleNotFoundError", "no_such_rules.py lies in"]),
        ("broken:rule", ['"broken"', "SyntaxError"]),
        ("raises:rule", ['"raises"', "ZeroDivisionError: division by zero", "what it imports is installed"]),
        ("rules:rul", ['"rules" has no "rul"', 'Did you mean "rule"?', "rule, other"]),
    ],
)
def test_a_reference_that_leads_nowhere_is_explained(tmp_path, reference, words):
    write(tmp_path / "rules.py", "def rule(texts): ...\ndef other(texts): ...\n")
    write(tmp_path / "broken.py", "def rule(texts:\n")
    write(tmp_path / "raises.py", "1 / 0\n")
    with refused(ConfigError, *words):
        import_object(reference, tmp_path)


def test_a_module_that_failed_can_be_corrected(tmp_path):
    write(tmp_path / "mended.py", "1 / 0\n")
    with refused(ConfigError, "ZeroDivisionError"):
        import_object("mended:rule", tmp_path)
    write(tmp_path / "mended.py", "def rule(texts): return list(texts)\n")
    assert import_object("mended:rule", tmp_path)(["x"]) == ["x"]


def circle(value):
    ring = [value]
    ring.append(ring)
    return ring


SHARED = ["a"]


@pytest.mark.parametrize(
    ("one", "same", "other"),
    [
        ({"a": 1, "b": 2}, {"b": 2, "a": 1}, {"a": 2, "b": 1}),
        ({0, 8}, {8, 0}, {0, 9}),  # 0 and 8 collide, so these two sets differ in order
        ([SHARED, SHARED], [["a"], ["a"]], ["a", ["a"]]),
        ([1, 2], [1, 2], [2, 1]),
        (1, 1, 1.0),
        ("1", "1", b"1"),
        ([["a"], "b"], [["a"], "b"], ["a", ["b"]]),
        (np.eye(2), np.eye(2), np.eye(2, dtype=np.float32)),
        (np.ones((2, 3)), np.ones((3, 2)).T, np.ones((3, 2))),
        (np.array(["a", None]), np.array(["a", None]), np.array(["b", None])),
        (circle(1), circle(1), circle(2)),
        (re.compile("a"), re.compile("a"), re.compile("b")),
        (iter([1, 2]), iter([1, 2]), iter([1, 3])),
        (np, np, re),
    ],
)
def test_objects_are_compared_by_what_they_know(one, same, other):
    assert digest_object(one) == digest_object(same)
    assert digest_object(one) != digest_object(other)


TEXTS = ["good film", "bad film", "good book", "bad book", "good", "bad"]
CLASSES = ["pos", "neg"] * 3
ASKED = [Input("a good day"), Input("bad weather")]


def fitted(classifier, classes=CLASSES):
    return make_pipeline(TfidfVectorizer(), classifier).fit(TEXTS, classes)


def test_an_estimator_with_probabilities_gives_them_in_the_order_of_its_classes():
    pipeline = fitted(LogisticRegression())
    model = SklearnModel(pipeline, name="logistic")
    assert model.labels == ("neg", "pos")
    rows = np.array(checked(model, ASKED))
    assert rows == pytest.approx(pipeline.predict_proba(["a good day", "bad weather"]))
    assert rows[0, 1] > 0.5 > rows[1, 1]


def test_an_estimator_without_probabilities_gives_hard_labels():
    model = SklearnModel(fitted(LinearSVC()), name="svm")
    assert model.predict(ASKED).dtype == np.float32
    assert checked(model, ASKED) == [[0, 1], [1, 0]]


@pytest.mark.parametrize("classes", [[1, 0] * 3, [True, False] * 3])
def test_classes_that_are_no_text_become_text(classes):
    model = SklearnModel(fitted(LinearSVC(), classes), name="svm")
    assert model.labels == tuple(str(c) for c in sorted(set(classes)))
    assert checked(model, ASKED) == [[0, 1], [1, 0]]


def test_labels_rename_classes_in_their_order():
    model = SklearnModel(fitted(LinearSVC()), name="svm", labels=["negative", "positive"])
    assert model.labels == ("negative", "positive")
    assert checked(model, ASKED) == [[0, 1], [1, 0]]


def test_an_estimator_of_pairs_gets_both_texts():
    joined = FunctionTransformer(lambda pairs: [f"{text} {other}" for text, other in pairs])
    pipeline = make_pipeline(joined, CountVectorizer(), LinearSVC())
    pipeline.fit([(text, "film") for text in TEXTS], CLASSES)
    model = SklearnModel(pipeline, name="pairs", pair=True)
    assert checked(model, [Input("a", "good"), Input("a", "bad")]) == [[0, 1], [1, 0]]


def test_a_regressor_answers_scores():
    pipeline = fitted(Ridge(), [0, 1] * 3)
    model = SklearnModel(pipeline, name="ridge", labels=["quality"])
    assert (model.output, model.labels) == ("score", ("quality",))
    assert checked(model, ASKED) == pytest.approx(pipeline.predict([i.text for i in ASKED])[:, None])


@pytest.mark.parametrize(
    ("make", "labels", "words"),
    [
        (lambda: make_pipeline(TfidfVectorizer(), LinearSVC()), None, ["without `classes_`", ".fit("]),
        (lambda: fitted(Ridge(), [0, 1] * 3), ["a", "b"], ["a regressor has one score", "a, b"]),
        (lambda: "a path", None, ["a str without `classes_`"]),
        (lambda: fitted(LinearSVC()), ["a", "b", "c"], ["3 labels for 2 classes", "neg, pos, in this order"]),
        (lambda: fitted(LinearSVC()), ["same", "same"], ["at least two different labels"]),
    ],
)
def test_what_is_no_fitted_classifier_is_refused(make, labels, words):
    with refused(ConfigError, "model svm", *words):
        SklearnModel(make(), name="svm", labels=labels)


def test_an_estimator_without_its_vectoriser_says_so():
    bare = LogisticRegression().fit(np.eye(6), CLASSES)
    with refused(ModelError, "model bare failed on a batch of 2", "put its vectoriser into the pipeline"):
        SklearnModel(bare, name="bare").predict(ASKED)


def test_an_estimator_that_holds_a_lock_says_so():
    estimator = fitted(LinearSVC())
    estimator.lock = threading.Lock()
    with refused(ConfigError, "model svm: a Pipeline that can't be pickled", "leave out"):
        _ = SklearnModel(estimator, name="svm").fingerprint


FIT = """
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.tree import DecisionTreeClassifier
from fute import SklearnModel
texts = ["good film", "bad film", "so so", "a bad good", "bad", "the good"]
for depth in (1, 1, 2):
    tree = DecisionTreeClassifier(max_depth=depth, random_state=0)
    pipeline = make_pipeline(TfidfVectorizer(stop_words=["a", "the", "of"]), tree).fit(texts, list("pnnpnp"))
    print(SklearnModel(pipeline, name="tree").fingerprint)
"""


def test_equally_fitted_estimators_have_one_fingerprint_in_every_process():
    one, again, other = elsewhere(FIT)
    assert one == again
    assert one != other
    # `datasets` brings a library that changes how Python pickles
    assert elsewhere("import datasets\n" + FIT) == [one, again, other]


def test_an_estimators_fingerprint_does_not_change_when_it_is_asked():
    model, asked = (SklearnModel(fitted(LinearSVC(random_state=0)), name="svm") for _ in range(2))
    asked.predict(ASKED)
    assert asked.fingerprint == model.fingerprint


def test_a_lambda_within_an_estimator_counts():
    steps = [FunctionTransformer(lambda texts: [text.lower() for text in texts])]
    steps += [FunctionTransformer(lambda texts: [text.upper() for text in texts])]
    made = [make_pipeline(step, CountVectorizer(), LinearSVC(random_state=0)) for step in (*steps, steps[0])]
    one, two, same = (SklearnModel(p.fit(TEXTS, CLASSES), name="x").fingerprint for p in made)
    assert one == same != two


def test_a_function_may_import_its_neighbours_when_it_is_called(tmp_path):
    write(tmp_path / "neighbour_words.py", "WORD = 'no'\n")
    source = "def late(texts):\n    from neighbour_words import WORD\n    return [WORD] * len(texts)\n"
    write(tmp_path / "late_importer.py", source)
    box = CallableModel(import_object("late_importer:late", tmp_path), ["no", "yes"])
    assert box.predict([Input("Hm.")]).tolist() == [[1.0, 0.0]]


def test_importing_leaves_no_byte_code_beside_the_users_files(tmp_path, monkeypatch):
    monkeypatch.setattr("sys.dont_write_bytecode", False)
    write(tmp_path / "left_alone.py", "def f(texts):\n    return texts\n")
    import_object("left_alone:f", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["left_alone.py"]
    assert not sys.dont_write_bytecode


READING = """\
import json
from pathlib import Path

GOOD = json.load(open("table.json"))
LATER = "later.txt"
log = lambda: open("calls.log", "a"), Path("calls.log").open("wb"), Path("calls.log").write_text("")

def rule(texts):
    good = [*GOOD, *Path(LATER).read_text().split()]
    return ["positive" if any(word in text for word in good) else "negative" for text in texts]
"""


def reading(folder, **entry):
    """The black box of an entry of `fute.yaml` whose module reads files, asked about `INPUTS`."""
    made = {"name": "rule", "python": "reading:rule", "labels": LABELS, **entry}
    box = PythonSection(**made).build(Here(folder))
    return box.fingerprint, box.predict(INPUTS)[:, 1].tolist()


@pytest.fixture
def reader(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in {
        "reading.py": READING,
        "table.json": '["fine"]',
        "later.txt": "",
        "calls.log": "",
    }.items():
        write(tmp_path / name, text)
    return tmp_path


@pytest.mark.parametrize(("file", "text"), [("table.json", '["fine", "rain"]'), ("later.txt", "rain")])
def test_a_file_that_the_source_names_counts_and_is_read_again(reader, file, text):
    before = reading(reader)
    assert before[1] == [1, 0, 1]
    write(reader / file, text)
    after = reading(reader)
    assert after[1] == [1, 1, 1]
    assert after[0] != before[0]
    write(reader / "calls.log", "asked\n")
    assert reading(reader) == after, "what is written to doesn't count"


def test_no_old_labels_are_served_after_a_file_changed(reader):
    cache = PredictionCache(reader / "answers.sqlite")

    def labelled():
        box = PythonSection(name="rule", python="reading:rule", labels=LABELS).build(Here(reader))
        found = label([box], INPUTS, cache)
        return found.asked, found.predictions["rule"][:, 1].tolist()

    assert [labelled(), labelled()] == [(3, [1, 0, 1]), (0, [1, 0, 1])]
    write(reader / "table.json", '["rain"]')
    assert [labelled(), labelled()] == [(3, [0, 1, 0]), (0, [0, 1, 0])]


def test_entries_that_name_other_files_of_one_module_share_its_import(reader):
    entries = [{"files": ["table.json"]}, {"files": ["later.txt"]}, {}]
    made = [PythonSection(name="rule", python="reading:rule", labels=LABELS, **one) for one in entries]
    assert len({id(one.build(Here(reader)).function) for one in made}) == 1


def test_files_of_one_name_in_two_packages_count_each(tmp_path):
    write(
        tmp_path / "both.py",
        "import left.part, right.part\n\ndef rule(texts):\n    return ['no' for t in texts]\n",
    )
    for side in ("left", "right"):
        write(
            tmp_path / side / "part.py",
            "from pathlib import Path\n\nF = Path(__file__).with_name('words.txt')\n",
        )
        write(tmp_path / side / "words.txt", side)
    entry = PythonSection(name="rule", python="both:rule", labels=["no", "yes"])
    before = entry.build(Here(tmp_path)).fingerprint
    for side in ("left", "right"):
        write(tmp_path / side / "words.txt", "changed")
        assert entry.build(Here(tmp_path)).fingerprint != before
        write(tmp_path / side / "words.txt", side)
    assert entry.build(Here(tmp_path)).fingerprint == before


def test_a_module_that_cannot_be_read_says_so(tmp_path):
    (tmp_path / "unread.py").symlink_to("unread.py")
    with refused(ConfigError, '"unread"', "unread.py lies in"):
        PythonSection(name="rule", python="unread:rule", labels=LABELS).build(Here(tmp_path))


def test_files_that_an_entry_names_count_instead(reader):
    write(reader / "weights" / "a" / "part", "1")
    before, _ = reading(reader, files=["weights", "later.txt"])
    write(reader / "table.json", '["rain"]')
    assert reading(reader, files=["weights", "later.txt"])[0] == before
    write(reader / "weights" / "a" / "part", "2")
    changed, _ = reading(reader, files=["weights", "later.txt"])
    write(reader / "weights" / "a" / "part", "1")
    (reader / "weights" / "a").rename(reader / "weights" / "b")
    moved, _ = reading(reader, files=["weights", "later.txt"])
    assert len({before, changed, moved}) == 3
    with refused(ConfigError, "there is no file", "weight", "correct `files`"):
        reading(reader, files=["weight"])


def test_a_version_stands_for_the_source_and_what_it_names(reader):
    before, _ = reading(reader, version=1)
    write(reader / "table.json", '["rain"]')
    write(reader / "reading.py", READING + "\ndef other(texts):\n    return rule(texts)\n")
    assert reading(reader, version=1)[0] == before
    write(reader / "table.json", '["fine"]')
    others = [
        {"version": 2},
        {"version": 1, "files": ["table.json"]},
        {"version": 1, "python": "reading:other"},
    ]
    assert len({before, *(reading(reader, **entry)[0] for entry in others)}) == 4


def test_a_module_in_a_package_is_imported_again_too(tmp_path):
    for folder, word in (("a", "negative"), ("a", "positive"), ("b", "negative")):
        write(tmp_path / folder / "pack" / "__init__.py", "")
        write(
            tmp_path / folder / "pack" / "rules.py",
            f"def rule(texts):\n    return [{word!r} for t in texts]\n",
        )
        assert import_object("pack.rules:rule", tmp_path / folder)(["x"]) == [word]


ASKED_OF = {
    "text": Input("Where is it? In the box."),
    "pair": Input("Where is it?", "In the box."),
    "question-context": Input("Where is it?", "It is in the box."),
    "question-options": Input("Where is it?", "It is here.", ("box", "bed")),
}
READ_AS = {
    "text": "Where is it? In the box.",
    "pair": ("Where is it?", "In the box."),
    "question-context": ("Where is it?", "It is in the box."),
    "question-options": ("It is here.\nWhere is it?", ["box", "bed"]),
}


@pytest.mark.parametrize("shape", READ_AS)
def test_a_function_gets_inputs_in_the_shape_that_it_reads(shape):
    seen = []
    box = CallableModel(lambda inputs: seen.extend(inputs) or ["positive"], LABELS, shape=shape, version="1")
    assert checked(box, [ASKED_OF[shape]]) == [[0, 1]]
    assert seen == [READ_AS[shape]]


@pytest.mark.parametrize(
    ("output", "answers", "found"),
    [
        ("score", [0.5, 2, -1], [[0.5], [2], [-1]]),
        ("score", np.array([[0.5], [2], [-1]]), [[0.5], [2], [-1]]),
        ("score", [{"score": 0.5}, [2], np.float64(-1)], [[0.5], [2], [-1]]),
        ("text", ["a", "b", {"text": "c"}], ["a", "b", "c"]),
        (
            "span",
            [("box", 10), {"text": "", "start": -1}, {"span": {"text": "It", "start": 0}}],
            [("box", 10), ("", -1), ("It", 0)],
        ),
    ],
)
def test_a_function_may_answer_scores_texts_and_spans(output, answers, found):
    box = CallableModel(lambda inputs: answers, name="any", output=output, version="1")
    assert box.labels == (("score",) if output == "score" else ())
    rows = check_answers(box, box.predict(INPUTS), 3)
    assert [row.tolist() if output == "score" else row for row in rows] == found


@pytest.mark.filterwarnings("error::RuntimeWarning")
@pytest.mark.parametrize(
    ("output", "wrong", "words"),
    [
        ("score", "good", ["an answer fute can't read", "'good'"]),
        ("score", [1, 2], ["an answer fute can't read", "[1, 2]"]),
        ("score", float("nan"), ["NaN or infinity"]),
        ("score", 1e39, ["NaN or infinity"]),
        ("score", 10**400, ["an answer fute can't read"]),
        ("span", ("box", float("inf")), ["an answer fute can't read"]),
        ("text", 7, ["answered no text", "7"]),
        ("span", "box", ["an answer fute can't read", "'box'"]),
    ],
)
def test_an_answer_of_another_kind_is_a_failure(output, wrong, words):
    right = {"score": 1, "text": "a", "span": ("box", 1)}[output]
    box = CallableModel(lambda inputs: [right, wrong, right], name="any", output=output, version="1")
    one, failed, other = check_answers(box, box.predict(INPUTS), 3)
    assert one == other
    assert failed.kind == "unparsed"
    assert all(word in failed.detail for word in words)


@pytest.mark.parametrize(
    ("output", "good"), [("class", "positive"), ("class", {"positive": 1}), ("score", 1.0), ("text", "yes")]
)
def test_a_function_may_say_that_an_item_has_no_answer(output, good):
    labels = LABELS if output == "class" else None
    box = CallableModel(
        lambda inputs: [{"error": "too short"}, good, good], labels, name="any", output=output, version="1"
    )
    failed, *rest = check_answers(box, box.predict(INPUTS), 3)
    assert failed == Failure("error", "too short")
    assert len(rest) == 2
    assert not any(isinstance(one, Failure) for one in rest)


def test_a_label_may_be_called_error():
    box = answering([{"error": 1}, {"fine": 1}, {"error": 0.5, "fine": 0.5}], ["error", "fine"])
    assert checked(box) == [[1, 0], [0, 1], [0.5, 0.5]]


def test_shape_and_output_are_part_of_the_fingerprint():
    made = [{}, {"shape": "pair"}, {"shape": "question-context"}, {"shape": "question-options"}]
    prints = {CallableModel(len, LABELS, version="1", **one).fingerprint for one in made}
    prints |= {CallableModel(len, version="1", output=one).fingerprint for one in ("score", "text", "span")}
    assert len(prints) == 7
    same = CallableModel(len, LABELS, version="1", pair=True).fingerprint
    assert same == CallableModel(len, LABELS, version="1", shape="pair").fingerprint


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"pair": True, "shape": "text"}, ["`pair` and `shape: text` contradict", "leave `pair` out"]),
        ({"output": "text"}, ["`output: text` takes no such labels", "negative, positive"]),
        ({"output": "score"}, ["`output: score` takes no such labels"]),
    ],
)
def test_options_that_contradict_each_other_are_refused(options, words):
    with refused(ConfigError, "model len", *words):
        CallableModel(len, LABELS, **options)
