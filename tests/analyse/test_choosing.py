"""Cases are chosen by arm, outcome and number, and a wrong name is one line."""

import pandas as pd
import pytest
from made_rows import answer, judged

from nbutils.analyse import gather
from nbutils.analyse.choosing import Choice, choose

# prompt: reward of nan, reward and response of poir, verdicts of poir with poir and nan first
MADE = {
    0: (1.0, 3.0, "a long response", "win", "win"),
    1: (1.0, 0.5, "short", "lose", "lose"),
    2: (5.0, 4.0, "longest response of all", "win", "lose"),
    3: (1.0, None, "", "unscored", "unscored"),
    4: (2.0, 2.0, "middling", "tie", "tie"),
}
SETS = {n: "a" if n else "b" for n in MADE}
REWRITTEN = {"rewrites": ["y"], "rewrite": "x"}
ANSWERS = pd.DataFrame(
    [answer(n, "nan", base, prompt_set=SETS[n]) for n, (base, *_) in MADE.items()]
    + [
        answer(n, "poir", reward, prompt_set=SETS[n], response=text) | REWRITTEN | ({} if n else {"rewrite": "y"})
        for n, (_, reward, text, *_) in MADE.items()
    ]
).assign(cell="c")
VERDICTS = pd.DataFrame(
    [row for n, (*_, one, two) in MADE.items() for row in judged(n, one, two, "poir", prompt_set=SETS[n])]
).assign(cell="c")


def chosen(**choice):
    keys = choose(ANSWERS, gather.outcomes(VERDICTS, "nan"), 0, "nan", Choice(**choice))
    return [int(key[2][1:]) for key in keys]


@pytest.mark.parametrize(
    "outcome, wanted",
    [("win", {0}), ("lose", {1}), ("tie", {2, 4}), ("flips", {2}), ("unscored", {3}), (None, {0, 1, 2, 3, 4})],
)
def test_outcomes_are_those_of_both_orders(outcome, wanted):
    assert set(chosen(arm="poir", outcome=outcome)) == set(chosen(outcome=outcome)) == wanted


@pytest.mark.parametrize(
    "sort, wanted",
    [
        ("length", [2, 0, 4, 1, 3]),
        ("-length", [1, 4, 0, 2, 3]),
        ("reward", [2, 0, 4, 1, 3]),
        ("reward_gain", [0, 4, 1, 2, 3]),
        ("-reward_gain", [2, 1, 4, 0, 3]),
    ],
)
def test_cases_are_sorted_and_what_is_missing_comes_last(sort, wanted):
    assert chosen(arm="poir", sort=sort) == wanted


def test_the_most_changed_rewrite_comes_first_and_ties_are_broken_by_chance_alone():
    assert chosen(arm="poir", sort="rewrite_change")[0] == 0 and chosen(sort="-rewrite_change")[-1] == 0
    assert chosen(sort="rewrite_change")[1:] == [n for n in chosen() if n]


def test_one_prompt_set_and_the_number_of_prompts():
    assert chosen(prompt_set="b") == [0]
    rows = gather.cases(ANSWERS, VERDICTS, 2, 0, "nan", Choice("poir", sort="reward", prompt_set="a"))
    assert list(rows.prompt_id) == ["p2", "p2", "p4", "p4"] and list(rows.arm) == ["nan", "poir"] * 2


@pytest.mark.parametrize(
    "choice, line",
    [
        ({"arm": "pior"}, "arm 'pior' not found: did you mean poir"),
        ({"outcome": "won"}, "outcome 'won' not found: did you mean win"),
        ({"sort": "rewards"}, "sort 'rewards' not found: did you mean reward"),
        ({"prompt_set": "z"}, "prompt set 'z' not found: there are b, a"),
        ({"sample": 1}, "sample 1 not found: there are 1, from 0"),
        ({"arm": "nan", "outcome": "win"}, "outcome 'win' of 'nan': the baseline has none"),
    ],
)
def test_what_is_not_there_is_one_line(choice, line):
    with pytest.raises(ValueError, match=line):
        chosen(**choice)


def test_notes_say_what_a_reader_would_have_to_guess():
    rows = pd.DataFrame(
        [
            answer(0, "empty", 1.0, rewrites=[""]),
            answer(0, "chain:a+b", 1.0, rewrites=["y", "z"]),
            answer(0, "nan", None, reason="prompt of 9 tokens, the model takes 5"),
            answer(0, "untrained", 1.0, rewrites=["y"], finish="stop", rewrites_cut=False),
            answer(0, "poir", 1.0, rewrites=["y"], finish="length", rewrites_cut=True),
        ]
    ).assign(cell="c")
    notes = list(gather.cases(rows, VERDICTS[:0], 1, 0, "nan").note)
    assert notes == [
        "the prompter wrote nothing, the prompt was sent",
        "the last of 2 rewrites",
        "no response: prompt of 9 tokens, the model takes 5",
        "",
        "rewrite cut at its limit of tokens; response cut at its limit of tokens",
    ]
