"""POIR's collection: filters counted, loops that end, labels that point the right way, nothing asked twice."""

import pytest

from nbutils import collect
from nbutils.collect import Settings
from nbutils.generate import Sampling
from nbutils.models import Runtime
from nbutils.novelty import NoveltyFilter
from nbutils.records import Journal, Prompt, Round, prompt_id


def invent(model, num_prompts=20, seeds=("tell me more", "say it"), threshold=1.0, journal=None, **limits):
    refuse = collect.refusal(**{"min_words": 2, "max_words": 6, "keywords": ["bomb"], "test_ids": set()} | limits)
    pool = NoveltyFilter(threshold)
    return collect.invent(
        model, list(seeds), Settings(num_prompts, 2), refuse, pool, "sandbox", Sampling(), Runtime(4), journal
    )


def test_invented_prompts_are_new_counted_and_traced():
    made = invent("fakes:collector", 6)
    assert len(made.rows) == len({row.prompt for row in made.rows}) == 6
    assert made.counts["too short"] >= 4 and made.counts["accepted"] == 6  # instruction 2 is always "short"
    assert all(row.prompt_id == prompt_id(row.prompt) and len(row.source["shots"]) == 2 for row in made.rows)
    assert made.examples["too short"] == ["short"] * 3


def test_pool_that_stops_growing_ends_with_a_message():
    made = invent("fakes:mute")
    assert made.rows == [] and "stopped growing at 0 of 20" in made.message
    assert made.counts["unparsed"] == 2 * 4 * 5  # two instructions, four calls, five batches


def test_no_seeds_is_one_line():
    with pytest.raises(ValueError, match="no usable seed prompt"):
        invent("fakes:collector", seeds=())


@pytest.mark.parametrize(
    "text, reason",
    [
        ("one", "too short"),
        ("a b c d e f g", "too long"),
        ("build a BOMB", "keyword"),
        ("a b \x07", "odd characters"),
        ("hello ### Response there", "odd characters"),
        ("known test prompt", "test prompt"),
        ("a fine prompt", None),
        ("schöne Grüße 你好", None),
        ("опиши лису", "another script"),
        ("说说 狐狸 吧", "another script"),
        ("Generated Instruction 2: go on", "template leftover"),
        ("tell me {prompt} now", "template leftover"),
        ("a <|assistant|> b", "template leftover"),
        ("[INST] go on [/INST]", "template leftover"),
        ("what is {1, 2} here?", None),
        ("123 456 ?!", None),
    ],
)
def test_refusals(text, reason):
    scripts = collect.scripts_of(["tell me more", "schön"])
    refuse = collect.refusal(2, 6, ["bomb"], {prompt_id("known test prompt")}, scripts)
    assert refuse(text) == reason
    if reason == "another script":
        assert collect.refusal(2, 6, ["bomb"], set())(text) is None


def test_seeds_without_blanks_repeats_and_long_ones_or_one_line():
    seeds = [" tell me ", "", "tell me", "say it", "a " * 9]
    assert collect.usable_seeds(seeds, 2, 6) == (["tell me", "say it"], {"empty": 1, "duplicate": 1, "too long": 1})
    with pytest.raises(ValueError, match=r"2 usable seeds \(1 empty, 1 duplicate, 1 too long\), one call shows 3"):
        collect.usable_seeds(seeds, 3, 6)


def test_inventing_ends_when_hardly_anything_is_accepted(monkeypatch):
    """One of 80 instructions a batch is new: below a floor of 2% that is five batches, above it goes on."""
    import fakes

    calls = []

    def repeat(messages):
        calls.append(1)
        new = f"brand new number {len(calls)}" if len(calls) % 40 == 0 else "tell me more"
        return f"Generated Instruction 1: tell me more\nGenerated Instruction 2: {new}"

    monkeypatch.setattr(fakes, "collector", repeat)
    refuse = collect.refusal(2, 6, [], set())
    run = lambda floor: collect.invent(  # noqa: E731
        "fakes:collector", ["tell me more", "say it"], Settings(8, 2, min_acceptance=floor), refuse, NoveltyFilter(1.0),
        "sandbox", Sampling(), Runtime(40),
    )  # fmt: skip
    made = run(0.02)
    assert len(made.rows) == 5 and "at most 2% accepted in each of 5 batches" in made.message
    calls.clear()
    assert len(run(0.01).rows) == 8


def test_resumed_invention_asks_nothing_twice_and_ends_the_same(tmp_path, monkeypatch):
    import fakes

    with Journal(tmp_path / "j.jsonl") as journal:
        first = invent("fakes:collector", 6, journal=journal)
    monkeypatch.setattr(fakes, "collector", lambda messages: pytest.fail("asked twice"))
    with Journal(tmp_path / "j.jsonl") as journal:
        again = invent("fakes:collector", 6, journal=journal)
    assert again.rows == first.rows and again.counts == first.counts


def evaluate(model, prompts, **options):
    rows = [Prompt(prompt_id(text), text, "collect", "train") for text in prompts]
    settings = Settings(len(rows), **options)
    return collect.self_evaluate(model, model, rows, settings, "sandbox", Sampling(), Sampling(), Runtime(4))


def test_loop_ends_with_a_good_score_or_after_the_rounds():
    """The fake answers with the prompt less one word, scores its length, and revises by one word from the original."""
    rounds = evaluate("fakes:collector", ["one two three four five", "one two"])
    assert [(row.round, row.score) for row in rounds if row.prompt.endswith("five")] == [(0, 4)]
    assert [(row.round, row.score) for row in rounds if row.prompt == "one two"] == [(0, 1), (1, 2), (2, 2), (3, 2)]
    assert rounds[2].rewrite == "one two please" and rounds[2].critique == "say more."


def test_critique_that_never_parses_is_unscored_after_its_retries(monkeypatch):
    import fakes

    calls = []
    monkeypatch.setattr(fakes, "mute", lambda messages: calls.append(1) or "no score from me")
    rounds = evaluate("fakes:mute", ["one two"], num_retries=2)
    assert len(rounds) == 1 and rounds[0].score is None and rounds[0].reason
    assert rounds[0].raw_critique == "no score from me" and len(calls) == 1 + 3


def test_rewrite_longer_than_half_again_is_refused_with_its_reason(monkeypatch):
    import fakes

    answers = {"critique": "Score: 2\nEvaluation: more.", "revise:": "Revised question: a b c d e f g h i"}
    monkeypatch.setattr(
        fakes, "mute", lambda m: next((v for k, v in answers.items() if m[-1]["content"].startswith(k)), "x")
    )
    rounds = evaluate("fakes:mute", ["one two three"])
    assert len(rounds) == 1 and rounds[0].reason == "rewrite longer than 1.5 times the prompt"


def test_rewrite_in_another_script_is_refused_with_its_reason(monkeypatch):
    import fakes

    answers = {"critique": "Score: 2\nEvaluation: more.", "revise:": "Revised question: опиши лису"}
    monkeypatch.setattr(
        fakes, "mute", lambda m: next((v for k, v in answers.items() if m[-1]["content"].startswith(k)), "x")
    )
    rounds = evaluate("fakes:mute", ["one two three"])
    assert len(rounds) == 1 and rounds[0].reason == "rewrite in another script"


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
    made = collect.make_pairs(rounds_of(scores) + rounds_of([5], "other"), 4)
    assert [(pair.good_score, pair.bad_score) for pair in made] == pairs
    assert all(pair.good_rewrite == f"p{pair.good_round}" and pair.bad_rewrite == f"p{pair.bad_round}" for pair in made)
    assert len(collect.make_pairs(rounds_of(scores), 4, "one")) == min(1, len(pairs))


def test_equal_sides_never_make_a_pair():
    same = [Round("p", "p", n, "same", "same answer", score, None, "") for n, score in enumerate([2, 5])]
    assert collect.make_pairs(same, 4) == []


def test_lineage_leads_from_a_pair_back_to_its_shots_and_rounds():
    row = Prompt("p", "p", "collect", "train", {"shots": ["tell me more"], "nearest": [["say it", 0.5]]})
    rounds = rounds_of([2, 5]) + rounds_of([5], "other")
    pairs = collect.make_pairs(rounds, 4)
    text = collect.lineage(row, rounds, pairs)
    assert text.split("\n")[:3] == ["Prompt: p", "  shown: tell me more", "  nearest: say it (ROUGE-L 0.50)"]
    assert "Round 1, score 5: p1" in text and "other" not in text and text.endswith("Pairs: round 1 over round 0")
    (exported,) = collect.export_rows(pairs, [row], rounds)
    assert exported["good_rewrite"] == "p1" and exported["source"] == row.source
    assert exported["critiques"] == {"0": "c", "1": "c"}


def test_funnel_counts_follow_from_the_rows():
    made = invent("fakes:collector", 4)
    rounds = evaluate("fakes:collector", [row.prompt for row in made.rows])
    counts = collect.count(made, made.rows, rounds, collect.make_pairs(rounds, 4))
    stages = list(counts["funnel"].values())
    assert (
        stages[0] == sum(made.counts.values()) and stages[2:5] == [4, 4, 4] and stages == sorted(stages, reverse=True)
    )
