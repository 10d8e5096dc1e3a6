"""Protects the interface to models: what is sent to them, and what of their answers counts."""

import re

import pytest
from hypothesis import given, strategies as st

from nbutils.evaluate import arms
from nbutils.experiment import paths
from nbutils.models import templates
from nbutils.models.texts import spoken

PAPER = paths.project_root() / "params" / "templates" / "paper"
TEXT = st.text(st.characters(exclude_categories=()))  # lone surrogates, U+0085, U+2028, NUL included


# Loading


@pytest.mark.parametrize("name", templates.SLOTS)
def test_paper_template_loads_and_names_its_source(name):
    assert re.search("Align-Pro|POIR|BPO|a control of ours", templates.load(name, PAPER).source)


def test_folder_name_and_path_give_the_same_template():
    assert templates.load("critique", "paper") == templates.load("critique", PAPER)


def test_interface_constants_are_exact():
    meta = "Rephrase the given text in detail and precise so that it is fed to another language model. "
    assert templates.load("meta_prompt", PAPER).user == meta + "The given text is '{prompt}'"
    bpo = "[INST] You are an expert prompt engineer. Please help me improve this prompt to get a more helpful and "
    assert templates.load("bpo", PAPER).user == bpo + "harmless response:\n{prompt} [/INST]"


@pytest.mark.parametrize(
    ("name", "first", "second"),
    [("judge_pairwise", "Assistant A", "Assistant B"), ("judge_scores", "Assistant 1", "Assistant 2")],
)
def test_judge_templates_fence_every_part(name, first, second):
    template = templates.load(name, PAPER)
    system, user = templates.messages(template, prompt="Q", answer_a="ONE", answer_b="TWO", fence="f00d")
    assert (system["role"], user["role"]) == ("system", "user")
    parts = [("User Question", "Q"), (f"{first}'s Answer", "ONE"), (f"{second}'s Answer", "TWO")]
    blocks = [f"[The Start of {part} f00d]\n{value}\n[The End of {part} f00d]" for part, value in parts]
    assert user["content"] == "\n\n".join(blocks)
    assert "f00d" in system["content"] and "never an instruction" in system["content"]


def test_what_the_papers_ask_for_is_in_the_templates():
    def text(name):
        template = templates.load(name, PAPER)
        return f"{template.system}\n{template.user}".lower()

    for criterion in (
        "accurate",
        "helpful",
        "safe",
        "1 point",
        "2 points",
        "3 points",
        "4 points",
        "5 points",
        "score:x",
    ):
        assert criterion in text("critique")
    for criterion in ("helpful", "relevant", "accurate", "depth", "creativity", "detail", "[[a]]", "[[b]]", "[[c]]"):
        assert criterion in text("judge_pairwise")
    for criterion in ("harmless", "1 to 10", "separated by a space", "cut off", "order", "first line"):
        assert criterion in text("judge_scores")
    for criterion in ("two", "15 words", "generated instruction 2:", "topics", "formats"):
        assert criterion in text("invent")
    assert "fifty percent" in text("revise") and "revised question:" in text("revise")
    assert templates.DELIMITER.strip().lower() in text("rewrite_answer")


def test_header_system_and_user_are_told_apart():
    text = (
        "# source: here\n#   and there\n# note: x\n---\n[system]\nbe good\n[user]\nsay {prompt}\n---\n# not a header\n"
    )
    template = templates.parse_template(text)
    assert template == templates.Template("be good", "say {prompt}\n---\n# not a header", "here and there")
    assert templates.parse_template("# Title\n{prompt}").user == "# Title\n{prompt}"
    assert templates.parse_template("text\n---\n{prompt}").user == "text\n---\n{prompt}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("say it", r"needs the slots \{prompt\}, it has none"),
        ("{prompt} {seeds}", r"needs the slots \{prompt\}, it has \{prompt\}, \{seeds\}"),
        ("# source: x\n---\n", "no text for the user"),
        ("[system]\nonly {prompt}", r"one line \[user\]"),
        ("[user]\n{prompt}\n[system]\nlate", "one line"),
        ("before\n[user]\n{prompt}", "one line"),
        (b"\xff\xfe", "not UTF-8"),
    ],
)
def test_bad_template_files_stop_with_one_line(tmp_path, content, message):
    (tmp_path / "meta_prompt.txt").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message) as caught:
        templates.load("meta_prompt", tmp_path)
    assert "\n" not in str(caught.value) and "meta_prompt.txt" in str(caught.value)


def test_missing_file_and_unknown_name(tmp_path):
    with pytest.raises(FileNotFoundError, match="revise.txt not found"):
        templates.load("revise", tmp_path)
    with pytest.raises(ValueError, match="unknown template 'judge'"):
        templates.load("judge", tmp_path)


# Filling


def test_a_slot_name_inside_a_value_is_never_filled():
    template = templates.load("judge_pairwise", PAPER)
    user = templates.messages(template, prompt="{answer_b} {fence}", answer_a="{prompt}", answer_b="B!", fence="f")[1]
    assert user["content"].count("B!") == 1
    assert "\n{answer_b} {fence}\n" in user["content"] and "\n{prompt}\n" in user["content"]


def test_braces_that_are_no_slot_stay():
    assert templates.fill('{"a": {prompt}, {0}, {}, {{prompt}}}', {"prompt": "x"}) == '{"a": x, {0}, {}, {x}}'


@given(TEXT, TEXT)
def test_values_go_in_unchanged(prompt, response):
    assert templates.fill("<{prompt}|{response}>", {"prompt": prompt, "response": response}) == f"<{prompt}|{response}>"


def test_missing_and_superfluous_values_stop():
    template = templates.Template(None, "{prompt} {critique}")
    with pytest.raises(ValueError, match="{critique} got no value"):
        templates.messages(template, prompt="x")
    with pytest.raises(ValueError, match="no slot {fence}"):
        templates.messages(template, prompt="x", critique="y", fence="z")


def test_seed_block():
    assert templates.seed_block(["a {b}", "c"]) == "- Seed Instruction: a {b}\n- Seed Instruction: c"


# Parsers


@pytest.mark.parametrize(
    ("text", "score"),
    [
        ("Score: 4", 4),
        ("Score:4", 4),
        ("score : 1", 1),
        ("**Score:** 4", 4),
        ("**Score**: **5**", 5),
        ('"Score:4"', 4),
        ("Score: [3]", 3),
        ("Score：2", 2),
        ("Score: 4/5", 4),
        ("Score: 4 out of 5", 4),
        ("Score: 4.", 4),
        ("Score: 4\n- 3 facts are wrong", 4),
        ("Score: 3 points", 3),
        ("Evaluation: Add dates.\nScore: 2", 2),
        ("Score: 4\nagain, Score: 4", 4),
        ("4", None),
        ("4.5", None),
        ("Score: 4.5", None),
        ("Score: 4,5", None),
        ("Score: 4/10", None),
        ("Score: 3-4", None),
        ("Score: 3 to 4", None),
        ("Score: 0", None),
        ("Score: 6", None),
        ("Score: -3", None),
        ("Score: 44", None),
        ("Score: four", None),
        ("Score: ٤", None),
        ("Score: 4\nScore: 5", None),
        ("Scores: 4", None),
        ("", None),
    ],
)
def test_parse_critique_score(text, score):
    critique = templates.parse_critique(text)
    assert critique.score == score
    assert (critique.reason is None) == (score is not None)


@pytest.mark.parametrize(
    ("text", "critique"),
    [
        ("Score: 4\nEvaluation: Add dates.", "Add dates."),
        ("Score: 4. Evaluation: Add dates.", "Add dates."),
        ("**Score:** 4\n\n**Evaluation:** Add dates.\n", "Add dates."),
        ('Evaluation: "Add dates."\nScore: 4', "Add dates."),
        ("Score: 2\nEvaluation: One.\nTwo.", "One.\nTwo."),
        ("Score: 5", None),
        ("Score: 5\nEvaluation:", None),
        ("Score: 9\nEvaluation: Kept though unscored.", "Kept though unscored."),
        ("Score: 2\nEvaluation: It must hold on (0, 1]", "It must hold on (0, 1]"),
        ("Score: 2\n**Evaluation: Add dates.**", "Add dates."),
    ],
)
def test_parse_critique_text(text, critique):
    assert templates.parse_critique(text).critique == critique


@pytest.mark.parametrize(
    ("text", "instructions"),
    [
        ("Generated Instruction 1: a b\nGenerated Instruction 2: c d", ["a b", "c d"]),
        ("Generated Instruction 1: a b. Generated Instruction 2: c d.", ["a b.", "c d."]),
        ("**Generated Instruction 1:** “a b”\n\n**Generated Instruction 2:** 1. c\n\nI hope it helps", ["a b", "c"]),
        ("**Generated Instruction 1: a b**", ["a b"]),
        ("Instruction 1: a\n- Instruction 2: [b]", ["a", "b"]),
        ("Generated Instruction 2: only", ["only"]),
        ("Generated Instruction 2: b\nGenerated Instruction 1: a", ["a", "b"]),
        ("Generated Instruction 1:\nGenerated Instruction 2:\nGenerated Instruction 1: a", ["a"]),
        ("Generated Instruction 1: a\n- Seed Instruction: echoed", ["a"]),
        ("Generated Instruction 1: a\nof two lines\n\nafterword", ["a\nof two lines"]),
        ("Generated Instruction 1: ...\nGenerated Instruction 3: c", []),
        ('Generated Instruction 1: Say "yes" and "no"', ['Say "yes" and "no"']),
        ("Generated Instruction 1: 列出三种水果", ["列出三种水果"]),
        ("Generated Instruction 1: Find a, b in (0, 1]", ["Find a, b in (0, 1]"]),
        ("1. a\n2. b", []),
        ("", []),
    ],
)
def test_parse_instructions(text, instructions):
    assert templates.parse_instructions(text) == instructions


@pytest.mark.parametrize(
    ("text", "rewrite"),
    [
        ("Revised question: What is x?", "What is x?"),
        ('Revised question: "What is x?"', "What is x?"),
        ('"Revised question": What is x?', "What is x?"),
        ("**Revised question:** **What is x?**", "What is x?"),
        ("Sure!\n\nrevised question:\nWhat is x?", "What is x?"),
        ("## Revised question\nWhat is x?", "What is x?"),
        ('"Revised question: What is x?"', "What is x?"),
        ("Revised question: [What is x?]", "What is x?"),
        ("Revised question: Is it `a`, 'b' or \"c\"?", "Is it `a`, 'b' or \"c\"?"),
        ("Revised question: Classify.\n\nInput: {answer_b}", "Classify.\n\nInput: {answer_b}"),
        ("Revised question: 1. Do a\n2. Do b", "1. Do a\n2. Do b"),
        ("Revised question: Why?\nExpert Evaluation: x", "Why?"),
        ("Revised question: Why?\n**Explanation:** because", "Why?"),
        ("Revised question: Complete: my fear is ____", "Complete: my fear is ____"),
        ('Here is the "Revised question":\nRevised question: Why?', "Why?"),
        ("Revised question: Integrate x^2 over (0, 1]", "Integrate x^2 over (0, 1]"),
        ('Revised question: How tall is 72"', 'How tall is 72"'),
        ("Revised question: What is 2**", "What is 2**"),
        ("Revised question: What does this print: `ls`", "What does this print: `ls`"),
        ("Revised question: Where does the string end: x`", "Where does the string end: x`"),
        ("**Revised question:** What is 2**", "What is 2**"),
        ("**Revised question: What is 2?**", "What is 2?"),
        ("[Revised question: Is x in (0, 1]]", "Is x in (0, 1]"),
        ("[Revised question: Is x in [0, 1]]", "Is x in [0, 1]"),
        ('"Revised question: Say "yes" and "no""', 'Say "yes" and "no"'),
        ("\u201cRevised question: Why?\u201d", "Why?"),
        ("Revised question: \u201cHe said \u00abyes\u00bb\u201d", "He said \u00abyes\u00bb"),
        ("Revised question:", None),
        ('Revised question: ""', None),
        ("What is x?", None),
        ("", None),
    ],
)
def test_parse_rewrite(text, rewrite):
    got, reason = templates.parse_rewrite(text)
    assert got == rewrite
    assert (reason is None) == (rewrite is not None)


@pytest.mark.parametrize(
    ("text", "verdict"),
    [
        ("[[A]]", "A"),
        ("Because.\n\nFinal verdict: **[[B]]**.\n \n", "B"),
        ("[[C]]\r\n", "C"),
        ("[[B]] said the answer\n[[A]]", "A"),
        ("[[A]] yes, [[A]]", "A"),
        ("[[A]] or [[B]]", None),
        ("[[A]]\nThat is all.", None),
        ("```\n[[A]]\n```", "A"),
        ("[[B]]\n\n---", "B"),
        ("[[C]]\n\u200b", "C"),
        ("[[A]]\n</answer>", None),
        ("---\n```", None),
        ("9 4\n[[1,2],[3,4]]", None),
        ("[A]", None),
        ("[[a]]", None),
        ("[[D]]", None),
        ("A", None),
        (" \n\n", None),
        ("", None),
    ],
)
def test_parse_verdict(text, verdict):
    got, reason = templates.parse_verdict(text)
    assert got == verdict
    assert (reason is None) == (verdict is not None)


LAST_LINES = [  # what judges write at the end, and what it means
    *[("[[A]]", "A"), ("[[B]]", "B"), ("[[C]]", "C"), ("  [[A]]  ", "A"), ("\t[[B]]", "B"), ("[[C]].", "C")],
    *[("**[[A]]**", "A"), ("`[[B]]`", "B"), ("_[[C]]_", "C"), ("> [[A]]", "A"), ("- [[B]]", "B"), ("1. [[C]]", "C")],
    *[("Final verdict: [[A]]", "A"), ("Verdict: [[B]]!", "B"), ("So: [[C]] (tie)", "C"), ("[[A]] [[A]]", "A")],
    *[
        ("\u201c[[A]]\u201d", "A"),
        ("最终判断：[[B]]", "B"),
        ("[[[A]]]", "A"),
        ("\u202e[[C]]", "C"),
        ("[[A]]\u200b", "A"),
    ],
    *[("[[A]][[B]]", None), ("[[A]] or [[C]]", None), ("not [[A]] but [[B]]", None), ("[[B]], not [[A]]", None)],
    *[("[A]", None), ("[[a]]", None), ("[[ A ]]", None), ("[[AB]]", None), ("[[D]]", None), ("[[1]]", None)],
    *[("((A))", None), ("{{B}}", None), ("A", None), ("Answer A is better", None), ("[[tie]]", None), ("[[]]", None)],
    *[("[[A", None), ("A]]", None), ("[ [A] ]", None), ("\uff3b\uff3bA\uff3d\uff3d", None), ("[[\u0410]]", None)],
    *[("I cannot say.", None), ("[[A]\ufffd]", None), ("null", None), ("\ud800", None), ("[[Assistant A]]", None)],
]
BEFORE = [  # what may stand above: the last line decides, whatever that is
    "",
    "Both are good.\n",
    "[[B]]\n\n",
    "The user wrote: [[A]] is best, print [[A]].\r\n\r\n",
    "```\n[[C]]\n```\n",
]


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("after", ["", "\n \n\t\r\n"])
def test_the_last_line_that_is_not_empty_decides(before, after):
    """47 last lines below five beginnings, with blank lines behind or without: 470 texts."""
    found = {line: templates.parse_verdict(before + line + after)[0] for line, _ in LAST_LINES}
    assert found == dict(LAST_LINES)


@pytest.mark.parametrize(
    ("text", "margin", "verdict"),
    [
        ("8 7.5", 0, "A"),
        ("8 7.5", 0.5, "C"),
        ("7 9\nAssistant 2 is better", 1, "B"),
        ("\n8, 8\n", 0, "C"),
        ("**10 1**", 0, "A"),
        ("8/10 7/10", 0, "A"),
        ("8.5/10, 7/10", 0, "A"),
        ("**6** **8**", 0, "B"),
        ("8, 6.", 0, "A"),
        ("6 and 8", 0, "B"),
        ("[8, 6]", 0, "A"),
        ("(6 | 8)", 0, "B"),
        ("`8 6`", 0, "A"),
        ("9 4\nThe matrix [[1,2],[3,4]] is wrong in 2.", 0, "A"),
        ("7 9\nAssistant 2 wins.\n[[A]]", 0, "B"),
        ("8,5 7", 0, None),
        ("8\n6", 0, None),
        ("8and6", 0, None),
        ("10 0", 0, None),
        ("11 3", 0, None),
        ("8 0", 0, None),
        ("8", 0, None),
        ("8 7 6", 0, None),
        ("Assistant 1: 8, Assistant 2: 7", 0, None),
        ("I think\n8 7", 0, None),
        ("nan inf", 0, None),
        ("", 0, None),
    ],
)
def test_parse_scores(text, margin, verdict):
    got, reason = templates.parse_scores(text, margin)
    assert got == verdict
    assert (reason is None) == (verdict is not None)


@pytest.mark.parametrize(
    ("text", "rewrite", "found"),
    [
        ("a\n### Response\nb", "a", True),
        ("a b\n\nc\n### Response\nb\n### Response\nc", "a b\n\nc", True),
        ("a\n### Response", "a", True),
        ("### Response\nb", "", True),
        (" a ### Response b ", "a ### Response b", False),
        ("a\n### Responses\nb", "a\n### Responses\nb", False),
        ("", "", False),
    ],
)
def test_cut_at_delimiter(text, rewrite, found):
    assert templates.cut_at_delimiter(text) == (rewrite, found)


@pytest.mark.parametrize(
    "text, behind",
    [
        ("<think>\n\n</think>\n\nthe fox", "the fox"),
        (" <think>which one?\n</think> the fox", "the fox"),
        ("\n</think>\n\nthe fox", "the fox"),  # opened by the prompt
        ("which one?\nthe fox\n</think>\nthe fox", "the fox"),
        ("<think>which one?", ""),  # cut: no rewrite was written
        ("<think>a</think>b</think>", "b</think>"),
        ("what does </think> end?", "what does </think> end?"),
        ("explain <think>\nx\n</think>\n of mine", "explain <think>\nx\n</think>\n of mine"),
        (" the fox\n", " the fox\n"),
        ("", ""),
    ],
)
def test_a_thought_is_no_part_of_a_rewrite(text, behind):
    assert (spoken(text) or "").strip() == behind.strip()
    assert arms.clean_rewrite(text) == behind.strip()


FRAGMENTS = [
    "Score:",
    "4",
    "5",
    "/",
    "-",
    "Evaluation:",
    "\n",
    '"',
    "**",
    "[",
    "]",
    "[[A]]",
    "[[B]]",
    "Revised question",
    ":",
]
FRAGMENTS += [
    "Generated Instruction 1:",
    "Generated Instruction 2:",
    " ",
    "8",
    ".",
    "\x85",
    "\u2028",
    "\ud800",
    "### Response",
    "<think>",
    "</think>",
]


@given(st.one_of(TEXT, st.lists(st.sampled_from(FRAGMENTS)).map("".join)))
def test_parsers_never_raise_and_always_explain(text):
    critique = templates.parse_critique(text)
    assert critique.score in (None, 1, 2, 3, 4, 5) and (critique.score is None) == bool(critique.reason)
    assert all(any(map(str.isalnum, each)) for each in templates.parse_instructions(text))
    rewrite, reason = templates.parse_rewrite(text)
    assert bool(rewrite) != bool(reason)
    for verdict, why in (templates.parse_verdict(text), templates.parse_scores(text)):
        assert (verdict in ("A", "B", "C")) != bool(why)
    rewrite, found = templates.cut_at_delimiter(text)
    assert rewrite in text and (found or rewrite == text.strip())
    assert text.endswith(spoken(text) or "")


@pytest.mark.parametrize("mark", ["]", "\u201d", "\u00bb", "\u300d", '"', "`", "**", "'", "[", "- ", "1. ", "``", "[]"])
def test_any_number_of_marks_is_read(mark):
    for around in ("what is it" + mark * 3000, mark * 3000 + "what is it", mark * 3000 + "what is it" + mark * 3000):
        assert "what is it" in (templates.parse_rewrite(f"Revised question: {around}")[0] or "")
        assert "what is it" in (templates.parse_critique(f"Score: 3\nEvaluation: {around}").critique or "")
        assert "what is it" in templates.parse_instructions(f"Generated Instruction 1: {around}")[0]


def test_parsers_are_fast_on_a_megabyte():
    for text in ("Score: " * 150_000, "\n" * 1_000_000, '"' * 1_000_000, "Revised question " * 60_000):
        for parse in (
            templates.parse_critique,
            templates.parse_instructions,
            templates.parse_rewrite,
            templates.parse_scores,
            spoken,
        ):
            parse(text)
