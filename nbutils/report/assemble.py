"""The report of an experiment: one self-contained page, written from the files that its steps left behind."""

import csv
import math
import sys
from collections import Counter
from pathlib import Path

from nbutils.experiment import paths
from nbutils.experiment.redaction import redact
from nbutils.experiment.steps import read_manifest
from nbutils.report.pages import image, write_page

_PAPER = "As the Align-Pro paper shows it"
_MANY_UNSCORED = 0.1  # of what was to be judged or scored: above it the page opens with a warning
_MANY_CUT = 0.05  # of an arm's responses or rewrites: above it the page and the terminal's table say so
_CUTS = {"cut": "responses", "cut_rewrites": "rewrites"}  # columns of the summary
_CAPTIONS = {
    "reward_mean": "Mean reward of each arm, with 95% intervals over prompts.",
    "reward_variance": "Variance of the reward over all answers of an arm.",
    "win_tie_lose": "Verdicts against the baseline. Each pair is judged in both orders; a win needs both to agree.",
    "ratings": "All arms on one scale: Bradley-Terry ratings over every pair that was judged, as the win rate to "
    "expect against the baseline.",
    "rewrite_audit": "What rewriting did to the prompts: the share of rewrites with each finding, and how often "
    "flagged and unflagged prompts win.",
    "reward_distribution": "Rewards of all answers, arm by arm.",
    "paper_rewards": "As Align-Pro's Figure 2: mean reward by prompter, frozen LLM and prompt set, with 95% intervals. "
    "The paper's figure has no values printed on it.",
    "paper_variances": "As Align-Pro's Figure 3: variance of the reward, with 95% bootstrap intervals over prompts. "
    "The paper's figure has no values printed on it.",
    "win_percentages": "As Align-Pro's Table 1: percent of scored prompts that the arm (A) and the baseline (B) won; "
    "ties are in neither.",
    "judge_health": "The judge on trial: what its verdicts and its controls (identical, constant and padded responses, "
    "pairs judged once more) say about it. The limits are rules of thumb.",
    "transfer": "Win rate by the model whose pairs were trained on (rows) and the model that answers (columns), with "
    "95% intervals; outlined: a model on its own pairs.",
    "frontier": "What the objective allows at each distance from the untrained policy (Align-Pro, Lemma 5.1), and "
    "where training got to, on held-out prompts. A prompter's distance is in nats of its rewrites, a trained "
    "responder's in nats of its responses: numbers on two axes, not to be compared.",
    "training_rl": "Reinforcement learning, step by step: reward and distance from the initial model, of a prompter in "
    "nats of its rewrites, of a responder in nats of its responses.",
    "training_watch": "Each training watched by the judge, on held-out prompts: mean reward, the judge's win rate over "
    "the untrained policy, as judged and at equal length, and lengths in words. A reward that is up where the win rate "
    "at equal length is not may be a weakness of the reward model.",
    "training_preference": "Preference training, step by step: loss, margin and accuracy.",
    "collection_scores": "Scores that the model gave its own answers, round by round.",
    "collection_funnel": "From prompts asked for to pairs for training.",
}
_MOST_NAMED = 6  # arms in one warning
_JUDGE = "The judge"
_THEORY = "How far training went of what was attainable"
_SECTIONS = {"frontier": _THEORY, "training": "Training", "collection": "Collection"}
_SECTIONS |= {"paper": _PAPER, "win_percentages": _PAPER, "judge_health": _JUDGE}
_HEADLINE = ("arm", "prompts", "mean reward", "variance", "win rate against the baseline")


def report_path(experiment: str) -> Path:
    return paths.step_folder(experiment, "all", "plot") / "report.html"


def write_report(experiment: str) -> Path:
    """Write outputs/<experiment>/all/plot/report.html. FileNotFoundError if nothing has been plotted yet."""
    page = report_path(experiment)
    tables = page.parent / "tables"
    summary, lost, steps = _summary(experiment), redact(read_table(tables / "missing.csv")), _steps(page.parent)
    return write_page(
        page,
        "report.html.j2",
        title=experiment,
        lead=_lead(summary, lost, steps),
        warnings=_warnings(lost, summary, tables / "judge_health.csv"),
        groups=_groups(summary),
        readings=_readings(tables, summary),
        has_gold=any(number(row.get("mean_gold_reward")) is not None for row in summary),
        has_cut=any(number(row.get(name)) is not None for row in summary for name in _CUTS),
        sections=_figures(page.parent),
        people=redact(read_table(tables / "human_labels.csv")),
        corrected=redact(read_table(tables / "corrected_win_rate.csv")),
        outcomes=("win", "tie", "lose"),
        judge_section=_JUDGE,
        several_values=_several_values,
        cases=_cases(redact(read_table(tables / "cases.csv"))),
        lost=[row for row in lost if number(row.get("num_missing"))],
        steps=steps,
        totals={key: sum(step["manifest"].get(key, 0) for step in steps) for key in ("seconds", "tokens")},
        **{"shown": shown, "span": span, "win_rate": win_rate, "percent": percent, "duration": duration},
    )


def headline(experiment: str) -> list[str]:
    """The headline table as lines of text; with a column of what was cut only where that is much."""
    lines, summary = [], _summary(experiment)
    cuts = [name for name in _CUTS if _most(summary, name) > _MANY_CUT]
    header = (*_HEADLINE, *(f"{_CUTS[name]} cut" for name in cuts))
    for title, rows in _groups(summary).items():
        table = [header, *((*_headline_row(row), *(percent(row[name]) for name in cuts)) for row in rows)]
        widths = [max(len(row[column]) for row in table) for column in range(len(header))]
        lines += ["", title] * (title != "") + ["  ".join(map(str.ljust, row, widths)).rstrip() for row in table]
    return lines


def _headline_row(row: dict) -> tuple[str, ...]:
    reward = f"{shown(row['mean_reward'])}  [{span(row, 'mean_reward')}]"
    wins = "{}  [{}]".format(*win_rate(row)) if number(row["win_rate"]) is not None else "–"
    return row["arm"], shown(row["num_prompts"]), reward, shown(row["reward_variance"]), wins


# --- reading


def _summary(experiment: str) -> list[dict]:
    path = report_path(experiment).parent / "tables" / "summary.csv"
    rows = redact(read_table(path))
    if not rows:
        raise FileNotFoundError(f"{paths.relative(path)} not found or empty: run 05_plot first")
    return rows


def read_table(path: Path) -> list[dict]:
    """Rows of a CSV file as text; none if there is no such file. Model text may be longer than csv's own limit."""
    csv.field_size_limit(sys.maxsize)
    if not Path(path).is_file():
        return []
    with open(path, encoding="utf-8", errors="replace", newline="") as file:
        return list(csv.DictReader(file))


def number(text) -> float | None:
    """A finite number, or None for anything else."""
    try:
        value = float(text)
    except (TypeError, ValueError):
        return None
    return value if math.isfinite(value) else None


def shown(text) -> str:
    """A number as a report shows it: whole, or three decimals, fewer where it is large; – for none."""
    value = number(text)
    if value is None:
        return "–"
    digits = 0 if "." not in str(text) and "e" not in str(text) else 3 if abs(value) < 100 else 1
    return f"{value:,.{digits}f}"


def percent(text) -> str:
    value = number(text)
    return "–" if value is None else f"{100 * value:.1f}%"


def duration(seconds: float) -> str:
    minutes = int(seconds) // 60
    return f"{seconds:,.0f} s" if minutes < 2 else f"{minutes} min" if minutes < 120 else f"{minutes / 60:,.1f} h"


def span(row: dict, name: str, text=shown) -> str:
    """The interval of a column's value; "no interval" where there is only the value."""
    low, high = number(row.get(f"{name}_low")), number(row.get(f"{name}_high"))
    if number(row.get(name)) is None:
        return ""
    return "no interval" if low is None or high is None else f"{text(low)} to {text(high)}"


def win_rate(row: dict) -> tuple[str, str]:
    """The win rate and its interval; where too much is unscored, the rate is withheld, and the range from all that is
    unscored lost to all of it won takes the interval's place."""
    win, tie, lose, unscored = (number(row.get(name)) or 0.0 for name in ("win", "tie", "lose", "unscored"))
    total = win + tie + lose + unscored
    if not total or unscored / total <= _MANY_UNSCORED:
        return percent(row["win_rate"]), span(row, "win_rate", percent)
    worst, best = ((win + tie / 2 + more) / total for more in (0.0, unscored))
    return "withheld", f"{percent(worst)} to {percent(best)}, {percent(unscored / total)} unscored"


def _groups(summary: list[dict]) -> dict[str, list[dict]]:
    """Rows of the summary under a title each: cell and prompt set, as far as there is more than one."""
    groups: dict[str, list[dict]] = {}
    for row in summary:
        groups.setdefault(" · ".join(row[key] for key in _several_values(summary)), []).append(row)
    return groups


def _readings(tables: Path, summary: list[dict]) -> list[dict]:
    """A row per arm: its place, its win rates, raw and at equal length, and those by other projects' conventions."""
    keys, shown_keys = ("cell", "prompt_set", "arm"), [*_several_values(summary), "arm"]
    found: dict[tuple, dict] = {}
    for row in redact(read_table(tables / "conventions.csv")):
        found.setdefault(tuple(row[key] for key in keys), {})[row["convention"]] = row
    rows = []
    for row in redact(read_table(tables / "length_controlled.csv")):
        others = found.get(tuple(row[key] for key in keys), {})
        rows.append({"row": row, "place": " · ".join(row[key] for key in shown_keys), "others": others})
    return rows


def _several_values(rows: list[dict]) -> list[str]:
    return [key for key in ("cell", "prompt_set") if len({row[key] for row in rows}) > 1]


def _steps(report_folder: Path) -> list[dict]:
    """Every finished step: its manifest, and a link to its page; cells in order, `all` last."""
    found = []
    for path in report_folder.parent.parent.glob("*/*/manifest.json"):
        manifest, folder = read_manifest(path.parent), path.parent
        if manifest:
            link = f"../../{folder.parent.name}/{folder.name}/notebook.html"
            found.append({"manifest": redact(manifest), "link": link if (folder / "notebook.html").exists() else ""})
    return sorted(found, key=lambda step: [step["manifest"][key] for key in ("notebook", "cell", "step")])


def _lead(summary: list[dict], lost: list[dict], steps: list[dict]) -> str:
    """The first line: how much there is, and how much is missing, with reasons."""
    plotted: dict[str, float] = next(
        (step["manifest"]["counts"] for step in steps if step["manifest"]["cell"] == "all"), {}
    )
    prompts = plotted.get(
        "prompts", sum(number(row["num_prompts"]) or 0 for row in summary if row["arm"] == summary[0]["arm"])
    )
    parts = [_several(prompts, "prompt"), _several(len({row["arm"] for row in summary}), "arm")]
    cells = len({row["cell"] for row in summary})
    parts += [_several(cells, "cell")] if cells > 1 else []
    reasons: Counter = Counter()
    for row in lost:
        reasons[row["what"], row["reason"]] += int(number(row["num_missing"]) or 0)
    listed = ", ".join(f"{_several(count, what)} ({why})" for (what, why), count in reasons.most_common() if count)
    said = ["unscored: " + listed if listed else "every answer and every pair was scored", _cut_short(summary)]
    return "; ".join([", ".join(parts), *filter(None, said)]) + "."


def _cut_short(summary: list[dict]) -> str:
    """What the first line adds where responses or rewrites ended at their limit of tokens; "" where none did."""
    shares = {what: _most(summary, name) for name, what in _CUTS.items()}
    said = [f"{percent(max(share, 0.001))} of an arm's {what}" for what, share in shares.items() if share]
    return f"cut at their limit of tokens: up to {' and '.join(said)}" if said else ""


def _most(summary: list[dict], name: str) -> float:
    """The largest share in a column of the summary, 0 where none is known."""
    return max((number(row.get(name)) or 0.0 for row in summary), default=0.0)


def _cut_warnings(summary: list[dict]) -> list[str]:
    """A warning for each parameter that cut many responses or rewrites of an arm, the arms with the most first."""
    found: dict[tuple[str, str], list[tuple[float, str]]] = {}
    for name, what in _CUTS.items():
        for row in summary:
            share = number(row.get(name)) or 0.0
            if share > _MANY_CUT:
                place = " · ".join(row[key] for key in ("arm", *_several_values(summary)))
                found.setdefault((what, _limit(name, row["arm"])), []).append((share, place))
    return [_cut_warning(*key, sorted(shares, reverse=True)) for key, shares in found.items()]


def _cut_warning(what: str, parameter: str, shares: list[tuple[float, str]]) -> str:
    listed = ", ".join(f"{place} {percent(share)}" for share, place in shares[:_MOST_NAMED])
    listed += f" and {len(shares) - _MOST_NAMED} more" if len(shares) > _MOST_NAMED else ""
    said = f"Many {what} were cut at their limit of tokens, and only what they held by then was compared: {listed}."
    return f"{said} Raise {parameter} and run 04_evaluate again."


def _limit(column: str, arm: str) -> str:
    """The parameter of 04_evaluate that sets the limit."""
    if column == "cut":
        return "max_response_tokens"
    return "max_prompt_tokens" if arm.removeprefix("shuffled:") == "poir_s1" else "max_rewrite_tokens"


def _several(count: float, what: str) -> str:
    return f"{count:,.0f} {what}" + "s" * (count != 1)


def _warnings(lost: list[dict], summary: list[dict], health_card: Path) -> list[str]:
    """The banners above the table; none where all is well."""
    return [*filter(None, [_warning(lost), *_cut_warnings(summary), _judge_warning(health_card)])]


def _warning(lost: list[dict]) -> str:
    """What to say where a large part of the rewards or verdicts is missing; "" if none is."""
    missing: Counter = Counter()
    wanted: dict[tuple, float] = {}
    for row in lost:
        key = (row.get("cell"), row["what"], row["prompt_set"], row["arm"])
        missing[key] += int(number(row["num_missing"]) or 0)
        wanted[key] = number(row["num_wanted"]) or 0
    worst = max((missing[key] / wanted[key] for key in missing if wanted[key]), default=0)
    if worst <= _MANY_UNSCORED:
        return ""
    return f"Up to {percent(worst)} of what was to be scored has no score (see below): read the comparison with care."


def _judge_warning(path: Path) -> str:
    """The banner of the judge's health card; "" where every check holds, or none was made."""
    if not path.is_file():
        return ""
    import pandas as pd

    from nbutils.analyse import health

    card = pd.read_csv(path, keep_default_na=False, na_values=[""], dtype={"cell": str})
    return redact(
        health.banner(card.assign(sound=card["sound"].map({"True": True, "False": False, True: True, False: False})))
    )


def _figures(folder: Path) -> list[tuple[str, list[dict]]]:
    """(section, figures) in the order of the page; a figure is its embedded image, caption and link to its data."""
    found: dict[str, list[dict]] = {
        "Results": [],
        _JUDGE: [],
        _PAPER: [],
        _THEORY: [],
        "Training": [],
        "Collection": [],
    }
    names = {path.stem: _known(path.stem) for path in sorted((folder / "figures").glob("[!.]*.png"))}
    for name in sorted(names, key=lambda name: [*_CAPTIONS, ""].index(names[name])):
        caption = _CAPTIONS.get(names[name], f"{name.replace('_', ' ').capitalize()}.")
        content = (folder / "figures" / f"{name}.png").read_bytes()
        width = int.from_bytes(content[16:20], "big") // 2  # figures have 200 dots an inch: text as large as the page's
        link = f"figures/{name}.csv" if (folder / "figures" / f"{name}.csv").exists() else ""
        section = _SECTIONS.get(names[name]) or _SECTIONS.get(name.split("_")[0], "Results")
        of = name.removeprefix(names[name]).strip("_") if names[name] else ""
        drawn = image("image/png", content, caption)
        found[section].append({"image": drawn, "width": width, "caption": caption, "of": of, "data": link})
    return [(title, figures) for title, figures in found.items() if figures]


def _known(name: str) -> str:
    return next((known for known in _CAPTIONS if name.startswith(known)), "")


def _cases(rows: list[dict]) -> list[dict]:
    """Prompts with what each arm made of them, in the table's order."""
    several = _several_values(rows)
    cases: dict[tuple, dict] = {}
    for row in rows:
        where = [row[key] for key in several]
        case = cases.setdefault((*where, row["prompt"]), {"prompt": row["prompt"], "where": where, "sides": []})
        case["sides"].append(row | {"orders": _orders(row)})
    return list(cases.values())


def _orders(row: dict) -> list[dict]:
    """What the judge said of an arm's answer in each order: which answer came first, verdict, scores, its own words."""
    found = []
    for order in ("arm_first", "baseline_first"):
        verdict, *scores = (row.get(f"{name}_{order}") or "" for name in ("verdict", "arm_score", "baseline_score"))
        shown = " to ".join(f"{number(score):g}" for score in scores if number(score) is not None)
        said = (row.get(f"judge_{order}") or "").strip()
        place = {"arm_first": "shown first", "baseline_first": "shown second"}[order]
        found += [{"place": place, "verdict": verdict, "scores": shown, "said": said}] if verdict else []
    return found
