"""A table as a notebook and its page show it: numbers to the right, no index, long texts that repeat as notes below."""

import html
from collections import Counter
from dataclasses import dataclass

import pandas as pd

_MISSING = "–"
_LONG = 60  # letters, from which a text that stands in several rows becomes a note


@dataclass(frozen=True)
class PageTable:
    """texts: what each cell shows; numeric: columns aligned to the right; notes: below the table, numbered from 1."""

    texts: pd.DataFrame
    numeric: frozenset[str]
    notes: tuple[str, ...] = ()

    def _repr_html_(self) -> str:
        head = "".join(self._cell("th", name, name) for name in self.texts)
        rows = ["".join(self._cell("td", name, row[name]) for name in self.texts) for _, row in self.texts.iterrows()]
        body = "".join(f"<tr>{row}</tr>" for row in rows)
        notes = "".join(f"<p><small>{line}</small></p>" for line in map(html.escape, self._numbered()))
        return f'<table class="dataframe"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}'

    def __repr__(self) -> str:
        return "\n".join([self.texts.to_string(index=False), *self._numbered()])

    def _cell(self, tag: str, name: str, text) -> str:
        side = "right" if name in self.numeric else "left"
        return f'<{tag} style="text-align: {side}">{html.escape(str(text))}</{tag}>'

    def _numbered(self) -> list[str]:
        return [f"({number}) {note}" for number, note in enumerate(self.notes, start=1)]


def page_table(texts: pd.DataFrame, numeric: set[str]) -> PageTable:
    """texts without the columns that are all missing, and with a number in the place of each long text that repeats."""
    kept = texts[[name for name in texts if texts.empty or not (texts[name] == _MISSING).all()]].copy()
    notes: dict[str, int] = {}
    for name in kept:
        often = Counter(text for text in kept[name] if len(str(text)) > _LONG)
        for text in (text for text, times in often.items() if times > 1):
            notes.setdefault(str(text), len(notes) + 1)
        kept[name] = [f"({notes[str(text)]})" if str(text) in notes else text for text in kept[name]]
    return PageTable(kept, frozenset(numeric & set(kept)), tuple(notes))
