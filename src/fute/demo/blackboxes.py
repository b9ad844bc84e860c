"""The demo's black boxes that are not LLMs: rules, a lexicon, naive Bayes, an SVM and a tree."""

from pathlib import Path

import numpy as np
from py3langid.langid import MODEL_FILE, LanguageIdentifier
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.pipeline import make_pipeline
from sklearn.svm import LinearSVC
from sklearn.tree import DecisionTreeClassifier
from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

from fute import Dataset

HERE = Path(__file__).parent
LANGUAGES = ["de", "en", "es", "fr", "it", "pt"]


def vader(texts):
    """A sentiment lexicon with rules (vaderSentiment, MIT)."""
    analyse = SentimentIntensityAnalyzer().polarity_scores
    positive = [(analyse(text)["compound"] + 1) / 2 for text in texts]
    return [{"positive": p, "negative": 1 - p} for p in positive]


def language(texts):
    """Which language: naive Bayes over byte n-grams (py3langid, BSD)."""
    identifier = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    identifier.set_languages(LANGUAGES)
    scores = [dict(identifier.rank(text)) for text in texts]
    rows = np.array([[row[code] for code in LANGUAGES] for row in scores], dtype=float)
    return rows / rows.sum(axis=1, keepdims=True)


def question_rule(texts):
    """A rule: is it a question?"""
    return ["question" if "?" in text else "statement" for text in texts]


def _training_half(file, text, label):
    """The rows that the demo doesn't test on: the same split as `test: 0.6` in fute.yaml."""
    train, _ = Dataset.from_file(HERE / file, text=text, label=label).split(0.6)
    return [item.text for item in train.inputs], [train.labels[i] for i in train.classes]


def topic_svm():
    """A linear SVM on TF-IDF: it has no probabilities, so it answers hard labels."""
    return make_pipeline(TfidfVectorizer(sublinear_tf=True), LinearSVC(random_state=0)).fit(
        *_training_half("headlines.csv", "headline", "topic")
    )


def review_tree():
    """A decision tree on TF-IDF: the weak one."""
    return make_pipeline(TfidfVectorizer(), DecisionTreeClassifier(max_depth=6, random_state=0)).fit(
        *_training_half("reviews.csv", "review", "sentiment")
    )
