"""What of a model's text is its answer: what it thought first is cut once, where the answer is made."""

import sys

import pytest
from hypothesis import given, strategies as st

from nbutils.experiment.journal import Journal
from nbutils.models.generate import generate
from nbutils.models.texts import Sampling, spoken

TAIL = "Revised question: What do otters eat?"
DRAFT = "A try: Revised question: Animals? Score: 2. 6 8\n[[B]]"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"<think>\n{DRAFT}\n</think>\n\n{TAIL}", TAIL),
        (f"<think>{DRAFT}</think>{TAIL}", TAIL),
        (f"\n<think>\n\n</think>\n\n{TAIL}\n", TAIL + "\n"),
        (f"<think>a</think>\n<think>b</think>\n{TAIL}", TAIL),
        (f"<thinking>{DRAFT}</thinking>{TAIL}", TAIL),
        (f"<seed:think>{DRAFT}</seed:think>{TAIL}", TAIL),
        (f"[THINK]{DRAFT}[/THINK]{TAIL}", TAIL),
        (f"{DRAFT}\n</think>\n\n{TAIL}", TAIL),
        (f"{DRAFT}</think>\n\n{TAIL}", TAIL),
        (f"{DRAFT}\r\n</think>\r\n\r\n{TAIL}", TAIL),
        (f"{DRAFT}\n</think>", ""),
        (f"<think>\n{DRAFT}", None),
        (f"<think>a</think><think>{DRAFT}", None),
        ("<think>", None),
        (f"analysisThe user wants it.assistantfinal{TAIL}", TAIL),
        (f"<|channel|>analysis<|message|>{DRAFT}<|end|><|start|>assistant<|channel|>final<|message|>{TAIL}", TAIL),
        (f"<|channel|>analysis<|message|>{DRAFT}<|end|>", None),
        ("analysisThe user wants", None),
        # no thought, and so as it stands
        (TAIL, TAIL),
        ("", ""),
        (" blanks stay \n", " blanks stay \n"),
        ("A tag <think> opens what </think> closes.", "A tag <think> opens what </think> closes."),
        ("Write <think>\n</think>\n\naround it.", "Write <think>\n</think>\n\naround it."),
        ("It ends with </think> here.", "It ends with </think> here."),
        ("analysis of the assistantfinal", "analysis of the assistantfinal"),
        ("Analysis: good", "Analysis: good"),
        ("<thinker>x</thinker>", "<thinker>x</thinker>"),
    ],
)
def test_what_is_said_behind_a_thought(text, said):
    assert spoken(text) == said


@given(st.lists(st.sampled_from(["<think>", "</think>", "\n", " ", "a", "analysis", "assistantfinal", "[THINK]"])))
def test_what_is_said_is_the_end_of_the_text_and_holds_no_thought_of_its_own(parts):
    text = "".join(parts)
    said = spoken(text)
    assert said is None or (text.endswith(said) and not said.lstrip().startswith("<think>") or said == text)


def test_thoughts_of_a_megabyte_are_cut_fast():
    for text in ("<think></think>" * 70_000, "<think>" * 150_000, "</think> " * 120_000, " \n" * 500_000):
        spoken(text)


def test_a_thought_is_no_part_of_an_answer_and_stays_in_the_journal(tmp_path, monkeypatch):
    """Whatever made the answer; an answer that is known already is cut as it is read."""
    (tmp_path / "thinker.py").write_text(
        "def answer(messages):\n"
        "    said = {'a': '<think>\\nhm\\n</think>\\n\\nyes', 'b': '<think>\\nhm', 'c': 'no'}\n"
        "    return said[messages[-1]['content']]\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "thinker", raising=False)
    for _ in range(2):
        with Journal(tmp_path / "journal.jsonl") as journal:
            made = generate("thinker:answer", ["a", "b", "c"], Sampling(), journal=journal)
        assert [each.text for each in made] == ["yes", "", "no"]
        assert [bool(each.reason) for each in made] == [False, True, False]
        assert made[1].reason.startswith("no text: a thought that does not end")
    kept = (tmp_path / "journal.jsonl").read_text("utf-8")
    assert kept.count("<think>") == 2 and kept.count("hm") == 2
