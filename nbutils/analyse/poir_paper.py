"""POIR's Tables 1 to 3 from any experiment's verdicts, the paper's own numbers as data, and transfer between models.

Departures from the paper (sections 4.1 and 4.2):
1. Every pair is judged in both orders and a win needs both to agree, so that more pairs end as ties; the paper showed
   each pair once, in random order. Percentages are of scored prompts, with Wilson's interval; unscored are counted.
2. The paper calls ΔWR "the change in win rate compared to the baseline" and gives no formula. Its printed values are
   the mean over the four sets of A Win - B Win, in points, each set with the same weight. So here, with Tango's
   interval for a set and, for the mean, the sets' intervals combined by MOVER (Zou and Donner 2008, Statistics in
   Medicine 27).
3. Numbers of the paper that contradict each other are left out, each with a remark (see `poir_printed.printed`).
4. The paper reports one training of each model. Where several cells share their models (seeds, or whatever else the
   grid varies), `over_cells` adds their mean, every cell with the same weight, with a t interval over the cells, that
   is over trainings and not over prompts. Three cells make it wide (4.3 standard errors), and it may pass 0 or 100.
"""

import math
import os
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from nbutils.analyse import alignpro_paper, poir_printed, stats, tables
from nbutils.analyse.poir_printed import COLUMNS, NUMBERS, OVER_SETS, SETS, SOURCES, TABLES, set_order
from nbutils.experiment import paths, steps

published = poir_printed.published  # what the paper prints, beside what it is set against
_MEAN_OF = "mean of "  # stands, with a number, where a cell's name does, which can hold no space
TRANSFER_COLUMNS = ("source", "target", "prompt_set", "value", "low", "high", "num_cells", "num_scored", "num_unscored")
_ABOUT_MEANS = (
    "Mean of several cells: cells with the same models, each with the same weight; its interval is a 95% t interval "
    "over these cells (trainings), not over prompts: wide for few values, none for one or for equal ones."
)


# --- any experiment's


def wanted(more: Sequence[str] = ()) -> dict[str, tuple]:
    """{table: pairs of arms}: the paper's three, and those asked for ("poir vs sft") as poir_pairs, if any."""
    return TABLES | ({"poir_pairs": tuple(read_pair(text) for text in more)} if more else {})


def read_pair(text: str) -> tuple[str, str]:
    """Two arms from "A vs B". ValueError for anything else."""
    arms = [part.strip() for part in str(text).split(" vs ")]
    if len(arms) != 2 or not all(arms) or arms[0] == arms[1]:
        raise ValueError(f"pair of arms {text!r}: wanted two different arms, as in poir vs sft")
    return arms[0], arms[1]


def pairs_held(verdicts) -> pd.DataFrame:
    """Which pairs of arms were judged: cells, prompt sets and prompts of each, and the tables that show it."""
    table = pd.DataFrame(verdicts)
    shown, rows = {pair: name for name, pairs in TABLES.items() for pair in pairs}, []
    for (arm_a, arm_b), part in table.groupby(["arm_a", "arm_b"], sort=True) if len(table) else ():
        name = shown.get((arm_a, arm_b), shown.get((arm_b, arm_a), ""))
        sets = ", ".join(sorted(part["prompt_set"].unique(), key=set_order))
        counts = (part["cell"].nunique() if "cell" in part else 1, part["prompt_id"].nunique())
        rows.append((f"{arm_a} vs {arm_b}", SOURCES.get(name, ""), *counts, sets))
    return pd.DataFrame(rows, columns=["pair", "shown_in", "num_cells", "num_prompts", "prompt_sets"])


def pair_percentages(verdicts, models: dict | None, pairs) -> pd.DataFrame:
    """Per cell x pair (A, B) x prompt set, percent of scored prompts that A won, tied and lost, and the difference.

    verdicts: rows of records.Verdict with a column cell, the pair named either way round; models: {cell: {"prompter":
    ..., "responder": ...}}. Several samples of a prompt are averaged first. After a pair's sets comes a row OVER_SETS
    with ΔWR, the mean of delta_wr over the sets (points), missing where a set has nothing scored; the sets' prompts
    count as independent. Rows of COLUMNS; none for a pair that was never judged.
    """
    table, rows = pd.DataFrame(verdicts), []
    table = table if "cell" in table else table.assign(cell="")
    for cell, part in table.groupby("cell", sort=True):
        outcomes = stats.combine_orders(part)
        for arm_a, arm_b in pairs:
            turned = [row for row in stats.outcomes_against(outcomes, arm_b) if row["arm_a"] == arm_a]
            sets = _by_set(pd.DataFrame(stats.average_samples(turned))) if turned else []
            keys = {"source": "here", "cell": cell, "arm_a": arm_a, "arm_b": arm_b, "remark": ""}
            rows += [keys | row for row in (*sets, *_over_sets(sets))]
    return alignpro_paper.with_models(pd.DataFrame(rows, columns=list(COLUMNS)), models or {})


def _by_set(shares: pd.DataFrame) -> list[dict]:
    groups = sorted(shares.groupby("prompt_set"), key=lambda group: set_order(group[0]))
    return [{"prompt_set": name} | _percents(judged) for name, judged in groups]


def _percents(judged: pd.DataFrame) -> dict:
    num = int((judged["num_samples"] > 0).sum())
    row = {"num_scored": num, "num_unscored": len(judged) - num}
    for name in ("win", "tie", "lose"):
        share = math.fsum(judged[name].dropna()) / num if num else stats.NAN
        row |= _ends(f"{name}_percent", [100 * each for each in (share, *stats.wilson_interval(share, num))])
    rate = stats.win_rate(judged["win"], judged["lose"], judged["num_samples"])  # (1 + D) / 2, Tango's interval for D
    return row | _ends("delta_wr", [100 * (2 * each - 1) for each in rate[:3]])


def _ends(name: str, values) -> dict:
    return dict(zip((name, f"{name}_low", f"{name}_high"), values, strict=True))


def _over_sets(sets: list[dict]) -> list[dict]:
    """The row of ΔWR over the sets (none without sets): mean - sqrt(sum of (value - low)²) / k, and above likewise."""
    if not sets:
        return []
    values, lows, highs = ([row[f"delta_wr{end}"] for row in sets] for end in ("", "_low", "_high"))
    mean = math.fsum(values) / len(sets)
    reach = [
        math.sqrt(math.fsum((value - end) ** 2 for value, end in zip(values, ends, strict=True))) / len(sets)
        for ends in (lows, highs)
    ]
    counts = {name: sum(row[name] for row in sets) for name in ("num_scored", "num_unscored")}
    return [{"prompt_set": OVER_SETS} | _ends("delta_wr", (mean, mean - reach[0], mean + reach[1])) | counts]


def over_cells(table: pd.DataFrame) -> pd.DataFrame:
    """The rows, and above those of a prompter and responder that several cells share, their means over these cells.

    table: rows of pair_percentages. For each pair of arms that several of the cells have on the same set, a row per
    prompt set and one OVER_SETS: means over cells of win, tie and lose (percent) and delta_wr (points), each with its t
    interval over cells (NaN for one cell); num_scored and num_unscored summed; cell "mean of 3 cells", or "mean of 2
    to 3 cells" where the sets differ in that, and a remark that names them. A cell without the value, or for OVER_SETS
    without one of the pair's sets, is left out of that mean and its number. The same rows if nothing is shared.
    """
    rows = []
    for _, shared in table.groupby(["prompter", "responder"], sort=False):
        for _, pair in shared.groupby(["arm_a", "arm_b"], sort=False):
            rows += _means(pair)
        rows += shared.to_dict("records")
    return pd.DataFrame(rows, columns=list(table)).astype(table.dtypes)


def _means(pair: pd.DataFrame) -> list[dict]:
    if not pair[pair["prompt_set"] != OVER_SETS].duplicated("prompt_set").any():  # as where each cell has its own set
        return []
    complete = pair.groupby("cell")["prompt_set"].transform("size") == pair["prompt_set"].nunique()
    pair = pair.assign(delta_wr=pair["delta_wr"].where(complete | (pair["prompt_set"] != OVER_SETS)))
    groups = sorted(pair.groupby("prompt_set"), key=lambda group: set_order(group[0]))
    averaged = [same.loc[same["delta_wr"].notna(), "cell"].tolist() for _, same in groups]
    nums = [len(cells) for cells in averaged]
    name = f"{_MEAN_OF}{_span(nums)} cell{'s' * (max(nums) != 1)}"
    rows = zip(groups, averaged, strict=True)
    return [_mean(same) | {"cell": name, "remark": f"cells: {', '.join(cells)}"} for (_, same), cells in rows]


def _mean(same: pd.DataFrame) -> dict:
    """The cells' rows of one pair and set as one."""
    row = same.iloc[0].to_dict() | {name: int(same[name].sum()) for name in ("num_scored", "num_unscored")}
    for name in NUMBERS[::3]:
        row |= _ends(name, stats.mean(same[name])[:3])
    return row


def _is_mean(table: pd.DataFrame) -> pd.Series:
    return table["cell"].str.startswith(_MEAN_OF)


def _span(counts) -> str:
    return " to ".join(str(each) for each in sorted({int(min(counts)), int(max(counts))}))


# --- the paper's layout


def joined(table: pd.DataFrame, theirs: pd.DataFrame | None) -> pd.DataFrame:
    """Our rows and the paper's, those only once per model and pair: with the mean over cells where there is one."""
    if theirs is None:
        return table
    means, keys = _is_mean(theirs), [theirs[name] for name in ("prompter", "responder", "arm_a", "arm_b")]
    return alignpro_paper.joined(table, theirs[means | ~means.groupby(keys).transform("any")])


def blocks(table: pd.DataFrame, theirs: pd.DataFrame | None = None) -> dict[str, pd.DataFrame]:
    """{title: table as text}: ours, with the paper's row below each of ours that it has; else the paper's apart."""
    title = "A against B, judged here"
    if theirs is None or alignpro_paper.matches(theirs):
        return {title: layout(joined(table, theirs))}
    return {title: layout(table), f"As printed in the paper ({theirs['source'].iloc[0]})": layout(theirs)}


def layout(table: pd.DataFrame) -> pd.DataFrame:
    """A row per model, pair and source: A Win, Tie, B Win under each set's name, then ΔWR with its interval; text.

    The paper's Tables 1 and 2 by themselves have their index too.
    """
    sets = sorted({*table["prompt_set"]} - {OVER_SETS}, key=set_order)
    columns = [("Model", ""), ("Method", "A"), ("Method", "B")]
    with_index = table["source"].isin([SOURCES["poir_table_1"], SOURCES["poir_table_2"]]).all() and len(table) > 0
    columns += [(SETS.get(name, name), side) for name in sets for side in ("A Win", "Tie", "B Win")] + [("ΔWR", "")]
    table = table.assign(model=_models(table))
    keys = ["prompter", "responder", "cell", "arm_a", "arm_b"]
    theirs, rows = table["source"].isin(SOURCES.values()), []
    for _, pair in _in_order(table, keys):
        for printed_there, part in pair.groupby(theirs.loc[pair.index], sort=False):
            rows.append(_line(part, sets, printed_there and pair["source"].nunique() > 1))
    shown = pd.DataFrame(rows, columns=pd.MultiIndex.from_tuples(columns))
    if with_index:
        shown.insert(1, ("Index", ""), [f"{index:.0f}" for index in table.drop_duplicates(keys)["index"]])
    return shown


def _in_order(table: pd.DataFrame, keys: list[str]):
    """Groups in the order of their first rows, one model's pairs together."""
    models = {model: place for place, model in enumerate(dict.fromkeys(table["model"]))}
    return sorted(table.groupby(keys, sort=False), key=lambda group: models[group[1]["model"].iloc[0]])


def _line(part: pd.DataFrame, sets: list[str], beside: bool) -> list[str]:
    first, by_set = part.iloc[0], {row["prompt_set"]: row for row in part.to_dict("records")}
    name = f"as printed in {first['source']}, {_places(part)[0]}" if beside else first["model"]
    line = [name, first["arm_a"], first["arm_b"]]
    for name in sets:
        row = by_set.get(name, {})
        line += [_percent(row.get(f"{side}_percent", stats.NAN)) for side in ("win", "tie", "lose")]
    return [*line, _delta(by_set.get(OVER_SETS, {}))]


def _models(table: pd.DataFrame) -> list[str]:
    """The model of each row: one name where it rewrites and answers; the cell too, where several share their models."""
    names = []
    for prompter, responder in zip(table["prompter"], table["responder"], strict=True):
        both = [name if name.startswith("sandbox/") else name.rpartition("/")[2] for name in (prompter, responder)]
        names.append(", ".join(dict.fromkeys(filter(None, both))))
    cells = table["cell"].groupby([table["prompter"], table["responder"]]).transform("nunique")
    return [
        name if several < 2 or cell in ("", name) else f"{name} ({cell})"
        for name, cell, several in zip(names, table["cell"], cells, strict=True)
    ]


def _percent(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.1f}"


def _delta(row: dict) -> str:
    value, low, high = (row.get(f"delta_wr{end}", stats.NAN) for end in ("", "_low", "_high"))
    if math.isnan(value):
        return "–"
    return f"{value:+.1f}" + ("" if math.isnan(low) else f" [{low:+.1f}, {high:+.1f}]")


def note(table: pd.DataFrame, theirs: pd.DataFrame | None = None, pairs=()) -> str:
    """What the numbers count, what was not judged, and what of the paper's is left out, in words."""
    held = set(zip(table["arm_a"], table["arm_b"], strict=True))
    absent = ", ".join(f"{a} vs {b}" for a, b in pairs if (a, b) not in held)
    parts = [f"Not judged here: {absent}."] if absent else []
    if len(table):
        sets = table[(table["prompt_set"] != OVER_SETS) & ~_is_mean(table)]
        text = (
            "A Win, Tie, B Win: percent of scored prompts; both orders judged, a win needs both. ΔWR: mean over the "
            f"sets of A Win - B Win in points, with its 95% interval. n = {_span(sets['num_scored'])} "
        )
        parts.insert(0, f"{text}prompts per set, {int(sets['num_unscored'].sum())} unscored ones left out.")
        parts[1:1] = [_ABOUT_MEANS] if _is_mean(table).any() else []
    if theirs is not None:
        text = f"The paper's numbers ({theirs['source'].iloc[0]}) are GPT-4's verdicts, each pair in one random order."
        parts.append(f"{text} {_remarks(theirs)}".strip())
    return " ".join(parts)


def _remarks(theirs: pd.DataFrame) -> str:
    """`index 9, Dolly Eval: ...` for each remark, once for all sets that share it."""
    rows = theirs[theirs["remark"] != ""]
    rows = rows.assign(place=_places(rows)).drop_duplicates(["place", "prompt_set"])
    said = []
    for (place, remark), part in rows.groupby(["place", "remark"], sort=False):
        said.append(f"{place}, {', '.join(SETS.get(name, 'ΔWR') for name in part['prompt_set'])}: {remark}")
    return f"Of these, in doubt and left out unless kept is said: {'; '.join(said)}." if said else ""


def _places(rows: pd.DataFrame) -> list[str]:
    """Where in its table each of the paper's rows is: its index, or in Table 3, which has none, its line."""
    words = ["line" if source == SOURCES["poir_table_3"] else "index" for source in rows["source"]]
    return [f"{word} {index:.0f}" for word, index in zip(words, rows["index"], strict=True)]


def as_markdown(table: pd.DataFrame, theirs: pd.DataFrame | None = None, pairs=()) -> str:
    """The blocks as Markdown, which has one header row: A Win, Tie and B Win stand in the first row of the body."""
    parts = []
    for title, block in blocks(table, theirs).items():
        names, sides = zip(*block.columns, strict=True)
        places = range(len(names))
        shown = pd.DataFrame([list(sides), *block.to_numpy().tolist()], columns=list(places))
        head = {i: "" if i and names[i] == names[i - 1] else names[i] for i in places}
        text = tables.as_markdown(shown.set_axis([str(i) for i in places], axis=1), [str(i) for i in places if i > 2])
        header = "| " + " | ".join(map(tables.escape_markdown, head.values())) + " |\n"
        parts.append(f"{tables.escape_markdown(title)}\n\n{header}{text.split(chr(10), 1)[1]}")
    return "\n".join([*parts, f"{tables.escape_markdown(note(table, theirs, pairs))}\n"])


def as_latex(table: pd.DataFrame, theirs: pd.DataFrame | None = None, pairs=()) -> str:
    """The blocks as booktabs tabulars, the sets' names above A Win, Tie and B Win."""
    parts = []
    for title, block in blocks(table, theirs).items():
        body = block.set_axis([side for _, side in block.columns], axis=1)
        text = tables.as_latex(body, numeric=("A Win", "Tie", "B Win"))
        text = text.replace("\\toprule\n", f"\\toprule\n{_spanning(block)}", 1)
        parts.append(f"% {' '.join(title.split())}\n{text}")
    said = " ".join(note(table, theirs, pairs).split())
    return "\n".join([*parts, f"% {said}\n"]).replace("ΔWR", "$\\Delta$WR")


def _spanning(block: pd.DataFrame) -> str:
    """The upper header row: Method over two columns, each set over its three, with a rule below them."""
    names, cells, rules, start = [name for name, _ in block.columns], [], [], 0
    while start < len(names):
        width = names[start:].count(names[start]) if block.columns[start][1] else 1
        text = tables.escape_latex(names[start])
        cells.append(text if width == 1 else rf"\multicolumn{{{width}}}{{c}}{{{text}}}")
        rules += [rf"\cmidrule(lr){{{start + 1}-{start + width}}}"] * (width > 1)
        start += width
    return " & ".join(cells) + " \\\\\n" + "".join(rules) + "\n"


def write(table: pd.DataFrame, theirs: pd.DataFrame | None, folder, name: str, pairs=()) -> list:
    """folder/name.csv (long form, every digit, intervals, counts, remarks), .md and .tex (the layout). The paths."""
    return [
        paths.write_atomic(os.path.join(folder, f"{name}.csv"), tables.as_csv(joined(table, theirs))),
        paths.write_atomic(os.path.join(folder, f"{name}.md"), as_markdown(table, theirs, pairs)),
        paths.write_atomic(os.path.join(folder, f"{name}.tex"), as_latex(table, theirs, pairs)),
    ]


# --- homologous data: one model's pairs, another's training


def sources(run: steps.Step, cells: list[str]) -> dict[tuple[str, str], str]:
    """{(cell, arm): the model whose pairs the arm was trained on}: the responder of the step that made its pairs.jsonl.

    Over all steps of the cells that 03_train_poir trained with target poir; the arm has its step's name. It follows
    the manifests: the training's names its pairs.jsonl, and the step beside that file names its models. An arm with
    pairs that no step of ours made is not in it.
    """
    root, found = run.folder.parent.parent, {}
    for path in [path for cell in cells for path in sorted((root / cell).glob("*/manifest.json"))]:
        for collected in _collections(steps.read_manifest(path.parent) or {}):
            made_by = (steps.read_manifest(collected) or {}).get("parameters", {})
            if "responder" in made_by:
                run.input(path, "03_train_poir")
                run.input(collected / "manifest.json", "01_collect")
                found[path.parent.parent.name, path.parent.name] = made_by["responder"]
    return found


def _collections(training: dict) -> list[Path]:
    """Folders of the pairs.jsonl that a training with target poir read; none for another step."""
    if training.get("notebook") != "03_train_poir" or training["parameters"].get("target") != "poir":
        return []
    return [(paths.project_root() / name).parent for name in training["inputs"] if Path(name).name == "pairs.jsonl"]


def transfer(verdicts, models: dict, sources: dict[tuple[str, str], str], baseline: str = "nan") -> pd.DataFrame:
    """Win rate (percent) against the baseline of POIR's arms: source of an arm's pairs x model it is evaluated with.

    models, sources: what `gather.evaluations` says of each cell, and `sources` of each (cell, arm); target is the
    cell's responder, named with the prompter where a responder has several. Arms of one cell with the same source are
    averaged first, so that a cell counts once. The interval is Tango's for one cell, and a t interval over cells where
    several (seeds) share source and target; num_cells: those with a value. Rows of TRANSFER_COLUMNS, for
    plots.transfer_heatmap.
    """
    table = pair_percentages(verdicts, models, [(arm, baseline) for arm in sorted({arm for _, arm in sources})])
    table["trained_on"] = [sources.get(key) for key in zip(table["cell"], table["arm_a"], strict=True)]
    table = table[table["cell"].isin(models) & table["trained_on"].notna() & (table["prompt_set"] != OVER_SETS)]
    several = table.groupby("responder")["prompter"].transform("nunique") > 1
    table = table.assign(target=table["responder"].where(~several, table["prompter"] + ", " + table["responder"]))
    rows = []
    for keys, part in table.groupby(["trained_on", "target", "prompt_set"], sort=True):
        counts = (int(part[name].sum()) for name in ("num_scored", "num_unscored"))
        rows.append((*keys, *_win_rate(part), *counts))
    return pd.DataFrame(rows, columns=list(TRANSFER_COLUMNS))


def _win_rate(part: pd.DataFrame) -> stats.Estimate:
    """Mean win rate (percent) of the cells in part; num: cells that have one.

    A cell's arms share its prompts: the mean of their ends is an interval for their mean, if anything too wide.
    """
    scored = part.dropna(subset=["delta_wr"]).groupby("cell")[["delta_wr", "delta_wr_low", "delta_wr_high"]]
    cells = 50 + scored.agg(lambda column: column.mean(skipna=False)) / 2
    if len(cells) != 1:
        return stats.mean(cells["delta_wr"])
    value, low, high = cells.iloc[0]
    return stats.Estimate(value, low, high, 1)
