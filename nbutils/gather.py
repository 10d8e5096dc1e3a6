"""Rows of all cells of an experiment, for 05_plot: answers, verdicts, histories, rounds, and cases side by side."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from nbutils import paths, records, stats  # tables lets pandas hold lone surrogates
from nbutils.steps import Step


@dataclass(frozen=True)
class Evaluations:
    """answers and verdicts of all cells, with a column `cell`; cells: their names, in order."""

    cells: list[str]
    answers: pd.DataFrame
    verdicts: pd.DataFrame

    def by_cell(self) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
        for name in self.cells:
            yield name, self.answers[self.answers.cell == name], self.verdicts[self.verdicts.cell == name]


def evaluations(run: Step, cells: list[str], steps: list[str]) -> Evaluations:
    """answers.jsonl and verdicts.jsonl of the evaluation steps in cells (empty: every cell that has one).

    Raises FileNotFoundError, naming 04_evaluate, when there is nothing to read.
    """
    root = run.folder.parent.parent
    names = cells or sorted(
        {path.parent.parent.name for path in root.glob("*/*/answers.jsonl") if path.parent.name in steps}
    )
    answers, verdicts = [], []
    for name in names or ["main"]:
        for step in steps:
            folder = root / name / step
            answers.append(_rows(run.input(folder / "answers.jsonl", "04_evaluate"), records.Answer, name))
            verdicts.append(_rows(run.input(folder / "verdicts.jsonl", "04_evaluate"), records.Verdict, name))
    return Evaluations(names, pd.concat(answers, ignore_index=True), pd.concat(verdicts, ignore_index=True))


def _rows(path: Path, kind: type, cell: str) -> pd.DataFrame:
    columns = list(kind.__dataclass_fields__)
    frame = pd.DataFrame(records.read_rows(path), columns=columns).assign(cell=cell)
    for name in {"reward", "gold_reward"} & set(columns):
        frame[name] = frame[name].astype(float)  # a column of None only would stay object
    return frame


def histories(run: Step, cells: list[str]) -> tuple[pd.DataFrame, pd.DataFrame]:
    """(RL, preference) training histories of all cells; columns arm (the step's name) and cell."""
    frames: dict[bool, list] = {True: [], False: []}
    for path in _found(run, cells, "history.jsonl"):
        frame = pd.DataFrame(records.read_rows(path)).assign(arm=path.parent.name, cell=path.parent.parent.name)
        frames["reward" in frame].append(frame)
    joined = [pd.concat(frames[kind], ignore_index=True) if frames[kind] else pd.DataFrame() for kind in (True, False)]
    return joined[0], joined[1]


def collection(run: Step, cells: list[str]) -> tuple[pd.DataFrame, dict[str, dict]]:
    """(rounds of all cells, {cell: counts}) of 01_collect."""
    rounds = [_rows(path, records.Round, path.parent.parent.name) for path in _found(run, cells, "rounds.jsonl")]
    counts = {
        path.parent.parent.name: json.loads(path.read_text("utf-8")) for path in _found(run, cells, "counts.json")
    }
    return (pd.concat(rounds, ignore_index=True) if rounds else pd.DataFrame()), counts


def _found(run: Step, cells: list[str], name: str) -> list[Path]:
    root = run.folder.parent.parent
    found = [path for cell in cells for path in sorted((root / cell).glob(f"*/{name}"))]
    return [run.input(path, path.parent.name) for path in found]


def cases(answers: pd.DataFrame, verdicts: pd.DataFrame, number: int, seed: int, baseline: str) -> pd.DataFrame:
    """`number` prompts through every arm (first sample): one row per prompt × cell × arm, with the combined verdict.

    The prompts are those whose hash with the seed is smallest: drawn without looking at results.
    """
    rank = {each: paths.sha256_json([seed, each]) for each in answers.prompt_id.unique()}
    chosen = sorted(rank, key=rank.get)[:number]
    rows = answers[answers.prompt_id.isin(chosen) & (answers["sample"] == 0)]
    order = {each: place for place, each in enumerate(chosen)}
    rows = rows.sort_values("prompt_id", key=lambda column: column.map(order), kind="stable")
    heard = {
        (name, row["prompt_set"], row["prompt_id"], row["arm_a"]): row["outcome"]
        for name, part in verdicts[verdicts["sample"] == 0].groupby("cell")
        for row in stats.outcomes_against(stats.combine_orders(part), baseline)
    }
    keys = zip(rows.cell, rows.prompt_set, rows.prompt_id, rows.arm, strict=True)
    columns = ["cell", "prompt_set", "prompt_id", "prompt", "arm", "rewrite", "response", "reward", "gold_reward"]
    return rows[columns].assign(verdict=["" if key[3] == baseline else heard.get(key) for key in keys])
