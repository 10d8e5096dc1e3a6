"""Rows of all cells of an experiment, for 05_plot: answers, verdicts, histories, rounds, and cases side by side."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from pathlib import Path

import pandas as pd

from nbutils.analyse import agreement, choosing, differences, health, stats, watch
from nbutils.analyse.choosing import ANY, Choice
from nbutils.data import labels
from nbutils.experiment import paths, records
from nbutils.experiment.steps import Step, read_manifest
from nbutils.models import templates

pd.set_option("mode.string_storage", "python")  # as tables.py, which not everyone who reads rows imports
ORDERS = ("arm_first", "baseline_first")
_CASE = ("cell", "prompt_set", "prompt_id", "prompt", "arm", "rewrite", "response", "reward", "gold_reward")
_JUDGED = ("verdict", "arm_score", "baseline_score", "judge")
CASE_COLUMNS = [*_CASE, "note", "verdict", *(f"{name}_{order}" for order in ORDERS for name in _JUDGED)]


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
        path = paths.project_root() / paths.expanded(file)
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
    """One training step's samples (records.Sample) and shifts (records.Shift), and the parameters that they came by.

    verdicts: the judge's on these samples (records.Verdict), empty where it was not asked.
    """

    cell: str
    arm: str
    parameters: dict
    samples: pd.DataFrame
    shifts: pd.DataFrame
    verdicts: pd.DataFrame


def probes(run: Step, cells: list[str]) -> list[Probed]:
    """What 02_train_alignpro sampled for the reward-KL frontier, of every finished training in cells that has it, and
    what the judge said of it."""
    found = []
    for path in _found(run, cells, "samples.jsonl"):
        manifest = read_manifest(path.parent)
        samples = _rows(path, records.Sample, path.parent.parent.name)
        if manifest is None or samples.empty:
            continue
        shifts = _rows(run.input(path.with_name("shifts.jsonl"), path.parent.name), records.Shift, "")
        named = path.parent.parent.name, path.parent.name, manifest["parameters"]
        watched = path.with_name("watch.jsonl")
        judged = run.input(watched, path.parent.name) if watched.exists() else None  # older trainings have none
        verdicts = pd.DataFrame(records.read_rows(judged) if judged else [])
        found.append(Probed(*named, samples, shifts, verdicts))
    return found


def watched(run: Step, cells: list[str], seed: int) -> tuple[pd.DataFrame, list[str]]:
    """watch.overview of every training in cells that has samples."""
    return watch.overview(probes(run, cells), seed)


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


def cases(
    answers: pd.DataFrame,
    verdicts: pd.DataFrame,
    number: int,
    seed: int,
    baseline: str,
    choice: Choice = ANY,
) -> pd.DataFrame:
    """`number` prompts through every arm (one sample), as in Align-Pro C.4 to C.6: one row per prompt × cell × arm.

    Without a choice the prompts are those whose hash with the seed is smallest: drawn without looking at results.
    Beside prompt, rewrite and response a row has what there is to note (the prompter wrote nothing, no response and
    why), the combined verdict and, for each of ORDERS, the verdict, the judge's scores of the arm and of the baseline
    (where its text starts with two) and the judge's own words; all empty on the baseline's rows. ValueError, in one
    line, for a choice of what is not there.
    """
    heard = outcomes(verdicts, baseline, choice.sample)
    wanted = choosing.choose(answers, heard, seed, baseline, choice)
    chosen = set(list(dict.fromkeys(key[2] for key in wanted))[:number])
    return side_by_side(answers, verdicts, heard, [key for key in wanted if key[2] in chosen], baseline, choice.sample)


def outcomes(verdicts: pd.DataFrame, baseline: str, sample: int = 0) -> dict[tuple, dict]:
    """{(cell, prompt_set, prompt_id, arm): row of stats.outcomes_against} of one sample."""
    judged = verdicts[verdicts["sample"] == sample]
    return {
        (name, row["prompt_set"], row["prompt_id"], row["arm_a"]): row
        for name, part in judged.groupby("cell")
        for row in stats.outcomes_against(stats.combine_orders(part), baseline)
    }


def side_by_side(
    answers: pd.DataFrame,
    verdicts: pd.DataFrame,
    heard: dict[tuple, dict],
    keys: list[choosing.Key],
    baseline: str,
    sample: int = 0,
) -> pd.DataFrame:
    """The rows of `cases` of these cases, in their order. heard: `outcomes` of the same verdicts."""
    place, chosen = {key: number for number, key in enumerate(keys)}, {key[2] for key in keys}
    rows = answers[answers.prompt_id.isin(chosen) & (answers["sample"] == sample)].to_dict("records")
    rows = [row for row in rows if (row["cell"], row["prompt_set"], row["prompt_id"]) in place]
    rows.sort(key=lambda row: place[row["cell"], row["prompt_set"], row["prompt_id"]])
    said = _said(verdicts[verdicts.prompt_id.isin(chosen) & (verdicts["sample"] == sample)], baseline)
    table = pd.DataFrame([_case(row, baseline, heard, said) for row in rows], columns=CASE_COLUMNS)
    return table.astype({"reward": float, "gold_reward": float})


def _case(row: dict, baseline: str, heard: dict, said: dict) -> dict:
    key = (row["cell"], row["prompt_set"], row["prompt_id"], row["arm"])
    verdict = "" if row["arm"] == baseline else heard.get(key, {}).get("outcome")
    judged = {f"{name}_{order}": said.get((*key, order), {}).get(name) for order in ORDERS for name in _JUDGED}
    return {name: row.get(name) for name in _CASE} | {"note": _note(row), "verdict": verdict} | judged


def _note(row: dict) -> str:
    """What a reader of this row would else have to guess; empty for nothing."""
    steps = row["rewrites"] if isinstance(row["rewrites"], list) else []
    nothing = bool(steps) and not any(steps)
    notes = {
        "the prompter wrote nothing, the prompt was sent": nothing and not str(row["reason"]).startswith("no rewrite"),
        f"the last of {len(steps)} rewrites": len(steps) > 1 and not nothing,
        "rewrite cut at its limit of tokens": row.get("rewrites_cut") is True,
        "response cut at its limit of tokens": row.get("finish") == "length",
        f"no response: {row['reason']}": isinstance(row["reason"], str),
    }
    return "; ".join(text for text, is_so in notes.items() if is_so)


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
    if templates.parse_verdict(raw)[0] is not None or templates.parse_scores(raw)[0] is None:
        return None, None
    line = next(line for line in raw.split("\n") if line.strip())
    first, second = re.findall(r"[0-9]+(?:\.[0-9]+)?", line.replace("/10", ""))
    return float(first), float(second)


def as_text(case: pd.DataFrame, baseline: str) -> str:
    """One prompt's rows of `cases` to read, as Align-Pro C.4 prints them: rewrite, response, the judge's evaluation.

    Of a rewrite [-what it leaves out-] and {+what it adds+} to the prompt are marked.
    """
    lines = [f"Prompt: {case['prompt'].iloc[0]}"]
    for row in case.to_dict("records"):
        changed = row["rewrite"] != row["prompt"]
        lines += ["", f"[{row['arm']}]"] + [f"Rewrite: {differences.marked(row['prompt'], row['rewrite'])}"] * changed
        lines += [f"Response: {row['response']}"] + [f"Note: {row['note']}"] * bool(row["note"])
        lines += [f"Reward: {row['reward']:.3f}"] * (not pd.isna(row["reward"]))
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
