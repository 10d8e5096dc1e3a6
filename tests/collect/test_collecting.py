"""POIR's steps in turn: exactly as many pairs as are wanted, few chunks, a limit that holds, a run that resumes."""

from random import Random

import fakes
import pytest
from hypothesis import given as drawn, strategies as st

from nbutils.collect import invent, pairing
from nbutils.collect.collecting import Wanted, collect, next_chunk
from nbutils.collect.critique import Loop
from nbutils.data.novelty import NoveltyFilter
from nbutils.experiment.journal import Journal
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions

SEEDS = [f"seed {number} of many" for number in range(12)]
LOOP = Loop(num_rounds=1, good_score=3)


def collected(wanted, journal=None, model="fakes:fruitful", near=lambda rows: set()):
    """(the pool, what was collected)"""
    given = Conditions("sandbox", runtime=Runtime(4), journal=journal)
    refuse = invent.refusal(2, 9, [], set())
    pool = invent.Invention(model, SEEDS, invent.Settings(3), refuse, NoveltyFilter(1.0), given)
    return pool, collect(pool, model, LOOP, wanted, near)


def test_both_steps_go_on_until_there_are_exactly_so_many_pairs():
    """Every other prompt gives one. 7 prompts give 4 pairs; for 3 more the yield asks for 5.25, a tenth more is 6."""
    pool, found = collected(Wanted(7))
    assert (len(found.pairs), found.message, len(pool.rows)) == (7, "", 7 + 6)
    assert found.prompts == pool.rows
    assert {row.prompt_id for row in found.rounds} == {row.prompt_id for row in pool.rows}
    assert pairing.make_pairs(found.rounds, 3) == found.pairs + found.spare


def test_a_chunk_that_gives_more_than_is_missing_keeps_its_first_pairs(monkeypatch):
    monkeypatch.setattr(fakes, "fruitful", _always_a_pair)
    monkeypatch.setattr("nbutils.collect.collecting.next_chunk", lambda wanted, pairs, prompts: 4)
    pool, found = collected(Wanted(6))
    assert (len(pool.rows), len(found.pairs), len(found.spare)) == (8, 6, 2)
    assert found.pairs + found.spare == pairing.make_pairs(found.rounds, 3)


def _always_a_pair(messages):
    if messages[-1]["content"].startswith("invent:"):
        number = next(fakes._numbers)
        return f"Generated Instruction 1: say number {number}\nGenerated Instruction 2: name number {number}"
    return fakes.collector(messages)


def test_max_prompts_ends_it_with_both_numbers():
    pool, found = collected(Wanted(9, max_prompts=11))
    assert (len(pool.rows), len(found.prompts)) == (11, 11) and len(found.pairs) < 9
    assert f"{len(found.pairs)} of 9 pairs, of 11 prompts: no more are allowed: raise max_prompts" == found.message


def test_a_pool_that_stops_growing_ends_it_with_what_there_is():
    _, found = collected(Wanted(9), model="fakes:mute")
    assert found.pairs == []
    assert found.message.startswith("0 of 9 pairs, of 0 prompts: the pool stopped growing at 0 of 9 prompts")


def test_prompts_near_a_test_prompt_are_dropped_chunk_by_chunk_and_made_up_for():
    """The rule drops every third prompt; its pairs never exist, and other prompts come for them."""
    seen = []

    def near(rows):
        seen.extend(row.prompt_id for row in rows)
        return {name for number, name in enumerate(seen) if number % 3 == 0} & {row.prompt_id for row in rows}

    pool, found = collected(Wanted(8), near=near)
    assert len(found.pairs) == 8 and found.num_near == len(pool.rows) - len(found.prompts) > 2
    assert not {seen[0], seen[3]} & {row.prompt_id for row in [*found.prompts, *found.rounds, *found.pairs]}


@pytest.mark.parametrize(
    ("pairs", "prompts", "size"),
    [
        (0, 0, 100),  # a prompt for each pair wanted
        (0, 100, 100),  # no pair yet: as many again
        (50, 100, 100),  # 50 more at 1 in 2, and a tenth: 110, but never more than there are
        (90, 100, 13),  # 10 / 0.9 × 1.1 = 12.2
        (1, 100, 100),
        (1, 950, 50),  # 1,000 at most
    ],
)
def test_the_next_chunk_by_hand(pairs, prompts, size):
    assert next_chunk(Wanted(100), pairs, prompts) == size


@drawn(st.integers(1, 400), st.integers(0, 900), st.floats(0, 3), st.integers(0, 10**6))
def test_chunks_are_never_empty_never_too_many_and_never_beyond_the_limit(num_pairs, max_prompts, yields, seed):
    """Whatever number of pairs a prompt gives: none, one in many, several."""
    wanted, random, pairs, prompts, chunks = Wanted(num_pairs, max_prompts), Random(seed), 0, 0, 0
    while pairs < num_pairs and prompts < wanted.most_prompts:
        size = next_chunk(wanted, pairs, prompts)
        assert 0 < size <= wanted.most_prompts - prompts and (not prompts or size <= prompts)
        prompts, chunks = prompts + size, chunks + 1
        pairs += sum(int(yields) + (random.random() < yields % 1) for _ in range(size))
    assert chunks <= 30


@pytest.mark.parametrize("kept", [0, 1, 5, 9, 14, 20, 27, 33])
def test_a_run_that_was_stopped_anywhere_asks_for_the_rest_and_ends_the_same(tmp_path, monkeypatch, kept):
    with Journal(tmp_path / "whole.jsonl") as journal:
        pool, whole = collected(Wanted(9), journal)
    lines = (tmp_path / "whole.jsonl").read_text().splitlines(keepends=True)
    assert len(pool.rows) > 9 and len(lines) > 33  # more than one chunk
    (tmp_path / "torn.jsonl").write_text("".join(lines[:kept]))
    with Journal(tmp_path / "torn.jsonl") as journal:
        again, found = collected(Wanted(9), journal)
    assert found == whole and (again.rows, again.counts) == (pool.rows, pool.counts)
    assert sorted((tmp_path / "torn.jsonl").read_text().splitlines()) == sorted(line.rstrip() for line in lines)
