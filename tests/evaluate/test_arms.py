"""Arms by name: what each is made of, and what cannot be one."""

import json

import pytest

from nbutils.collect import critique
from nbutils.evaluate import arms
from nbutils.evaluate.arms import Arm, Prompter


def test_trained_arms_come_from_their_arm_json(tmp_path):
    arms.write_arm(tmp_path / "alignpro", "prompter", "meta_prompt", None)
    arms.write_arm(tmp_path / "rlhf", "responder", None, None)
    built = arms.build("alignpro", tmp_path, "p", "r")
    assert built == Arm("alignpro", (Prompter(str(tmp_path / "alignpro" / "model")),), "r")
    assert arms.build("rlhf", tmp_path, "p", "r") == Arm("rlhf", (), str(tmp_path / "rlhf" / "model"))
    assert arms.build("chain:untrained+alignpro", tmp_path, "p", "r").prompters == (Prompter("p"), *built.prompters)
    assert json.loads((tmp_path / "rlhf" / "arm.json").read_text())["policy"] == "responder"


def test_an_arm_trained_under_another_request_keeps_it(tmp_path):
    """Its arm.json says how it was asked, whatever 03 asks today."""
    arms.write_arm(tmp_path / "dpo_awi", "prompter", "meta_prompt", "\n### Response\n")
    built = arms.build("dpo_awi", tmp_path, "p", "r")
    assert built.prompters == (Prompter(str(tmp_path / "dpo_awi" / "model"), "meta_prompt", "\n### Response\n"),)


@pytest.mark.parametrize("name, hint", [("alingpro", "did you mean alignpro"), ("zzzz", "there are nan, untrained")])
def test_unknown_arm_names_the_closest(tmp_path, name, hint):
    arms.write_arm(tmp_path / "alignpro", "prompter", "meta_prompt", None)
    with pytest.raises(ValueError, match=hint):
        arms.build(name, tmp_path, "p", "r")


@pytest.mark.parametrize("name", ["tilted", "poir_s1", "length_matched", "shuffled:untrained"])
def test_what_chooses_among_rewrites_has_no_place_in_a_chain(tmp_path, name):
    options = arms.Options(arms.Tilt("sandbox/reward", 0.05, 2, 1))
    with pytest.raises(ValueError, match=f"arm '{name}' stands for itself: it has no place in a chain"):
        arms.build(f"chain:untrained+{name}", tmp_path, "p", "r", options)


@pytest.mark.parametrize(
    "name, wanted", [("chain:a+b", ["a", "b"]), ("shuffled:a", ["a"]), ("shuffled:chain:a+b", ["a", "b"]), ("a", ["a"])]
)
def test_an_arm_made_of_others_names_them(name, wanted):
    assert arms.links(name) == wanted


def test_tilted_without_a_tilt_is_one_line(tmp_path):
    with pytest.raises(ValueError, match="wants a Tilt"):
        arms.build("tilted", tmp_path, "p", "r")


def test_options_are_those_of_the_evaluation():
    assert arms.options_of({}) == arms.Options()
    named = {"num_rounds": 1, "good_score": 5, "num_retries": 2, "max_prompt_tokens": 9, "bpo_prompter": "b"}
    assert arms.options_of(named) == arms.Options(None, critique.Loop(1, 5, 2, 9), "b")


@pytest.mark.parametrize(
    ("name", "policy", "line"),
    [
        ("alignpro", "responder", "arm 'alignpro' wants a trained prompter, found a trained responder in"),
        ("rlhf", "prompter", "arm 'rlhf' wants a trained responder, found a trained prompter in"),
    ],
)
def test_an_arm_that_is_not_what_its_name_says_is_refused_where_it_is_read(tmp_path, name, policy, line):
    """A cell edited by hand could once train the responder under the name alignpro, and 04 took it for Align-Pro."""
    arms.write_arm(tmp_path / name, policy, None, None)
    with pytest.raises(ValueError, match=line):
        arms.build(name, tmp_path, "sandbox/prompter", "sandbox/responder")
    arms.write_arm(tmp_path / "mine", policy, None, None)  # any other name is free
    assert arms.build("mine", tmp_path, "sandbox/prompter", "sandbox/responder").name == "mine"
