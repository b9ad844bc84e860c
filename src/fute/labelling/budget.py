"""Hard caps on calls, tokens and money, and the ledger of what is spent.

What asking may use at most is taken out before it is asked, in one transaction, and what was not used is put
back after. So a cap holds with many requests in flight, with two processes on one ledger, and after `kill
-9`: what was reserved then stays spent, since nobody knows whether it was.
"""

from __future__ import annotations

import math
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from fute.core.errors import BudgetError, ConfigError
from fute.core.files import storing
from fute.core.sqlite import connect, transaction
from fute.models.base import BlackBox, Price, Usage

_SCHEMA = """CREATE TABLE IF NOT EXISTS spent (
    model TEXT PRIMARY KEY, calls INTEGER NOT NULL, tokens INTEGER NOT NULL, nanodollars INTEGER NOT NULL
) WITHOUT ROWID"""
_ADD = """INSERT INTO spent VALUES (?, ?, ?, ?) ON CONFLICT (model) DO UPDATE SET
    calls = calls + excluded.calls, tokens = tokens + excluded.tokens,
    nanodollars = nanodollars + excluded.nanodollars"""
_TOTAL = "SELECT coalesce(sum(calls), 0), coalesce(sum(tokens), 0), coalesce(sum(nanodollars), 0) FROM spent"


@dataclass(frozen=True)
class Spent:
    """Calls, tokens (read and written) and US dollars."""

    calls: int = 0
    tokens: int = 0
    cost: float = 0.0

    def __add__(self, other: Spent) -> Spent:
        return Spent(self.calls + other.calls, self.tokens + other.tokens, self.cost + other.cost)

    def __sub__(self, other: Spent) -> Spent:
        return Spent(self.calls - other.calls, self.tokens - other.tokens, self.cost - other.cost)


@dataclass(frozen=True)
class Caps:
    """The most that may be spent; None for no cap. What the ledger holds already counts.

    Raises:
        ConfigError: a cap that is no finite number.
    """

    max_calls: int | None = None
    max_tokens: int | None = None
    max_cost: float | None = None

    def __post_init__(self) -> None:
        for name, cap in vars(self).items():
            if cap is not None and not math.isfinite(cap):
                raise ConfigError(
                    f"`{name}` is no number that can be kept to",
                    expected="a finite one",
                    found=f"{cap}",
                    fix="leave it out for no cap",
                )

    def after(self, spent: Spent) -> Caps:
        """Caps on what is spent from now on, as caps on the whole ledger."""
        return Caps(
            None if self.max_calls is None else self.max_calls + spent.calls,
            None if self.max_tokens is None else self.max_tokens + spent.tokens,
            None if self.max_cost is None else self.max_cost + spent.cost,
        )

    def tightest(self, other: Caps) -> Caps:
        """The smaller of each two."""
        pairs = [(self.max_calls, other.max_calls), (self.max_tokens, other.max_tokens)]
        calls, tokens = (min((c for c in pair if c is not None), default=None) for pair in pairs)
        costs = [c for c in (self.max_cost, other.max_cost) if c is not None]
        return Caps(calls, tokens, min(costs, default=None))


class Budget:
    """Caps over a ledger.

    Args:
        path: the ledger's SQLite file, made when first needed; None keeps it in memory.
        caps: the most that may be spent.

    Raises:
        StorageError: the ledger can't be read or written.
    """

    def __init__(self, path: Path | None = None, caps: Caps = Caps()) -> None:
        self.path, self.caps = path, caps
        self._lock = threading.Lock()
        self._db: sqlite3.Connection | None = None

    @property
    def spent(self) -> Spent:
        """All that the ledger holds."""
        return sum(self.spent_by_model.values(), Spent())

    @property
    def spent_by_model(self) -> dict[str, Spent]:
        if self.path is not None and not self.path.exists():
            return {}
        with self._using() as db:
            rows = db.execute("SELECT * FROM spent").fetchall()
        return {name: Spent(calls, tokens, nanodollars / 1e9) for name, calls, tokens, nanodollars in rows}

    def reserve(self, wanted: Sequence[tuple[BlackBox, Usage]]) -> None:
        """Take what these boxes would use at most, all or nothing.

        Raises:
            BudgetError: a cap would be passed.
            ConfigError: there is a cap on cost, and a box whose price isn't known.
        """
        rows = [self._row(box, usage) for box, usage in wanted]
        adding = [sum(column) for column in zip(*(row[1:] for row in rows), strict=True)]
        caps = self.caps
        most = (
            caps.max_calls,
            caps.max_tokens,
            None if caps.max_cost is None else math.floor(caps.max_cost * 1e9 + 0.5),
        )
        with self._using() as db, transaction(db):
            now = db.execute(_TOTAL).fetchone()
            for name, cap, there, more in zip(
                ("max_calls", "max_tokens", "max_cost"), most, now, adding, strict=True
            ):
                if cap is not None and more and there + more > cap:
                    scale = 1e-9 if name == "max_cost" else 1
                    taken = f"{there * scale:,.10g} spent or reserved"
                    raise BudgetError(
                        f"`{name}` is reached",
                        expected=f"at most {cap * scale:,.10g}",
                        found=f"{taken}; the next may take {more * scale:,.10g}",
                        fix=f"raise `{name}`; what is labelled is kept",
                    )
            db.executemany(_ADD, rows)

    def settle(self, box: BlackBox, reserved: Usage, used: Usage) -> None:
        """Put back what was reserved and not used; calls stay as they were reserved."""
        more, less = self._row(box, used), self._row(box, reserved)
        back = (box.name, 0, more[2] - less[2], more[3] - less[3])
        if any(back[1:]):
            with self._using() as db:
                db.execute(_ADD, back)

    def reset(self) -> None:
        """Forget what was spent."""
        if self.path is None or self.path.exists():
            with self._using() as db:
                db.execute("DELETE FROM spent")

    def put_back(self, reserved: Sequence[tuple[BlackBox, Usage]]) -> None:
        """Put back all that was reserved, calls too: none of it was used."""
        rows = [self._row(box, usage) for box, usage in reserved]
        with self._using() as db, transaction(db):
            db.executemany(_ADD, [(name, -calls, -tokens, -cost) for name, calls, tokens, cost in rows])

    def check(self, box: BlackBox) -> None:
        """Raise ConfigError where the cost is capped and the box's price isn't known."""
        if box.price is None and self.caps.max_cost is not None:
            raise ConfigError(
                f"model {box.name}: no price is known, so `max_cost` can't be kept",
                fix="in fute.yaml, dollars per million tokens: prices: {model-id: {input: 0.1, output: 0.4}}",
            )

    def _row(self, box: BlackBox, usage: Usage) -> tuple[str, int, int, int]:
        self.check(box)
        tokens = usage.tokens_in + usage.tokens_out
        return box.name, usage.calls, tokens, nanodollars(box.price, usage)

    @contextmanager
    def _using(self) -> Iterator[sqlite3.Connection]:
        """The ledger, for one thread at a time."""
        with self._lock, storing(self.path or Path(":memory:")):
            if self._db is None:
                if self.path is not None:
                    self.path.parent.mkdir(parents=True, exist_ok=True)
                self._db = connect(self.path, _SCHEMA)
            yield self._db


@dataclass(frozen=True)
class BoxMeter:
    """One box's door to the budget (`models.base.Meter`)."""

    budget: Budget
    box: BlackBox

    def reserve(self, usage: Usage) -> None:
        self.budget.reserve([(self.box, usage)])

    def settle(self, reserved: Usage, used: Usage) -> None:
        self.budget.settle(self.box, reserved, used)


def nanodollars(price: Price | None, usage: Usage) -> int:
    """What the usage costs, rounded up; 0 where the price isn't known."""
    if price is None:
        return 0
    return math.ceil(1000 * (price.input * usage.tokens_in + price.output * usage.tokens_out))
