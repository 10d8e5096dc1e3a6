"""Arms: prompters in sequence before a responder; what was sent is what is recorded."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from hypothesis import given, strategies as st

from nbutils.analyse import tables
from nbutils.collect import critique
from nbutils.evaluate import answering, arms
from nbutils.evaluate.arms import Arm, Prompter
from nbutils.experiment.records import Prompt
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions
from nbutils.models.texts import Generation, Sampling

ROWS = [Prompt("1", "tell me about the fox.", "set"), Prompt("2", "tell me about the wolf.", "set")]


def run(arm, samples=1):
    return answering.answer(arm, ROWS, samples, Conditions("sandbox"))


def test_arm_without_prompter_sends_the_prompt():
    made = run(Arm("nan", (), "fakes:echo"))
    assert [(row.rewrite, row.rewrites, row.response) for row in made] == [(row.prompt, [], row.prompt) for row in ROWS]


def test_chain_feeds_each_prompter_the_rewrite_before_it():
    """The echo prompter returns its filled meta-prompt, `rephrase: x`; twice in sequence it nests."""
    made = run(Arm("twice", (Prompter("fakes:echo"),) * 2, "fakes:echo"))[0]
    assert made.rewrites == ["rephrase: tell me about the fox.", "rephrase: rephrase: tell me about the fox."]
    assert made.rewrite == made.response == made.rewrites[-1]


def test_empty_rewrite_falls_back_to_the_prompt_and_stays_visible(monkeypatch):
    import fakes

    monkeypatch.setattr(fakes, "mute", lambda messages: "  \n### Response\nan answer")
    made = run(Arm("empty", (Prompter("fakes:mute"),), "fakes:echo"))[0]
    assert made.rewrites == [""] and made.rewrite == made.response == "tell me about the fox."


def test_one_row_per_prompt_and_sample_in_order():
    made = run(Arm("nan", (), "sandbox/responder"), samples=3)
    assert [(row.prompt_id, row.sample) for row in made] == [(i, s) for i in "12" for s in range(3)]
    assert len({row.response for row in made}) > 2


def test_same_prompt_gets_the_same_response_in_every_arm():
    """An echoing prompter changes nothing: common random numbers make its arm equal to nan, sample by sample."""
    nan, same = run(Arm("nan", (), "sandbox/responder"), 4), run(Arm("same", (), "sandbox/responder"), 4)
    assert [row.response for row in nan] == [row.response for row in same]


def test_one_prompt_from_the_command_line_uses_the_experiments_settings(outputs):
    cell = outputs / "e" / "main"
    with pytest.raises(FileNotFoundError, match="has no finished step"):
        answering.rewrite_and_respond("e", "main", "nan", "tell me about the fox.")
    settings = {"prompter": "fakes:echo", "responder": "fakes:echo", "device": "auto", "dtype": "auto", "seed": 0}
    settings |= {"trust_remote_code": "", "templates": "sandbox", "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    (cell / "evaluate").mkdir(parents=True)
    (cell / "evaluate" / "manifest.json").write_text(json.dumps({"parameters": settings}))
    assert answering.rewrite_and_respond("e", "main", "untrained", "x") == (["rephrase: x"], "rephrase: x")
    assert answering.rewrite_and_respond("e", "main", "nan", "x") == ([], "x")


def tilted(kl_weight, rewrites=8, responses=2, reward="fakes:length"):
    tilt = arms.Tilt(reward, kl_weight, rewrites, responses)
    return arms.build("tilted", Path(), "sandbox/prompter", "fakes:echo", arms.Options(tilt))


def test_tilted_takes_the_best_rewrite_for_a_small_weight_and_any_for_a_large_one():
    """The responder repeats the rewrite and the reward is its length: λ → 0 sends the longest of the eight."""
    drawn = answering.rewrites_of(
        Arm("untrained", (Prompter("sandbox/prompter"),), "fakes:echo"),
        [row.prompt for row in ROWS for _ in range(8)], list(range(8)) * 2, Conditions("sandbox"),
    )  # fmt: skip
    texts = [[trail[0] for trail in drawn[:8]], [trail[0] for trail in drawn[8:]]]
    assert [len(row.rewrite) for row in run(tilted(1e-6))] == [max(map(len, each)) for each in texts]
    spread = {row.rewrite for row in run(tilted(1e6), samples=12)}
    assert len(spread) > 6 and run(tilted(1e6)) == run(tilted(1e6))


def test_a_draw_follows_the_tilted_weights():
    """R = 0 and λ ln 3: a quarter and three quarters of 4,000 draws; what has no reward is never drawn."""
    drawn = [answering._drawn([0.0, None, 0.5 * 1.0986123], 0.5, [0, "x", i]) for i in range(4000)]
    assert drawn.count(1) == 0 and drawn.count(2) / 4000 == pytest.approx(0.75, abs=0.03)
    assert answering._drawn([None, None], 0.5, [0]) == 0


def test_tilted_answers_with_another_response_than_those_that_weighed(monkeypatch):
    asked, ask = [], Conditions.ask
    monkeypatch.setattr(Conditions, "ask", lambda given, *more: asked.append(more) or ask(given, *more))
    run(tilted(0.5, 2, 1))
    weighed, answered = [samples for model, _, _, samples, _ in asked if model == "fakes:echo"]
    assert set(weighed) == {-1} and set(answered) == {0}


def self_criticising(model="fakes:collector", **loop):
    return arms.build("poir_s1", Path(), model, model, arms.Options(loop=critique.Loop(**loop)))


def test_poir_s1_keeps_a_prompt_whose_first_answer_is_good_and_rewrites_the_others(monkeypatch):
    """The fake answers with the prompt less a word, scores by its length, and rewrites by adding a word."""
    made = run(self_criticising())
    assert [row.rewrites for row in made] == [["tell me about the fox."], ["tell me about the wolf."]]  # 4 words: good
    made = run(self_criticising(good_score=5))
    assert [row.rewrite for row in made] == ["tell me about the fox. please", "tell me about the wolf. please"]
    assert made[0].response == "me about the fox. please" and made[0].rewrites == [made[0].rewrite]


def test_poir_s1_answers_with_another_response_than_it_criticised(monkeypatch):
    """Else the arm would choose among responses, too: the loop's sample indices are not those of the answers."""
    asked, ask = [], Conditions.ask
    monkeypatch.setattr(Conditions, "ask", lambda given, *more: asked.append(more[3]) or ask(given, *more))
    made = run(self_criticising("sandbox/responder", num_rounds=1, max_tokens=64), samples=2)
    assert len(made) == 4 and all(row.response for row in made)
    assert [number for numbers in asked for number in numbers if number >= 0] == [0, 1, 0, 1]
    criticised = {numbers[0] // 10_000 for numbers in asked if numbers[0] < 0}
    assert criticised == {-1, -2}  # another loop for each sample


def test_bpo_is_the_named_model_with_its_own_input_format_or_a_training_step_of_that_name(tmp_path, monkeypatch):
    import fakes

    seen = []
    monkeypatch.setattr(fakes, "mute", lambda messages: seen.append(messages) or "better")
    published = arms.build("bpo", tmp_path, "p", "fakes:echo", arms.Options(bpo="fakes:mute"))
    assert run(published)[0].rewrite == "better"
    assert seen[0][0]["role"] == "raw" and seen[0][0]["content"].startswith("[INST] You are an expert prompt engineer.")
    assert arms.build("bpo", tmp_path, "p", "r").prompters == (Prompter(arms.BPO_MODEL, "bpo"),)
    arms.write_arm(tmp_path / "bpo", "prompter", "meta_prompt", None)
    assert arms.build("bpo", tmp_path, "p", "r").prompters == (Prompter(str(tmp_path / "bpo" / "model")),)


def test_length_matched_asks_for_more_in_the_same_words():
    made = run(arms.build("length_matched", Path(), "p", "fakes:echo"))
    assert [row.rewrite for row in made] == [f"{row.prompt} in detail." for row in ROWS]
    assert [row.response for row in made] == [row.rewrite for row in made] and made[0].rewrites == [made[0].rewrite]


def test_shuffled_sends_another_prompts_rewrite_of_the_same_sample():
    straight = run(arms.build("untrained", Path(), "sandbox/prompter", "fakes:echo"), samples=2)
    turned = run(arms.build("shuffled:untrained", Path(), "sandbox/prompter", "fakes:echo"), samples=2)
    assert [row.rewrite for row in turned] == [straight[i].rewrite for i in (2, 3, 0, 1)]
    assert [row.prompt for row in turned] == [row.prompt for row in straight] and turned[0].arm == "shuffled:untrained"


def ended(arm, rewrite_tokens=64, response_tokens=64):
    short, long = (Sampling(max_new_tokens=number) for number in (rewrite_tokens, response_tokens))
    made = answering.answer(arm, ROWS, 1, Conditions("sandbox", short, long))
    return [(row.finish, row.rewrites_cut) for row in made]


def test_answers_say_whether_response_or_rewrite_was_cut():
    """Two tokens are too few for a response or a rewrite; a function's text has no limit of ours."""
    plain, untrained = Arm("nan", (), "sandbox/responder"), Arm("u", (Prompter("sandbox/prompter"),), "fakes:echo")
    assert ended(plain) == [("stop", None)] * 2 and ended(plain, response_tokens=2) == [("length", None)] * 2
    assert ended(untrained) == [("stop", False)] * 2 and ended(untrained, 2) == [("stop", True)] * 2
    echo, real = Prompter("fakes:echo"), Prompter("sandbox/prompter")
    assert ended(Arm("chain", (echo, real), "fakes:echo"), 2) == [("stop", True)] * 2
    assert ended(Arm("chain", (real, echo), "fakes:echo"), 2) == [("stop", True)] * 2  # not only the last one counts
    assert ended(Arm("chain", (echo, echo), "fakes:echo"), 2) == [("stop", False)] * 2
    assert ended(arms.build("length_matched", Path(), "p", "fakes:echo"), 2) == [("stop", None)] * 2


def test_tilted_and_shuffled_arms_tell_of_the_rewrite_that_they_send():
    assert ended(tilted(1.0, 2), 2) == [("stop", True)] * 2 and ended(tilted(1.0, 2)) == [("stop", False)] * 2
    trails = [answering.Trail([text], [cut]) for text, cut in (("cut", True), ("whole", False), ("who knows", None))]
    turned = answering.others(["a", "b", "c"], [0] * 3, trails, 0)
    assert {each.rewrites[0]: each.cut for each in turned} == {"cut": True, "whole": False, "who knows": None}


def test_a_chain_of_which_one_rewrite_is_not_known_is_not_counted_as_whole():
    ends = {(): None, (False,): False, (None,): None, (False, None): None, (None, True): True, (False, True): True}
    assert {cuts: answering.Trail([], list(cuts)).cut for cuts in ends} == ends


def test_a_limit_that_falls_behind_the_rewrite_cuts_nothing(monkeypatch):
    """The prompter goes on to answer: what it wrote up to the delimiter is whole."""
    texts = ["fine\n### Response\nand on and", "a rewrite that is"]
    made = [Generation(text, 8, "length") for text in texts]
    monkeypatch.setattr(Conditions, "ask", lambda given, model, asked, *_: made[: len(asked)])
    assert [row.rewrites_cut for row in run(Arm("u", (Prompter("x"),), "y"))] == [False, True]


def test_poir_s1_tells_whether_the_rewrite_it_chose_was_cut(monkeypatch):
    """Every rewrite ends at the limit; the one prompt that is kept as it is has none."""
    import fakes

    def ask(given, model, asked, *_):
        texts = [fakes.collector([{"content": one}] if isinstance(one, str) else one) for one in asked]
        return [Generation(text, 5, "length" if text.startswith("Revised") else "stop") for text in texts]

    monkeypatch.setattr(Conditions, "ask", ask)
    long = [*ROWS, Prompt("3", "tell me now about the old wolf.", "set")]
    made = answering.answer(self_criticising(good_score=5), long, 1, Conditions("sandbox"))
    assert [row.rewrite == row.prompt for row in made] == [False, False, True]
    assert [row.rewrites_cut for row in made] == [True, True, None]


@given(st.lists(st.sampled_from("abcdef"), min_size=1, max_size=12), st.integers(0, 9))
def test_no_prompt_keeps_its_own_rewrite_when_shuffled(prompts, seed):
    made = answering.others(prompts, [0] * len(prompts), [[text] for text in prompts], seed)
    alone = len(set(prompts)) == 1
    assert all((steps == [text]) == alone for text, steps in zip(prompts, made, strict=True))


def test_why_a_response_has_no_reward_stands_in_its_row_and_in_the_table_of_what_is_missing():
    """It is no reason to leave the response unjudged, as that of a missing response is."""
    rows = [Prompt(str(i), f"prompt {i}", "s") for i in range(4)]
    made = answering.answer(Arm("nan", (), "fakes:echo"), rows, 1, Conditions("sandbox"))
    made[1] = replace(made[1], response="", reason="prompt too long")
    found = answering.rewarded(made, "fakes:broken_rewards", "fakes:length", Runtime())
    assert [row.reward for row in found] == [None] * 4 and [row.gold_reward for row in found] == [8.0, None, 8.0, 8.0]
    why = [f"fakes:broken_rewards gave {value}" for value in ("nan", "inf", "none")]
    assert [row.reward_reason for row in found] == [why[0], None, *why[1:]]
    assert [row.reason for row in found] == [None, "prompt too long", None, None]
    table = tables.missing([asdict(row) for row in found], [])
    counted = table.set_index(["what", "reason"]).num_missing.to_dict()
    assert counted == {("reward", each): 1 for each in (*why, "prompt too long")} | {
        ("gold reward", "prompt too long"): 1
    }
    assert {row.gold_reward for row in answering.rewarded(made, "fakes:length", "", Runtime())} == {None}


def test_no_rewrite_is_not_an_empty_one(monkeypatch, tmp_path):
    """The prompt itself would be answered, and the arm look like the baseline; the next prompter, who may be paid, and
    the responder are not asked."""
    (tmp_path / "half.py").write_text(
        "asked = []\ndef rewrite(messages):\n    text = messages[-1]['content']\n    asked.append(text)\n"
        "    return '<think>\\nhm' if 'wolf' in text else 'REWRITE'\ndef answer(messages):\n"
        "    asked.append(messages[-1]['content'])\n    return ''\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    import half

    arm = Arm("a", (Prompter("half:rewrite"), Prompter("fakes:echo")), "half:answer")
    fox, wolf = run(arm)
    assert fox.reason is None and fox.rewrites[0] == "REWRITE" and fox.rewrite.endswith("REWRITE")
    assert wolf.reason.startswith("no rewrite: no text: a thought that does not end")
    assert (wolf.rewrites, wolf.response, wolf.num_tokens) == ([""], "", 0)
    assert len(half.asked) == 3
    empty = run(Arm("b", (Prompter("half:answer"),), "fakes:echo"))
    assert [row.response for row in empty] == [row.prompt for row in ROWS] and empty[0].reason is None
    tilted = Arm("t", (Prompter("half:rewrite"),), "fakes:echo", tilt=arms.Tilt("fakes:length", 0.1, 2, 1))
    assert [row.reason is None for row in run(tilted)] == [True, False]
