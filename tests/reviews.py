"""Two dozen reviews with their label (0 negative, 1 positive), and the real surrogate to read them with."""

import functools

from fute.surrogates.base import Surrogate
from fute.surrogates.features import Features

REVIEWS = [
    ("A wonderful film, I loved every minute.", 1),
    ("Terrible service and cold food.", 0),
    ("The best phone I have ever owned.", 1),
    ("It broke after two days.", 0),
    ("Charming, funny and beautifully acted.", 1),
    ("A dull, lifeless mess of a book.", 0),
    ("The staff were kind and the room was spotless.", 1),
    ("I want my money back.", 0),
    ("Delicious coffee and a sunny terrace.", 1),
    ("The app crashes whenever I open it.", 0),
    ("Great value, fast delivery.", 1),
    ("The worst concert I have been to.", 0),
    ("My children play with it every day.", 1),
    ("Boring from the first page to the last.", 0),
    ("A moving story with superb music.", 1),
    ("Rude waiter, dirty glasses.", 0),
    ("It fits perfectly and looks lovely.", 1),
    ("The seams came apart in the wash.", 0),
    ("A delightful little hotel by the lake.", 1),
    ("Noisy, overpriced and badly run.", 0),
    ("Clear explanations, I learnt a lot.", 1),
    ("A waste of an evening.", 0),
    ("Bright screen and a battery that lasts.", 1),
    ("The sound is tinny and the buttons stick.", 0),
]


@functools.cache
def minilm() -> Features:
    """Features of MiniLM-L6 in float32, loaded once for all tests."""
    return Features(Surrogate(dtype="float32"))
