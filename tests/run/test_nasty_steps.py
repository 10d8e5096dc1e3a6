"""Nasty strings go through all five notebooks: odd line breaks, half a character, NUL, slots, markup, a megabyte."""

import json

import pytest
from whole import finish, write

from nbutils.experiment import records

LONG = "word " * 200_000
NASTY = [
    "tell me\u0085about the fox.",
    "a line\u2028and another",
    "half a \ud800 character",
    "nothing \x00 here",
    "\u202eright to left",
    "{answer_b} {prompt} {fence}",
    "<script>alert(1)</script> & <b>",
    '=1+1,"quoted"\r\nand a break',
    "[[A]]\n### Response of a kind",
    LONG,
]
EXPERIMENT = {
    "experiment": "nasty",
    "shared": {"batch_size": 4, "judge": "fakes:longer", "responder": "sandbox/responder", "max_rewrite_tokens": 8},
    "steps": [
        {
            "notebook": "01_collect",
            "with": {
                "prompter": "fakes:collector", "responder": "fakes:collector", "num_prompts": 8, "num_shots": 2,
                "min_words": 1, "num_rounds": 1,
            },
        },
        {
            "notebook": "02_train_alignpro", "id": "alignpro",
            "with": {
                "train_on": "dataset", "reward_model": "fakes:length", "num_steps": 1, "prompts_per_step": 4,
                "frontier_prompts": 0, "long_prompts": "truncate",
            },
        },
        {"notebook": "03_train_poir", "id": "poir", "with": {"num_epochs": 1.0}},
        {"notebook": "04_evaluate", "with": {"arms": ["nan", "alignpro", "poir"], "num_prompts": 0, "gold_reward": ""}},
        {"notebook": "05_plot", "once": True},
    ],
}  # fmt: skip


@pytest.mark.slow
def test_nasty_strings_go_through_all_five_notebooks(tmp_path):
    """Every prompt leaves 04 as it was read, each with a response or the reason why not; the report is written."""
    rows = [{"prompt": text, "split": split} for split in ("train", "test") for text in NASTY]
    rows = [row | {"prompt": f"{row['split']} {row['prompt']}"} for row in rows]
    (tmp_path / "nasty.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "rewrites.jsonl").write_text(
        "".join(
            json.dumps({"prompt": text, "optimized_prompt": f"{text} please", "good_res": text, "bad_res": "no"}) + "\n"
            for text in NASTY[:6]
        )
    )
    named = str(tmp_path / "nasty.jsonl")
    shared = EXPERIMENT["shared"] | {"dataset": named, "prompt_sets": [named], "seeds": named}
    shared |= {"pairs_of": str(tmp_path / "rewrites.jsonl")}
    path, outputs = write(tmp_path, EXPERIMENT | {"shared": shared}), tmp_path / "outputs"
    finish(path, outputs)
    answers = records.read_rows(outputs / "nasty" / "main" / "evaluate" / "answers.jsonl", records.Answer)
    wanted = {f"test {text}".strip().replace("\ud800", "\ufffd") for text in NASTY}  # half a character is none
    assert {row.prompt for row in answers} == wanted and len(answers) == 3 * len(wanted)
    assert all(bool(row.response) != bool(row.reason) for row in answers)
    page = (outputs / "nasty" / "all" / "plot" / "report.html").read_text("utf-8")
    assert "<script>alert" not in page
