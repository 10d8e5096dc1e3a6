"""Pairs for other tools: nothing lost on the way, what 03 trains on in its own format, errors in one line."""

import json

import pandas as pd
import pytest

from nbutils.collect import pairing
from nbutils.experiment import paths, records
from nbutils.experiment.records import Prompt, Round
from nbutils.run import cli
from nbutils.train import poir_texts
from nbutils.train.export import export_pairs


@pytest.fixture
def folder(outputs):
    """A finished 01_collect with one prompt, two rounds and a pair; texts with what breaks line-based files."""
    made = paths.step_folder("e", "main", "collect")
    row = Prompt("p", "p\u2028x", "collect", "train", {"shots": ["s"], "nearest": []})
    rounds = [Round("p", row.prompt, i, f"rewrite {i}", "a\u0085b", score, "c", "raw") for i, score in ((0, 2), (1, 5))]
    records.write_rows(made / "prompts.jsonl", [row])
    records.write_rows(made / "rounds.jsonl", rounds)
    records.write_rows(made / "pairs.jsonl", pairing.make_pairs(rounds, 4))
    paths.write_atomic(made / "manifest.json", json.dumps({"parameters": {"templates": "sandbox"}}))
    return made


def test_jsonl_and_parquet_hold_every_field_and_the_lineage(folder, tmp_path):
    assert export_pairs("e", "main", "jsonl", str(tmp_path / "a.jsonl")) == f"1 pairs in {tmp_path / 'a.jsonl'}"
    (row,) = records.read_rows(tmp_path / "a.jsonl")
    assert row["prompt"] == "p\u2028x" and row["good_response"] == "a\u0085b"
    assert row["source"] == {"shots": ["s"], "nearest": []} and row["critiques"] == {"0": "c", "1": "c"}
    export_pairs("e", "main", "parquet", str(tmp_path / "a.parquet"))
    (stored,) = pd.read_parquet(tmp_path / "a.parquet").to_dict("records")
    assert json.loads(stored["source"]) == row["source"] and stored["bad_rewrite"] == "rewrite 0"


@pytest.mark.parametrize("target", ["poir", "dpo_awi", "sft", "dpo_awo"])
def test_trl_rows_are_what_03_trains_on(folder, tmp_path, target):
    assert cli.main(["pairs", "export", "e", "--format", "trl", "--target", target, "--out", str(tmp_path / "t")]) == 0
    wanted = poir_texts.examples(records.read_rows(folder / "pairs.jsonl", records.Pair), target, "sandbox")
    assert records.read_rows(tmp_path / "t") == wanted
    assert set(wanted[0]) == ({"prompt", "completion"} if target == "sft" else {"prompt", "chosen", "rejected"})


@pytest.mark.parametrize(
    "arguments, line",
    [
        (["e", "--format", "csv"], "format 'csv': wanted one of jsonl, trl, parquet, hub"),
        (["e", "--format", "trl", "--target", "bpo"], "target 'bpo': wanted one of poir"),
        (["e", "--format", "hub"], "wanted owner/name"),
        (["other"], "run 01_collect first"),
        (["e", "--format", "hub", "--out", "me/pairs"], "could not be pushed"),
    ],
)
def test_what_cannot_be_exported_is_one_line(folder, monkeypatch, capsys, arguments, line):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert cli.main(["pairs", "export", *arguments]) == 2
    assert line in capsys.readouterr().err
