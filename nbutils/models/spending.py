"""What calls to paid APIs cost: an estimate before the first one, and limits that no call goes beyond.

What was spent is read from the journal: every attempt is one call, whether its answer came or not; tokens are those
that the server reported. Before a call its highest possible price is set aside, so that calls in flight cannot pass
the limit together; where no one knows whether a call was billed, that price counts.
"""

import csv
import threading
from dataclasses import dataclass, field

from nbutils.experiment import paths

LETTERS_PER_TOKEN = 3.5  # of what is read, for estimates: English has about four, other text fewer
ATTEMPT, SETTLED = "#attempt", "#settled"  # in journal keys, before a stamp that a call's two records share


class SpendLimit(RuntimeError):
    """A call would go beyond max_calls or max_usd; nothing is lost, a higher limit goes on from here."""


@dataclass(frozen=True)
class Limits:
    """max_calls, max_usd: of one step, over all its runs; 0 for none. prices: {model: (read, written)}, USD per million
    tokens."""

    max_calls: int = 0
    max_usd: float = 0.0
    prices: dict[str, tuple[float, float]] = field(default_factory=dict)

    def __str__(self):
        calls, usd = (
            [f"{self.max_calls:,} calls"] * bool(self.max_calls),
            [f"${self.max_usd:,.2f}"] * bool(self.max_usd),
        )
        return " and ".join(calls + usd) or "none"


def read_limits(max_calls: int, max_usd: float, prices: str) -> Limits:
    """Limits with the prices in a csv file: model, read, written; lines that start with # are comments.

    prices: relative to the project. ValueError or FileNotFoundError, in one line.
    """
    path = paths.project_root() / paths.expanded(prices)
    if not path.is_file():
        raise FileNotFoundError(f"{prices} not found: wanted a csv file such as params/prices.csv")
    lines = [line for line in path.read_text("utf-8-sig").split("\n") if line.strip() and not line.startswith("#")]
    try:
        found = {row["model"]: (float(row["read"]), float(row["written"])) for row in csv.DictReader(lines)}
    except (KeyError, TypeError, ValueError):
        raise ValueError(f"{prices}: wanted the columns model, read and written, dollars per million tokens") from None
    return Limits(max_calls, max_usd, found)


def price(model: str, prices: dict, input_tokens: float, output_tokens: float) -> float | None:
    """US dollars, or None for a model without a price. model: with or without `api:` and `@<server>`."""
    name = model.removeprefix("api:")
    name = name if name in prices else name.rpartition("@")[0]
    if name not in prices:
        return None
    read, written = prices[name]
    return (input_tokens * read + output_tokens * written) / 1e6


@dataclass(frozen=True)
class Estimate:
    """calls still to make; tokens read (about) and written (at most); usd at most, None without a price."""

    calls: int
    input_tokens: int
    output_tokens: int
    usd: float | None

    @property
    def tokens(self) -> str:
        return f"about {self.input_tokens:,} tokens read and at most {self.output_tokens:,} written"

    def __str__(self):
        usd = "price unknown" if self.usd is None else f"at most ${self.usd:,.2f}"
        return f"{self.tokens}, {usd}"


def estimate(model: str, letters: list[int], max_new_tokens: int, prices: dict) -> Estimate:
    """Of one call per entry of letters, the length of what each call reads. Retries are not in it."""
    read, written = round(sum(letters) / LETTERS_PER_TOKEN), len(letters) * max_new_tokens
    return Estimate(len(letters), read, written, price(model, prices, read, written))


def sentence(model: str, found: Estimate, known: Limits) -> str:
    """The estimate in words, beside the limits."""
    return f"{model}: {found.calls:,} calls, {found} (limit: {known})"


class Spending:
    """Running totals of a step's calls and dollars, begun from its journal. Safe to use from several threads."""

    def __init__(self, known: Limits, journal=None):
        self.limits, self._lock = known, threading.Lock()
        self.calls, self.usd, self._set_aside, self._priced = 0, 0.0, 0.0, False
        self.unanswered = 0  # requests whose journalled fate is a reason in place of a text
        for key, value in journal.items() if journal is not None else ():
            request, attempt, stamp = key.partition(ATTEMPT)
            self.unanswered += "#" not in key and bool(value.get("reason"))
            if attempt:
                self.calls += 1
                self.usd += self._cost(value, journal.get(f"{request}{SETTLED}{stamp}"))

    def _cost(self, attempt: dict, settled: dict | None) -> float:
        """Dollars of one journalled call: by the tokens of its answer, none if it was refused, else all it may cost."""
        tokens = attempt if settled is None else settled
        cost = price(attempt["model"], self.limits.prices, tokens.get("read", 0), tokens.get("written", 0))
        self._priced = self._priced or cost is not None
        return cost or 0.0

    def begin(self, model: str, input_tokens: float, max_new_tokens: int) -> float:
        """Count one call and set its highest price aside; returns that. SpendLimit if it would pass a limit."""
        most = price(model, self.limits.prices, input_tokens, max_new_tokens)
        with self._lock:
            if self.limits.max_calls and self.calls >= self.limits.max_calls:
                raise SpendLimit(self._said("max_calls", f"{self.limits.max_calls:,} calls"))
            if self.limits.max_usd:
                if most is None:
                    advice = "and max_usd is set: add it, or set max_usd 0"
                    raise SpendLimit(f"{model} has no price in the prices file, {advice}")
                if self.usd + self._set_aside + most > self.limits.max_usd:
                    raise SpendLimit(self._said("max_usd", f"${self.limits.max_usd:,.2f}"))
            self.calls += 1
            self._set_aside += most or 0.0
            self._priced = self._priced or most is not None
        return most or 0.0

    def end(self, model: str, set_aside: float, input_tokens: int, output_tokens: int) -> None:
        """Put what a call cost in the place of what was set aside for it; a call that was refused read and wrote 0."""
        with self._lock:
            self._set_aside -= set_aside
            self.usd += price(model, self.limits.prices, input_tokens, output_tokens) or 0.0

    def counts(self) -> dict[str, float]:
        """What a manifest says of calls and of what they left unanswered. Without a price none is called paid."""
        lost: dict[str, float] = {"requests that no model answers": self.unanswered} if self.unanswered else {}
        if self.calls and not self._priced:
            return {"calls to servers": self.calls, **lost}
        return {"paid calls": self.calls, "US dollars at most": round(self.usd, 4), **lost} if self.calls else lost

    def said(self, model: str) -> str:
        """The totals so far, on a progress bar; calls only for a model without a price."""
        usd = f", ${self.usd:,.2f}" if price(model, self.limits.prices, 0, 0) is not None else ""
        return f"{self.calls:,} calls{usd}"

    def _said(self, name: str, limit: str) -> str:
        spent = f"{self.calls:,} calls and at most ${self.usd + self._set_aside:,.2f}"
        return (
            f"spend limit of {limit} reached after {spent}: every answer is kept; raise {name} and run again to go on"
        )
