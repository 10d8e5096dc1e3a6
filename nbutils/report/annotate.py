"""Pairs of responses for a person to judge, in a notebook: blind, in a seeded order, each label on disk at once.

The order is the same for all who label with one seed, so that their labels are of the same pairs, and random whatever
the arms and verdicts, so that those labelled so far are a random sample of what was judged. The side on which an arm's
response stands is drawn for each person and pair.

Keys are letters typed into a field of the widget: plain ipywidgets hear no other key, and nothing is loaded from
anywhere. What is shown is escaped: model text can hold anything.
"""

import html
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from nbutils.analyse import stats
from nbutils.data import labels
from nbutils.experiment import paths, recording
from nbutils.experiment.records import Label
from nbutils.report.pages import printable

WORDS = {"l": "left", "t": "tie", "r": "right", "s": "skip"}
UNDO = "u"
_LONGEST = 20_000  # characters of a text that are shown
_TOO_FAST = 0.4  # seconds in which nobody reads a pair: a key that was held or hit twice
_NOT_HERE = "Labels are given by hand: run this cell in JupyterLab."


@dataclass(frozen=True)
class Shown:
    """One pair as it is shown. left, right: the responses; turned: whether arm_a's is the right one."""

    prompt_set: str
    prompt_id: str
    sample: int
    arm_a: str
    arm_b: str
    prompt: str
    left: str
    right: str
    turned: bool

    def label(self, word: str) -> str:
        """left, right, tie or skip as win, lose, tie or skip of arm_a."""
        if word not in ("left", "right"):
            return word
        return "win" if (word == "left") != self.turned else "lose"

    @property
    def texts(self) -> str:
        sides = (self.right, self.left) if self.turned else (self.left, self.right)
        return labels.texts_hash(self.prompt, *sides)


def pairs_to_label(answers, verdicts, who: str, seed: int) -> list[Shown]:
    """Every pair of responses that the judge compared and gave a verdict on, in the seeded order.

    answers, verdicts: rows of records.Answer and records.Verdict of one cell
    """
    keys = ["prompt_set", "prompt_id", "sample", "arm"]
    texts = {tuple(row[key] for key in keys): row for row in stats.as_rows(answers)}
    pairs = []
    for row in stats.combine_orders(verdicts):
        place = (row["prompt_set"], row["prompt_id"], row["sample"])
        sides = [texts.get((*place, arm)) for arm in (row["arm_a"], row["arm_b"])]
        if row["outcome"] != "unscored" and sides[0] and sides[1]:
            pairs.append(_shown(row, sides[0]["prompt"], (sides[0]["response"], sides[1]["response"]), seed, who))
    return sorted(pairs, key=lambda pair: paths.sha256_json([seed, *_key(pair)]))


def _shown(row: dict, prompt: str, responses: tuple[str, str], seed: int, who: str) -> Shown:
    named = {name: row[name] for name in ("prompt_set", "prompt_id", "sample", "arm_a", "arm_b")}
    turned = int(paths.sha256_json([seed, who, *named.values()])[:8], 16) % 2 == 1
    left, right = responses[::-1] if turned else responses
    return Shown(**named, prompt=prompt, left=left, right=right, turned=turned)


def _key(pair: Shown) -> list:
    return [pair.prompt_set, pair.prompt_id, pair.sample, pair.arm_a, pair.arm_b]


class Session:
    """One person's labels of a list of pairs, kept in `path`: which comes next, what was said, taking it back.

    number: labels wanted, skips not counted; clock: seconds, now: the time that labels get. A pair whose label is in
    the file, of these very texts, is not shown again.
    """

    def __init__(self, pairs: list[Shown], path: Path, who: str, number: int, clock: Callable[[], float] = time.time):
        self.path, self.who, self._clock = Path(path), who, clock
        self._said = self._read(pairs)
        self._left = [pair for pair in pairs if pair not in self._said]
        self._wanted = number
        self._since = clock()

    def _read(self, pairs: list[Shown]) -> dict[Shown, str]:
        """{pair: label} of what this person said before, the earliest first."""
        known = {(*_key(pair), pair.texts): pair for pair in pairs}
        found = {}
        for label in labels.read(self.path) if self.path.exists() else ():
            key = (label.prompt_set, label.prompt_id, label.sample, label.arm_a, label.arm_b, label.texts)
            if label.who == self.who and key in known:
                found[known[key]] = label.label
        return found

    @property
    def num_labelled(self) -> int:
        return len(self._said) - self.num_skipped

    @property
    def num_skipped(self) -> int:
        return list(self._said.values()).count("skip")

    @property
    def number(self) -> int:
        """Labels to end at: as many as wanted, or as there are pairs that were not skipped."""
        return min(self._wanted, self.num_labelled + len(self._left))

    @property
    def current(self) -> Shown | None:
        """The pair to label; None where as many as wanted are labelled, or none is left."""
        return self._left[0] if self._left and self.num_labelled < self.number else None

    @property
    def seconds(self) -> float:
        """Since the current pair is shown."""
        return self._clock() - self._since

    def say(self, word: str) -> None:
        """left, right, tie or skip of the current pair: on disk, then on to the next. Nothing where there is none."""
        pair = self.current
        if pair is not None:
            self._append(pair, pair.label(word), round(self.seconds, 1))
            self._said[self._left.pop(0)] = pair.label(word)
            self._since = self._clock()

    def undo(self) -> None:
        """Take the last label (or skip) back and show its pair again. Nothing where there is none."""
        if self._said:
            pair = list(self._said)[-1]
            self._append(pair, "undone", None)
            del self._said[pair]
            self._left.insert(0, pair)
            self._since = self._clock()

    def _append(self, pair: Shown, label: str, seconds: float | None) -> None:
        now = datetime.fromtimestamp(self._clock(), UTC).isoformat(timespec="seconds")
        place = (pair.prompt_id, pair.prompt_set, pair.arm_a, pair.arm_b, pair.sample)
        labels.append(self.path, Label(*place, label, self.who, now, seconds, pair.texts))

    def progress(self) -> str:
        skipped = f" · {self.num_skipped} skipped" if self.num_skipped else ""
        if self.current is not None:
            return f"{self.num_labelled + 1} of {self.number}{skipped}"
        return f"{self.num_labelled} of {self.number} labelled{skipped}: run 05 again to count them"


# --- what is seen


def annotate(answers, verdicts, folder: Path, name: str = "", number: int = 50, seed: int = 0) -> None:
    """Show pairs of responses to be judged by hand; labels go to folder/labels.jsonl. Without a front end, one line.

    answers, verdicts: rows of records.Answer and records.Verdict of one cell, folder its evaluation step's; name: who
    labels, asked for where it is empty; number: labels wanted of this person.
    """
    if not recording.is_attended():
        print(_NOT_HERE)
        return
    from IPython.display import display

    def open_session(who: str) -> Session:
        return Session(pairs_to_label(answers, verdicts, who, seed), Path(folder) / labels.FILE, who, number)

    display(_View(open_session, name.strip()).box)


class _View:
    """A field for the name, then buttons, the field that hears keys, and the pair, over a session."""

    session: Session  # once there is a name

    def __init__(self, open_session: Callable[[str], Session], who: str = ""):
        import ipywidgets

        self._open, self._started = open_session, False
        self._progress, self._pair = ipywidgets.HTML(), ipywidgets.HTML()
        self._name = ipywidgets.Text(placeholder="your name", description="Who labels?", continuous_update=False)
        start = ipywidgets.Button(description="Start", button_style="primary")
        self._ask = ipywidgets.HBox([self._name, start])
        self._keys = ipywidgets.Text(placeholder="or type the letter here", layout={"width": "11rem"})
        self._buttons = {word: _button(ipywidgets, key, word) for key, word in (*WORDS.items(), (UNDO, "undo"))}
        bar = ipywidgets.HBox([*self._buttons.values(), self._keys], layout={"flex_flow": "row wrap"})
        self._work = ipywidgets.VBox([bar, self._pair], layout={"display": "none"})  # there: only that can get focus
        self.box = ipywidgets.VBox([self._progress, self._ask, self._work])
        self._name.observe(lambda _: self._start(self._name.value), "value")  # on Enter
        start.on_click(lambda _: self._start(self._name.value))
        self._keys.observe(self._typed, "value")
        for word, button in self._buttons.items():
            button.on_click(lambda _, word=word: self._do(word))
        self._start(who)

    def _start(self, who: str) -> None:
        if not who.strip() or self._started:
            return
        try:
            self.session = self._open(who.strip())
        except (OSError, ValueError) as error:  # a file of labels that was changed by hand
            self._progress.value = _problem(error)
            return
        self._started = True
        self._ask.layout.display, self._work.layout.display = "none", None
        self._show()

    def _typed(self, change) -> None:
        typed = change["new"].strip().lower()
        if not typed:
            return
        self._keys.value = ""
        word = {**WORDS, UNDO: "undo"}.get(typed[-1])
        if word and self.session.seconds >= _TOO_FAST:
            self._do(word)

    def _do(self, word: str) -> None:
        problem = ""
        try:
            self.session.undo() if word == "undo" else self.session.say(word)
        except OSError as error:  # a notebook shows no exception of a button; the pair stays, to be labelled again
            problem = _problem(error)
        self._show(problem)

    def _show(self, problem: str = "") -> None:
        pair = self.session.current
        self._progress.value = f"<b>{html.escape(self.session.progress())}</b>{problem}"
        for word, button in self._buttons.items():
            button.disabled = pair is None and word != "undo"
        self._pair.value = as_html(pair) if pair else ""
        self._keys.focus()


def _button(ipywidgets, key: str, word: str):
    style = "primary" if word in ("left", "tie", "right") else ""
    text = {"left": "Left is better", "right": "Right is better"}.get(word, word.capitalize())
    return ipywidgets.Button(description=f"{text} ({key})", button_style=style, layout={"width": "auto"})


def _problem(error: Exception) -> str:
    said = paths.reason(error) if isinstance(error, OSError) else str(error)
    return f'<div style="color:var(--jp-error-color1,#b00)">{html.escape(printable(said))}</div>'


def as_html(pair: Shown) -> str:
    """The prompt above the two responses, side by side; nothing in it says which arm is which."""
    edge = "border:1px solid var(--jp-border-color2,#ccc);border-radius:6px;padding:.5rem .8rem"
    text = "white-space:pre-wrap;overflow-wrap:anywhere;max-height:24rem;overflow:auto;line-height:1.45"

    def part(title: str, content: str) -> str:
        body = f'<div dir="auto" style="{text}">{_escaped(content)}</div>'
        return f'<div style="{edge};flex:1 1 16rem;min-width:0"><small style="opacity:.65">{title}</small>{body}</div>'

    sides = part("left", pair.left) + part("right", pair.right)
    both = f'<div style="display:flex;gap:.8rem;flex-wrap:wrap;margin-top:.8rem">{sides}</div>'
    return part("prompt", pair.prompt) + both


def _escaped(text: str) -> str:
    more = f"\n… {len(text) - _LONGEST:,} more characters" if len(text) > _LONGEST else ""
    return html.escape(printable(text[:_LONGEST] + more)) or '<i style="opacity:.65">empty</i>'
