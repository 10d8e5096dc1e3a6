"""Protects the ROUGE-L figures (against the package rouge-score), the pool's rule of what is new, and the pruning."""

import json
import pickle
import random
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st
from rouge_score.rouge_scorer import RougeScorer

from nbutils.data import novelty

SHARED = Path(__file__).resolve().parents[3] / "shared" / "data"
SCORER = RougeScorer(["rougeL"], use_stemmer=False)
SAMPLES = [
    "Tell me about the otter.",
    "tell me, about THE otter!",
    "List three facts about the fox: diet, size and lifespan.",
    "What's the fox's diet?\nGive 3 facts - in detail.",
    "It’s a “test” – x², 3.14 €; 1️⃣ 👍 don’t",
    "？？",
    "{answer_b} x x x x\u2028\x85\ud800",
    "",
]


def rouge_score(first, second):
    return SCORER.score(first, second)["rougeL"].fmeasure


@pytest.fixture(scope="module")
def real_prompts():
    """Prompts of the four public sets beside the repository; those of BPO stand before their optimised twins."""
    if not SHARED.is_dir():
        pytest.skip("the public prompt sets (shared/data beside the repository) are not on this machine")
    made = [json.loads(line)["instruction"] for line in (SHARED / "seed_tasks.jsonl").open(encoding="utf-8")]
    made += [json.loads(line)["text"] for line in (SHARED / "vicuna_eval.jsonl").open(encoding="utf-8")]
    made += [row["instruction"] for row in json.loads((SHARED / "dolly_eval.json").read_text(encoding="utf-8"))]
    for row in json.loads((SHARED / "bpo_test.json").read_text(encoding="utf-8")):
        made += [row["prompt"], row["optimized_prompt"]]
    return made


# The figures


def test_equals_rouge_score_on_samples():
    expected = [[rouge_score(first, second) for second in SAMPLES] for first in SAMPLES]
    np.testing.assert_allclose(novelty.rouge_l_matrix(SAMPLES, SAMPLES), expected, atol=1e-12, rtol=0)


PARTS = ["a", "B", "cat", "c4t", "don't", "don’t", "-", "\n", "x²", "…", "_", "3.14"]
WORDS = st.lists(st.sampled_from(PARTS)).map(" ".join)


@settings(max_examples=200)
@given(WORDS, WORDS)
def test_equals_rouge_score_on_word_soup(first, second):
    assert novelty.rouge_l(first, second) == pytest.approx(rouge_score(first, second), rel=0, abs=1e-12)


def is_english(text):
    """Whether a text's letters and digits are ASCII; marks may be any."""
    return not any(letter.isalnum() and not letter.isascii() for letter in unicodedata.normalize("NFC", text))


ENGLISH = st.text(st.characters(max_codepoint=127) | st.characters(exclude_categories=["L", "N"])).filter(is_english)


@settings(max_examples=300)
@given(ENGLISH, ENGLISH)
def test_equals_rouge_score_on_any_text_of_ascii_letters(first, second):
    assert novelty.rouge_l(first, second) == pytest.approx(rouge_score(first, second), rel=0, abs=1e-12)


def test_equals_rouge_score_on_real_prompts(real_prompts):
    real_prompts = [prompt for prompt in real_prompts if is_english(prompt)]
    assert len(real_prompts) > 800
    others = random.Random(0).sample(real_prompts, len(real_prompts))
    pairs = list(zip(real_prompts, real_prompts[1:] + real_prompts[:1], strict=True))  # near ones: BPO's twins
    pairs += zip(real_prompts, others, strict=True)
    found = [novelty.rouge_l(first, second) for first, second in pairs]
    expected = [rouge_score(first, second) for first, second in pairs]
    assert sum(score > 0.7 for score in expected) > 20  # near copies are among them
    np.testing.assert_allclose(found, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("most", [1, 3])
def test_ids_beyond_the_last_character(monkeypatch, most):
    monkeypatch.setattr(novelty, "_NUM_CHARACTERS", most)  # some texts, or all, become lists of ids
    expected = [[rouge_score(first, second) for second in SAMPLES] for first in SAMPLES]
    np.testing.assert_allclose(novelty.rouge_l_matrix(SAMPLES, SAMPLES), expected, atol=1e-12, rtol=0)
    pool = novelty.NoveltyFilter(1.0, SAMPLES)
    for text, scores in zip(SAMPLES, expected, strict=True):
        found = dict(pool.nearest(text, 10))
        assert found == pytest.approx({other: s for other, s in zip(SAMPLES, scores, strict=True) if s}, abs=1e-12)


def test_hand_computed():
    # tokens a b c d against a c d e f: LCS a c d = 3, F = 2 * 3 / (4 + 5)
    assert novelty.rouge_l("a b c d", "A, c d e f") == 6 / 9


def test_matrix_shapes_and_emptiness():
    assert novelty.rouge_l_matrix(["a", "b", ""], ["a"]).tolist() == [[1.0], [0.0], [0.0]]
    assert novelty.rouge_l_matrix([], ["a"]).shape == (0, 1)
    assert novelty.rouge_l_matrix(["a"], []).shape == (1, 0)


# Other writing systems


@pytest.mark.parametrize(
    "text, tokens",
    [
        ("naïve café's cafe\u0301", ["naïve", "café", "s", "café"]),
        ("如何学习Python编程？3.14", ["如", "何", "学", "习", "python", "编", "程", "3", "14"]),
        ("日本のコンピューター", ["日", "本", "の", "コンピューター"]),
        ("Привет, МИР 2", ["привет", "мир", "2"]),
        ("인공지능의 미래", ["인공지능의", "미래"]),
        ("हिन्दी में", ["हिन्दी", "में"]),
        ("مَرْحَبًا ١٢", ["مَرْحَبًا", "١٢"]),
        ("l'école l’École", ["l", "école", "l", "école"]),
        ("x̂y don’t 水", ["x", "y", "don", "t", "水"]),  # what is ASCII is read as in English company
        ("x̂y don’t", ["x", "y", "don", "t"]),
    ],
)
def test_tokens_of_other_letters(text, tokens):
    assert novelty.tokenize(text) == tokens


@pytest.mark.parametrize(
    "prompt, near, other",
    [
        ("请写一篇关于人工智能的文章", "请写一篇关于人工智能的文章。", "推荐三本适合孩子的好书"),
        ("如何用Python读取文件？", "如何使用Python读取文件", "用Python画一张折线图，标题为收入"),
        ("日本の四季について短い文章を書いてください", "日本の四季について、短い文章を書いて", "明日の天気を教えて"),
        ("Расскажи о том, чем питается лиса", "Расскажи, чем питается лиса", "Напиши стихи о весне в городе"),
        ("ช่วยเขียนบทกวีเกี่ยวกับฤดูใบไม้ผลิ", "เขียนบทกวีเกี่ยวกับฤดูใบไม้ผลิ", "อธิบายวิธีทำแกงเขียวหวาน"),
        ("اكتب قصيدة قصيرة عن فصل الربيع", "اكتب قصيدة عن فصل الربيع", "ما هي عاصمة فرنسا اليوم"),
        ("वसंत ऋतु पर एक छोटी कविता लिखिए", "वसंत ऋतु पर एक कविता लिखिए", "फ्रांस की राजधानी क्या है"),
        ("봄에 대한 짧은 시를 써 주세요", "봄에 대한 시를 써 주세요", "프랑스의 수도는 어디인가요"),
    ],
)
def test_near_copies_are_found_in_every_script_and_other_texts_are_not(prompt, near, other):
    assert novelty.find_near([near, other], [prompt], 0.7) == [True, False]
    assert novelty.rouge_l(other, prompt) < 0.5


# The rule


def test_only_above_the_threshold_is_refused():
    pool = novelty.NoveltyFilter(0.7, ["a b c d e f g h i j"])
    at_threshold = "a b c d e f g x y z"  # LCS 7 of 10 and 10: exactly 0.7
    assert pool.accept(at_threshold) == (True, [("a b c d e f g h i j", 0.7)])
    assert pool.accept("a b c d e f g h p q") == (False, [("a b c d e f g h i j", 0.8)])
    assert pool.prompts == ["a b c d e f g h i j", at_threshold]


@pytest.mark.parametrize("length", range(1, 61))
def test_a_score_equal_to_the_threshold_is_not_above_it(length):
    words = [f"w{number}" for number in range(length)]
    for shared in range(1, length + 1):
        prompt = " ".join(words[:shared])
        score = 2 * shared / (length + shared)
        assert not novelty.find_near([prompt], [" ".join(words)], score)[0]
        assert novelty.find_near([prompt], [" ".join(words)], np.nextafter(score, 0))[0]


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
    pool = novelty.NoveltyFilter(0.1, ["？？"])
    assert pool.accept("！！") == (True, [])
    assert pool.accept("？？") == (False, [("？？", 1.0)])
    assert pool.accept_all(["", "", "！！", "Расскажи о лисе."]) == [True, False, False, True]
    assert pool.nearest("") == [] and novelty.NoveltyFilter(0.1).nearest("a") == []
    assert novelty.find_near(["", "？？"], ["", "？？"], 0.0) == [False, False]


def test_prompts_without_words_are_counted_where_only_copies_of_them_are_found():
    texts = ["？？", "？？", "👍 …", "列出三种水果", "a"]
    assert novelty.not_compared(texts, 0.7) == " · 2 prompts without words: not compared"
    assert novelty.not_compared(texts[1:2], 0.0) == " · 1 prompt without words: not compared"
    assert novelty.not_compared(texts, 1.0) == novelty.not_compared(texts[3:], 0.7) == ""


def test_nearest_are_sorted_and_limited():
    pool = novelty.NoveltyFilter(1.0, ["a b c d", "a b x y", "a b c z", "q"])
    assert pool.nearest("a b c d", 3) == [("a b c d", 1.0), ("a b c z", 0.75), ("a b x y", 0.5)]
    assert pool.nearest("a b c d", 0) == [("a b c d", 1.0)]


def test_of_equal_scores_the_earlier_prompt_is_nearest():
    pool = novelty.NoveltyFilter(1.0, ["d c b a", "a b x y", "x a b y", "x y a b"])  # the first has the highest bound
    assert pool.nearest("a b c d", 2) == [("a b x y", 0.5), ("x a b y", 0.5)]


@pytest.mark.parametrize("threshold", [-0.1, 1.1, float("nan")])
def test_threshold_out_of_range(threshold):
    with pytest.raises(ValueError, match="between 0 and 1"):
        novelty.NoveltyFilter(threshold)


def test_find_near_among_many():
    prompts = [f"word{index} alone" for index in range(600)] + ["the red fox runs fast"]
    near = novelty.find_near(prompts, ["the red fox runs", "nothing"], 0.7)
    assert near == [False] * 600 + [True]
    assert novelty.find_near(["a"], ["a"], 1.0) == [False] and novelty.find_near(["a"], [], 0.5) == [False]


def test_what_is_refused_or_looked_up_leaves_nothing_behind():
    pool = novelty.NoveltyFilter(0.0, ["the fox"])
    before = len(pickle.dumps(pool))
    for number in range(50):
        assert not pool.accept(f"the new word{number}")[0]
        pool.nearest(f"other{number} word{number}"), pool.is_near(f"more{number}")
    assert pool.accept_all(["the owl", "the word"]) == [False, False]
    assert len(pickle.dumps(pool)) == before


# The pruning: the same as comparing with everything


class BruteForce:
    """NoveltyFilter by comparing with every prompt of the pool."""

    def __init__(self, threshold, pool):
        self.threshold, self.prompts = threshold, list(dict.fromkeys(pool))

    def nearest(self, prompt, num_nearest):
        scores = novelty.rouge_l_matrix([prompt], self.prompts)[0]
        order = np.argsort(-scores, kind="stable")[:num_nearest]
        return [(self.prompts[index], float(scores[index])) for index in order if scores[index] > 0]

    def accept(self, prompt, num_nearest):
        if prompt in self.prompts:
            return False, [(prompt, 1.0)]
        nearest = self.nearest(prompt, num_nearest)
        if nearest and nearest[0][1] > self.threshold:
            return False, nearest
        self.prompts.append(prompt)
        return True, nearest


def assert_same(threshold, pool, prompts, num_nearest):
    """Pruned and unpruned take the same prompts with the same neighbours, in accept, accept_all and find_near."""
    pruned, plain = novelty.NoveltyFilter(threshold, pool), BruteForce(threshold, pool)
    expected = [plain.accept(prompt, num_nearest) for prompt in prompts]
    assert [pruned.accept(prompt, num_nearest) for prompt in prompts] == expected
    assert pruned.prompts == plain.prompts
    assert novelty.NoveltyFilter(threshold, pool).accept_all(prompts) == [is_new for is_new, _ in expected]
    near = (novelty.rouge_l_matrix(prompts, pool) > threshold).any(axis=1) if threshold < 1 else [False] * len(prompts)
    assert novelty.find_near(prompts, pool, threshold) == list(near)


TEXTS = st.lists(st.sampled_from("a a a b c d e f É 水".split()), max_size=12).map(" ".join)
SHUFFLED = st.permutations("a a b c d e f g h".split()).map(" ".join)  # equal bounds of 1, any score
POOLS = st.lists(st.one_of(TEXTS, SHUFFLED), max_size=40)
THRESHOLDS = st.one_of(st.sampled_from([0.0, 0.5, 2 / 3, 0.7, 0.8, 1.0]), st.floats(0, 1))


@pytest.fixture(scope="module", params=["small", "tiny", "as they are"])
def sizes(request):
    """Batches so small that the search ends within a pool of a few prompts, terms that soon count as common."""
    changed = {"small": {"_BATCH": (2, 4), "_COMMON": (3, 1 / 4)}, "tiny": {"_BATCH": (1, 1), "_COMMON": (0, 0.0)}}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in changed.get(request.param, {}).items():
            patch.setattr(novelty, name, value)
        yield


@settings(max_examples=150, deadline=None)
@given(THRESHOLDS, POOLS, st.lists(st.one_of(TEXTS, SHUFFLED), min_size=1, max_size=15), st.integers(1, 6))
def test_pruned_equals_brute_force(sizes, threshold, pool, prompts, num_nearest):
    assert_same(threshold, pool, prompts, num_nearest)


def test_pruned_equals_brute_force_where_the_bound_misleads(sizes):
    forwards = [f"w{number}" for number in range(30)]
    backwards = [" ".join(forwards[number:][::-1]) for number in range(20)]  # bounds up to 1, scores of one token
    late = " ".join(forwards[20:] + ["x"] * 9)  # a low bound, and the best score
    assert_same(0.5, [*backwards, late, "x " * 600], [" ".join(forwards), late + " y", "x " * 256, "W0 w0, w0!"], 3)


@pytest.mark.parametrize("threshold", [0.4, 0.7])
def test_pruned_equals_brute_force_on_real_prompts(real_prompts, threshold):
    assert_same(threshold, real_prompts[:100], real_prompts[100:200] + real_prompts[-100:], 3)
