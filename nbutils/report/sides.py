"""Cases side by side: one prompt through every arm, what each rewrite changed, what came of it.

The same object is HTML in a notebook and in its page, and text in a terminal. All text is escaped; the HTML has no
script and loads nothing. Its own styles are for notebooks: a page drops them and has the same in its style sheet.
"""

import math
from dataclasses import dataclass, replace
from pathlib import Path

import jinja2
import pandas as pd
from markupsafe import Markup

from nbutils.analyse import differences, gather
from nbutils.report.pages import printable

_HTML = Path(__file__).parent / "html"
_LONGEST = 20_000  # letters of one text that are shown: more would make a notebook slow to open
_LONGEST_LOST = 160  # of it is struck through: of more, the beginning and the end
_SIGNS = {"win": "▲ win", "lose": "▼ lose", "tie": "= tie", "unscored": "? unscored"}


@dataclass(frozen=True, repr=False)
class Cases:
    """Rows of gather.cases to look at. notes: lines above them."""

    rows: pd.DataFrame
    baseline: str = "nan"
    notes: tuple[str, ...] = ()

    def __len__(self) -> int:
        return len(self.each())

    def each(self) -> list[pd.DataFrame]:
        """The rows of each case, in order."""
        return [case for _, case in self.rows.groupby(["cell", "prompt_set", "prompt_id"], sort=False, dropna=False)]

    def first(self, number: int) -> "Cases":
        """The first cases of these."""
        kept = [label for case in self.each()[:number] for label in case.index]
        return replace(self, rows=self.rows.loc[kept])

    def __repr__(self) -> str:
        texts = [_cut(gather.as_text(case, self.baseline)) for case in self.each()]
        return printable("\n\n".join([*self.notes, *texts]))

    def _repr_html_(self) -> str:
        several = [name for name in ("cell", "prompt_set") if self.rows[name].nunique() > 1]
        cases = [
            {
                "prompt": _cut(case["prompt"].iloc[0]),
                "where": [case[name].iloc[0] for name in several],
                "sides": _sides(case, self.baseline),
            }
            for case in self.each()
        ]
        return printable(_template().render(cases=cases, notes=self.notes, style=_style(), after=_blanks_after))


def _blanks_after(text: str) -> str:
    """The blanks at a text's end: they are not underlined or struck through."""
    return text[len(text.rstrip()) :]


def _template() -> jinja2.Template:
    loader = jinja2.FileSystemLoader(_HTML)
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template("cases.html.j2")


def _style() -> Markup:
    """The styles of cases, for what is inside `.cases` alone: a notebook has one page for all its outputs."""
    own, shared = ((_HTML / name).read_text("utf-8") for name in ("notebook.css", "cases.css"))
    return Markup(f"{own}.cases {{\n{shared}}}\n")


def _sides(case: pd.DataFrame, baseline: str) -> list[dict]:
    rows = case.to_dict("records")
    base = next((row["reward"] for row in rows if row["arm"] == baseline), math.nan)
    return [_side(row, base, baseline) for row in rows]


def _side(row: dict, base: float, baseline: str) -> dict:
    changed = row["rewrite"] != row["prompt"]
    pieces = differences.compare(row["prompt"], row["rewrite"]) if changed else []
    missing = "no response" in row["note"]
    return {
        "arm": row["arm"],
        "pieces": _cut_pieces(pieces),
        "unchanged": "none" if missing else "the prompt as it is",
        "response": _cut(row["response"]),
        "missing": missing,
        "lines": [*filter(None, [row["note"]]), _earned(row, base, baseline)],
        "orders": [] if missing else _orders(row, baseline),
    }


def _earned(row: dict, base: float, baseline: str) -> str:
    """Reward, how far it is above the baseline's, and the verdict."""
    reward, gain = row["reward"], row["reward"] - base
    text = "no reward" if pd.isna(reward) else f"reward {reward:.2f}"
    text += "" if row["arm"] == baseline or pd.isna(gain) else f" ({gain:+.2f})"
    verdict = "the baseline" if row["arm"] == baseline else _SIGNS.get(row["verdict"], "no verdict")
    return f"{text} · {verdict}"


def _orders(row: dict, baseline: str) -> list[dict]:
    """The judge's verdict in each order, with its own words where it gave more than the verdict."""
    found = []
    for order, first in zip(gather.ORDERS, (row["arm"], baseline), strict=True):
        verdict = row[f"verdict_{order}"]
        said = row[f"judge_{order}"].strip() if isinstance(verdict, str) else ""
        if isinstance(verdict, str):
            line = f"{first} shown first: {verdict}{_scores(row, order)}"
            found.append({"line": line, "said": "" if said.startswith("[[") else _cut(said)})
    return found


def _scores(row: dict, order: str) -> str:
    """The judge's scores of the arm and of the baseline, where it gave two."""
    scores = [row[f"{whose}_score_{order}"] for whose in ("arm", "baseline")]
    return "" if pd.isna(scores).any() else " ({:g} to {:g})".format(*scores)


def _cut(text: str) -> str:
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]} … {len(text) - _LONGEST:,} more letters"


def _shortened(piece: differences.Piece) -> differences.Piece:
    """A piece whose middle is left out where it is long and not in the rewrite, which would else be out of sight."""
    if piece.kind != "lost" or len(piece.text) <= _LONGEST_LOST:
        return piece
    half = _LONGEST_LOST // 2
    return differences.Piece(
        "lost", f"{piece.text[:half]} [… {len(piece.text) - 2 * half:,} letters …] {piece.text[-half:]}"
    )


def _cut_pieces(pieces: list[differences.Piece]) -> list[differences.Piece]:
    """Pieces of at most _LONGEST letters together, and what is left out."""
    kept, room = [], _LONGEST
    for piece in map(_shortened, pieces):
        kept.append(differences.Piece(piece.kind, piece.text[:room]))
        room -= len(kept[-1].text)
    left_out = sum(len(_shortened(piece).text) for piece in pieces) - _LONGEST
    return [piece for piece in kept if piece.text] + (
        [differences.Piece("same", f" … {left_out:,} more letters")] if left_out > 0 else []
    )
