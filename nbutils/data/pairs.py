"""Preference pairs (x, y_u, y_v) by name, hub id or file, the better response first.

| rows                                           | chosen against rejected                                     |
|------------------------------------------------|-------------------------------------------------------------|
| good_response, bad_response (01_collect)       | the responses, both against the original prompt             |
| chosen, rejected (texts or message lists)      | the assistant's last words (UltraFeedback binarized, Orca)  |
| good_res, bad_res (BPO)                        | as they are                                                 |
| completions (UltraFeedback)                    | the highest against the lowest overall_score                |
| response, helpfulness, ... (HelpSteer)         | a prompt's highest against its lowest sum by RATING_WEIGHTS |

A pair whose own scores call it a tie, or say the opposite of its columns, is dropped and counted, and so is one that
the set labels both ways. System prompts are left out: x is what the user wrote. A reward sees one prompt and one
response, so conversations of several turns are dropped and counted too.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nbutils.data import columns, conversations, hub, readers, sets
from nbutils.experiment import grid, paths, records, steps
from nbutils.models.texts import encodable

HUB_PAIRS = sets.HUB_SETS | {"orca": "Intel/orca_dpo_pairs"}  # OpenOrca itself has one response per question
# Whole numbers, so that equal ratings are equal sums. Being long is no merit in itself.
RATING_WEIGHTS = {"helpfulness": 4, "correctness": 3, "coherence": 2, "complexity": 1, "verbosity": -1}
DROPPED = ("other_split", "incomplete", "multi_turn", "same", "tied", "contradictory", "duplicates")
_SIDES = (("good_response", "bad_response"), ("chosen", "rejected"), ("good_res", "bad_res"))
_REWRITES = ("optimized_prompt", "good_res", "bad_res")
_SCORES = (
    ("good_score", "bad_score"),
    ("score_chosen", "score_rejected"),
    ("chosen_score", "rejected_score"),
    ("chosen_rating", "rejected_rating"),
)
_SHAPES = (*_SIDES, ("completions",), ("response", *RATING_WEIGHTS))
_NEXT_TURN = "<extra_id_1>"  # stands between the turns of a prompt in HelpSteer2
_LOOK = 1000  # rows without a pair's columns, after which a set is given up


@dataclass(frozen=True)
class PreferencePair:
    """Two responses to one prompt x, the better one in `chosen`. source: the set, and the row of it."""

    prompt_id: str
    prompt: str
    chosen: str
    rejected: str
    source: dict | None = None


# Loading


def load(ref: str, num_pairs: int = 0, seed: int = 0) -> tuple[list[PreferencePair], dict[str, int]]:
    """(pairs, counts) of a set's training split, in the set's order; its test prompts are left out as in data.load.

    ref: a name or hub id as in sets.load, or a file, or several with a + between them. num_pairs: how many at most, 0
    for all; drawn by seed, whatever the order of the rows (a stream is mixed in a buffer instead).
    counts: rows read, then why there is no pair: DROPPED, in rows; a prompt's rated responses count as one; kept. What
    two sets hold is a duplicate or a contradiction as within one; of several, each one's rows read and kept come last.
    Raises ValueError, FileNotFoundError, PermissionError or ConnectionError, each in one line.
    """
    names = sets.parts(ref)
    if len(names) == 1:
        return _load_one(names[0], num_pairs, seed)
    each = {name: _load_one(name, num_pairs, seed) for name in names}
    between: Counter[str] = Counter()
    found = _distinct((pair for pairs, _ in each.values() for pair in pairs), between, 0)
    found = _draw(found, num_pairs, seed) if 0 < num_pairs < len(found) else found
    return found, sets.summed({name: counts for name, (_, counts) in each.items()}, found, **between)


def _load_one(ref: str, num_pairs: int, seed: int) -> tuple[list[PreferencePair], dict[str, int]]:
    """load() of one set."""
    hub_id = _hub_id(ref)
    streamed = bool(hub_id) and num_pairs > 0
    rows = hub.read_hub(hub_id, "train", seed if streamed else None) if hub_id else _read_local(ref)
    counts = Counter(dict.fromkeys(("read", *DROPPED, "kept"), 0))
    found = _distinct(_pairs(rows, ref, counts), counts, num_pairs if streamed else 0)
    found = _draw(found, num_pairs, seed) if 0 < num_pairs < len(found) else found
    if not found:
        seen = ", ".join(f"{counts[name]} {name}" for name in ("read", *DROPPED) if counts[name]) or "no row"
        raise ValueError(f"{ref} has no usable preference pair ({seen}): check its columns, or name another set")
    return found, dict(counts) | {"kept": len(found)}


def check(ref: str) -> None:
    """Stop on a pair set that cannot exist, without loading anything: ValueError or FileNotFoundError in one line."""
    for name in sets.parts(ref):
        _hub_id(name)


def load_rewrites(path: Path) -> tuple[list[records.Pair], dict[str, int]]:
    """(pairs, counts) of a good and a bad rewrite each, for POIR: rows of 01_collect's pairs.jsonl, or BPO's.

    BPO's (prompt, optimized_prompt, good_res, bad_res) set the optimised prompt with the good response against the
    prompt itself with the bad one. counts: rows read; incomplete; same, where the rewrite is the prompt; kept.
    Raises ValueError, in one line, for other columns and where nothing is left of the rows.
    """
    counts = Counter(read=0, incomplete=0, same=0, kept=0)
    pairs = [pair for row in readers.read_rows(path) if (pair := _rewrites(row, path, counts))]
    counts["kept"] = len(pairs)
    if counts["read"] and not pairs:
        raise ValueError(f"{path.name} has no usable pair of rewrites ({counts['read']} rows read): name another file")
    return pairs, dict(counts)


def _rewrites(row: dict, path: Path, counts: Counter) -> records.Pair | None:
    counts["read"] += 1
    if {"good_rewrite", "bad_rewrite"} <= row.keys():
        try:
            return records.Pair(**row)
        except TypeError as error:
            raise ValueError(f"{path.name}: not a pair of 01_collect ({error}): name its pairs.jsonl") from None
    if not {"prompt", *_REWRITES} <= row.keys():
        wanted = f"01_collect's pairs.jsonl, or prompt, {', '.join(_REWRITES)}"
        raise ValueError(f"{path.name} holds no rewrites: wanted {wanted}; got {', '.join(map(str, row))[:200]}")
    texts = [row[name] if isinstance(row[name], str) else "" for name in ("prompt", *_REWRITES)]
    prompt, better, good, bad = (encodable(text).strip() for text in texts)
    if not all((prompt, better, good, bad)):
        counts["incomplete"] += 1
    elif better == prompt:
        counts["same"] += 1
    else:
        return records.Pair(records.prompt_id(prompt), prompt, better, good, prompt, bad)
    return None


def of_step(run: steps.Step, pairs_of: str = "") -> tuple[list[records.Pair], dict[str, int]]:
    """(pairs, counts) that 03 trains on, recorded as the step's input.

    pairs_of: empty for those of the step's own cell; a model reference for those that another cell of the experiment
    collected with that responder (of the same seed, if there is one); or a file, see load_rewrites.
    Raises FileNotFoundError, naming 01_collect, where they are not made yet; ValueError where several cells made them.
    """
    if Path(pairs_of).suffix.lower() in readers.EXTENSIONS:
        (path,) = sets.files(pairs_of)
        run.uses(path)
    else:
        path = run.input(_collected(run, pairs_of) / "pairs.jsonl", "01_collect")
    return load_rewrites(path)


def _collected(run: steps.Step, model: str) -> Path:
    """The folder of the 01_collect step meant by `pairs_of: model`."""
    if not model:
        return run.folder.parent / "collect"
    root, found = run.folder.parent.parent, []
    for path in sorted(root.glob("*/*/manifest.json")):
        manifest = steps.read_manifest(path.parent) or {}
        if manifest.get("notebook") == "01_collect":
            found.append((manifest["cell"], manifest["parameters"], path.parent))
    fitting = grid.collected_with(model, run.folder.parent.name, run.parameters["seed"], found)
    if not fitting:
        raise FileNotFoundError(
            f"no cell of {root.name} has collected with {model}: run 01_collect in such a cell first"
        )
    if len(fitting) > 1:
        names = ", ".join(f"{cell}/{folder.name}" for cell, _, folder in fitting)
        raise ValueError(f"pairs_of {model}: several steps collected with it ({names}): name one's pairs.jsonl instead")
    return fitting[0][2]


def _hub_id(ref: str) -> str | None:
    """The hub id behind ref, None for what lies on this machine. ValueError or FileNotFoundError for neither."""
    sets.check(ref)
    if ref in hub.EVALUATION_SETS or sets.files(ref):
        return None
    if ref not in HUB_PAIRS and "/" not in ref:  # one of the sandbox's own
        raise ValueError(f"{ref} has prompts but no preference pairs: name the pairs.jsonl of 01_collect")
    return HUB_PAIRS.get(ref, ref)


def _read_local(ref: str) -> Iterator[dict]:
    return hub.read_evaluation_set(ref) if ref in hub.EVALUATION_SETS else readers.read_rows(sets.files(ref)[0])


def _draw(found: list[PreferencePair], num_pairs: int, seed: int) -> list[PreferencePair]:
    ranks = [paths.sha256_json([seed, pair.prompt_id, pair.chosen, pair.rejected]) for pair in found]
    last = sorted(ranks)[num_pairs - 1]
    return [pair for pair, rank in zip(found, ranks, strict=True) if rank <= last]


def _distinct(pairs: Iterable[PreferencePair], counts: Counter, limit: int) -> list[PreferencePair]:
    """Pairs without repeats and without those that occur both ways round; at most limit, 0 for all."""
    known: dict[tuple[str, ...], PreferencePair] = {}
    both_ways: set[tuple[str, ...]] = set()
    for pair in pairs:
        key = (pair.prompt_id, *sorted((pair.chosen, pair.rejected)))
        if key not in known:
            known[key] = pair
            if len(known) - len(both_ways) == limit:
                break
        elif known[key].chosen == pair.chosen:
            counts["duplicates"] += 1
        else:
            both_ways.add(key)
            counts["contradictory"] += 1
    counts["contradictory"] += len(both_ways)
    return [pair for key, pair in known.items() if key not in both_ways]


# Rows to pairs


def _pairs(rows: Iterable[dict], ref: str, counts: Counter) -> Iterator[PreferencePair]:
    """Pairs of the rows, those of rated responses last; counts is filled as rows are read."""
    rated: dict[str, tuple[int, list[tuple[float, str]]]] = {}
    names: set[str] = set()
    for index, row in enumerate(rows):
        row = {str(key).strip().lower().replace("-", "_"): value for key, value in row.items()}
        counts["read"] += 1
        names.update(row)
        if counts["read"] == _LOOK:
            _check_columns(names, ref)
        prompt = encodable(columns.find_prompt(row) or "").strip()
        found = _reason(row, ref, prompt) or _sides(row)
        if isinstance(found, list):  # a rated response: others to its prompt may come later
            rated.setdefault(prompt, (index, []))[1].extend(found)
        else:
            yield from _counted(found, prompt, {"set": ref, "row": index}, counts)
    _check_columns(names, ref)
    for prompt, (index, scored) in rated.items():
        yield from _counted(_best_and_worst(scored), prompt, {"set": ref, "row": index}, counts)


def _counted(found: tuple[str, str] | str, prompt: str, source: dict, counts: Counter) -> Iterator[PreferencePair]:
    """The pair of (chosen, rejected), or one more on the count of what it lacks."""
    if isinstance(found, str):
        counts[found] += 1
    else:
        yield PreferencePair(records.prompt_id(prompt), prompt, *found, source)


def _check_columns(names: set[str], ref: str) -> None:
    if names and not any(names.issuperset(shape) for shape in _SHAPES):
        wanted = "; ".join(" and ".join(shape) for shape in _SHAPES)
        got = ", ".join(sorted(names))[:200]
        raise ValueError(f"{ref}: no columns hold a preference pair; wanted {wanted}; got {got}: rename the columns")


def _reason(row: dict, ref: str, prompt: str) -> str | None:
    """Why a row's prompt cannot be used, if so."""
    if not prompt:
        return "incomplete"
    if _NEXT_TURN in prompt or _num_users(row.get("prompt")) > 1:
        return "multi_turn"
    return "other_split" if sets.role_of(row, ref, records.prompt_id(prompt)) == "test" else None


def _sides(row: dict) -> tuple[str, str] | list[tuple[float, str]] | str:
    """(chosen, rejected) of a row, [(score, response)] of a rated response, or why there is neither."""
    for good, bad in _SIDES:
        if good in row and bad in row:
            return _labelled(row, row[good], row[bad])
    if isinstance(row.get("completions"), list | tuple):
        return _completions(row["completions"])
    score, response = _rating(row), _response(row.get("response"))
    return "incomplete" if score is None or not response else [(score, response)]


def _labelled(row: dict, good, bad) -> tuple[str, str] | str:
    if _num_users(good) > 1 or _num_users(bad) > 1:
        return "multi_turn"
    chosen, rejected = _response(good), _response(bad)
    if not chosen or not rejected:
        return "incomplete"
    if chosen == rejected:
        return "same"
    scores = ((_number(row.get(high)), _number(row.get(low))) for high, low in _SCORES)
    known = ((high, low) for high, low in scores if high is not None and low is not None)
    high, low = next(known, (1.0, 0.0))
    if high == low or str(row.get("status")).lower() == "tie":  # status: distilabel's
        return "tied"
    return (chosen, rejected) if high > low else "contradictory"


def _completions(completions) -> tuple[str, str] | str:
    """Best against worst by overall_score, unless the finer score says the opposite (a known fault of old copies)."""
    rows = [row for row in completions if isinstance(row, dict)]
    scored = [(_number(row.get("overall_score")), _response(row.get("response"))) for row in rows]
    found = _best_and_worst(scored)
    finer = {_response(row.get("response")): _number(row.get("fine-grained_score")) for row in rows}
    if isinstance(found, str):
        return found
    high, low = (finer[text] for text in found)
    return "contradictory" if high is not None and low is not None and high < low else found


def _best_and_worst(scored: list[tuple]) -> tuple[str, str] | str:
    """(best, worst) response of [(score, response)], in any order, or why there is no pair."""
    usable = [(score, text) for score, text in scored if score is not None and text]
    if len(usable) < 2:
        return "incomplete"
    (low, worst), (high, best) = min(usable), max(usable)
    if best == worst:
        return "same"
    return (best, worst) if high > low else "tied"


def _rating(row: dict) -> int | float | None:
    """Sum of the ratings by RATING_WEIGHTS; None where one is missing."""
    ratings = [rating for name in RATING_WEIGHTS if (rating := _number(row.get(name))) is not None]
    if len(ratings) < len(RATING_WEIGHTS):
        return None
    return sum(weight * rating for weight, rating in zip(RATING_WEIGHTS.values(), ratings, strict=True))


def _number(value) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _response(value) -> str | None:
    """The assistant's last words in a text or in messages, stripped; None where somebody else has the last word."""
    said = _turns(value)
    return encodable(said[-1][1]).strip() if said and said[-1][0] in conversations.ASSISTANTS else None


def _num_users(value) -> int:
    return sum(role in conversations.USERS for role, _ in _turns(value))


def _turns(value) -> list[tuple[str, str]]:
    """[(role, text)] of messages, of a marked conversation, or of a text, which is the assistant's."""
    if isinstance(value, str):
        return conversations.of_text(value, alone=False) or [("assistant", value)]
    return conversations.of(value)
