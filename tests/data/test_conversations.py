"""Protects the reading of marked conversations."""

from hypothesis import given, strategies as st

from nbutils.data import conversations

TOKENS = [
    "Human:",
    "\n\nAssistant:",
    "### Human:",
    "### Response:",
    "<|im_start|>user\n",
    "[INST]",
    "[/INST]",
    "<<SYS>>",
]


@given(st.lists(st.sampled_from([*TOKENS, "a", " ", "\n", "</s>", "#"]), max_size=12).map("".join))
def test_no_text_breaks_the_reading_of_turns_and_no_marker_stands_in_a_role(text):
    for alone in (True, False):
        assert all(role.isalpha() and said == said.strip() for role, said in conversations.of_text(text, alone))
