"""The frontier, the gap and the bound of a whole experiment, one panel for what can stand on the same axes.

All numbers of one panel, and of one row of a table, come from one sampling, 02's, and from one reward model.
"""

from typing import NamedTuple

import pandas as pd

from nbutils.analyse import draws, frontier, gap


class Overview(NamedTuple):
    """The frontier of a whole experiment, each table with its cell: curves, points and lines have a panel too."""

    curves: pd.DataFrame
    points: pd.DataFrame
    lines: pd.DataFrame
    gaps: pd.DataFrame
    bounds: pd.DataFrame


def overview(probes: list, seed: int = 0) -> Overview:
    """All of it over the trainings of an experiment (gather.Probed).

    One panel per prompter and frozen responder (per trained responder), reward model and sampling, with the curve of
    its first training. Where several cells fall into a panel, as in a sweep of λ, each is its trained policy alone,
    labelled by what differs. lines: mean reward of the frozen responder (nan) and of the trained one, by its arm, on
    the panel's prompts, as 02 sampled them. A cell's trained responder: rlhf, or its first; note of gaps says where
    none of them was sampled and rewarded alike.
    """
    curves: list[pd.DataFrame] = []
    points_, lines, gaps_, bounds = [], [], [], []
    several = len({sampling(each.parameters) for each in probes}) > 1, len({_reward_model(each) for each in probes}) > 1
    for probe in sorted(probes, key=lambda each: (_panel(each, several), each.parameters["kl_weight"], each.cell)):
        panel, kl_weight = _panel(probe, several), probe.parameters["kl_weight"]
        samples, _ = draws.complete(probe.samples)
        oracle, missing = _oracle_of(probe, probes, samples)
        named = {"panel": panel, "cell": probe.cell, "arm": probe.arm, "sampling": sampling(probe.parameters)}
        points_.append(frontier.points(samples, kl_weight, seed).assign(**named, kl_weight=kl_weight))
        if panel not in {each["panel"].iloc[0] for each in curves if len(each)}:
            curves.append(frontier.attainable(samples, seed).assign(panel=panel, cell=probe.cell))
            lines.append(_lines(samples, oracle).assign(panel=panel, cell=probe.cell))
        trained = oracle.samples if oracle else None
        beta = oracle.beta if oracle else kl_weight
        weighed = {"cell": probe.cell, "arm": probe.arm, "sampling": sampling(probe.parameters), "beta": beta}
        found = gap.gaps(samples, kl_weight, beta, trained).assign(**weighed)
        gaps_.append(found.assign(note=["; ".join(each for each in (note, missing) if each) for note in found.note]))
        bounds.append(gap.bound(samples, probe.shifts, kl_weight, beta, trained).assign(**weighed))
    joined = [pd.concat(each, ignore_index=True) if each else pd.DataFrame() for each in (curves, lines, gaps_, bounds)]
    return Overview(joined[0], _labelled(points_), *joined[1:])


def sampling(parameters: dict) -> str:
    """How 02 sampled, in words."""
    rewrites, responses = (parameters[f"max_{each}_tokens"] for each in ("rewrite", "response"))
    lengths = f"at most {rewrites} tokens of rewrites, {responses} of responses"
    return f"temperature {parameters['temperature']:g}, {lengths}"


def _reward_model(probe) -> str:
    learnt = probe.parameters["reward_pairs"]
    return f"learnt from {learnt}" if learnt else str(probe.parameters["reward_model"])


class _Oracle(NamedTuple):
    arm: str
    samples: pd.DataFrame
    beta: float


def _oracle_of(probe, probes: list, samples: pd.DataFrame) -> tuple[_Oracle | None, str]:
    """(the trained responder of a prompter's cell, why there is none though one was trained): it has to have answered,
    and been rewarded, alike."""
    asked = "responder", "reward_model", "reward_pairs", "temperature", "max_response_tokens"
    wanted, why = set(samples.prompt_id), ""
    others = [each for each in probes if each.cell == probe.cell and each.parameters["policy"] == "responder"]
    for other in sorted(others, key=lambda each: each.arm != "rlhf"):
        if probe.parameters["policy"] == "responder":
            continue
        kept, _ = draws.complete(other.samples[other.samples.prompt_id.isin(wanted)])
        differs = [name for name in asked if other.parameters[name] != probe.parameters[name]]
        if not differs and set(kept.prompt_id) == wanted:
            return _Oracle(other.arm, kept, other.parameters["kl_weight"]), ""
        why = why or f"{other.arm} left out: another {', '.join(differs)}" * bool(differs)
        why = why or f"{other.arm} left out: samples of {kept.prompt_id.nunique()} of these {len(wanted)} prompts"
    return None, why


def _panel(probe, several: tuple[bool, bool]) -> str:
    """several: whether the probes have several samplings, several reward models."""
    named = probe.parameters
    name = f"{named['prompter']} before {named['responder']}"
    if named["policy"] == "responder":
        name = f"{named['responder']}, trained itself"
    parts = [name, sampling(probe.parameters) if several[0] else "", _reward_model(probe) if several[1] else ""]
    return ", ".join(part for part in parts if part)


def _labelled(parts: list[pd.DataFrame]) -> pd.DataFrame:
    """All points; where several trainings share a panel and arm, the trained ones alone, labelled by λ or by cell.

    joined: whether a figure may lead a line through them: checkpoints of one training, or trainings in order of λ.
    """
    if not parts:
        return pd.DataFrame()
    table = pd.concat(parts, ignore_index=True)
    table = table.drop_duplicates(["panel", "arm", "source", "kl", "reward"])  # an oracle trained again for a prompter
    sweep = table.groupby(["panel", "arm"])["cell"].transform("nunique") > 1
    table = table[~sweep | table.source.isin(["trained"])]
    sweep = sweep[table.index]
    varied = table.groupby(["panel", "arm"])["kl_weight"].transform("nunique") > 1
    weights = table.kl_weight.map(lambda value: f"λ {value:g}")
    label = table.label.where(~sweep, weights.where(varied, table.cell))
    return table.assign(label=label, joined=~sweep | varied).reset_index(drop=True)


def _lines(samples: pd.DataFrame, oracle: _Oracle | None) -> pd.DataFrame:
    """Mean reward of nan, the frozen responder's own responses, and of the trained one where its samples are there."""
    rows = [{"arm": "nan", "reward": samples.loc[samples.source == "own", "reward"].mean()}]
    if oracle and (oracle.samples.source == "trained").any():
        trained = oracle.samples.loc[oracle.samples.source == "trained", "reward"]
        rows.append({"arm": oracle.arm, "reward": trained.mean()})
    return pd.DataFrame(rows, columns=["arm", "reward"])
