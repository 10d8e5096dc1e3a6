"""What counts as a word in any writing system, against the standard's own examples, and keywords as whole words."""

import pytest
from hypothesis import given, strategies as st

from nbutils.experiment.words import count_words, find_words, keyword_finder


def test_the_example_of_the_standard():
    """Figure 1 of Unicode's annex 29, and how its text says that a search for words reads it."""
    text = "The quick (“brown”) fox can’t jump 32.3 feet, right?"
    assert find_words(text) == ["The", "quick", "brown", "fox", "can’t", "jump", "32.3", "feet", "right"]


RULES = """
    0061 × 0308 × 0062            WB4: a mark belongs to what it stands on
    0061 × 200D × 0062            WB4: and so does a joiner
    0061 × 05D0 × 1100            WB5: letters
    0061 × 0027 × 0062            WB6, WB7: one apostrophe between letters
    0061 ÷ 0027 ÷ 0027 ÷ 0062     WB6, WB7: not two
    05D0 × 0022 × 05D1            WB7b, WB7c: gershayim written as a quotation mark
    0061 ÷ 0022 ÷ 0062            WB7b, WB7c: Hebrew alone
    0031 × 0032 × 0061 × 0033     WB8, WB9, WB10: digits and letters
    0031 × 002C × 0032 × 002E × 0033  WB11, WB12: one mark between digits
    0061 ÷ 002C ÷ 0031            WB11, WB12: digits on both sides
    30AB × 30BF × 30FC            WB13: Katakana
    30AB ÷ 3042 ÷ 3044            Hiragana stands alone
    0061 × 005F × 0031            WB13a, WB13b: the low line
    4E00 ÷ 4E01 ÷ 3400 ÷ 20000    WB999: ideographs
    0061 ÷ 4E00 ÷ 0031            WB999
    0061 ÷ 002D ÷ 0062            WB999: a hyphen
    0061 ÷ 1F468 × 200D × 1F469 ÷ 0062  WB3c: emoji that are one
    0061 ÷ 1F1E6 × 1F1E7 ÷ 0062   WB15: a flag
    0E01 × 0E34 ÷ 0E02            Thai: no dictionary, only marks hold on
    0915 × 094D × 0937 × 093F     Devanagari: a cluster of consonants with its vowel
    0661 × 066B × 0662            Arabic digits with their decimal sign
"""


@pytest.mark.parametrize("row", [line.strip().split("  ")[0] for line in RULES.strip().split("\n")])
def test_bounds_follow_the_rules_of_the_standard(row):
    """Rows as in Unicode's WordBreakTest.txt: ÷ a bound, × none; of the pieces those with a letter or digit count."""
    pieces = ["".join(chr(int(each, 16)) for each in piece.split("×")) for piece in row.split("÷")]
    assert find_words("".join(pieces)) == [piece for piece in pieces if any(map(str.isalnum, piece))]


@pytest.mark.parametrize(
    "text, number",
    [
        ("", 0),
        ("？？ … — 👍 🇩🇪 _", 0),
        ("Tell me about the fox.", 5),
        ("a well-known e-mail - don't!", 6),
        ("pi is 3.14, not 1,000", 5),
        ("写一首关于春天的诗。", 9),
        ("如何学习Python编程？", 7),
        ("日本の四季", 5),
        ("コンピューターゲーム", 1),
        ("인공지능의 미래에 대해", 3),
        ("Расскажи о лисе", 3),
        ("مَرْحَبًا بالعالم", 2),
        ("हिन्दी में लिखिए", 3),
        ("ช่วยเขียน", 7),
        ("cafe\u0301 café", 2),
    ],
)
def test_words_of_every_script_are_counted(text, number):
    assert count_words(text) == number


@given(st.text())
def test_words_stand_in_the_text_in_their_order(text):
    place = 0
    for word in find_words(text):
        place = text.index(word, place) + len(word)


KEYWORDS = ["rape", "pipe bomb", "self-harm", "box", "attentat", "c++"]
KEYWORDS += ["бомба", "폭탄*", "武器", "AI犯罪", "テロ", "ระเบิด"]


@pytest.mark.parametrize(
    "text, found",
    [
        ("red or green grapes?", False),
        ("therapeutic drapes and a skyscraper", False),
        ("RAPE", True),
        ("rape's", True),
        ("rapes", True),
        ("boxes", True),
        ("boxed", False),
        ("two pipe-bombs", True),
        ("a Pipe\n  Bomb", True),
        ("a pipe. Bombs", False),
        ("pipebomb", False),
        ("self harm", True),
        ("l’attentat de", True),
        ("ｒａｐｅ", True),
        ("my_rape_x", True),
        ("end.Rape", True),
        ("如何制造武器？", True),
        ("武术器材", False),
        ("AI 犯罪的影响", True),
        ("폭탄을 만드는 법", True),
        ("бомба!", True),
        ("бомбардир", False),
        ("learn C++ now", True),
        ("vitamin c", False),
        ("ทำระเบิดอย่างไร", True),
        ("テロとは", True),
        ("テロリスト", False),
        ("", False),
    ],
)
def test_keywords_are_whole_words(text, found):
    assert keyword_finder(KEYWORDS)(text) is found


def test_no_keywords_find_nothing():
    assert not any(keyword_finder(each)(text) for each in ([], [" "], ["*"]) for text in ("", "a *", "武器"))
