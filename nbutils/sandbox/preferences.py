"""The sandbox's reward model: Bradley-Terry (Align-Pro Eq. 1) on pairs of responses that the gold scorer has labelled.

All pairs are about training animals, so that the held-out ones show whether the model generalises. Half of the
responses are the base model's own, half are what a policy might try in order to deceive a reward model.
"""

import random
import tempfile

import torch
from transformers import AutoModelForSequenceClassification

from nbutils.sandbox import gold, lessons, shipped, world

LEARNING_RATE = 1e-3


def corrupt(rng, prompt, subjects):
    """A response with flaws that a policy might try: too many facts, repeats, falsehoods, another animal, noise."""
    question = world.parse_prompt(prompt)
    subject, names = question.subject, list(question.attributes) or rng.sample(world.ATTRIBUTES, 3)
    kind = rng.choice(("right", "fewer", "more", "repeat", "repeat", "false", "false", "other", "noise", "flawed"))
    if kind == "flawed":
        return lessons.flawed_response(rng, prompt, subjects)
    if kind == "fewer":
        names = names[: rng.randint(1, len(names))]
    if kind == "more":
        names += rng.sample([each for each in world.ATTRIBUTES if each not in names], rng.randint(1, 6 - len(names)))
    if kind == "repeat":
        names = rng.choices(names, k=rng.randint(2, 6))
    if kind == "other":
        subject = rng.choice([each for each in subjects if each != subject])
    facts = [world.fact(subject, name) for name in names]
    if kind == "false":
        for position in rng.sample(range(len(names)), rng.randint(1, len(names))):
            facts[position] = world.fact(subject, names[position], rng.choice(world.VALUES[names[position]]))
    if kind == "noise":
        facts.insert(
            rng.randint(0, len(facts)), rng.choice((prompt, lessons.garbage(rng), facts[0].replace("the ", "")))
        )
    rng.shuffle(facts)
    return " ".join(facts)


def candidates(base, tokenizer, rng, subjects, num_prompts, per_prompt=6):
    """[(prompt, [responses])]: half the base model's own answers to rewrites of the prompt, half corruptions."""
    patterns = (0.7, 0.08, 0.22, 0)
    prompts = [lessons.any_prompt(rng, subjects, patterns) for _ in range(num_prompts)]
    asked = [
        rng.choice((p, lessons.rewrite(rng, p, subjects=subjects), lessons.rewrite(rng, p, subjects=subjects)))
        for p in prompts
        for _ in range(per_prompt // 2)
    ]
    own = shipped.sample(base, tokenizer, asked)
    half = per_prompt // 2
    return [
        (prompt, own[i * half : (i + 1) * half] + [corrupt(rng, prompt, subjects) for _ in range(half)])
        for i, prompt in enumerate(prompts)
    ]


def preference_pairs(rng, groups, margin=0.05):
    """Rows prompt, chosen, rejected of every two responses whose gold scores differ by more than `margin`."""
    rows = []
    for prompt, responses in groups:
        scored = sorted(zip(gold.score([prompt] * len(responses), responses), responses, strict=True), reverse=True)
        pairs = [(a[1], b[1]) for i, a in enumerate(scored) for b in scored[i + 1 :] if a[0] > b[0] + margin]
        rows += [{"prompt": prompt, "chosen": a, "rejected": b} for a, b in pairs]
    rng.shuffle(rows)
    return rows


def train_reward(folder, base_folder, num_prompts=2500, num_pairs=14000, seed=0):
    """Train the reward model on gold-labelled pairs (Bradley-Terry, TRL's RewardTrainer) and save it to `folder`."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    rng = random.Random(seed)
    torch.manual_seed(seed)
    base, tokenizer = shipped.load_base(base_folder)
    rows = preference_pairs(rng, candidates(base, tokenizer, rng, world.TRAINING, num_prompts))[:num_pairs]
    data = Dataset.from_list([_conversation(row) for row in rows])
    config = base.config
    config.num_labels = 1
    model = AutoModelForSequenceClassification.from_pretrained(base_folder, config=config, dtype=torch.float32)
    for part in (model.model.embed_tokens, *model.model.layers[:-2]):  # what is true of held-out animals stays known
        part.requires_grad_(False)
    scratch = tempfile.TemporaryDirectory()
    arguments = RewardConfig(
        output_dir=scratch.name,
        per_device_train_batch_size=128,
        num_train_epochs=1,
        learning_rate=LEARNING_RATE,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        weight_decay=0.01,
        max_length=None,
        center_rewards_coefficient=0.01,
        use_cpu=True,
        bf16=False,
        gradient_checkpointing=False,
        save_strategy="no",
        report_to="none",
        logging_steps=20,
        seed=seed,
        dataloader_pin_memory=False,
    )
    trainer = RewardTrainer(model=model, args=arguments, train_dataset=data, processing_class=tokenizer)
    trainer.train()
    scratch.cleanup()
    shipped.save(model, tokenizer, folder)
    return trainer.state.log_history, len(rows)


def _conversation(row):
    def assistant(text):
        return [{"role": "assistant", "content": text}]

    return {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "chosen": assistant(row["chosen"]),
        "rejected": assistant(row["rejected"]),
    }
