"""Word-level differences: nothing of either text is lost, and the marks are where a reader would put them."""

import pytest
from hypothesis import given, strategies as st

from nbutils.analyse import differences
from nbutils.analyse.differences import Piece


@pytest.mark.parametrize(
    "prompt, rewrite, marked",
    [
        ("tell me about the fox.", "tell me about the fox.", "tell me about the fox."),
        (
            "tell me about the fox.",
            "give three facts about the fox.",
            "[-tell me-] {+give three facts+} about the fox.",
        ),
        ("what is the owl?", "what is the owl like?", "what is the owl {+like+}?"),
        ("the fox.", "", "[-the fox.-]"),
        ("", "the fox.", "{+the fox.+}"),
        ("请告诉我狐狸的事。", "请详细告诉我狐狸的事。", "请{+详细+}告诉我狐狸的事。"),
        ("हिन्दी में लिखो", "हिन्दी में लिखें", "हिन्दी में [-लिखो-]{+लिखें+}"),  # vowel signs are no words
        ("a 👨‍👩‍👧 b", "a 👨‍👩‍👦 b", "a [-👨‍👩‍👧-] {+👨‍👩‍👦+} b"),
        ("a well-known fox", "a well-read fox", "a [-well-known-] {+well-read+} fox"),
        ("don't  stop", "don't stop\nnow", "don't stop\n{+now+}"),
        ("Fox", "fox", "[-Fox-]{+fox+}"),
    ],
)
def test_marks_as_worked_out_by_hand(prompt, rewrite, marked):
    assert differences.marked(prompt, rewrite) == marked


@given(st.text(max_size=60), st.text(max_size=60))
def test_what_is_same_and_added_is_the_rewrite_and_no_word_of_the_prompt_is_lost(prompt, rewrite):
    pieces = differences.compare(prompt, rewrite)
    assert "".join(piece.text for piece in pieces if piece.kind != "lost") == rewrite
    kept = "".join(piece.text for piece in pieces if piece.kind != "added")
    assert "".join(kept.split()) == "".join(prompt.split()) and all(piece.text for piece in pieces)


def test_share_changed_is_zero_for_the_prompt_and_one_for_other_words():
    """`ab cd` against `ab ef`: 2 letters of 5 go, 2 come, 3 (with a blank) stay on both sides: 4 of 10."""
    assert differences.share_changed("ab cd", "ab cd") == 0 and differences.share_changed("", "") == 0
    assert differences.share_changed("ab", "cd") == 1 and differences.share_changed("ab cd", "ab ef") == 0.4


def test_endless_flags_do_not_take_forever():
    """A model in a loop: to count each flag's place in their run would take minutes."""
    assert differences.share_changed("🇩🇪" * 20_000, "🇩🇪" * 20_000) == 0
    assert differences.marked("🇩🇪🇫🇷", "🇩🇪🇮🇹 a") == "🇩🇪[-🇫🇷-]{+🇮🇹 a+}"


def test_endless_texts_are_replaced_but_for_their_ends():
    """A megabyte each: to compare all words would take gigabytes."""
    prompt, rewrite = "start " + "a b " * 100_000 + "end", "start " + "b c " * 100_000 + "end"
    pieces = differences.compare(prompt, rewrite)
    assert [piece.kind for piece in pieces] == ["same", "lost", "added", "same"]
    assert (pieces[0], pieces[-1]) == (Piece("same", "start "), Piece("same", "end"))
