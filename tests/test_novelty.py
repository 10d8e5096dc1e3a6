"""Protects the ROUGE-L figures (against the package rouge-score) and the pool's rule of what is new."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rouge_score.rouge_scorer import RougeScorer

from nbutils import novelty

SCORER = RougeScorer(["rougeL"], use_stemmer=False)
SAMPLES = [
    "Tell me about the otter.",
    "tell me, about THE otter!",
    "List three facts about the fox: diet, size and lifespan.",
    "What's the fox's diet?\nGive 3 facts - in detail.",
    "İstanbul’da hava nasıl? naïve café",
    "列出三种水果",
    "{answer_b} x x x x\u2028\x85\ud800",
    "",
]


def rouge_score(first, second):
    return SCORER.score(first, second)["rougeL"].fmeasure


def test_equals_rouge_score_on_samples():
    expected = [[rouge_score(first, second) for second in SAMPLES] for first in SAMPLES]
    np.testing.assert_allclose(novelty.rouge_l_matrix(SAMPLES, SAMPLES), expected, atol=1e-12, rtol=0)


WORDS = st.lists(st.sampled_from(["a", "B", "cat", "c4t", "é", "ß", "-", "\n", "K", "水", "_"])).map(" ".join)


@settings(max_examples=200)
@given(WORDS, WORDS)
def test_equals_rouge_score_on_word_soup(first, second):
    assert novelty.rouge_l(first, second) == pytest.approx(rouge_score(first, second), abs=1e-12)


@given(st.text(), st.text())
def test_equals_rouge_score_on_any_text(first, second):
    assert novelty.rouge_l(first, second) == pytest.approx(rouge_score(first, second), abs=1e-12)


def test_hand_computed():
    # tokens a b c d against a c d e f: LCS a c d = 3, F = 2 * 3 / (4 + 5)
    assert novelty.rouge_l("a b c d", "A, c d e f") == 6 / 9


def test_matrix_shapes_and_emptiness():
    assert novelty.rouge_l_matrix(["a", "b", ""], ["a"]).tolist() == [[1.0], [0.0], [0.0]]
    assert novelty.rouge_l_matrix([], ["a"]).shape == (0, 1)
    assert novelty.rouge_l_matrix(["a"], []).shape == (1, 0)


def test_only_above_the_threshold_is_refused():
    pool = novelty.NoveltyFilter(0.7, ["a b c d e f g h i j"])
    at_threshold = "a b c d e f g x y z"  # LCS 7 of 10 and 10: exactly 0.7
    assert pool.accept(at_threshold) == (True, [("a b c d e f g h i j", 0.7)])
    assert pool.accept("a b c d e f g h p q") == (False, [("a b c d e f g h i j", 0.8)])
    assert pool.prompts == ["a b c d e f g h i j", at_threshold]


def test_the_pool_grows_with_what_it_accepts():
    pool = novelty.NoveltyFilter(0.5)
    assert pool.accept_all(["one two three", "one two four", "five six", "five six seven"]) == [
        True,
        False,
        True,
        False,
    ]
    assert len(pool) == 2


def test_threshold_one_refuses_exact_duplicates_only():
    pool = novelty.NoveltyFilter(1.0, ["Tell me."])
    assert pool.accept_all(["Tell me.", "tell me!", "tell me!"]) == [False, True, False]


def test_prompts_without_tokens():
    pool = novelty.NoveltyFilter(0.1, ["列出三种水果"])
    assert pool.accept("列出三种蔬菜") == (True, [])
    assert pool.accept("列出三种水果") == (False, [("列出三种水果", 1.0)])


def test_nearest_are_sorted_and_limited():
    pool = novelty.NoveltyFilter(1.0, ["a b c d", "a b x y", "a b c z", "q"])
    assert pool.nearest("a b c d", 3) == [("a b c d", 1.0), ("a b c z", 0.75), ("a b x y", 0.5)]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_threshold_out_of_range(threshold):
    with pytest.raises(ValueError, match="between 0 and 1"):
        novelty.NoveltyFilter(threshold)


def test_find_near_over_several_chunks():
    prompts = [f"word{index} alone" for index in range(600)] + ["the red fox runs fast"]
    near = novelty.find_near(prompts, ["the red fox runs", "nothing"], 0.7)
    assert near == [False] * 600 + [True]
    assert novelty.find_near(["a"], ["a"], 1.0) == [False] and novelty.find_near(["a"], [], 0.5) == [False]
