"""POIR's targets: the right text on the right side, tokenised as inference meets it, and the right gradient."""

from dataclasses import replace

import pytest

from nbutils import arms, models, poir, templates
from nbutils.generate import Sampling
from nbutils.models import Runtime
from nbutils.poir import Settings
from nbutils.records import Pair, Prompt

PAIR = Pair(
    "id",
    "tell me about the fox.",
    "describe the fox in detail.",
    "the fox eats mice.",
    "the fox, please.",
    "it is hard to say.",
    5,
    2,
    1,
    0,
)
PAIRS = [
    replace(PAIR, prompt=f"tell me about the {a}.") for a in ("fox", "wolf", "bear", "cow", "pig", "owl", "seal", "bat")
]
SETTINGS = Settings(
    target="poir",
    beta=0.4,
    learning_rate=1.0e-4,
    num_epochs=1.0,
    train_batch_size=4,
    gradient_accumulation=1,
    lora_rank=0,
    max_tokens=256,
    save_steps=1,
    seed=0,
)


def train(folder, pairs=PAIRS, **change):
    return poir.train(
        pairs, "sandbox/prompter", "sandbox/responder", replace(SETTINGS, **change), folder, "sandbox", Runtime(8)
    )


@pytest.mark.parametrize(
    "target, asked, good, bad",
    [
        (
            "poir",
            "rewrite and answer: tell me about the fox.",
            "describe the fox in detail.\n### Response\nthe fox eats mice.",
            "the fox, please.\n### Response\nit is hard to say.",
        ),
        ("dpo_awi", "rephrase: tell me about the fox.", "describe the fox in detail.", "the fox, please."),
        ("dpo_awo", "tell me about the fox.", "the fox eats mice.", "it is hard to say."),
        ("sft", "rephrase: tell me about the fox.", "describe the fox in detail.", None),
    ],
)
def test_each_target_teaches_its_own_text(target, asked, good, bad):
    row = poir.examples([PAIR], target, "sandbox")[0]
    assert row["prompt"] == [{"role": "user", "content": asked}]
    assert row["completion" if target == "sft" else "chosen"] == [{"role": "assistant", "content": good}]
    assert ("rejected" in row) == (bad is not None) and (bad is None or row["rejected"][0]["content"] == bad)


def test_training_tokenises_the_request_as_inference_does():
    """The template's prompt is a prefix, token by token, of prompt + completion; the delimiter survives decoding."""
    tokenizer = models.load_tokenizer("sandbox/prompter")
    row = poir.examples([PAIR], "poir", "sandbox")[0]
    prompt = tokenizer.apply_chat_template(row["prompt"], add_generation_prompt=True)["input_ids"]
    whole = tokenizer.apply_chat_template(row["prompt"] + row["chosen"])["input_ids"]
    assert whole[: len(prompt)] == prompt
    assert templates.DELIMITER in tokenizer.decode(whole[len(prompt) :])


@pytest.mark.parametrize("change, line", [({"target": "dpo"}, "wanted one of poir"), ({"beta": 0.0}, "β > 0")])
def test_settings_that_cannot_work_are_one_line(change, line):
    with pytest.raises(ValueError, match=line):
        poir.check(replace(SETTINGS, **change), PAIRS)
    with pytest.raises(ValueError, match="no preference pair"):
        poir.check(SETTINGS, [])


@pytest.mark.slow
def test_swapping_good_and_bad_turns_the_training_round(tmp_path):
    """Margin rises for the pairs as they are; with sides swapped, the same first loss, and the other side wins."""
    swapped = [
        replace(
            p,
            good_rewrite=p.bad_rewrite,
            good_response=p.bad_response,
            bad_rewrite=p.good_rewrite,
            bad_response=p.good_response,
        )
        for p in PAIRS
    ]
    straight, turned = train(tmp_path / "a", num_epochs=3.0), train(tmp_path / "b", swapped, num_epochs=3.0)
    assert straight[0]["loss"] == pytest.approx(0.6931, abs=1e-3) == turned[0]["loss"]  # log 2 at the reference
    assert straight[-1]["margin"] > 0.02 and turned[-1]["margin"] > 0.02
    assert (
        straight[-1]["logps_chosen"] - straight[0]["logps_chosen"]
        > straight[-1]["logps_rejected"] - straight[0]["logps_rejected"]
    )
    assert straight[0]["logps_chosen"] == pytest.approx(turned[0]["logps_rejected"], rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("target, policy", [("sft", "prompter"), ("dpo_awo", "responder"), ("dpo_awi", "prompter")])
def test_every_target_trains_and_becomes_an_arm(tmp_path, target, policy):
    history = train(tmp_path / target, target=target)
    assert len(history) == 2 and all(row["loss"] > 0 for row in history)
    arm = arms.build(target, tmp_path, "sandbox/prompter", "sandbox/responder")
    assert (len(arm.prompters) == 1) == (policy == "prompter")
    made = arms.answer(
        arm, [Prompt("id", PAIR.prompt, "s")], 1, "sandbox", Sampling(max_new_tokens=32), Sampling(max_new_tokens=32)
    )
    assert made[0].response and templates.DELIMITER.strip() not in made[0].rewrite


@pytest.mark.slow
def test_second_run_of_a_finished_training_trains_nothing(tmp_path):
    first = train(tmp_path / "poir")
    weights = (tmp_path / "poir" / "model" / "model.safetensors").read_bytes()
    assert train(tmp_path / "poir") == first
    assert (tmp_path / "poir" / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_killed_training_goes_on_to_the_same_model_over_two_epochs(tmp_path, monkeypatch):
    """Stopped right after the checkpoint of the first epoch's end, then run again: weights equal bit by bit."""
    from nbutils import training

    whole = train(tmp_path / "whole", num_epochs=2.0)
    on_save = training._Watch.on_save

    def interrupted(self, args, state, control, **kwargs):
        on_save(self, args, state, control, **kwargs)
        if state.global_step == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training._Watch, "on_save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train(tmp_path / "killed", num_epochs=2.0)
    assert train(tmp_path / "killed", num_epochs=2.0) == whole and len(whole) == 4
    files = [tmp_path / name / "model" / "model.safetensors" for name in ("whole", "killed")]
    assert files[0].read_bytes() == files[1].read_bytes()
