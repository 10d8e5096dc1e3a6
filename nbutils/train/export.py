"""`workbook pairs export`: the preference pairs of 01_collect for other tools, each with its lineage or ready to train.

| format | rows |
|---|---|
| jsonl, parquet | every field of the pair, what it was invented from, the critique of each round |
| trl | prompt, chosen, rejected (sft: prompt, completion) as messages, what 03_train_poir trains on |
| hub | the rows of parquet, pushed as a private data set |
"""

import json
from pathlib import Path

from nbutils.collect import pairing
from nbutils.experiment import paths, records
from nbutils.experiment.steps import read_manifest
from nbutils.train import poir_texts
from nbutils.train.poir_texts import TARGETS

FORMATS = ("jsonl", "trl", "parquet", "hub")


def export_pairs(experiment: str, cell: str, kind: str, out: str, target: str = "poir", step: str = "collect") -> str:
    """Write (or push) the pairs of a finished 01_collect; returns what was written, in one line.

    out: a file, or for hub the data set's id; empty: pairs.<kind> in the working folder. Raises FileNotFoundError
    without pairs, ValueError for an unknown format or target, or a hub export without an id.
    """
    if kind not in FORMATS:
        raise ValueError(f"format {kind!r}: wanted one of {', '.join(FORMATS)}")
    if target not in TARGETS:
        raise ValueError(f"target {target!r}: wanted one of {', '.join(TARGETS)}")
    if kind == "hub" and "/" not in out:
        raise ValueError("--out is the data set's id for --format hub: wanted owner/name")
    folder = paths.step_folder(experiment, cell, step)
    if not (folder / "pairs.jsonl").is_file():
        raise FileNotFoundError(f"{paths.relative(folder / 'pairs.jsonl')} not found: run 01_collect first")
    pairs = records.read_rows(folder / "pairs.jsonl", records.Pair)
    rows = _to_train(pairs, folder, target) if kind == "trl" else _with_lineage(pairs, folder)
    place = out if kind == "hub" else str(Path(out or f"pairs.{'jsonl' if kind == 'trl' else kind}"))
    _WRITERS[kind](rows, place)
    left_out = f", {len(pairs) - len(rows)} left out that hold the delimiter" if len(rows) < len(pairs) else ""
    return f"{len(rows):,} pairs in {place}{left_out}"


def _with_lineage(pairs: list, folder: Path) -> list[dict]:
    prompts = records.read_rows(folder / "prompts.jsonl", records.Prompt)
    rounds = records.read_rows(folder / "rounds.jsonl", records.Round)
    return pairing.export_rows(pairs, prompts, rounds)


def _to_train(pairs: list, folder: Path, target: str) -> list[dict]:
    manifest = read_manifest(folder) or {"parameters": {}}
    kept, _ = poir_texts.without_delimiter(pairs, target)
    return poir_texts.examples(kept, target, manifest["parameters"].get("templates", "sandbox"))


def _write_parquet(rows: list[dict], place: str) -> None:
    import pandas as pd

    flat = [row | {name: json.dumps(row[name]) for name in ("source", "critiques")} for row in rows]
    pd.DataFrame(flat).to_parquet(place, index=False)


def _push(rows: list[dict], place: str) -> None:
    import datasets
    import huggingface_hub.errors

    flat = [row | {name: json.dumps(row[name]) for name in ("source", "critiques")} for row in rows]
    try:
        datasets.Dataset.from_list(flat).push_to_hub(place, private=True)
    except (OSError, huggingface_hub.errors.HfHubHTTPError, huggingface_hub.errors.LocalTokenNotFoundError) as error:
        first = " ".join(str(error).split())[:200]
        raise ConnectionError(f"{place} could not be pushed ({first}): go online, then `hf auth login`") from None


def _write_rows(rows: list[dict], place: str) -> None:
    records.write_rows(Path(place), rows)


_WRITERS = {"jsonl": _write_rows, "trl": _write_rows, "parquet": _write_parquet, "hub": _push}
