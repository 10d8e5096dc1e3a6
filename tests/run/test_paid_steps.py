"""Notebooks on a paid API: what they may cost is said before the first call, a limit stops them, and a higher one goes
on without paying for anything twice."""

import json
import re

import fakes
import nbformat
import pytest
import whole
from server import Server, billed

from nbutils.experiment import records
from nbutils.experiment.journal import Journal

KEY = "sk-canary0123456789abcdef"
MODELS = {"prompter": "api:gpt-4o", "responder": "api:gpt-4o", "judge": "api:gpt-4o"}
SANDBOX = {"prompt_sets": ["sandbox"], "overlap_threshold": 1.0, "templates": "sandbox"}
STEPS = [
    {
        "notebook": "01_collect",
        "with": {"num_pairs": 6, "max_prompts": 8, "num_shots": 2, "num_rounds": 1, "novelty_threshold": 1.0},
    },
    {
        "notebook": "04_evaluate",
        "with": {
            "arms": ["nan", "untrained", "poir_s1"], "num_prompts": 4, "num_rounds": 1, "num_controls": 2,
            "reward_model": "fakes:length", "gold_reward": "",
        },
    },
]  # fmt: skip


@pytest.fixture
def server(tmp_path):
    with Server(fakes.everyone, tmp_path / "ledger.txt") as served:
        served.lists, served.keys = ("gpt-4o",), (KEY,)  # the trial before each run costs nothing
        yield served


WATCHED = {
    "notebook": "02_train_alignpro",
    "id": "alignpro",
    "with": {
        "train_on": "dataset", "dataset": "sandbox", "prompter": "sandbox/prompter", "responder": "sandbox/responder",
        "num_steps": 3, "prompts_per_step": 4, "save_steps": 2, "frontier_prompts": 3, "frontier_rewrites": 8,
        "watch_responses": 2, "reward_model": "sandbox/reward",
    },
}  # fmt: skip


def run(tmp_path, server, steps=STEPS, **shared):
    """(exit code, stderr) of the experiment under these limits."""
    seeds = {"seeds": str(tmp_path / "seeds.jsonl")} if steps is STEPS else {}
    shared = MODELS | SANDBOX | {"batch_size": 4} | seeds | shared
    path = whole.write(tmp_path, {"experiment": "paid", "shared": shared, "steps": steps})
    texts = ("tell me of the wolf", "what is an owl like", "name two of them now")
    records.write_rows(tmp_path / "seeds.jsonl", [{"prompt": text} for text in texts])
    variables = {"OPENAI_BASE_URL": server.url, "OPENAI_API_KEY": KEY}
    code, _, errors = whole.run(path, tmp_path / "outputs", **variables)
    return code, errors


def manifest_counts(tmp_path, step):
    return json.loads((tmp_path / "outputs/paid/main" / step / "manifest.json").read_text("utf-8"))["counts"]


def printed(tmp_path, step):
    """What a step's notebook printed."""
    notebook = nbformat.read(tmp_path / "outputs" / "paid" / "main" / step / "notebook.ipynb", as_version=4)
    return "\n".join(each.text for cell in notebook.cells for each in cell.get("outputs", []) if "text" in each)


def test_limits_stop_a_step_and_a_higher_one_goes_on(server, tmp_path):
    code, said = run(tmp_path, server, max_calls=5)
    assert code == 1, said
    assert "spend limit of 5 calls reached after 5 calls and at most $0.0" in said
    assert "raise max_calls and run again to go on" in said and len(said.strip().splitlines()) == 1
    assert sum(billed(server.ledger_path).values()) == 5

    code, said = run(tmp_path, server, max_usd=50.0)
    assert code == 0, said
    assert set(billed(server.ledger_path).values()) == {1}

    assert manifest_counts(tmp_path, "collect")["paid calls"] >= 20
    assert manifest_counts(tmp_path, "evaluate")["US dollars at most"] > 0
    made = {}
    for step in ("collect", "evaluate"):
        text = printed(tmp_path, step)
        bounds = re.findall(
            r"^(prompter|responder|judge) api:gpt-4o: at most .* = ([\d,]+) calls, .* at most \$", text, re.M
        )
        assert {name for name, _ in bounds} >= {"prompter", "responder"} and "limit: $50.00" in text
        with Journal(tmp_path / "outputs" / "paid" / "main" / step / "journal.jsonl") as journal:
            made[step] = sum("#attempt" in key for key, _ in journal.items())
        assert 0 < made[step] <= sum(int(number.replace(",", "")) for _, number in bounds)
    assert sum(made.values()) >= sum(billed(server.ledger_path).values())


@pytest.mark.slow
def test_a_trainings_watch_stops_at_its_limit_and_goes_on_to_at_most_its_bound(server, tmp_path):
    """3 prompts, 2 snapshots (step 2 and the last), 2 responses of each, 2 orders: 24 calls, fewer for equal texts."""
    code, said = run(tmp_path, server, [WATCHED], max_calls=5)
    assert code == 1 and "spend limit of 5 calls reached after 5 calls" in said, said
    code, said = run(tmp_path, server, [WATCHED])
    assert code == 0, said
    assert set(billed(server.ledger_path).values()) == {1}
    text = printed(tmp_path, "alignpro")
    assert "3 frontier prompts × 2 snapshots × 2 responses × 2 orders = 24 calls, " in text and "at most $" in text
    made = records.read_rows(tmp_path / "outputs/paid/main/alignpro/watch.jsonl", records.Verdict)
    assert len(made) == 24 and {row.arm_a for row in made} == {"step 2", "trained"}
    assert {row.arm_b for row in made} == {"initial"} and {row.judge for row in made} == {"api:gpt-4o"}
    asked = manifest_counts(tmp_path, "alignpro")["paid calls"]
    assert 5 < asked == sum(billed(server.ledger_path).values()) <= 24
    assert "Not known: 3 held-out prompts judged" in text
