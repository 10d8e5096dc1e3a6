"""POIR's targets: the right text on the right side, tokenised as inference meets it, and the right gradient."""

import inspect
import json
import math
import shutil
from dataclasses import replace
from datetime import date

import pytest
import torch
from hostile import NASTY
from transformers import AutoModelForCausalLM
from trl import DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

from nbutils.data import pairs
from nbutils.data.pairs import PreferencePair
from nbutils.evaluate import answering, arms
from nbutils.experiment import days, records
from nbutils.experiment.journal import Journal
from nbutils.experiment.records import Pair, Prompt
from nbutils.models import loading, references, templates, turns
from nbutils.models.devices import Runtime
from nbutils.models.generate import Conditions
from nbutils.models.texts import Sampling
from nbutils.train import poir, poir_texts
from nbutils.train.poir import Settings

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
    settings, given = replace(SETTINGS, **change), Conditions("sandbox", runtime=Runtime(8))
    history, lengths, _ = poir.train(pairs, "sandbox/prompter", "sandbox/responder", settings, folder, given)
    assert set(lengths.values()) == {0}
    return history


@pytest.mark.parametrize(
    "target, asked, good, bad",
    [
        (
            "poir",
            "rewrite and answer: tell me about the fox.",
            "describe the fox in detail.\n### Response\nthe fox eats mice.",
            "the fox, please.\n### Response\nit is hard to say.",
        ),
        (
            "dpo_awi",
            "rewrite and answer: tell me about the fox.",
            "describe the fox in detail.\n### Response\n",
            "the fox, please.\n### Response\n",
        ),
        ("dpo_awo", "tell me about the fox.", "the fox eats mice.", "it is hard to say."),
        ("sft", "rewrite and answer: tell me about the fox.", "describe the fox in detail.\n### Response\n", None),
    ],
)
def test_each_target_teaches_its_own_text(target, asked, good, bad):
    row = poir_texts.examples([PAIR], target, "sandbox")[0]
    assert row["prompt"] == [{"role": "user", "content": asked}]
    assert row["completion" if target == "sft" else "chosen"] == [{"role": "assistant", "content": good}]
    assert ("rejected" in row) == (bad is not None) and (bad is None or row["rejected"][0]["content"] == bad)


@pytest.mark.parametrize("target", ["poir", "dpo_awi", "sft"])
def test_every_prompter_is_asked_the_same_trained_or_not(tmp_path, target):
    """Request and stop of what a target trains are those of the arm untrained_poir: they differ in training alone."""
    untrained = arms.build("untrained_poir", tmp_path, "sandbox/prompter", "r").prompters
    policy, template, stop = poir_texts.use(target)
    arms.write_arm(tmp_path / target, policy, template, stop)
    trained = arms.build(target, tmp_path, "sandbox/prompter", "r").prompters
    assert [replace(each, model="") for each in trained] == [replace(each, model="") for each in untrained]
    asked = arms.rewrite_requests(templates.load(untrained[0].template, "sandbox"), [PAIR.prompt])
    assert [row["prompt"] for row in poir_texts.examples([PAIR], target, "sandbox")] == asked
    assert untrained[0].model == "sandbox/prompter" and untrained[0].stop == templates.DELIMITER


@pytest.mark.parametrize("target", poir_texts.TARGETS)
def test_the_sandbox_is_taught_the_ids_of_the_whole_conversation(target):
    """Its tokenizer joins nothing over an edge, so these are TRL's ids; the split is at the delimiter's end, where the
    targets without a response end."""
    tokenizer = loading.load_tokenizer("sandbox/prompter")
    texts = poir_texts.examples([PAIR], target, "sandbox")
    row = poir_texts.tokenize(texts, target, tokenizer, "sandbox/prompter")[0]
    side = "completion" if target == "sft" else "chosen"
    whole = tokenizer.apply_chat_template(texts[0]["prompt"] + texts[0][side])["input_ids"]
    ended = whole[-1:] if target in ("dpo_awi", "sft") else []
    assert row["prompt_ids"] + row[f"{side}_ids"] + ended == whole
    rewrite = tokenizer.decode(row[f"{side}_ids"][: row[f"{side}_split"]])
    assert rewrite == ("" if target == "dpo_awo" else PAIR.good_rewrite + templates.DELIMITER)
    assert target == "poir" or row[f"{side}_split"] in (0, len(row[f"{side}_ids"]))


STRICT = (  # as Gemma's: no system role; and the date, as in Llama's
    "on {{ strftime_now('%d %b %Y') }}{% for m in messages %}"
    "{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "<|{{ m.role }}|>{{ m.content }}{% if m.role == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


@pytest.mark.parametrize("target", ["poir", "sft"])
def test_a_template_that_refuses_the_system_role_trains_and_goes_on_the_next_day(tmp_path, monkeypatch, target):
    policy = shutil.copytree(references.resolve("sandbox/prompter"), tmp_path / "policy")
    (policy / "chat_template.jinja").write_text(STRICT)
    for name in ("meta_prompt", "rewrite_answer"):
        (tmp_path / f"{name}.txt").write_text("[system]\nImprove it.\n[user]\n{prompt}\n")
    settings, given = replace(SETTINGS, target=target), Conditions(str(tmp_path), runtime=Runtime(8))
    (tmp_path / target).mkdir()
    for day in (30, 31):
        today = type("Today", (date,), {"today": classmethod(lambda cls, day=day: cls(2026, 1, day))})
        monkeypatch.setattr(days, "date", today)
        days.begin(tmp_path / target)
        history = poir.train(PAIRS, str(policy), "x", settings, tmp_path / target, given)[0]
        assert len(list((tmp_path / target / "checkpoints").iterdir())) == 1 and len(history) == 2
    days.begin(None)


def test_a_raw_template_ends_with_the_end_of_text():
    tokenizer = loading.load_tokenizer("sandbox/prompter")
    found = turns.turn_of("sandbox/prompter", tokenizer, [{"role": "raw", "content": "x"}])
    assert found == turns.Turn((tokenizer.bos_token or "") + "x", "", tokenizer.eos_token)


def test_rows_that_do_not_fit_are_counted():
    rows = [{"prompt_ids": [1] * 3, "completion_ids": [1] * num} for num in (1, 2)]
    rows += [{"prompt_ids": [1] * 9, "chosen_ids": [1], "rejected_ids": [1] * 2}]
    kept, counts = poir_texts.fitting(rows, 4)
    assert kept == rows[:2] and list(counts.values()) == [1, 1]
    kept, counts = poir_texts.fitting(rows, 11)
    assert kept == rows and list(counts.values()) == [0, 0]
    with pytest.raises(ValueError, match="the shortest prompt alone has 3 tokens"):
        poir_texts.fitting(rows, 3)


def test_tokens_are_prompts_and_completions_of_both_sides_over_all_epochs():
    """3 + 2, and 4 of the 3 + 5 that fit; then 3 + 1 and 3 + 2, cut to 4: 4 + 4 + 4 + 4, one and a half times."""
    rows = [{"prompt_ids": [1] * 3, "chosen_ids": [1] * 2, "rejected_ids": [1] * 5}]
    rows += [{"prompt_ids": [1] * 3, "chosen_ids": [1], "rejected_ids": [1] * 2}]
    assert poir_texts.tokens_seen(rows, 4, 1.5) == 24
    assert poir_texts.tokens_seen(rows, 9, 2.0) == 2 * (5 + 8 + 4 + 5)
    assert poir_texts.tokens_seen([{"prompt_ids": [1] * 3, "completion_ids": [1] * 2}], 9, 1.0) == 5


@pytest.mark.slow
@pytest.mark.parametrize("target", ["poir", "sft"])
@pytest.mark.parametrize("max_tokens", [256, 16])
def test_tokens_are_those_that_trl_counts(tmp_path, monkeypatch, target, max_tokens):
    logged, run = [], poir.training.run
    monkeypatch.setattr(poir.training, "run", lambda *args: logged.extend(run(*args)) or logged)
    settings = replace(SETTINGS, target=target, num_epochs=2.0, train_batch_size=3, max_tokens=max_tokens)
    trained = poir.train(PAIRS, "sandbox/prompter", "x", settings, tmp_path, Conditions("sandbox", runtime=Runtime(8)))
    assert trained.num_tokens == max(row["num_tokens"] for row in logged if "num_tokens" in row) > 0
    assert (trained.lengths["cut at max_tokens"] > 0) == (max_tokens == 16)


# The delimiter in a text of the pairs


@pytest.mark.parametrize("target, held", [("poir", 3), ("dpo_awi", 2), ("sft", 2), ("dpo_awo", 0)])
def test_pairs_that_hold_the_delimiter_are_left_out_or_refused(target, held):
    """Where the policy reads or writes it; a response alone, as dpo_awo learns it, may hold what it likes."""
    broken = [
        replace(PAIR, prompt="what is this?\n### Response\nthe fox"),
        replace(PAIR, bad_rewrite="the fox\n### Response"),
        replace(PAIR, good_response="### Response\nthe fox"),
    ]
    fine = replace(PAIR, prompt="what does ### Response mean, or a line such as\n#### Response\nin a prompt?")
    kept, left_out = poir_texts.without_delimiter([PAIR, *broken, fine], target)
    assert len(left_out) == held and fine in kept and len(kept) + held == 5
    settings = replace(SETTINGS, target=target)
    poir.check(settings, kept)
    if held:
        with pytest.raises(ValueError, match=f"{held} of 5 pairs hold the delimiter's line '### Response' themselves"):
            poir.check(settings, [PAIR, *broken, fine])


# Pairs from elsewhere


def test_preference_pairs_train_dpo_awo_alone(tmp_path):
    rows = [{"prompt": p.prompt, "chosen": p.good_response, "rejected": p.bad_response} for p in PAIRS]
    (tmp_path / "set.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    found, counts = pairs.load(str(tmp_path / "set.jsonl"))
    assert counts["kept"] == 8 and isinstance(found[0], PreferencePair)
    assert poir_texts.examples(found, "dpo_awo", "sandbox") == poir_texts.examples(PAIRS, "dpo_awo", "sandbox")
    assert poir_texts.without_delimiter(found, "poir") == (found, [])
    poir.check(replace(SETTINGS, target="dpo_awo"), found)
    with pytest.raises(ValueError, match="hold responses and no rewrites; wanted target dpo_awo"):
        poir.check(SETTINGS, found)


# The split of Eq. 1


def make_trainer(folder, pairs=PAIRS, **change):
    settings = replace(SETTINGS, train_batch_size=len(pairs), **change)
    tokenizer = loading.load_tokenizer("sandbox/prompter")
    rows = poir_texts.examples(pairs, settings.target, "sandbox")
    rows = poir_texts.tokenize(rows, settings.target, tokenizer, "sandbox/prompter")
    return poir._trainer("sandbox/prompter", rows, tokenizer, settings, folder, Runtime(8)), rows


def first_loss(trainer):
    """Loss of all pairs in one batch, with the metrics that it logged."""
    batch = next(iter(trainer.get_train_dataloader()))
    trainer.model.train()
    loss = trainer.compute_loss(trainer.model, batch)
    return loss, {name: values[0] for name, values in trainer._metrics["train"].items()}


def plain_logps(network, row, side):
    """(log p of rewrite and delimiter, log p of the response) by one plain forward pass."""
    ids, start = torch.tensor([row["prompt_ids"] + row[f"{side}_ids"]]), len(row["prompt_ids"])
    with torch.no_grad():
        each = network(ids).logits[0, :-1].float().log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0][start - 1 :]
    return each[: row[f"{side}_split"]].sum().item(), each[row[f"{side}_split"] :].sum().item()


@pytest.mark.parametrize("lora_rank", [0, 2])
def test_parts_are_the_log_probabilities_of_the_two_texts_and_add_up(tmp_path, lora_rank):
    """Against plain forward passes, of a policy that has left its reference; pairs of different lengths."""
    pairs = [*PAIRS[:3], replace(PAIRS[3], good_response="the cow eats grass. the cow is large.", bad_rewrite="cow")]
    trainer, rows = make_trainer(tmp_path, pairs, lora_rank=lora_rank)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in trainer.model.parameters():
            if weight.requires_grad:
                weight += 0.02 * torch.randn_like(weight)
    _, logged = first_loss(trainer)
    reference = AutoModelForCausalLM.from_pretrained(references.resolve("sandbox/prompter"))
    margins = {part: 0.0 for part in poir.PARTS}
    for side, sign in (("chosen", 1), ("rejected", -1)):
        after = torch.tensor([plain_logps(trainer.model, row, side) for row in rows]).mean(0)
        before = torch.tensor([plain_logps(reference, row, side) for row in rows]).mean(0)
        for i, part in enumerate(poir.PARTS):
            assert logged[f"logps/{side}_{part}"] == pytest.approx(after[i].item(), abs=1e-4)
            assert logged[f"rewards/{side}_{part}"] == pytest.approx(0.4 * (after - before)[i].item(), abs=1e-4)
            margins[part] += sign * logged[f"rewards/{side}_{part}"]
        for name in ("logps", "rewards"):
            parts = [logged[f"{name}/{side}_{part}"] for part in poir.PARTS]
            assert sum(parts) == pytest.approx(logged[f"{name}/{side}"], abs=1e-5)
    assert all(abs(value) > 1e-3 for value in margins.values())
    assert {part: logged[f"rewards/margin_{part}"] for part in poir.PARTS} == pytest.approx(margins)
    assert sum(margins.values()) == pytest.approx(logged["rewards/margins"], abs=1e-5)


def swapped(pairs):
    names = ("rewrite", "response")
    turned = [{f"good_{n}": getattr(p, f"bad_{n}") for n in names} for p in pairs]
    turned = [
        sides | {f"bad_{n}": getattr(p, f"good_{n}") for n in names} for p, sides in zip(pairs, turned, strict=True)
    ]
    return [replace(pair, **sides) for pair, sides in zip(pairs, turned, strict=True)]


@pytest.mark.parametrize("target", ["poir", "dpo_awi", "dpo_awo"])
def test_swapping_good_and_bad_turns_the_gradient_round(tmp_path, target):
    """At the reference the gradient is −β/2 · (∇ log π(good) − ∇ log π(bad)): swapped, its negative."""
    gradients = []
    for rows in (PAIRS[:4], swapped(PAIRS[:4])):
        trainer, _ = make_trainer(tmp_path, rows, target=target)
        first_loss(trainer)[0].backward()
        gradients.append(torch.cat([weight.grad.flatten() for weight in trainer.model.parameters()]))
    straight, turned = gradients
    assert straight.norm() > 0.1
    assert (straight + turned).norm() < 1e-4 * straight.norm()


# Contract


# Without annotations, whose text changes with torch and transformers.
SIGNATURES = {
    (DPOTrainer, "_prepare_dataset"): "(self, dataset, processing_class, args, dataset_name)",
    (DPOTrainer, "_compute_loss"): "(self, model, inputs, return_outputs)",
    (DataCollatorForPreference, "torch_call"): "(self, examples)",
}


def bare(function):
    signature = inspect.signature(function)
    parameters = [each.replace(annotation=each.empty) for each in signature.parameters.values()]
    return str(signature.replace(parameters=parameters, return_annotation=signature.empty))


def test_overridden_methods_of_trl_are_as_they_were():
    """Fails after an upgrade of TRL: read the method's new text before writing its new signature here."""
    both = ((DPOTrainer, poir.PartsTrainer), (DataCollatorForPreference, poir.PartsCollator))
    ours = [(theirs, name) for theirs, own in both for name, each in vars(own).items() if inspect.isfunction(each)]
    assert {(theirs, name): bare(getattr(theirs, name)) for theirs, name in ours if hasattr(theirs, name)} == SIGNATURES
    assert "fused_lm_head=True" in inspect.getsource(DPOTrainer._compute_loss)  # whose log_probs are read by a hook


@pytest.mark.parametrize("change, line", [({"target": "dpo"}, "wanted one of poir"), ({"beta": 0.0}, "β > 0")])
def test_settings_that_cannot_work_are_one_line(change, line):
    with pytest.raises(ValueError, match=line):
        poir.check(replace(SETTINGS, **change), PAIRS)
    with pytest.raises(ValueError, match="no preference pair"):
        poir.check(SETTINGS, [])


@pytest.mark.slow
def test_swapping_good_and_bad_turns_the_training_round(tmp_path):
    """Margin rises for the pairs as they are; with sides swapped, the same first loss, and the other side wins."""
    straight, turned = train(tmp_path / "a", num_epochs=3.0), train(tmp_path / "b", swapped(PAIRS), num_epochs=3.0)
    assert straight[0]["loss"] == pytest.approx(0.6931, abs=1e-3) == turned[0]["loss"]  # log 2 at the reference
    assert straight[-1]["margin"] > 0.02 and turned[-1]["margin"] > 0.02
    assert (
        straight[-1]["logps_chosen"] - straight[0]["logps_chosen"]
        > straight[-1]["logps_rejected"] - straight[0]["logps_rejected"]
    )
    assert straight[0]["logps_chosen"] == pytest.approx(turned[0]["logps_rejected"], rel=1e-4)
    for row in straight:
        for name in ("logps_chosen", "logps_rejected", "reward_chosen", "reward_rejected", "margin"):
            assert row[f"{name}_rewrite"] + row[f"{name}_response"] == pytest.approx(row[name], abs=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("target, policy", [("sft", "prompter"), ("dpo_awo", "responder"), ("dpo_awi", "prompter")])
def test_every_target_trains_and_becomes_an_arm(tmp_path, target, policy):
    history = train(tmp_path / target, target=target)
    assert len(history) == 2 and all(row["loss"] > 0 and "margin_rewrite" not in row for row in history)
    arm = arms.build(target, tmp_path, "sandbox/prompter", "sandbox/responder")
    assert (len(arm.prompters) == 1) == (policy == "prompter")
    given = Conditions("sandbox", Sampling(max_new_tokens=32), Sampling(max_new_tokens=32))
    made = answering.answer(arm, [Prompt("id", PAIR.prompt, "s")], 1, given)
    assert made[0].response and templates.DELIMITER.strip() not in made[0].rewrite


@pytest.mark.slow
def test_nasty_pairs_are_taught_as_they_are(tmp_path):
    """Odd line breaks, NUL, slots, markup, half a character: every text stands in what is taught."""
    texts = [text for text in NASTY if len(text) < 100]
    pairs = [replace(PAIR, prompt=text, good_rewrite=f"{text} please", good_response=f"{text}!") for text in texts]
    for text, row in zip(texts, poir_texts.examples(pairs, "poir", "sandbox"), strict=True):
        assert text in row["prompt"][-1]["content"] and f"{text} please" in row["chosen"][-1]["content"]
    assert all(math.isfinite(row["loss"]) for row in train(tmp_path, pairs))


@pytest.mark.slow
def test_second_run_of_a_finished_training_trains_nothing(tmp_path):
    first = train(tmp_path / "poir")
    weights = (tmp_path / "poir" / "model" / "model.safetensors").read_bytes()
    assert train(tmp_path / "poir") == first
    assert (tmp_path / "poir" / "model" / "model.safetensors").read_bytes() == weights


@pytest.mark.slow
def test_killed_training_goes_on_to_the_same_model_over_two_epochs(tmp_path, monkeypatch):
    """Stopped right after the checkpoint of the first epoch's end, then run again: weights equal bit by bit."""
    from nbutils.train import training

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


# Inference


def test_rewrites_that_reach_no_end_are_told_apart_and_asked_once(tmp_path):
    """In two tokens no rewrite ends; `arms.answer` then takes the same ones from the journal."""
    arms.write_arm(tmp_path / "poir", "prompter", "rewrite_answer", templates.DELIMITER)
    (tmp_path / "poir" / "model").symlink_to(references.resolve("sandbox/prompter"))
    arm = arms.build("poir", tmp_path, "sandbox/prompter", "sandbox/responder")
    prompts = [pair.prompt for pair in PAIRS]
    given = [Conditions("sandbox", Sampling(max_new_tokens=num)) for num in (2, 64)]
    endless, whole = (poir.rewritten(arm, prompts, each) for each in given)
    assert [each.finish for each in endless] == ["length"] * 8 and [each.finish for each in whole] == ["stop"] * 8
    with Journal(tmp_path / "journal.jsonl") as journal:
        given = Conditions("sandbox", Sampling(max_new_tokens=64), Sampling(max_new_tokens=8), journal=journal)
        written = poir.rewritten(arm, prompts, given)
        num_asked = len(journal)
        rows = [Prompt(records.prompt_id(prompt), prompt, "s") for prompt in prompts]
        made = answering.answer(arm, rows, 1, given)
        assert len(journal) == num_asked + len({row.rewrite for row in made})
    assert [arms.clean_rewrite(each.text) for each in written] == [row.rewrites[0] for row in made]
    assert poir.rewritten(arms.build("nan", tmp_path, "x", "y"), prompts, given) == []
