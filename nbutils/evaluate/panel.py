"""The playground at the end of 05: a box for prompts and a browser of stored cases, where someone sits in front of it.

Run by papermill, nbconvert or the runner, it is one stored case instead: no model is loaded and no widget is made.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from html import escape

import pandas as pd

from nbutils.analyse import choosing, gather
from nbutils.analyse.choosing import OUTCOMES
from nbutils.evaluate import playground
from nbutils.evaluate.playground import TROUBLE
from nbutils.experiment import recording
from nbutils.report.pages import printable
from nbutils.report.sides import Cases

_ANY = "any"
_ON_A_PAGE = 2  # cases
_SORTS: dict[str, str | None] = {"by chance": None}
_SORTS |= {"response, longest first": "length", "response, shortest first": "-length"}
_SORTS |= {"reward, highest first": "reward", "reward, lowest first": "-reward"}
_SORTS |= {"gain over the baseline, largest first": "reward_gain", "gain, smallest first": "-reward_gain"}
_SORTS |= {"rewrite, most changed first": "rewrite_change", "rewrite, least changed first": "-rewrite_change"}


def show(places: list[str], answers: pd.DataFrame, verdicts: pd.DataFrame, baseline: str = "nan"):
    """The playground as a widget; a stored case where nobody could use one.

    places: evaluations to try prompts on, each as experiment/cell/step; answers, verdicts: the cases to browse.
    """
    note = "In JupyterLab there is a box for prompts here; this is a stored case."
    example = replace(playground.cases(answers, verdicts, num=1, baseline=baseline).first(1), notes=(note,))
    if not recording.is_attended():
        return example
    return Playground(places, answers, verdicts, example)


class Playground:
    """Two tabs: Try a prompt, and Browse. Where a widget cannot be shown (a page, GitHub) it is the stored example."""

    def __init__(self, places: list[str], answers: pd.DataFrame, verdicts: pd.DataFrame, example: Cases):
        import ipywidgets

        self.example = example
        self.trying = Trying(places)
        self.browser = Browser(answers, verdicts, example.baseline)
        self.widget = ipywidgets.Tab([self.trying.widget, self.browser.widget], titles=["Try a prompt", "Browse cases"])

    def _repr_mimebundle_(self, **kwargs) -> dict:
        shown = self.widget._repr_mimebundle_(**kwargs)
        return shown | {"text/html": self.example._repr_html_(), "text/plain": repr(self.example)}


class Trying:
    """A box for a prompt; Enter, or the button, sends it through every arm."""

    def __init__(self, places: list[str]):
        import ipywidgets as widgets

        wide = widgets.Layout(flex="1 1 auto", width="auto")
        self.prompt = widgets.Text(placeholder="a prompt, then Enter", layout=wide)
        self.place = widgets.Dropdown(options=places, layout=widgets.Layout(display=_shown_if(len(places) > 1)))
        self.sample = widgets.BoundedIntText(0, 0, 9999, description="sample", layout=widgets.Layout(width="150px"))
        self.sample.tooltip = "the same number draws the same texts again, 0 those of 04_evaluate"
        self.button = widgets.Button(description="Try", button_style="primary", layout=widgets.Layout(width="90px"))
        self.again = widgets.Button(description="Next sample", layout=widgets.Layout(width="110px"))
        self.status, self.shown = _line(), widgets.HTML()
        self.prompt.on_msg(lambda _, content, __: self.run() if content.get("event") == "submit" else None)
        self.button.on_click(lambda _: self.run())
        self.again.on_click(lambda _: self.next_sample())
        lines = [[self.prompt, self.button], [self.place, self.sample, self.again, self.status]]
        self.widget = widgets.VBox([*map(widgets.HBox, lines), self.shown])

    def run(self) -> None:
        self.status.value = "asking every arm; the first time, their models are loaded …"
        with _told(self.status, self.button, self.again):
            found = playground.try_prompt(self.prompt.value, self.place.value, sample=self.sample.value)
            self.shown.value, self.status.value = found._repr_html_(), ""

    def next_sample(self) -> None:
        self.sample.value += 1
        self.run()


class Browser:
    """Drop-downs that choose among stored cases, and two buttons that turn the pages."""

    def __init__(self, answers: pd.DataFrame, verdicts: pd.DataFrame, baseline: str):
        import ipywidgets as widgets

        self.answers, self.verdicts, self.baseline = answers, verdicts, baseline
        self.heard, self.start = gather.outcomes(verdicts, baseline), 0
        self.keys: list[choosing.Key] = []
        sets, room = list(answers.prompt_set.unique()), widgets.Layout(width="50px")
        self.arm, self.outcome = _menu("arm", [_ANY, *answers.arm.unique()]), _menu("outcome", [_ANY, *OUTCOMES])
        self.prompt_set, self.sort = _menu("prompts", [_ANY, *sets]), _menu("order", list(_SORTS), "330px")
        self.prompt_set.layout.display = _shown_if(len(sets) > 1)
        self.back = widgets.Button(description="◀", tooltip="the cases before these", layout=room)
        self.on = widgets.Button(description="▶", tooltip="the cases after these", layout=room)
        self.status, self.shown = _line(), widgets.HTML()
        self.back.on_click(lambda _: self.turn(self.start - _ON_A_PAGE))
        self.on.on_click(lambda _: self.turn(self.start + _ON_A_PAGE))
        menus = (self.arm, self.outcome, self.sort, self.prompt_set)
        for menu in menus:
            menu.observe(lambda _: self.choose(), "value")
        line = widgets.HBox(menus, layout=widgets.Layout(flex_flow="row wrap"))
        self.widget = widgets.VBox([line, widgets.HBox([self.back, self.on, self.status]), self.shown])
        self.choose()

    def choose(self) -> None:
        """Find all cases that the drop-downs ask for, and show the first ones."""
        menus = (self.arm, self.outcome, self.prompt_set)
        arm, outcome, prompt_set = (None if menu.value == _ANY else menu.value for menu in menus)
        choice = choosing.Choice(arm, outcome, _SORTS[self.sort.value], prompt_set)
        self.keys = []
        with _told(self.status):
            self.keys = choosing.choose(self.answers, self.heard, 0, self.baseline, choice)
            self.status.value = ""
        self.turn(0)

    def turn(self, start: int) -> None:
        """Show a page of cases, from number start on."""
        number = len(self.keys)
        self.start = max(0, start if start < number else self.start)
        keys = self.keys[self.start : self.start + _ON_A_PAGE]
        rows = gather.side_by_side(self.answers, self.verdicts, self.heard, keys, self.baseline)
        self.shown.value = Cases(rows, self.baseline)._repr_html_() if keys else ""
        self.back.disabled, self.on.disabled = self.start == 0, self.start + _ON_A_PAGE >= number
        if keys:
            self.status.value = f"{self.start + 1} to {self.start + len(keys)} of {number:,} cases"
        elif not self.status.value:
            self.status.value = "there is no such case"


def _menu(name: str, options: list[str], width: str = "250px"):
    import ipywidgets as widgets

    style = {"description_width": "initial"}
    return widgets.Dropdown(options=options, description=name, style=style, layout=widgets.Layout(width=width))


def _line():
    """A line of text, escaped by whoever sets it, that breaks where it is long."""
    import ipywidgets as widgets

    return widgets.HTML(layout=widgets.Layout(flex="1 1 0", margin="2px 8px"))


def _shown_if(shown: bool) -> str | None:
    return None if shown else "none"


@contextmanager
def _told(status, *buttons) -> Iterator[None]:
    """What goes wrong inside, in one line of status: a widget's errors show nowhere else. Buttons rest meanwhile."""
    for button in buttons:
        button.disabled = True
    try:
        yield
    except TROUBLE as error:
        status.value = printable(escape(" ".join(str(error).split())))
    except KeyboardInterrupt:
        status.value = "stopped"
    finally:
        for button in buttons:
            button.disabled = False
