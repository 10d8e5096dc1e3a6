"""The rewrite audit: each detector's hits and near misses, missing where nothing applies, counts by hand."""

import random

import pandas as pd
import pytest
from hypothesis import given, settings, strategies as st
from made_rows import answer, heard, rewritten, study

from nbutils.analyse import audit, changes, stats, tables
from nbutils.experiment.records import Answer, Verdict


def lost(find, prompt, rewrite):
    """What the rewrite lost; None where the prompt has nothing of the kind."""
    found = find(prompt, rewrite)
    return [shown for shown, kept in found if not kept] if found else None


NUMBERS = [
    ("List 5 facts.", "List some facts.", ["5"]),
    ("List 5 facts.", "List five facts.", []),
    ("Take the 2nd and the 3rd.", "Take the second and another.", ["3"]),
    ("It cost 1,000 in 2020.", "It cost 1000.", ["2020"]),
    ("It cost 1000.", "It cost $1,000.00.", []),
    ("Add 1.10 and 2.", "Add 2 to 1.1.", []),
    ("Sort 100,200,300.", "Sort 100, 200 and 300.", []),  # a list, not a hundred millions
    ("The 50% of ten", "The half of ten", ["50"]),
    ("Version 1.2.3", "Version 1.2.3 please", []),
    ("Count to 100", "Count to 1000", ["100"]),
    ("Ten facts about the AK47", "Facts", None),  # no literal: a word, and digits inside a name
    ("1. Read\n2) Write", "Read, then write", None),  # an enumeration
    ("1.5 litres", "one litre", ["1.5"]),
    ("R² and x^2", "R^2", []),
    ("See https://a.org/2021", "See", None),  # a link's
    ("١٢ apples", "12 apples", []),
]


@pytest.mark.parametrize(("prompt", "rewrite", "expected"), NUMBERS)
def test_numbers(prompt, rewrite, expected):
    assert lost(changes.find_numbers, prompt, rewrite) == expected


NAMES = [
    ("Who was Malcolm X?", "Who was he?", ["Malcolm"]),
    ("Tell me about Paris.", "Describe a city.", ["Paris"]),
    ("Paris is nice. Rome too.", "A city is nice.", None),  # each starts a sentence
    ("Why does Russia have time zones?", "Explain Russian time zones.", []),
    ("What is Canada's capital?", "Name the Canadian capital.", []),
    ("I need help with an ML project", "Help with machine learning", []),
    ("I live in the United States", "I live in the U.S.", []),
    ("Compare Batman or Iron Man.", "Compare Batman with another.", ["Iron Man"]),
    ("Ask Mr. Darcy about it", "Ask the gentleman", ["Darcy"]),
    ("What type of rifle is an AK47?", "Describe the AK-47 rifle.", []),
    ("What is the rarest M&M color?", "Which M&M colors are rare?", []),
    ("Who leads the University of Glasgow?", "Who leads it?", ["University Glasgow"]),
    ("Use TailwindCSS", "Use Tailwind CSS", []),
    ("How An Essay About The Sea Is Written", "Write an essay", None),  # a title
    ("PLEASE WRITE AN ESSAY", "Write an essay", None),  # shouted
    ("Do NOT use it, and I'm sure I must", "Avoid it", None),  # stress, and I
    ("My problem: fix the Problem", "Fix it", None),  # the same word stands there in lower case
    ("Is it true, as Edison said (and Tesla)?", "Is it true, as Tesla said?", ["Edison"]),
    ("Welche Farbe hat der Himmel und wie nennt man die Ursache?", "Farbe?", None),  # German: every noun
]


@pytest.mark.parametrize(("prompt", "rewrite", "expected"), NAMES)
def test_names(prompt, rewrite, expected):
    assert lost(changes.find_names, prompt, rewrite) == expected


CODE = [
    ("Fix this:\n```python\nx = 1\n```", "Fix the code.", ["x = 1"]),
    ("Fix this:\n```python\nx  =  1\n```", "Fix:\n```\nx = 1\n```", []),
    ("What does `ls -l` do?", "What does ls -l do?", []),
    ("What does `ls -l` do?", "What does `ls` do?", ["ls -l"]),
    ("What does ls do?", "What does it do?", None),
    ("``` not closed", "x", None),
]


@pytest.mark.parametrize(("prompt", "rewrite", "expected"), CODE)
def test_code(prompt, rewrite, expected):
    assert lost(changes.find_code, prompt, rewrite) == expected


LINKS = [
    ("Read https://a.org/x.", "Read it.", ["a.org/x"]),
    ("Read https://www.a.org/x/.", "Read (a.org/x), please", []),
    ("Write to a.b@mail.example", "Write to a.b@mail.example!", []),
    ("Write to a.b@mail.example", "Write to c@mail.example", ["a.b@mail.example"]),
    ("Is python.org down?", "Is it down?", ["python.org"]),
    ("e.g. node.js or main.py", "x", None),
    ("and/or @home", "x", None),
]


@pytest.mark.parametrize(("prompt", "rewrite", "expected"), LINKS)
def test_links(prompt, rewrite, expected):
    assert lost(changes.find_links, prompt, rewrite) == expected


QUOTES = [
    ('Paraphrase "It will rain".', "Paraphrase: it will rain!", []),
    ("Paraphrase “It will rain”.", 'Paraphrase "the sentence".', ["It will rain"]),
    ("Write 'lol' often", "Write it often", ["lol"]),
    ("The dogs' bones and the cats' toys", "Bones", None),
    ("It isn't John's", "No", None),
    ('A 5" pipe and a 7" pipe', "pipes", None),
    ("Traduis « bon jour »", "Traduis bon jour", []),
    ('Say "one two three four five"', "Say one, two, three and four", []),  # four fifths
]


@pytest.mark.parametrize(("prompt", "rewrite", "expected"), QUOTES)
def test_quotes(prompt, rewrite, expected):
    assert lost(changes.find_quotes, prompt, rewrite) == expected


CONSTRAINTS = [
    ("Describe it in 15 words or less.", "Describe it.", ["15 words or less"]),
    ("Describe it in 15 words or less.", "Describe it in at most 15 words.", []),
    ("Describe it in 15 words or less.", "Describe it in 20 words or less.", ["15 words or less"]),
    ("Use no more than 3 sentences", "Use at least three sentences", ["no more than 3 sentences"]),
    ("Use no less than 3 sentences", "Use three or more sentences", ["no less than 3 sentences"]),  # wrong: not read
    ("Answer in one sentence.", "Answer in a single sentence.", []),
    ("Answer in one sentence.", "Answer with a sentence.", []),
    ("Write five words", "Write five different words", []),
    ("Generate a rap that is 10 lines long.", "Generate a 10-line rap.", []),
    ("Give 3 bullet points", "Give points", ["3 bullet points"]),
    ("Answer in JSON.", "Answer as JSON.", []),
    ("Answer in JSON.", "Answer.", ["in JSON"]),
    ("Show it as a table", "Show it", ["as a table"]),
    ("Find it in the table", "Find it", None),  # material, not a format
    ("Translate it to French.", "Translate it.", ["to French"]),
    ("Sort it in python", "Sort it in Python.", []),
    ("Reverse it without using any loops.", "Reverse it. Do not use loops.", []),
    ("Reverse it without using any loops.", "Reverse it using loops.", ["without using any loops"]),
    ("Please don't mention the price.", "Avoid any mention of the price.", []),
    ("Don't mention the price.", "Write an advertisement.", ["Don't mention the price"]),
    ("I do not know which is which", "Which?", None),  # tells, does not ask
    ("Name it, using only nouns", "Name it", ["using only nouns"]),
    ("Only answer yes or no.", "Answer yes or no.", []),
    ("She is the only child", "A child", None),
    ("The answer must be valid JSON", "The answer in valid JSON", []),
    ("The poem must rhyme", "A poem", ["must rhyme"]),
    ("Keep it brief", "Explain", None),  # missed: said otherwise
]


@pytest.mark.parametrize(("prompt", "rewrite", "expected"), CONSTRAINTS)
def test_constraints(prompt, rewrite, expected):
    assert lost(changes.find_constraints, prompt, rewrite) == expected


MATERIAL = [
    ("Sum it up.\n\nThe old fox slept all day.", "Sum up the text.", ["The old fox slept all day."]),
    ("Sum it up.\n\nThe old fox slept all day.", "Sum up: the fox slept all day", []),
    ("Sum it up.\nThe old fox slept.", "Sum up the text.", ["The old fox slept."]),
    ("Classify these examples: banana, carrot", "Classify the examples.", ["banana, carrot"]),
    ("Classify.\n\nbanana\n\ncarrot", "Classify: banana", ["carrot"]),
    ("Classify bananas and carrots", "Classify.", None),
    ("Note: classify", "Classify.", None),  # too short for an instruction before a colon
    ("Translate:\n\n???", "Translate.", None),
    ("अनुवाद करो:\n\nकाला बिल्ला खेला", "अनुवाद करो: खाला बल्ला कुल्ला", ["काला बिल्ला खेला"]),  # the vowels tell apart
]


@pytest.mark.parametrize(("prompt", "rewrite", "expected"), MATERIAL)
def test_material(prompt, rewrite, expected):
    assert lost(changes.find_material, prompt, rewrite) == expected


TEXTS = {
    "English": "What is the capital of this country, and how many people are living in it?",
    "French": "Quelle est la capitale de ce pays, et combien de gens y vivent avec des enfants dans les villes ?",
    "German": "Was ist die Hauptstadt von diesem Land, und wie viele Menschen leben dort mit einem Kind?",
    "Spanish": "¿Cuál es la capital de este país y cómo viven los niños en las ciudades con sus padres?",
    "Italian": "Qual è la capitale di questo paese e come vivono i bambini nel centro della città con il cane?",
    "Portuguese": "Qual é a capital deste país e como vivem as crianças do centro da cidade em uma casa com o seu cão?",
    "Dutch": "Wat is de hoofdstad van dit land, en hoe leven de kinderen met het huis van een boer op het land?",
}
SCRIPTS = {"Cyrillic": "Какой город является столицей этой страны?", "Chinese or Japanese": "この国の首都はどこですか"}


@pytest.mark.parametrize("language", TEXTS)
def test_languages(language):
    for other, text in TEXTS.items():
        assert changes.find_languages(TEXTS[language], text) == (language, other)
    for script, text in SCRIPTS.items():
        assert changes.find_languages(TEXTS[language], text) == ("Latin", script)
        assert changes.find_languages(text, text) == (script, script)


@pytest.mark.parametrize(
    ("prompt", "rewrite"),
    [
        ("comment hack un site", TEXTS["English"]),  # too few stop words
        ("Bubble sort", "Sort a list"),
        ("123", "456"),
        ("", TEXTS["English"]),
        ("Translate 你好 into English", TEXTS["English"]),  # two scripts, neither of three quarters
    ],
)
def test_languages_that_nobody_can_tell(prompt, rewrite):
    assert changes.find_languages(prompt, rewrite) is None


FOX, FOX_ANSWER = "Tell me about the fox.", "The fox is a red animal that lives in the woods."


@pytest.mark.parametrize(
    ("prompt", "rewrite", "response", "expected"),
    [
        (FOX, "The fox is a red animal that lives in the wood.", FOX_ANSWER, True),
        (FOX, "Tell me in detail about the fox.", FOX_ANSWER, False),
        (FOX, "As an AI language model, I cannot.", FOX_ANSWER, True),
        ("I'm sorry, who are you?", "I'm sorry, but who are you?", "Nobody.", False),
        ("Why is it?", "Is it true that it is so?", "Is it true that it is so?", False),  # restates, still a question
        ("介绍狐狸", "狐狸是一种红色的动物，住在森林里", "狐狸是一种红色的动物，它住在森林里。", True),
        ("狐狸住哪", "狐狸是不是住在森林里？", "狐狸是不是住在森林里？", False),
        ("Name one.", "Provide an example of an animal.", "One example of an animal is a cat.", False),
    ],
)
def test_answered(prompt, rewrite, response, expected):
    assert changes.is_answered(prompt, rewrite, response) is expected


@pytest.mark.parametrize(
    ("rewrite", "expected"),
    [
        ("Tell me\n### Response\nThe fox", ["### Response"]),
        ("[INST] Tell me [/INST]", ["[INST]", "[/INST]"]),
        ("<|im_start|>user\nTell me", ["<|im_start|>"]),
        ("Tell me about {prompt}", ["{prompt}"]),
        ("Revised question: tell me", ["Revised question:"]),
        ("Sure! Here is the rewritten prompt", ["Sure", "Here is the rewritten"]),
        ("### Instruction:\nTell me", ["### Instruction"]),
        ("Assistant: yes", ["Assistant:"]),
        ("Make sure that a[0] < 5 and f'{name}' # Response", []),
        ("The original question was hard", []),
        ("Ask the user: who is it?", []),
    ],
)
def test_leftovers(rewrite, expected):
    assert changes.find_leftovers(FOX, rewrite) == expected
    assert changes.find_leftovers(rewrite, rewrite) == []  # what the prompt has is the user's


PIECES = st.sampled_from(
    ["1,000", "٣", "²", "Ab", "CEO", "`x`", "```\n", "“", "'", '"', "a.b@c.de", "https://", "in one word", "no", "\x00",
     "without", "must", "only", "\n\n", "\n", ": ", "日本", "ж", "the", "der", "### Response\n", "<|x|>", "\ud800", "ﷺ"]
)  # fmt: skip
ANY_TEXT = st.one_of(st.text(max_size=80), st.lists(PIECES, max_size=20).map(" ".join))


@settings(deadline=None)
@given(prompt=ANY_TEXT, rewrite=ANY_TEXT, response=st.none() | ANY_TEXT)
def test_no_text_raises(prompt, rewrite, response):
    row = rewritten(0, prompt, rewrite, response=response)
    (found,) = audit.audit([row]).to_dict("records")
    assert found["empty"] is (not rewrite)
    same = audit.audit([row | {"rewrite": prompt, "rewrites": [prompt or "x"]}])
    kinds = [name for name in audit.FLAGS if name.startswith("lost") or name in ("leftover", "switched_language")]
    assert not same[kinds].fillna(False).to_numpy().any(), same["lost"][0]  # a prompt sent as it is loses nothing
    assert same["unchanged"].all()


PROMPT = 'Name 3 rivers of France in one sentence. Read https://a.org and "Water"; use `x`.'


def test_a_row_has_each_flag_and_says_what_was_lost():
    row = rewritten(0, PROMPT, "Nomme des rivières.")
    (found,) = audit.audit([Answer(**row)]).to_dict("records")
    assert found["lost"] == (
        "numbers 3; names France; code x; links a.org; constraints one sentence; quotes Water"  # in FLAGS' order
    )
    assert [flag for flag in audit.FLAGS if found[flag] is True] == [
        *("lost_numbers", "lost_names", "lost_code", "lost_links", "lost_constraints", "lost_quotes")
    ]
    assert pd.isna(found["lost_material"]) and pd.isna(found["switched_language"])  # nothing to lose, or to tell by
    assert found["growth"] == pytest.approx(3 / 15)  # https, a.org


@pytest.mark.parametrize(
    "prompt, rewrite, growth",
    [("写一首诗", "请写一首 关于春天的诗", 10 / 4), ("ช่วยเขียน", "ช่วย", 3 / 7), ("हिन्दी में", "हिन्दी में लिखो", 3 / 2)],
)
def test_growth_is_in_words_of_any_script(prompt, rewrite, growth):
    (found,) = audit.audit([rewritten(0, prompt, rewrite)]).to_dict("records")
    assert found["growth"] == pytest.approx(growth)


def test_what_stood_in_lost_material_is_not_lost_twice():
    prompt = "Sum this up in two sentences.\n\nIn 1999 the fox of Paris said: don't be late."
    row = rewritten(0, prompt, "Sum it up in two sentences.")
    (found,) = audit.audit([row]).to_dict("records")
    assert found["lost"].startswith("material In 1999 the fox") and ";" not in found["lost"]
    assert pd.isna(found["lost_numbers"]) and found["lost_constraints"] is False


def test_only_arms_with_prompters_are_audited_and_an_empty_rewrite_has_no_other_flag():
    rows = [
        answer(0, "nan", 1.0),
        rewritten(0, "Say 1", ""),
        rewritten(1, "Say 1", " say  1\n"),
        rewritten(0, "Say 1", "Say it", "chain:a+b", rewrites=["Say it", ""]),
    ]
    table = audit.audit(rows)
    assert table["arm"].tolist() == ["bpo", "chain:a+b", "bpo"] and "cell" not in table
    empty, chained, same = table.to_dict("records")
    assert empty["empty"] is True and pd.isna(empty["growth"])
    assert all(pd.isna(empty[flag]) for flag in audit.FLAGS if flag != "empty")
    assert chained["empty"] is False and chained["lost"] == "numbers 1"
    assert same["unchanged"] is True and same["growth"] == 1
    assert audit.audit([]).empty and list(audit.audit([]))[0] == "prompt_id"


def test_summary_by_hand():
    table = audit.summary(audit.audit(study()), heard())
    assert list(table) == [name for name in audit.SUMMARY_COLUMNS if name != "cell"]
    assert list(table["flag"]) == list(audit.FLAGS)
    row = table.set_index("flag").loc["lost_numbers"]
    assert (row["num_prompts"], row["num_applicable"], row["num_flagged"], row["share"]) == (7, 6, 2.5, 2.5 / 6)
    assert (row["share_low"], row["share_high"]) == stats.wilson_interval(2.5 / 6, 6)
    assert row["median_growth"] == 1.5  # three words for two
    flagged = [row[f"flagged_{name}"] for name in audit.WIN_COLUMNS]
    assert flagged == [0, 1, 2, 0, *stats.win_rate([0, 0, 0], [1, 0, 1])[:3]]
    unflagged = [row[f"unflagged_{name}"] for name in audit.WIN_COLUMNS]
    assert unflagged == [3, 0, 0, 1, *stats.win_rate([1, 1, 1], [0, 0, 0])[:3]]


def test_where_nothing_applies_or_one_prompt_does_there_is_no_interval():
    table = audit.summary(audit.audit(study()), heard()).set_index("flag")
    code, empty = table.loc["lost_code"], table.loc["empty"]
    assert (code["num_applicable"], code["num_flagged"]) == (0, 0)
    assert code[["share", "share_low", "flagged_win_rate", "unflagged_win_rate"]].isna().all()
    assert (empty["num_applicable"], empty["share"], empty["flagged_win"]) == (7, 0, 0)
    one = audit.summary(audit.audit(study()[:1]), heard()).set_index("flag").loc["lost_numbers"]
    assert (one["share"], one["flagged_win_rate"], one["flagged_lose"]) == (1, 0, 1)
    assert one[["share_low", "flagged_win_rate_low", "flagged_win_rate_high"]].isna().all()


def test_without_verdicts_wins_are_missing():
    wins = [name for name in audit.SUMMARY_COLUMNS if name.startswith(("flagged", "unflagged"))]
    for verdicts in ([], heard("another")):
        assert audit.summary(audit.audit(study()), verdicts)[wins].isna().all(axis=None)
    assert audit.summary(audit.audit([]), []).empty


def test_the_same_side_wins_under_either_name_of_the_pair():
    swap = {"win": "lose", "lose": "win", "tie": "tie", "unscored": "unscored"}
    other = [row | {"arm_a": "nan", "arm_b": "bpo", "verdict": swap[row["verdict"]]} for row in heard()]
    audited = audit.audit(study())
    pd.testing.assert_frame_equal(audit.summary(audited, heard()), audit.summary(audited, other))


def test_any_order_of_the_rows_gives_the_same_tables():
    rows, verdicts = study() + study("poir"), heard() + heard("poir")
    tables_of = []
    for seed in range(3):
        random.Random(seed).shuffle(rows)
        random.Random(seed).shuffle(verdicts)
        audited = audit.audit(pd.DataFrame(rows) if seed else rows)
        tables_of.append((audited, audit.summary(audited, verdicts), audit.examples(audited, rows, 2)))
    for again in tables_of[1:]:
        for first, second in zip(tables_of[0], again, strict=True):
            pd.testing.assert_frame_equal(first, second)
    assert list(dict.fromkeys(tables_of[0][1]["arm"])) == ["poir", "bpo"]  # the house's order


def test_cells_are_kept_apart():
    rows = pd.concat([pd.DataFrame(study()).assign(cell=name) for name in "ba"])
    kinder = [row | {"verdict": "win"} for row in heard()]
    verdicts = pd.concat([pd.DataFrame(heard()).assign(cell="a"), pd.DataFrame(kinder).assign(cell="b")])
    audited = audit.audit(rows)
    table = audit.summary(audited, verdicts).query("flag == 'lost_numbers'")
    assert table[["cell", "flagged_win", "flagged_lose"]].to_numpy().tolist() == [["a", 0, 2], ["b", 3, 0]]
    assert audit.examples(audited, rows, 9).query("flag == 'lost_numbers'")["cell"].tolist() == ["a", "a", "a"]


def test_records_are_rows_too():
    verdicts = [Verdict(**row) for row in heard()]
    answers = [Answer(**row) for row in study()]
    first = audit.summary(audit.audit(answers), verdicts)
    pd.testing.assert_frame_equal(first, audit.summary(audit.audit(study()), heard()))


def test_examples_are_a_few_per_flag_and_arm():
    rows = study() + study("poir")
    table = audit.examples(audit.audit(rows), rows, 2)
    assert list(table) == ["flag", "prompt_id", "prompt_set", "arm", "sample", "lost", "prompt", "rewrite"]
    assert table[["flag", "arm", "prompt_id"]].to_numpy().tolist() == [
        ["lost_numbers", arm, key] for arm in tables.arm_order(["bpo", "poir"]) for key in ("p0", "p1")
    ]
    assert set(table["lost"]) == {"numbers 1"} and set(table["rewrite"]) == {"Say it now"}
    assert audit.examples(audit.audit([]), [], 2).empty


def test_tables_are_written_and_read_back(tmp_path):
    for name, table in (("audit", audit.audit(study())), ("summary", audit.summary(audit.audit(study()), heard()))):
        back = tables.read(tables.write(table, tmp_path, name)[0])
        assert list(back) == list(table) and len(back) == len(table)


@pytest.mark.parametrize(
    "rewrite, prompt, response, answers",
    [
        ("the fox eats mice.", "tell me about the fox.", "the fox eats mice. the fox yelps.", True),
        ("describe the fox in detail.", "tell me about the fox.", "the fox eats mice.", False),
        ("tell me about the fox.", "tell me about the fox.", "tell me about the fox.", False),
        ("the fox, please.", "i would like to hear about the fox.", "the fox is red.", False),
        ("detail the fox.", "what can you say about the fox?", "the fox eats mice.", False),
        ("the fox in detail.", "i want to know about the fox.", "the fox is tiny in size.", False),
        ("", "tell me about the fox.", None, False),
    ],
)
def test_a_short_rewrite_that_shares_its_subject_with_the_response_is_no_answer(rewrite, prompt, response, answers):
    assert changes.is_answered(prompt, rewrite, response) == answers
