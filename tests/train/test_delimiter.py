"""The delimiter and the families of tokenizers: training is given the very tokens that inference meets."""

from itertools import product

import pytest
import torch
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, StopStringCriteria

from nbutils.evaluate import arms
from nbutils.models.generate import render
from nbutils.models.templates import DELIMITER
from nbutils.models.texts import cut_at
from nbutils.train import poir_texts

# The pattern of cl100k; Llama 3 and Qwen cut by the same rules: a full stop takes the line ends behind it.
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
GPT4 += r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["<unk>", "<s>", "</s>", "<|user|>", "<|assistant|>"]
END = "{% if m.role == 'assistant' %}</s>{% endif %}"
TEMPLATES = {  # how the generation prompt ends: a special token, a line end, a blank; or an answer gets something extra
    "token": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}" + END + "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "line": "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}",
    "blank": "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}" + END + " {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}",
    "thought": "{% for m in messages %}<s>{{ m.role }}\n{{ '<think>\n\n</think>\n\n' if m.role == 'assistant' }}"
    "{{ m.content | trim }}</s>\n{% endfor %}{% if add_generation_prompt %}<s>assistant\n{% endif %}",
}
REWRITES = [
    "describe the fox in detail.",
    "the fox",
    "what is a fox?",
    "list:\n- home\n- food",
    "naïve “fox” 🦊",
    "# fox",
]
RESPONSES = ["the fox eats mice.", "### Answer\nmice", "- mice", "🦊 eats mice", "é", "\nthe fox", "  the fox", "123"]
CORPUS = [
    f"USER: tell me about the fox. ASSISTANT: {rewrite}{DELIMITER}{response}"
    for rewrite in REWRITES
    for response in RESPONSES
] * 3 + [
    "the fox describes the fox in detail.\n\nwhat is it?\n\n\n### Response\n- the fox\n  the\n### Response\nthe"
] * 9


def byte_level(trained):
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()


def tiktoken_style(trained):
    cut = pre_tokenizers.Split(Regex(GPT4), behavior="isolated")
    trained.pre_tokenizer = pre_tokenizers.Sequence([cut, pre_tokenizers.ByteLevel(False, use_regex=False)])
    trained.decoder = decoders.ByteLevel()


def metaspace(trained, scheme="first"):
    trained.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    trained.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Metaspace(prepend_scheme=scheme)])


def old_llama(trained):
    """Blanks become ▁ in the normaliser, and nothing keeps a token from going over the end of a word or a line."""
    trained.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    parts = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    trained.decoder = decoders.Sequence(parts)


BYTES = pre_tokenizers.ByteLevel.alphabet()
KINDS = {
    "byte-level BPE": (models.BPE(), byte_level, trainers.BpeTrainer(initial_alphabet=BYTES)),
    "Tiktoken": (models.BPE(), tiktoken_style, trainers.BpeTrainer(initial_alphabet=BYTES)),
    "SentencePiece Unigram": (models.Unigram(), metaspace, trainers.UnigramTrainer(unk_token="<unk>")),
    "SentencePiece Unigram, always ▁": (
        models.Unigram(),
        lambda trained: metaspace(trained, "always"),
        trainers.UnigramTrainer(unk_token="<unk>"),
    ),
    "SentencePiece BPE": (models.BPE(unk_token="<unk>"), metaspace, trainers.BpeTrainer()),
    "old Llama BPE": (models.BPE(unk_token="<unk>"), old_llama, trainers.BpeTrainer()),
}


@pytest.fixture(scope="module", params=KINDS)
def trained(request):
    """A tokenizer of each kind, trained on text full of delimiters: it joins over them wherever it may."""
    model, dress, trainer = KINDS[request.param]
    tokenizer = Tokenizer(type(model)(**({"unk_token": "<unk>"} if request.param.endswith("BPE") else {})))
    dress(tokenizer)
    trainer.vocab_size, trainer.special_tokens, trainer.show_progress = 600, SPECIAL, False
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@pytest.fixture(params=TEMPLATES)
def tokenizer(trained, request):
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=trained, chat_template=TEMPLATES[request.param], **names)


def rows(pairs):
    """TRL's rows of (rewrite, response) pairs, each against the first of them."""
    prompt, sides = poir_texts.turn("user", "tell me about the fox."), [poir_texts.join(*pair) for pair in pairs]
    made = [
        {"chosen": poir_texts.turn("assistant", side), "rejected": poir_texts.turn("assistant", sides[0])}
        for side in sides
    ]
    return [{"prompt": prompt} | row for row in made]


def test_training_ids_are_those_that_inference_meets(tokenizer):
    """For every rewrite and response: the prompt's ids are generation's input, the ids of rewrite and delimiter do not
    depend on the response, generation that writes them stops at the delimiter's last token and leaves the rewrite."""
    pairs = list(product(REWRITES, RESPONSES))
    made = poir_texts.tokenize(rows(pairs), "poir", tokenizer, "model")
    head = render("model", tokenizer, rows(pairs)[0]["prompt"])
    stop = StopStringCriteria(tokenizer, [DELIMITER])
    prefixes = {}
    for (rewrite, response), row in zip(pairs, made, strict=True):
        assert row["prompt_ids"] == tokenizer(head, add_special_tokens=False)["input_ids"]
        ids, split = row["chosen_ids"], row["chosen_split"]
        prefix = prefixes.setdefault(rewrite, ids[:split])
        assert ids[:split] == prefix, (rewrite, response)
        written = tokenizer.decode(ids, skip_special_tokens=True)
        assert written.strip() == poir_texts.join(rewrite, response), (rewrite, response)
        assert cut_at(written, (DELIMITER,)) == arms.clean_rewrite(written) == rewrite
    for rewrite, prefix in prefixes.items():
        stopped = [bool(stop(torch.tensor([prefix[:n]]), None)) for n in range(1, len(prefix) + 1)]
        assert stopped == [False] * (len(prefix) - 1) + [True], rewrite


# Encoded as one text, does a token lie across the prompt's end (a blank), the delimiter's start, its end? Of
# SentencePiece's kinds all depends on what they were trained on.
JOINS = {"byte-level BPE": (True, False, False), "Tiktoken": (True, True, False)}


def test_one_text_would_be_joined_over_the_edges(trained, request):
    """Why there is `poir_texts.tokenize`. The delimiter's start may be joined: generation writes the same token."""
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained)
    edges = [("ASSISTANT: ", "the fox"), ("describe the fox in detail.", DELIMITER), (DELIMITER, "the fox eats mice.")]

    def joined(before, text):
        head, whole = (tokenizer(each, add_special_tokens=False)["input_ids"] for each in (before, before + text))
        return whole[: len(head)] != head

    found = tuple(joined(*edge) for edge in edges)
    kind = request.node.callspec.params["trained"]
    assert found == JOINS[kind] if kind in JOINS else any(found)


def test_text_that_no_anchor_sets_apart_is_one_line():
    class Joins:
        def __call__(self, texts, add_special_tokens):
            return {"input_ids": [[len(text)] for text in texts]}

    with pytest.raises(ValueError, match="tokenizer joins 'the fox' to whatever stands before it"):
        poir_texts.continued(Joins(), ["\n"], ["the fox"])
