"""Caps hold: with many threads and two processes at once, and after a kill; money is counted in whole
nanodollars.
"""

import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fute.core.errors import BudgetError, ConfigError
from fute.labelling.budget import BoxMeter, Budget, Caps, Spent, nanodollars
from fute.models.base import Price, Usage
from tests.helpers import refused
from tests.storage import finish, start

PRICE = Price(1.0, 4.0)


class Box:
    def __init__(self, name="box", price=PRICE):
        self.name, self.price = name, price


def test_a_worked_bill():
    budget = Budget()
    # 1,000 tokens read at $1 and 500 written at $4 a million: $0.001 + $0.002
    budget.reserve([(Box(), Usage(2, 1000, 500))])
    assert budget.spent == Spent(calls=2, tokens=1500, cost=0.003)


def test_what_was_not_used_is_put_back_but_not_the_call():
    budget = Budget()
    meter = BoxMeter(budget, Box())
    meter.reserve(Usage(1, 1000, 500))
    meter.settle(Usage(1, 1000, 500), Usage(1, 10, 5))
    assert budget.spent == Spent(1, 15, 0.00003)


@pytest.mark.parametrize(
    ("caps", "name"),
    [
        (Caps(max_calls=2), "max_calls"),
        (Caps(max_tokens=20), "max_tokens"),
        (Caps(max_cost=22e-6), "max_cost"),
    ],
)
def test_a_cap_can_be_reached_but_not_passed(caps, name):
    budget = Budget(caps=caps)
    for _ in range(2):
        budget.reserve([(Box(), Usage(1, 9, 1))])  # 10 tokens, 13 microdollars: the second passes 22
        if name == "max_cost":
            break
    spent = budget.spent
    with refused(BudgetError, name, "what is labelled is kept"):
        budget.reserve([(Box(), Usage(1, 9, 1))])
    assert budget.spent == spent


def test_boxes_asked_together_are_reserved_together_or_not_at_all():
    budget = Budget(caps=Caps(max_calls=5))
    with pytest.raises(BudgetError):
        budget.reserve([(Box("a"), Usage(3)), (Box("b"), Usage(3))])
    assert budget.spent == Spent()
    budget.reserve([(Box("a"), Usage(3)), (Box("b"), Usage(2))])
    assert {name: spent.calls for name, spent in budget.spent_by_model.items()} == {"a": 3, "b": 2}


def test_a_cap_that_is_passed_already_stops_only_what_adds_to_it():
    budget = Budget()
    budget.reserve([(Box(), Usage(3))])
    budget.caps = Caps(max_calls=1, max_tokens=5)
    budget.reserve([(Box(), Usage(0, 5))])
    with pytest.raises(BudgetError):
        budget.reserve([(Box(), Usage(1))])


def test_a_capped_cost_needs_a_price():
    free = Budget(caps=Caps(max_calls=1))
    free.reserve([(Box(price=None), Usage(1, 100))])
    assert free.spent == Spent(1, 100, 0.0)
    capped = Budget(caps=Caps(max_cost=1.0))
    with refused(ConfigError, "gpt", "no price is known", "prices:"):
        capped.reserve([(Box("gpt", None), Usage(1))])


@pytest.mark.parametrize(
    ("price", "usage", "expected"),
    [
        (Price(0.15, 0.6), Usage(1, 1, 0), 150),
        (Price(0.15, 0.6), Usage(1, 0, 1), 600),
        (Price(0.0001, 0), Usage(1, 1, 0), 1),  # rounded up: a cap must hold
        (Price(0, 0), Usage(9, 9, 9), 0),
        (None, Usage(9, 9, 9), 0),
    ],
)
def test_nanodollars(price, usage, expected):
    assert nanodollars(price, usage) == expected


def test_caps_of_a_run_and_of_the_project():
    spent = Spent(10, 100, 1.0)
    assert Caps(5, None, 0.5).after(spent) == Caps(15, None, 1.5)
    assert Caps(15, None, 1.5).tightest(Caps(12, 80, 2.0)) == Caps(12, 80, 1.5)
    assert Caps().tightest(Caps()) == Caps()


@pytest.mark.parametrize("cap", [float("nan"), float("inf")])
def test_a_cap_is_a_finite_number(cap):
    with refused(ConfigError, "`max_cost` is no number", "finite", f"found: {cap}", "leave it out"):
        Caps(max_cost=cap)


def test_the_ledger_is_made_only_when_something_is_spent(tmp_path):
    budget = Budget(tmp_path / "deep" / "spent.sqlite")
    assert budget.spent == Spent()
    assert not (tmp_path / "deep").exists()
    budget.reserve([(Box(), Usage(1))])
    assert Budget(tmp_path / "deep" / "spent.sqlite").spent.calls == 1


@given(cap=st.integers(0, 60), wants=st.lists(st.integers(1, 9), max_size=30))
def test_whatever_is_asked_in_whatever_order_a_cap_holds_and_is_used_as_far_as_it_goes(cap, wants):
    budget = Budget(caps=Caps(max_calls=cap))
    taken = 0
    for calls in wants:
        try:
            budget.reserve([(Box(), Usage(calls))])
            taken += calls
        except BudgetError:
            assert taken + calls > cap
    assert budget.spent.calls == taken <= cap


def test_a_cap_holds_for_eight_threads_at_once(tmp_path):
    budget = Budget(tmp_path / "spent.sqlite", Caps(max_calls=100))
    granted = []

    def spend():
        for _ in range(50):
            try:
                budget.reserve([(Box(), Usage(1, 3, 2))])
                granted.append(1)
                budget.settle(Box(), Usage(1, 3, 2), Usage(1, 1, 1))
            except BudgetError:
                pass

    threads = [threading.Thread(target=spend) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(granted) == budget.spent.calls == 100
    assert budget.spent.tokens == 200


SPEND = """
    import sys
    from pathlib import Path
    from fute.core.errors import BudgetError
    from fute.labelling.budget import Budget, Caps
    from fute.models.base import FREE, Usage

    class Box:
        name, price = sys.argv[2] if len(sys.argv) > 2 else "box", FREE

    budget = Budget(Path(sys.argv[1]) / "spent.sqlite", Caps(max_calls=300))
    granted = 0
    for _ in range(250):
        try:
            budget.reserve([(Box(), Usage(1))])
            granted += 1
        except BudgetError:
            break
    print(granted)
"""


def test_a_cap_holds_for_two_processes_at_once(tmp_path):
    processes = [start(SPEND, tmp_path) for _ in range(2)]
    granted = [int(finish(process)) for process in processes]
    assert sum(granted) == Budget(tmp_path / "spent.sqlite").spent.calls == 300
