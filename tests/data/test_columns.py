"""Protects what counts as the prompt of a row, whoever wrote the row."""

import pytest

from nbutils.data import columns


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"prompt": "p", "text": "t"}, "p"),
        ({"prompt": [{"role": "system", "content": "s"}, {"role": "user", "content": "p"}]}, "p"),
        ({"instruction": "i", "context": "c", "response": "r"}, "i\nc"),
        ({"instruction": "i", "context": "", "response": "r"}, "i"),
        ({"instruction": "i", "input": "c", "output": "o"}, "i\nc"),
        ({"instruction": "i", "instances": [{"input": "c", "output": "o"}]}, "i"),
        ({"question_id": 7, "text": "t", "category": "x"}, "t"),
        ({"id": 1, "system_prompt": "s", "question": "q", "response": "r"}, "q"),
        ({"Prompt ": "p"}, "p"),
        ({"prompt": "", "question": "q"}, "q"),
        ({"prompt": None, "messages": [{"role": "user", "content": "m"}]}, "m"),
        ({"conversations": [{"from": "gpt", "value": "g"}, {"from": "human", "value": "h"}]}, "h"),
        ({"conversation": [{"role": "User", "content": [{"type": "text", "text": "u"}, {"type": "image"}]}]}, "u"),
        ({"messages": '[{"role": "user", "content": "m"}]'}, "m"),
        ({"chosen": "\n\nHuman: first\nline\n\nAssistant: a\n\nHuman: second"}, "first\nline"),
        ({"chosen": [{"role": "user", "content": "u"}, {"role": "assistant", "content": "a"}]}, "u"),
        ({"dialog": ["first", "second"]}, "first"),
        ({"prompt": 42}, "42"),
        ({"prompt": float("nan")}, None),
        ({"messages": "[" * 100_000}, None),
        ({"messages": []}, None),
        ({"answer": "a"}, None),
    ],
)
def test_find_prompt(row, prompt):
    found = columns.find_prompt(row)
    assert (found and found.strip()) == prompt


GUANACO = "### Human: What is tar?### Assistant: An archive."
ALPACA = (
    "Below is an instruction that describes a task. Write a response.\n\n### Instruction:\nSort.\n\n### Input:\n2 1"
)
PARTS = [{"type": "thinking", "thinking": "t"}, {"type": "image"}, {"type": "input_text", "text": "u"}, "v"]


@pytest.mark.parametrize(
    ("row", "prompt"),
    [
        ({"text": GUANACO}, "What is tar?"),
        ({"text": "### Human: Who was Ada?\n### Assistant: A mathematician.### Human: When?"}, "Who was Ada?"),
        ({"text": ALPACA + "\n\n### Response:\n1 2"}, "Sort.\n2 1"),
        ({"text": "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nWhat is tar? [/INST] An archive. </s>"}, "What is tar?"),
        ({"text": "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nWhat is tar?<|im_end|>\n"}, "What is tar?"),
        ({"prompt": "<|user|>\nWhat is tar?</s>\n<|assistant|>\n"}, "What is tar?"),
        ({"prompt": "<bos><start_of_turn>user\nhi<end_of_turn>\n<start_of_turn>model\n"}, "hi"),
        (
            {"prompt": "<|begin_of_text|><|start_header_id|>user<|end_header_id|>\n\nhi<|eot_id|>"},
            "hi",
        ),
        ({"prompt": "\n\nHuman: hi\n\nAssistant:"}, "hi"),
        ({"messages": "[INST] hi [/INST] there"}, "hi"),
        ({"text": "Human: it is, after all."}, "Human: it is, after all."),  # nobody answers: it may be anything
        ({"text": f"Explain the format {GUANACO}"}, f"Explain the format {GUANACO}"),  # quoted, not opened with
        ({"text": "#### Response\n### Notes"}, "#### Response\n### Notes"),
        ({"text": "hi", "role": "prompter", "parent_id": None}, "hi"),
        ({"text": "hi", "role": "assistant"}, None),
        ({"text": "hi", "role": "system"}, None),
        ({"text": "And electromagnets?", "role": "prompter", "parent_id": "b"}, None),
        ({"text": "hi", "role": "a pirate"}, "hi"),
        ({"messages": [{"role": "user", "content": PARTS}]}, "u\nv"),
        ({"turns": [{"content": "first"}]}, "first"),
        ({"turns": ["first", "second"]}, "first"),
        ({"conversation": [{"content": "first"}, {"content": "answer"}]}, "first"),
        ({"conversation": [{"input": "first", "output": "answer"}]}, "first"),
        ({"prompt": 7, "question": "What is 7 squared?"}, "What is 7 squared?"),
        ({"prompt": True, "question": "Is water wet?"}, "Is water wet?"),
    ],
)
def test_of_a_conversation_in_any_form_the_first_user_turn_is_the_prompt(row, prompt):
    assert columns.find_prompt(row) == prompt
