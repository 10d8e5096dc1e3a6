"""AlpacaEval's annotations.json as verdicts, so that its published judgements are counted as ours are.

A row of theirs holds instruction, generator_1, generator_2 and preference: from 1, generator_1's output is better, to
2, generator_2's is; 1.5, or 0 in old files, a tie; null where their judge's text was not understood. Each instruction
is judged once, in an order that the file does not tell: here generator_2's output always counts as shown first, so read
nothing that asks for the order (BPO's row of analyse/conventions.py, the judge's bias to a place).
"""

import math
from collections import Counter
from pathlib import Path

from nbutils.data import readers
from nbutils.experiment.records import Verdict, prompt_id

PROMPT_SET = "alpaca_eval"


def read(path: Path) -> list[Verdict]:
    """A verdict per row, of generator_2 against generator_1, with its preference as a probability (theirs less 1).

    An instruction that comes again is another sample. ValueError, in one line with file, row and prompt id, for a
    preference that is none of the above, or a row without the texts that it needs.
    """
    seen: Counter = Counter()
    verdicts = []
    for number, row in enumerate(readers.read_rows(Path(path)), start=1):
        try:
            verdicts.append(_verdict(row, seen))
        except ValueError as error:
            raise ValueError(f"{Path(path).name}: row {number}: {error}") from None
    return verdicts


def _verdict(row: dict, seen: Counter) -> Verdict:
    names = ("instruction", "generator_1", "generator_2")
    if lacking := [name for name in names if not (isinstance(row.get(name), str) and row[name])]:
        raise ValueError(f"wanted AlpacaEval's annotations, got no {lacking[0]}: name its annotations.json")
    instruction, other, arm = (row[name] for name in names)
    key = prompt_id(instruction)
    sample, preference = seen[key, arm, other], _preference(row.get("preference"), key)
    seen[key, arm, other] += 1
    raw, judge = (row[name] if isinstance(row.get(name), str) else "" for name in ("raw_completion", "annotator"))
    if preference is None:
        return Verdict(key, PROMPT_SET, arm, other, sample, arm, "unscored", "no preference", raw, judge)
    verdict = "tie" if preference == 0.5 else "win" if preference > 0.5 else "lose"
    return Verdict(key, PROMPT_SET, arm, other, sample, arm, verdict, None, raw, judge, preference)


def _preference(value, key: str) -> float | None:
    """From 0 to 1; None where there is none."""
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not (value == 0 or 1 <= value <= 2):
        raise ValueError(f"prompt {key}: wanted a preference from 1 to 2, 0 or null, got {value!r}: correct it")
    return float(value or 1.5) - 1
