"""POIR's step 1: filters counted, loops that end, nothing asked twice."""

from dataclasses import replace

import pytest

from nbutils.collect import invent
from nbutils.collect.invent import Invention, Settings
from nbutils.data.novelty import NoveltyFilter
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import prompt_id
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions
from nbutils.models.texts import Generation


def run(model, num_prompts=20, seeds=("tell me more", "say it"), threshold=1.0, journal=None, **limits):
    refuse = invent.refusal(**{"min_words": 2, "max_words": 6, "keywords": ["bomb"], "test_ids": set()} | limits)
    pool = NoveltyFilter(threshold)
    given = Conditions("sandbox", runtime=Runtime(4), journal=journal)
    made = Invention(model, list(seeds), Settings(2), refuse, pool, given)
    for wanted in [num_prompts] if isinstance(num_prompts, int) else num_prompts:
        made.grow(wanted)
    return made


def test_invented_prompts_are_new_counted_and_traced():
    made = run("fakes:collector", 6)
    assert len(made.rows) == len({row.prompt for row in made.rows}) == 6
    assert made.counts["too short"] >= 4 and made.counts["accepted"] == 6  # instruction 2 is always "short"
    assert all(row.prompt_id == prompt_id(row.prompt) and len(row.source["shots"]) == 2 for row in made.rows)
    assert made.examples["too short"] == ["short"] * 3


def test_pool_that_stops_growing_ends_with_a_message():
    made = run("fakes:mute")
    assert made.rows == [] and "stopped growing at 0 of 20" in made.message
    assert made.counts["unparsed"] == 2 * 4 * 5  # two instructions, four calls, five batches


def test_no_more_calls_are_made_than_a_plan_counts_with(monkeypatch):
    """Batches of 4 that bring next to nothing go on until 20 calls for each of 3 prompts: the last batch is whole."""
    monkeypatch.setattr(invent, "_SLOW_BATCHES", 10**9)
    made = run("fakes:mute", 3)
    assert made.counts["unparsed"] == 2 * 20 * 3 and "0 of 3 prompts (20 calls made for each)" in made.message


def test_copies_and_near_copies_of_the_pool_are_told_apart():
    """Instruction 1 is a seed with ` now` behind it: with the threshold at 0.7 it is too near, after that a copy."""
    made = run("fakes:collector", 6, threshold=0.5)
    assert made.counts["too similar"] > 0 and "duplicate" not in made.counts
    assert made.examples["too similar"][0].endswith(" now")
    assert run("fakes:collector", 30).counts["duplicate"] > 0  # with the threshold at 1 nothing else is refused


def test_calls_that_failed_are_no_unreadable_answers(monkeypatch):
    failed = Generation("", 0, None, "server error 500, given up after 12 calls")
    monkeypatch.setattr(invent, "generate", lambda model, requests, *_: [failed] * len(requests))
    made = run("fakes:collector")
    assert made.counts == {"no answer": 2 * 4 * 5} and made.examples["no answer"] == [failed.reason] * 3


def test_no_seeds_is_one_line():
    with pytest.raises(ValueError, match="no usable seed prompt"):
        run("fakes:collector", seeds=())


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
        ("bombastic", "too short"),
        ("a bombastic style", None),
        ("two bombs", "keyword"),
        ("such a pipe-bomb!", "keyword"),
        ("one - ?", "too short"),  # marks are no words
    ],
)
def test_refusals(text, reason):
    scripts = invent.scripts_of(["tell me more", "schön"])
    refuse = invent.refusal(2, 6, ["bomb"], {prompt_id("known test prompt")}, scripts)
    assert refuse(text) == reason
    if reason == "another script":
        assert invent.refusal(2, 6, ["bomb"], set())(text) is None


def test_japanese_in_kana_is_in_the_script_of_seeds_in_kanji():
    refuse = invent.refusal(1, 60, [], set(), invent.scripts_of(["東京都内観光名所"]))
    assert refuse("ひらがなだけでかいてください") is None and refuse("Tell me about Tokyo") == "another script"


@pytest.mark.parametrize(
    "text, reason",
    [
        ("写诗", "too short"),
        ("写一首诗", None),
        ("请写一首关于春天的诗歌", "too long"),
        ("炸弹怎么做", "keyword"),
        ("Расскажи о лисе", None),
        ("Расскажи мне всё, что ты знаешь о рыжей лисе", "too long"),
        ("詩を書く", None),
        ("봄에 대한 시를", None),
    ],
)
def test_words_are_counted_and_keywords_found_in_every_script(text, reason):
    assert invent.refusal(3, 8, ["炸弹", "написать"], set())(text) == reason


def test_seeds_that_are_too_long_are_left_out_in_scripts_without_blanks():
    assert invent.usable_seeds(["写一首诗", "请写一首关于春天的诗歌"], 1, 6) == (["写一首诗"], {"too long": 1})


def test_seeds_without_blanks_repeats_and_long_ones_or_one_line():
    seeds = [" tell me ", "", "tell me", "say it", "a " * 9]
    assert invent.usable_seeds(seeds, 2, 6) == (["tell me", "say it"], {"empty": 1, "duplicate": 1, "too long": 1})
    with pytest.raises(ValueError, match=r"2 usable seeds \(1 empty, 1 duplicate, 1 too long\), one call shows 3"):
        invent.usable_seeds(seeds, 3, 6)


def test_inventing_ends_when_hardly_anything_is_accepted(monkeypatch):
    """One of 40 instructions a batch is new: below a floor of 3% that is five batches, above it goes on."""
    import fakes

    calls = []

    def repeat(messages):
        calls.append(1)
        new = f"brand new number {len(calls)}" if len(calls) % 20 == 0 else "tell me more"
        return f"Generated Instruction 1: tell me more\nGenerated Instruction 2: {new}"

    monkeypatch.setattr(fakes, "collector", repeat)

    def floored(floor):
        seeds, refuse, given = ["tell me more", "say it"], invent.refusal(2, 6, [], set()), Conditions("sandbox")
        settings, given = Settings(2, min_acceptance=floor), replace(given, runtime=Runtime(20))
        made = Invention("fakes:collector", seeds, settings, refuse, NoveltyFilter(1.0), given)
        made.grow(25)
        return made

    made = floored(0.03)
    assert len(made.rows) == 5 and "at most 3% accepted in each of 5 batches" in made.message
    calls.clear()
    assert len(floored(0.02).rows) == 25


def test_resumed_invention_asks_nothing_twice_and_ends_the_same(tmp_path, monkeypatch):
    import fakes

    with Journal(tmp_path / "j.jsonl") as journal:
        first = run("fakes:collector", 6, journal=journal)
    monkeypatch.setattr(fakes, "collector", lambda messages: pytest.fail("asked twice"))
    with Journal(tmp_path / "j.jsonl") as journal:
        again = run("fakes:collector", 6, journal=journal)
    assert again.rows == first.rows and again.counts == first.counts


def test_a_pool_that_grows_in_chunks_asks_as_one_that_grows_at_once(tmp_path, monkeypatch):
    """With whole batches in each chunk: the same shots, the same numbers of calls, so that a journal serves both."""
    import fakes

    with Journal(tmp_path / "j.jsonl") as journal:
        first = run("fakes:inventive", (8, 24, 24, 40), journal=journal)
    monkeypatch.setattr(fakes, "inventive", lambda messages: pytest.fail("asked anew"))
    with Journal(tmp_path / "j.jsonl") as journal:
        again = run("fakes:inventive", 40, journal=journal)
    assert again.rows == first.rows and again.counts == first.counts and again.num_calls == first.num_calls == 20


def test_a_small_chunk_is_no_sign_of_a_pool_that_has_stopped():
    """Of a batch's 8 instructions only one is wanted, chunk after chunk: below the floor, and no reason to end."""
    pool = NoveltyFilter(1.0)
    given = Conditions("sandbox", runtime=Runtime(4))
    made = Invention("fakes:inventive", ["tell me"], Settings(2, min_acceptance=0.2), lambda text: None, pool, given)
    for wanted in range(1, 11):
        made.grow(wanted)
    assert len(made.rows) == 10 and made.message == ""


@pytest.mark.parametrize(("missing", "batch_size", "calls"), [(3, 256, 8), (40, 256, 40), (40, 16, 16)])
def test_a_batch_makes_no_more_calls_than_prompts_are_missing(missing, batch_size, calls):
    given = Conditions("sandbox", runtime=Runtime(batch_size))
    made = Invention("fakes:mute", ["tell me"], Settings(1), lambda text: None, NoveltyFilter(1.0), given)
    made.num_slow = 4  # one more batch
    made.grow(missing)
    assert made.num_calls == calls
