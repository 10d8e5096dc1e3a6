"""Rows of all cells of an experiment, for 05_plot: answers, verdicts, histories, rounds, and cases side by side."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pandas as pd

from nbutils.analyse import agreement, health, stats
from nbutils.data import labels
from nbutils.experiment import paths, records
from nbutils.experiment.steps import Step, read_manifest
from nbutils.models import templates

ORDERS = ("arm_first", "baseline_first")


@dataclass(frozen=True)
class Evaluations:
    """answers, verdicts and controls of all cells, with a column `cell`; cells: their names, in order.

    models: {cell: {"prompter": ..., "responder": ...}} as the manifest of the cell's evaluation names them; a cell
    without manifest is not in it.
    """

    cells: list[str]
    answers: pd.DataFrame
    verdicts: pd.DataFrame
    controls: pd.DataFrame
    models: dict[str, dict[str, str]]

    def by_cell(self) -> Iterator[tuple[str, pd.DataFrame, pd.DataFrame]]:
        for name in self.cells:
            yield name, *self.of_cell(name)

    def of_cell(self, name: str) -> tuple[pd.DataFrame, pd.DataFrame]:
        """(answers, verdicts) of one cell."""
        return self.answers[self.answers.cell == name], self.verdicts[self.verdicts.cell == name]

    def health_cards(self, people: agreement.Labelled | None = None) -> pd.DataFrame:
        """health.card of every cell, one below the other; people: labels of these cells' pairs."""
        controls, people = self.controls, people or agreement.Labelled()
        cards = [
            health.card(a, v, controls[controls.cell == name], name, people.of(name)) for name, a, v in self.by_cell()
        ]
        return pd.concat(cards, ignore_index=True)


def evaluations(run: Step, cells: list[str], steps: list[str]) -> Evaluations:
    """answers.jsonl, verdicts.jsonl and, where there is one, controls.jsonl of the evaluation steps in cells (empty:
    every cell that has one).

    Raises FileNotFoundError, naming 04_evaluate, when there is nothing to read.
    """
    root = run.folder.parent.parent
    names = cells or sorted(
        {path.parent.parent.name for path in root.glob("*/*/answers.jsonl") if path.parent.name in steps}
    )
    run.parameters["cells"] = names  # the manifest says which were read, as the runner does
    models: dict[str, dict[str, str]] = {}
    answers, verdicts = [], []
    controls = [pd.DataFrame(columns=[*records.Control.__dataclass_fields__, "cell"])]
    for name in names or ["main"]:
        for step in steps:
            folder = root / name / step
            answers.append(_rows(run.input(folder / "answers.jsonl", "04_evaluate"), records.Answer, name))
            verdicts.append(_rows(run.input(folder / "verdicts.jsonl", "04_evaluate"), records.Verdict, name))
            if (folder / "controls.jsonl").exists():
                controls.append(_rows(run.input(folder / "controls.jsonl", "04_evaluate"), records.Control, name))
            if found := _models(run, folder):
                models.setdefault(name, found)
    joined = [pd.concat(each, ignore_index=True) for each in (answers, verdicts, controls)]
    return Evaluations(names, joined[0], joined[1], joined[2], models)


def human_labels(run: Step, found: Evaluations, steps: list[str], file: str, baseline: str) -> agreement.Labelled:
    """What people said of the pairs of these evaluations: in a file (data/labels.py; relative to the project), or, for
    "", in labels.jsonl of the evaluation steps. Recorded as the step's input, before there is a label too.

    Raises FileNotFoundError or ValueError, a line per fault.
    """
    held = []
    if file:
        path = paths.project_root() / Path(file).expanduser()
        held = labels.read(path)
        run.uses(path)
    for cell in found.cells if not file else ():
        for step in steps:
            path = run.folder.parent.parent / cell / step / labels.FILE
            if not path.exists():
                path.touch()  # an input from now on: the first label makes what was computed without it stale
            held += [replace(label, cell=cell) for label in labels.read(run.input(path, "04_evaluate"))]
    return agreement.match(held, found.answers, found.verdicts, baseline)


def _models(run: Step, folder: Path) -> dict[str, str]:
    """Prompter and responder of an evaluation; empty without a manifest that names both."""
    named = (read_manifest(folder) or {}).get("parameters", {})
    if not {"prompter", "responder"} <= named.keys():
        return {}
    run.input(folder / "manifest.json", "04_evaluate")
    return {"prompter": named["prompter"], "responder": named["responder"]}


def _rows(path: Path, kind: type, cell: str) -> pd.DataFrame:
    columns = [field.name for field in fields(kind)]
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


@dataclass(frozen=True)
class Probed:
    """One training step's samples (records.Sample) and shifts (records.Shift), and the parameters that they came by."""

    cell: str
    arm: str
    parameters: dict
    samples: pd.DataFrame
    shifts: pd.DataFrame


def probes(run: Step, cells: list[str]) -> list[Probed]:
    """What 02_train_alignpro sampled for the reward-KL frontier, of every finished training in cells that has it."""
    found = []
    for path in _found(run, cells, "samples.jsonl"):
        manifest = read_manifest(path.parent)
        samples = _rows(path, records.Sample, path.parent.parent.name)
        if manifest is None or samples.empty:
            continue
        shifts = _rows(run.input(path.with_name("shifts.jsonl"), path.parent.name), records.Shift, "")
        found.append(Probed(path.parent.parent.name, path.parent.name, manifest["parameters"], samples, shifts))
    return found


def benchmarks(run: Step, cells: list[str], steps: list[str]) -> tuple[list[dict], list[dict]]:
    """(scores, questions) of 04's benchmarks in all cells, with a column cell; empty lists where there are none."""
    root = run.folder.parent.parent
    found: tuple[list[dict], list[dict]] = ([], [])
    for cell in cells:
        for step in steps:
            for rows, name in zip(found, ("benchmarks.jsonl", "benchmark_questions.jsonl"), strict=True):
                path = root / cell / step / name
                if path.exists():
                    rows += [row | {"cell": cell} for row in records.read_rows(run.input(path, "04_evaluate"))]
    return found


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
    """`number` prompts through every arm (first sample), as in Align-Pro C.4 to C.6: one row per prompt × cell × arm.

    The prompts are those whose hash with the seed is smallest: drawn without looking at results. Beside prompt, rewrite
    and response a row has the combined verdict and, for each of ORDERS, the verdict, the judge's scores of the arm and
    of the baseline (where its text starts with two) and the judge's own words; all empty on the baseline's rows.
    """
    rank = {each: paths.sha256_json([seed, each]) for each in answers.prompt_id.unique()}
    chosen = sorted(rank, key=lambda each: rank[each])[:number]
    rows = answers[answers.prompt_id.isin(chosen) & (answers["sample"] == 0)]
    order = {each: place for place, each in enumerate(chosen)}
    rows = rows.sort_values("prompt_id", key=lambda column: column.map(order), kind="stable")
    first = verdicts[verdicts["sample"] == 0]
    heard = {
        (name, row["prompt_set"], row["prompt_id"], row["arm_a"]): row["outcome"]
        for name, part in first.groupby("cell")
        for row in stats.outcomes_against(stats.combine_orders(part), baseline)
    }
    said = _said(first[first.prompt_id.isin(chosen)], baseline)
    keys = list(zip(rows.cell, rows.prompt_set, rows.prompt_id, rows.arm, strict=True))
    columns = ["cell", "prompt_set", "prompt_id", "prompt", "arm", "rewrite", "response", "reward", "gold_reward"]
    table = rows[columns].assign(verdict=["" if key[3] == baseline else heard.get(key) for key in keys])
    names = ("verdict", "arm_score", "baseline_score", "judge")
    judged = {
        f"{name}_{order}": [said.get((*key, order), {}).get(name) for key in keys] for order in ORDERS for name in names
    }
    return table.assign(**judged)


def _said(verdicts: pd.DataFrame, baseline: str) -> dict[tuple, dict]:
    """{(cell, prompt_set, prompt_id, arm, order): verdict, scores and words of the judge} against the baseline."""
    found: dict[tuple, dict] = {}
    for row in verdicts.to_dict("records"):
        if baseline not in (row["arm_a"], row["arm_b"]):
            continue
        turned = row["arm_a"] == baseline
        verdict = stats.OPPOSITE[row["verdict"]] if turned else row["verdict"]
        verdict += f" ({row['reason']})" if isinstance(row["reason"], str) else ""
        order = ORDERS[row["first_shown"] == baseline]
        shown = judge_scores(row["raw"])
        arm_score, baseline_score = shown if order == "arm_first" else shown[::-1]
        key = (row["cell"], row["prompt_set"], row["prompt_id"], row["arm_b" if turned else "arm_a"], order)
        scores = {"arm_score": arm_score, "baseline_score": baseline_score}
        found.setdefault(key, {"verdict": verdict, **scores, "judge": row["raw"]})
    return found


def judge_scores(raw: str) -> tuple[float | None, float | None]:
    """The two scores that decided a judge's text (Align-Pro C.2), first shown first; None where it has none."""
    if "[[" in raw or templates.parse_scores(raw)[0] is None:
        return None, None
    line = next(line for line in raw.split("\n") if line.strip())
    first, second = re.findall(r"[0-9]+(?:\.[0-9]+)?", line.replace("/10", ""))
    return float(first), float(second)


def as_text(case: pd.DataFrame, baseline: str) -> str:
    """One prompt's rows of `cases` to read, as Align-Pro C.4 prints them: rewrite, response, the judge's evaluation."""
    lines = [f"Prompt: {case['prompt'].iloc[0]}"]
    for row in case.to_dict("records"):
        lines += ["", f"[{row['arm']}]"] + [f"Rewrite: {row['rewrite']}"] * (row["rewrite"] != row["prompt"])
        lines += [f"Response: {row['response']}"]
        for order in ORDERS if row["arm"] != baseline else ():
            lines += _evaluation(row, order, baseline)
    return "\n".join(lines)


def _evaluation(row: dict, order: str, baseline: str) -> list[str]:
    if not isinstance(row[f"verdict_{order}"], str):
        return []
    first = row["arm"] if order == "arm_first" else baseline
    line = f"Judge, {first} shown first: {row[f'verdict_{order}']}"
    if not pd.isna(row[f"arm_score_{order}"]):
        line += f" ({row['arm']} {row[f'arm_score_{order}']:g}, {baseline} {row[f'baseline_score_{order}']:g})"
    return [line, *(f"  | {said}" for said in row[f"judge_{order}"].strip().split("\n") if said)]
