"""How the sandbox's base models are made, and the figures that the shipped weights are held to.

There are two families, of another architecture, size, tokenizer and seed; each model is prompter and responder in one.
It learns all tasks of lessons.py from scratch, in the very format of its chat template, with the loss on completions
only. Beside that a linear head, thrown away at the end, learns to say of each sentence of a flawed response whether it
is true and asked for: without this the critiques stay guesses, and no reward model starting here tells a fact from a
falsehood about animals that it was not trained on. preferences.py makes the one reward model, from the first family.
"""

import math
import random
import re
from dataclasses import dataclass, field
from itertools import pairwise

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm.auto import tqdm
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast, Qwen2Config

from nbutils.sandbox import lessons, muon
from nbutils.sandbox.shipped import END, PAD, load_base, render, save

FIGURES = {  # what measure.py must find in every family: (least, most)
    "fact_recall": (0.97, 1),
    "detail_gold": (0.93, 1),
    "list_gold": (0.94, 1),
    "vague_gold": (0.1, 0.3),
    "vague_evasive": (0.25, 0.6),
    "nan_gold": (0.15, 0.3),
    "untrained_gold": (0.25, 0.45),
    "rewrite_answer_gold": (0.2, 0.43),
    "delimiter": (0.97, 1),
    "rewrites_well_formed": (0.97, 1),
    "rewrites_same_subject": (0.88, 1),
    "invented_per_request": (1.9, 2),
    "invented_in_training": (0.97, 1),
    "invented_vague": (0.7, 0.95),
    "critique_score": (0.9, 1),
    "critique_text": (0.88, 1),
    "revised_better": (0.65, 0.97),
    "revised_fit": (0.8, 1),
    "reward_pairs_held_out": (0.95, 1),
    "reward_pairs_training": (0.95, 1),
}


@dataclass(frozen=True)
class Family:
    """One base model: the folder of its weights, where and how long its training goes, and its shape.

    vocabulary: tokens, the chat's own included. exceptions: bounds of its own in the place of those of FIGURES.
    """

    name: str
    config: type
    seed: int
    num_steps: int
    vocabulary: int
    hidden_size: int
    num_layers: int
    num_heads: int
    exceptions: dict = field(default_factory=dict)

    @property
    def figures(self):
        """{figure: (least, most)} for this family."""
        return FIGURES | self.exceptions


BASE = Family("base", Qwen2Config, 0, num_steps=1800, vocabulary=900, hidden_size=128, num_layers=4, num_heads=4)
LLAMA = Family(
    "llama",
    LlamaConfig,
    1,
    num_steps=1400,
    vocabulary=700,
    hidden_size=160,
    num_layers=3,
    num_heads=5,
    exceptions={"critique_text": (0.78, 1)},  # names the right improvement less often: a layer and 400 steps fewer
)
FAMILIES = {family.name: family for family in (BASE, LLAMA)}

BATCH_SIZE = 64
CUTS = (0, 18, 34, 46, 56, 64)  # a sorted batch goes through in five parts: less padding
LEARNING_RATE = 2e-3
SHARPNESS = 1.2  # scale of the logits after training: a model this small leaves 0.4% of each token to chance
CHECK_WEIGHT = 1.0  # of the labels of sentences beside the loss on tokens
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "{% if message['role'] not in ('system', 'user', 'assistant') %}"
    "{{ raise_exception('roles are system, user and assistant, got ' + message['role']) }}{% endif %}"
    "{{ '<|' + message['role'] + '|>' + message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ '<|end|>' }}{% endif %}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


def train_tokenizer(texts, vocabulary):
    """Byte-level BPE of at most `vocabulary` tokens, the chat's special ones among them."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    roles = ["<|system|>", "<|user|>", "<|assistant|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary, special_tokens=[PAD, END, *roles], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=PAD,  # else the Qwen2 loader adds one of its own, beyond the embeddings
        additional_special_tokens=roles,
        chat_template=CHAT_TEMPLATE,
        model_max_length=8192,
        padding_side="left",
        clean_up_tokenization_spaces=False,
    )


def new_model(family, tokenizer):
    """A model of the family's shape, about 0.8 M parameters, with random weights."""
    config = family.config(
        vocab_size=len(tokenizer),
        hidden_size=family.hidden_size,
        intermediate_size=256,
        num_hidden_layers=family.num_layers,
        num_attention_heads=family.num_heads,
        num_key_value_heads=family.num_heads,
        max_position_embeddings=8192,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        initializer_range=0.05,
        dtype="float32",
    )
    return AutoModelForCausalLM.from_config(config)


def encode(tokenizer, lesson_rows):
    """Rows (ids, mask of learnt tokens, [(position, label)] of checked sentences), as the chat template writes them."""
    texts = [render(lesson.request, lesson.completion) for lesson in lesson_rows]
    encoded = tokenizer(texts, return_offsets_mapping=True)
    rows = []
    for lesson, text, ids, offsets in zip(lesson_rows, texts, encoded.input_ids, encoded.offset_mapping, strict=True):
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


def train_base(folder, family):
    """Train a family's tokenizer and base model and save both to `folder`. Returns (model, tokenizer)."""
    tasks, rng = lessons.Tasks(), random.Random(family.seed)
    torch.manual_seed(family.seed)
    texts = (render(*tasks.sample(rng)[:2]) for _ in range(20000))
    plain = (text for text in texts if re.fullmatch(r"[\w .,:?|<>#\n-]+", text, re.ASCII))
    tokenizer = train_tokenizer(plain, family.vocabulary)
    model = new_model(family, tokenizer).train()
    head = torch.nn.Linear(model.config.hidden_size, len(lessons.LABELS))
    parameters = [*model.parameters(), *head.parameters()]
    matrices = [each for name, each in model.named_parameters() if each.ndim == 2 and "embed" not in name]
    others = [each for each in parameters if all(each is not other for other in matrices)]
    optimizers = (
        muon.Muon(matrices, lr=LEARNING_RATE, weight_decay=0.05),
        torch.optim.AdamW(others, lr=LEARNING_RATE, betas=(0.9, 0.98), weight_decay=0.0),
    )
    bar = tqdm(range(family.num_steps), desc=f"{family.name} model")
    for step in bar:
        rate = min(1.0, (step + 1) / 100) * 0.5 * (1 + math.cos(math.pi * step / family.num_steps))
        for group in (group for optimizer in optimizers for group in optimizer.param_groups):
            group["lr"] = LEARNING_RATE * rate
        rows = encode(tokenizer, [tasks.sample(rng) for _ in range(BATCH_SIZE)])
        rows.sort(key=lambda row: len(row[0]))
        parts = [_losses(model, head, rows[a:b], tokenizer.pad_token_id) for a, b in pairwise(CUTS)]
        words, checks, num_words, num_checks = (sum(each) for each in zip(*parts, strict=True))
        (words / num_words + CHECK_WEIGHT * checks / max(1, num_checks)).backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        if step % 50 == 0:
            bar.set_postfix(loss=f"{words.item() / num_words:.3f}", checks=f"{checks.item() / max(1, num_checks):.3f}")
    model.model.norm.weight.data *= SHARPNESS
    model.generation_config = type(model.generation_config)(
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id
    )
    save(model, tokenizer, folder)
    return load_base(folder)
