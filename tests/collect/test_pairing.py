"""POIR's pairs: labels that point the right way, lineages that lead back, counts that follow from the rows."""

import pytest

from nbutils.collect import critique, invent, pairing
from nbutils.collect.critique import Loop
from nbutils.data.novelty import NoveltyFilter
from nbutils.experiment.records import Prompt, Round
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions


def rounds_of(scores, prompt="p"):
    return [
        Round(prompt, prompt, n, f"{prompt}{n}", f"answer {n}", score, "c", "raw") for n, score in enumerate(scores)
    ]


@pytest.mark.parametrize(
    "scores, pairs",
    [
        ([2, 5], [(5, 2)]),
        ([3, 1, 4], [(4, 1), (4, 3)]),
        ([5], []),
        ([1, 2, 3], []),
        ([None, 4], []),
        ([None, 2, 5], [(5, 2)]),
    ],
)
def test_pairs_are_good_against_bad_of_one_prompt(scores, pairs):
    made = pairing.make_pairs(rounds_of(scores) + rounds_of([5], "other"), 4)
    assert [(pair.good_score, pair.bad_score) for pair in made] == pairs
    assert all(pair.good_rewrite == f"p{pair.good_round}" and pair.bad_rewrite == f"p{pair.bad_round}" for pair in made)
    assert len(pairing.make_pairs(rounds_of(scores), 4, "one")) == min(1, len(pairs))


def test_equal_sides_never_make_a_pair():
    same = [Round("p", "p", n, "same", "same answer", score, None, "") for n, score in enumerate([2, 5])]
    assert pairing.make_pairs(same, 4) == []


def test_lineage_leads_from_a_pair_back_to_its_shots_and_rounds():
    row = Prompt("p", "p", "collect", "train", {"shots": ["tell me more"], "nearest": [["say it", 0.5]]})
    rounds = rounds_of([2, 5]) + rounds_of([5], "other")
    pairs = pairing.make_pairs(rounds, 4)
    text = pairing.lineage(row, rounds, pairs)
    assert text.split("\n")[:3] == ["Prompt: p", "  shown: tell me more", "  nearest: say it (ROUGE-L 0.50)"]
    assert "Round 1, score 5: p1" in text and "other" not in text and text.endswith("Pairs: round 1 over round 0")
    (exported,) = pairing.export_rows(pairs, [row], rounds)
    assert exported["good_rewrite"] == "p1" and exported["source"] == row.source
    assert exported["critiques"] == {"0": "c", "1": "c"}


def test_funnel_counts_follow_from_the_rows():
    seeds, pool, model = ["tell me more", "say it"], NoveltyFilter(1.0), "fakes:collector"
    given = Conditions("sandbox", runtime=Runtime(4))
    refuse, asked = invent.refusal(2, 6, ["bomb"], set()), invent.Settings(2)
    made = invent.Invention(model, seeds, asked, refuse, pool, given)
    made.grow(4)
    rounds = critique.self_evaluate(model, model, made.rows, Loop(), given)
    counts = pairing.count(made, made.rows, rounds, pairing.make_pairs(rounds, 4))
    stages = list(counts["funnel"].values())
    assert (
        stages[0] == sum(made.counts.values()) and stages[2:5] == [4, 4, 4] and stages == sorted(stages, reverse=True)
    )
