"""How the sandbox's models are made: tokenizer, base model, preference pairs, reward model.

The base model learns all tasks of lessons.py from scratch, with the loss on completions only and in the very format
of its chat template. The reward model starts from its trunk and learns preferences labelled by the gold scorer
(Align-Pro Eq. 1) about training animals, so that the held-out ones show whether it generalises.
"""

import math
import os
import random
import re
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedTokenizerFast
from transformers import Qwen2Config, Qwen2ForCausalLM
from transformers.utils import logging

from nbutils.sandbox import gold, lessons, world

WEIGHTS = Path(__file__).parent / "weights"
FIGURES = {  # the least that the shipped weights must reach; measure.py says how each is taken
    "fact_recall": 0.97,
}

SEED = 0
VOCABULARY = 900
NUM_STEPS = 1600
BATCH_SIZE = 64
LEARNING_RATE = 2e-3
REWARD_LEARNING_RATE = 5e-4
CHECK_WEIGHT = 1.0  # of the labels of sentences beside the loss on tokens
PAD, END = "<|pad|>", "<|end|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('roles are system, user and assistant, got ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


# Base model


def train_tokenizer(texts):
    """Byte-level BPE with the chat's special tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY, special_tokens=[PAD, END, *roles], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        additional_special_tokens=roles,
        chat_template=CHAT_TEMPLATE,
        model_max_length=8192,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def new_model(tokenizer):
    """A Qwen2-shaped model of about 0.75 M parameters with random weights."""
    config = Qwen2Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=256,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.05,
        dtype="float32",
    )
    return Qwen2ForCausalLM(config)


def render(request, completion):
    """One exchange as the chat template writes it."""
    return f"<|user|>{request}<|assistant|>{completion}{END}"


def encode(tokenizer, lesson_rows):
    """Rows (ids, mask of learnt tokens, [(position, label)] of checked sentences), as the chat template writes them."""
    texts = [render(lesson.request, lesson.completion) for lesson in lesson_rows]
    encoded = tokenizer(texts, return_offsets_mapping=True)
    rows = []
    for lesson, text, ids, offsets in zip(
        lesson_rows, texts, encoded.input_ids, encoded.offset_mapping, strict=True
    ):
        start = len(f"<|user|>{lesson.request}<|assistant|>")
        learnt = [lesson.learnt and begin >= start for begin, _ in offsets]
        labels = []
        if lesson.checked:
            shift = text.rindex(lesson.checked[1])
            ends = {end: position for position, (_, end) in enumerate(offsets)}
            found = lessons.label_sentences(*lesson.checked)
            labels = [(ends[shift + stop + 1], label) for stop, label in found if shift + stop + 1 in ends]
        rows.append((ids, learnt, labels))
    return rows


def _losses(model, head, rows, pad):
    """Summed cross-entropies over learnt tokens and over checked sentences, with their counts.

    Right padding needs no mask under causal attention. The sentences' labels are read off the last layer but one, so
    that the last one can add them up.
    """
    width = max(len(row[0]) for row in rows)
    inputs = torch.full((len(rows), width), pad)
    learnt = torch.zeros((len(rows), width), dtype=torch.bool)
    labels = torch.full((len(rows), width), -1)
    for i, (ids, mask, sentences) in enumerate(rows):
        inputs[i, : len(ids)] = torch.tensor(ids)
        learnt[i, : len(ids)] = torch.tensor(mask)
        for position, label in sentences:
            labels[i, position] = label
    states = model.model(inputs, output_hidden_states=True)
    words = model.lm_head(states.last_hidden_state[:, :-1][learnt[:, 1:]])
    checks = head(states.hidden_states[-2][labels >= 0])
    return (
        torch.nn.functional.cross_entropy(words, inputs[:, 1:][learnt[:, 1:]], reduction="sum"),
        torch.nn.functional.cross_entropy(checks, labels[labels >= 0], reduction="sum"),
        len(words),
        len(checks),
    )


def train_base(folder, num_steps=NUM_STEPS, seed=SEED):
    """Train tokenizer and base model and save both to `folder`. Returns (model, tokenizer)."""
    tasks, rng = lessons.Tasks(), random.Random(seed)
    torch.manual_seed(seed)
    texts = (render(*tasks.sample(rng)[:2]) for _ in range(20000))
    tokenizer = train_tokenizer(text for text in texts if re.fullmatch(r"[\w .,:?|<>#\n-]+", text, re.ASCII))
    model = new_model(tokenizer).train()
    head = torch.nn.Linear(model.config.hidden_size, len(lessons.LABELS))
    parameters = [*model.parameters(), *head.parameters()]
    matrices = [each for name, each in model.named_parameters() if each.ndim == 2 and "embed" not in name]
    others = [each for each in parameters if all(each is not other for other in matrices)]
    optimizers = (
        torch.optim.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    )
    bar = tqdm(range(num_steps), desc="base model")
    for step in bar:
        rate = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / num_steps))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = LEARNING_RATE * rate
        rows = encode(tokenizer, [tasks.sample(rng) for _ in range(BATCH_SIZE)])
        rows.sort(key=lambda row: len(row[0]))
        parts = [_losses(model, head, part, tokenizer.pad_token_id) for part in (rows[:24], rows[24:48], rows[48:])]
        words, checks, num_words, num_checks = (sum(each) for each in zip(*parts, strict=True))
        (words / num_words + CHECK_WEIGHT * checks / max(1, num_checks)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{words.item() / num_words:.3f}", checks=f"{checks.item() / max(1, num_checks):.3f}")
    model.generation_config = type(model.generation_config)(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    save(model, tokenizer, folder)
    return load_base(folder)


def save(model, tokenizer, folder):
    """Write model and tokenizer with weights in float16 (half the size) and a config that says float32."""
    model.half().save_pretrained(folder)
    model.float().config.dtype = torch.float32
    model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    for path in Path(folder).iterdir():
        os.chmod(path, 0o644)


def load_base(folder=WEIGHTS / "base"):
    """(model, tokenizer) in float32, in eval mode."""
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    return AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval(), tokenizer


def load_reward(folder=WEIGHTS / "reward"):
    """Reward model in float32, in eval mode."""
    return AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32).eval()


@torch.no_grad()
def sample(model, tokenizer, requests, temperature=1.0, max_new_tokens=64, batch_size=256):
    """One completion per request (user message), in order; temperature 0 is greedy."""
    order = sorted(range(len(requests)), key=lambda i: len(requests[i]))
    texts = [None] * len(requests)
    choice = {"do_sample": True, "temperature": temperature, "top_k": 0} if temperature else {"do_sample": False}
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        rendered = [f"<|user|>{requests[i]}<|assistant|>" for i in rows]
        batch = tokenizer(rendered, return_tensors="pt", padding=True, padding_side="left", return_token_type_ids=False)
        ids = model.generate(**batch, max_new_tokens=max_new_tokens, **choice)[:, batch.input_ids.shape[1] :]
        for i, text in zip(rows, tokenizer.batch_decode(ids, skip_special_tokens=True), strict=True):
            texts[i] = text
    return texts


@torch.no_grad()
def reward(model, tokenizer, prompts, responses, batch_size=256):
    """Reward model's score of each response against its prompt, through the chat template."""
    rendered = [render(p, r) for p, r in zip(prompts, responses, strict=True)]
    order = sorted(range(len(rendered)), key=lambda i: len(rendered[i]))
    scores = [0.0] * len(rendered)
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        batch = tokenizer([rendered[i] for i in rows], return_tensors="pt", padding=True, return_token_type_ids=False)
        for i, value in zip(rows, model(**batch).logits[:, 0].tolist(), strict=True):
            scores[i] = value
    return scores


# Reward model


def corrupt(rng, prompt):
    """A response with flaws that a policy might try: too many facts, repeats, falsehoods, another animal, noise."""
    question = world.parse_prompt(prompt)
    subject, names = question.subject, list(question.attributes) or rng.sample(world.ATTRIBUTES, 3)
    kind = rng.choice(("right", "fewer", "more", "repeat", "repeat", "false", "false", "other", "noise", "flawed"))
    if kind == "flawed":
        return lessons.flawed_response(rng, prompt)
    if kind == "fewer":
        names = names[: rng.randint(1, len(names))]
    if kind == "more":
        names += rng.sample([each for each in world.ATTRIBUTES if each not in names], rng.randint(1, 6 - len(names)))
    if kind == "repeat":
        names = rng.choices(names, k=rng.randint(2, 6))
    if kind == "other":
        subject = rng.choice([each for each in world.SUBJECTS if each != subject])
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
        rng.choice((p, lessons.rewrite(rng, p), lessons.rewrite(rng, p)))
        for p in prompts
        for _ in range(per_prompt // 2)
    ]
    own = sample(base, tokenizer, asked)
    half = per_prompt // 2
    return [
        (prompt, own[i * half : (i + 1) * half] + [corrupt(rng, prompt) for _ in range(half)])
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


def train_reward(folder, base_folder, num_prompts=2000, num_pairs=9000, seed=SEED):
    """Train the reward model on gold-labelled pairs (Bradley-Terry, TRL's RewardTrainer) and save it to `folder`."""
    from datasets import Dataset
    from trl import RewardConfig, RewardTrainer

    rng = random.Random(seed)
    torch.manual_seed(seed)
    base, tokenizer = load_base(base_folder)
    rows = preference_pairs(rng, candidates(base, tokenizer, rng, world.TRAINING, num_prompts))[:num_pairs]
    data = Dataset.from_list([_conversation(row) for row in rows])
    config = base.config
    config.num_labels = 1
    logging.set_verbosity_error()
    model = AutoModelForSequenceClassification.from_pretrained(base_folder, config=config, dtype=torch.float32)
    arguments = RewardConfig(
        output_dir=str(Path(folder) / "trainer"),
        per_device_train_batch_size=128,
        num_train_epochs=1,
        learning_rate=REWARD_LEARNING_RATE,
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
    save(model, tokenizer, folder)
    return trainer.state.log_history, len(rows)


def _conversation(row):
    def assistant(text):
        return [{"role": "assistant", "content": text}]

    return {
        "prompt": [{"role": "user", "content": row["prompt"]}],
        "chosen": assistant(row["chosen"]),
        "rejected": assistant(row["rejected"]),
    }
