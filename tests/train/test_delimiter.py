"""The delimiter, chat templates and the families of tokenizers: training is given the very tokens that inference meets,
and the tokens that a model wrote are found again."""

import functools
from itertools import product
from types import SimpleNamespace

import chat_templates
import pytest
import torch
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, StopStringCriteria

from nbutils.evaluate import arms
from nbutils.models import generate
from nbutils.models.generate import render
from nbutils.models.likelihood import written_ids
from nbutils.models.templates import DELIMITER
from nbutils.models.texts import Sampling, answered, cut_at, spoken
from nbutils.models.turns import Turn, continued, turn_of
from nbutils.train import poir_texts

# The pattern of cl100k; Llama 3 and Qwen cut by the same rules: a full stop takes the line ends behind it.
GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
GPT4 += r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
SPECIAL = ["<unk>", "<s>", "</s>", *chat_templates.SPECIAL]
END = "{% if m.role == 'assistant' %}</s>{% endif %}"
TEMPLATES = {  # how the generation prompt ends: a special token, a line end, a blank; and as models ship them
    "token": "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}" + END + "{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}",
    "line": "{% for m in messages %}<s>{{ m.role }}\n{{ m.content }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<s>assistant\n{% endif %}",
    "blank": "{% for m in messages %}{{ m.role | upper }}: {{ m.content }}" + END + " {% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT: {% endif %}",
    **chat_templates.TEMPLATES,
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


@functools.cache
def train(kind):
    """A tokenizer of this kind, trained on text full of delimiters: it joins over them wherever it may."""
    model, dress, trainer = KINDS[kind]
    tokenizer = Tokenizer(type(model)(**({"unk_token": "<unk>"} if kind.endswith("BPE") else {})))
    dress(tokenizer)
    trainer.vocab_size, trainer.special_tokens, trainer.show_progress = 600, SPECIAL, False
    tokenizer.train_from_iterator(CORPUS, trainer)
    return tokenizer


@pytest.fixture(params=KINDS)
def trained(request):
    return train(request.param)


def dressed(trained, template):
    names = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "</s>"}
    made = PreTrainedTokenizerFast(tokenizer_object=trained, chat_template=template, **names)
    made.add_tokens([AddedToken(each, special=False, normalized=False) for each in ("<think>", "</think>")])
    return made


BYTE_LEVEL = ("byte-level BPE", "Tiktoken")  # the models that think have such; others put blanks around <think>
PAIRED = [(k, t) for k, t in product(KINDS, TEMPLATES) if k in BYTE_LEVEL or "<think>" not in TEMPLATES[t]]


@pytest.fixture(params=PAIRED, ids=", ".join)
def tokenizer(request):
    kind, template = request.param
    return dressed(train(kind), TEMPLATES[template])


NET = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=2))


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
        written = spoken(tokenizer.decode(ids, skip_special_tokens=True)) or ""
        assert written.strip() == poir_texts.join(rewrite, response), (rewrite, response)
        assert cut_at(written, (DELIMITER,)).strip() == arms.clean_rewrite(written) == rewrite
        made_of = generate._decode(tokenizer, NET, ids[:split], Sampling(stop=(DELIMITER,)))
        assert made_of.finish == "stop" and arms.clean_rewrite(made_of.text) == rewrite
    for rewrite, prefix in prefixes.items():
        stopped = [bool(stop(torch.tensor([prefix[:n]]), None)) for n in range(1, len(prefix) + 1)]
        assert stopped == [False] * (len(prefix) - 1) + [True], rewrite


# Chat templates


def conversation(tokenizer, answer):
    """The template's own text of the whole turn."""
    turns = poir_texts.turn("user", "tell me about the fox.") + poir_texts.turn("assistant", answer)
    return tokenizer.apply_chat_template(turns, tokenize=False)


def permits(tokenizer, text, head, *places):
    """Whether the whole text begins with the ids of head, and no token lies across one of the places."""
    whole = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    begun, spans = tokenizer(head, add_special_tokens=False)["input_ids"], whole["offset_mapping"]
    across = any(start < place < end for start, end in spans for place in places)
    return whole["input_ids"][: len(begun)] == begun and not across


@pytest.mark.parametrize("target", poir_texts.TARGETS)
def test_taught_is_what_the_template_writes(tokenizer, target):
    """prompt_ids and the completion's are the ids of the template's text for the whole conversation, wherever these do
    not lie across the prompt's end or the delimiter's (there the boundary stands)."""
    name = "completion" if target == "sft" else "chosen"
    head, same = render("model", tokenizer, poir_texts.turn("user", "tell me about the fox.")), 0
    for rewrite, response in product(REWRITES, RESPONSES[:3]):
        texts = {"poir": poir_texts.join(rewrite, response), "dpo_awo": response}
        answer = texts.get(target, poir_texts.join(rewrite))
        turns = {each: poir_texts.turn("assistant", answer) for each in ("chosen", "rejected", "completion")}
        row = poir_texts.tokenize(
            [{"prompt": poir_texts.turn("user", "tell me about the fox.")} | turns], target, tokenizer, "model"
        )[0]
        text = conversation(tokenizer, answer)
        if not text.startswith(head):  # an answer without the thought that its prompt goes on into
            text = head + "\n</think>\n\n" + text.rpartition("assistant\n")[2]
        edges = [text.index(DELIMITER) + len(DELIMITER)] if target == "poir" else []
        if target in ("dpo_awi", "sft"):  # these end with the delimiter, where generation stops
            text = text[: text.index(DELIMITER.rstrip()) + len(DELIMITER.rstrip())] + "\n"
        if permits(tokenizer, text, head, *edges):
            same += 1
            assert row["prompt_ids"] + row[f"{name}_ids"] == tokenizer(text, add_special_tokens=False)["input_ids"]
    assert same or not head.endswith(("]", ":", ">")) or target == "poir"


@pytest.mark.parametrize("template", ["Mistral-7B-Instruct-v0.2", "Llama-2-chat", "Vicuna v1.5"])
@pytest.mark.parametrize("target", poir_texts.TARGETS)
def test_an_answer_opens_with_the_blank_that_its_template_writes(trained, template, target):
    """The first word that a model of this kind writes is ▁the, not the."""
    tokenizer = dressed(trained, TEMPLATES[template])
    answer = "the fox" if target == "dpo_awo" else poir_texts.join("the fox", "mice" if target == "poir" else "")
    turns = {each: poir_texts.turn("assistant", answer) for each in ("chosen", "rejected", "completion")}
    row = {"prompt": poir_texts.turn("user", "tell me about the fox.")} | turns
    made = poir_texts.tokenize([row], target, tokenizer, "model")[0]
    first = tokenizer.convert_ids_to_tokens(made["completion_ids" if target == "sft" else "chosen_ids"])[:2]
    assert "".join(first).replace("Ġ", "▁").startswith("▁the")


@pytest.mark.parametrize("template", chat_templates.TEMPLATES)
def test_what_a_template_puts_around_an_answer(trained, template):
    tokenizer = dressed(trained, TEMPLATES[template])
    for prompt in ("tell me about the fox.", " an answer \n"):
        found = turn_of("model", tokenizer, poir_texts.turn("user", prompt))
        assert (found.opening, found.closing) == chat_templates.AROUND[template]
        assert found.head == render("model", tokenizer, poir_texts.turn("user", prompt))


@pytest.mark.parametrize("template", ["Gemma-2", "Mistral-7B-Instruct-v0.2"])
def test_a_system_message_that_the_template_refuses_is_taught_as_it_is_asked(trained, template):
    tokenizer = dressed(trained, TEMPLATES[template])
    prompt = poir_texts.turn("system", "be brief.") + poir_texts.turn("user", "the fox?")
    folded = poir_texts.turn("user", "be brief.\n\nthe fox?")
    assert turn_of("model", tokenizer, prompt) == turn_of("model", tokenizer, folded)
    sides = {side: poir_texts.turn("assistant", "mice") for side in ("chosen", "rejected")}
    made = [poir_texts.tokenize([{"prompt": each} | sides], "dpo_awo", tokenizer, "m") for each in (prompt, folded)]
    assert made[0] == made[1]


HEADER = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.mark.parametrize(
    "template, line",
    [
        (
            HEADER,
            r"leaves '<\|im_start\|>assistant\\n' to the model, and each text would be read with it: write that under",
        ),
        (
            "{{ messages[-1].content }}{% if add_generation_prompt %} ANSWER:{% endif %}",
            "writes an answer elsewhere than",
        ),
        ("{% for m in messages if m.role == 'user' %}{{ m.content }}{% endfor %}", "writes an answer elsewhere than"),
    ],
)
def test_a_template_whose_answer_cannot_follow_its_prompt_is_one_line(trained, template, line):
    """No generation prompt, so that a header would stand in each text; an answer that stands alone, or nowhere."""
    with pytest.raises(ValueError, match=line) as caught:
        poir_texts.tokenize(rows([("the fox", "mice")]), "poir", dressed(trained, template), "the/model")
    assert "\n" not in str(caught.value) and "the/model's chat template" in str(caught.value)


def test_a_response_with_a_thought_of_its_own_gets_no_empty_one(trained):
    tokenizer = dressed(trained, TEMPLATES["Qwen3"])
    answer = "<think>\nthe fox\n</think>\n\nmice"
    sides = {side: poir_texts.turn("assistant", answer) for side in ("chosen", "rejected")}
    row = {"prompt": poir_texts.turn("user", "tell me about the fox.")} | sides
    made = poir_texts.tokenize([row], "dpo_awo", tokenizer, "model")[0]
    whole = tokenizer(conversation(tokenizer, answer), add_special_tokens=False)["input_ids"]
    assert made["prompt_ids"] + made["chosen_ids"] == whole


def test_what_a_model_wrote_is_found_again_from_its_text(tokenizer):
    """Log-probabilities are of the ids that generation wrote: those of the template's opening and the text, also where
    decoding drops the opening."""
    turn = turn_of("model", tokenizer, poir_texts.turn("user", "tell me about the fox."))
    wrote = continued(tokenizer, [turn.head] * len(REWRITES), [turn.opening + text for text in REWRITES])
    given = [generate._decode(tokenizer, NET, ids, Sampling()).text for ids in wrote]
    assert written_ids(tokenizer, [turn] * len(given), given) == wrote
    said = [answered(generate._decode(tokenizer, NET, ids, Sampling())).text for ids in wrote]
    assert written_ids(tokenizer, [turn] * len(said), said) == wrote  # an empty thought is cut from what is given back
    plain = Turn(turn.head, None, "")
    assert written_ids(tokenizer, [plain], ["the fox"]) == continued(tokenizer, [turn.head], ["the fox"])


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
        continued(Joins(), ["\n"], ["the fox"])
