"""What POIR and its ablations teach, from the pairs of 01_collect: texts by target, and their token ids.

| target  | trains    | prompt          | chosen against rejected                            |
|---------|-----------|-----------------|----------------------------------------------------|
| poir    | prompter  | rewrite request | rewrite + delimiter + response, good against bad   |
| dpo_awi | prompter  | rewrite request | rewrite alone, good against bad                    |
| sft     | prompter  | rewrite request | the good rewrite alone                             |
| dpo_awo | responder | the prompt      | response, good against bad                         |

`poir` asks with the template rewrite_answer, which announces the response; the others, which never write one, ask
with meta_prompt. At inference generation stops at the delimiter. `dpo_awo` also takes the pairs of nbutils.pairs.

Departure from TRL 1.16: the token ids are made here, so that training sees what inference will meet (see `tokenize`).
"""

from nbutils.data.pairs import PreferencePair
from nbutils.experiment.records import Pair
from nbutils.models import chat, templates
from nbutils.models.generate import render

TARGETS = ("poir", "dpo_awi", "sft", "dpo_awo")


def without_delimiter(pairs: list, target: str) -> tuple[list, list]:
    """(pairs to train on, those left out): a text that holds the delimiter would teach, or be cut, at a wrong place."""
    held = [any(templates.cut_at_delimiter(text)[1] for text in _texts(pair, target)) for pair in pairs]
    split = [[pair for pair, has in zip(pairs, held, strict=True) if has == wanted] for wanted in (False, True)]
    return split[0], split[1]


def _texts(pair: Pair | PreferencePair, target: str) -> tuple[str, ...]:
    """What the policy reads and writes, where the delimiter means something to it."""
    if target == "dpo_awo" or isinstance(pair, PreferencePair):
        return ()
    responses = (pair.good_response, pair.bad_response) if target == "poir" else ()
    return pair.prompt, pair.good_rewrite, pair.bad_rewrite, *responses


def use(target: str) -> tuple[str, str | None, str | None]:
    """(policy, template, stop) of an arm trained for target."""
    if target == "dpo_awo":
        return "responder", None, None
    return "prompter", "rewrite_answer" if target == "poir" else "meta_prompt", templates.DELIMITER


def examples(pairs: list[Pair] | list[PreferencePair], target: str, template_folder: str) -> list[dict]:
    """TRL's conversational rows: {prompt, chosen, rejected}, for sft {prompt, completion}."""
    _, name, _ = use(target)
    template = templates.load(name, template_folder) if name else None
    rows = []
    for pair in pairs:
        prompt = templates.messages(template, prompt=pair.prompt) if template else turn("user", pair.prompt)
        good, bad = _completions(pair, target)
        sides = (
            {"completion": turn("assistant", good)}
            if target == "sft"
            else {"chosen": turn("assistant", good), "rejected": turn("assistant", bad)}
        )
        rows.append({"prompt": prompt, **sides})
    return rows


def _completions(pair: Pair | PreferencePair, target: str) -> tuple[str, str]:
    """(good, bad) text that the policy should and should not write."""
    if isinstance(pair, PreferencePair):
        return pair.chosen, pair.rejected
    if target == "dpo_awo":
        return pair.good_response, pair.bad_response
    if target == "poir":
        return join(pair.good_rewrite, pair.good_response), join(pair.bad_rewrite, pair.bad_response)
    return pair.good_rewrite, pair.bad_rewrite


def join(rewrite: str, response: str) -> str:
    """rewrite + delimiter + response, without blanks around the two: what POIR trains on."""
    return rewrite.strip() + templates.DELIMITER + response.strip()


def turn(role: str, content: str) -> list[dict]:
    return [{"role": role, "content": content}]


# Token ids


def tokenize(rows: list[dict], target: str, tokenizer, policy: str) -> list[dict]:
    """Token ids of `examples`: prompt_ids, and per side <side>_ids and <side>_split, the tokens of its rewrite.

    prompt_ids are what `generate` feeds the model, to the last token, where TRL drops a tail that merges with the
    completion. No token lies across the end of the prompt or of the delimiter: these have the same ids whatever
    follows. Within these bounds tokens are the tokenizer's own, so a full stop and the delimiter's first line end may
    be one token, as the model itself would write them. Raises ValueError where a text cannot be cut.
    """
    heads = [render(policy, tokenizer, row["prompt"]) for row in rows]
    closings = [closing_of(tokenizer, row["prompt"]) for row in rows]
    made: list[dict] = [{"prompt_ids": ids} for ids in _encode(tokenizer, heads)]
    for side in ("completion",) if target == "sft" else ("chosen", "rejected"):
        texts = [chat.marked(tokenizer, row[side][0]["content"]) for row in rows]
        parts = [_parts(text, end, target) for text, end in zip(texts, closings, strict=True)]
        first = continued(tokenizer, heads, [rewrite for rewrite, _ in parts])
        middles = [head + rewrite for head, (rewrite, _) in zip(heads, parts, strict=True)]
        second = continued(tokenizer, middles, [response for _, response in parts])
        for row, rewrite, response in zip(made, first, second, strict=True):
            row |= {f"{side}_ids": rewrite + response, f"{side}_split": len(rewrite)}
    return made


def _parts(text: str, closing: str, target: str) -> tuple[str, str]:
    """(rewrite with delimiter, response) of a completion and what the chat template writes after it."""
    if target == "poir":
        rewrite, delimiter, response = text.partition(templates.DELIMITER)
        return rewrite + delimiter, response + closing
    return ("", text + closing) if target == "dpo_awo" else (text + closing, "")


def closing_of(tokenizer, prompt: list[dict]) -> str:
    """What the chat template writes after an answer: the end of the turn."""
    if prompt[0]["role"] == "raw":
        return tokenizer.eos_token or ""
    answer = "an answer"
    whole = chat.write(tokenizer.name_or_path, tokenizer, prompt + turn("assistant", answer), answered=True)
    return whole.rpartition(answer)[2]


def continued(tokenizer, befores: list[str], texts: list[str]) -> list[list[int]]:
    """Ids of each text where it follows its `before`, no token across the boundary.

    Where the tokenizer joins the two, the text gets the ids that it has after another character. Encoded alone, a
    SentencePiece tokenizer would put a blank in front of it.
    """
    heads = _encode(tokenizer, befores)
    wholes = _encode(tokenizer, [before + text for before, text in zip(befores, texts, strict=True)])
    rows = zip(heads, wholes, texts, strict=True)
    return [whole[len(head) :] if whole[: len(head)] == head else _apart(tokenizer, text) for head, whole, text in rows]


def _apart(tokenizer, text: str) -> list[int]:
    for anchor in ("\n", ":", "0", "a"):
        head, whole = _encode(tokenizer, [anchor, anchor + text])
        if whole[: len(head)] == head:
            return whole[len(head) :]
    raise ValueError(f"tokenizer joins {text[:20]!r} to whatever stands before it: POIR's delimiter needs another one")


def _encode(tokenizer, texts: list[str]) -> list[list[int]]:
    return chat.encode(tokenizer, texts)


def fitting(rows: list[dict], max_tokens: int) -> tuple[list[dict], dict[str, int]]:
    """(rows whose prompt leaves room for a completion; how many are cut at max_tokens, and how many have no room)."""
    kept = [row for row in rows if len(row["prompt_ids"]) < max_tokens]
    if not kept:
        shortest = min(len(row["prompt_ids"]) for row in rows)
        raise ValueError(f"max_tokens {max_tokens}: the shortest prompt alone has {shortest} tokens; wanted more")
    cut = sum(_num_tokens(row) > max_tokens for row in kept)
    return kept, {"cut at max_tokens": cut, "left out: prompt of max_tokens": len(rows) - len(kept)}


def tokens_seen(rows: list[dict], max_tokens: int, num_epochs: float) -> int:
    """Tokens of all epochs, prompts and completions, for DPO on both sides, each text up to max_tokens; exact for whole
    epochs."""
    sides = ("completion_ids", "chosen_ids", "rejected_ids")
    lengths = [len(row["prompt_ids"]) + len(row[side]) for row in rows for side in sides if side in row]
    return round(num_epochs * sum(min(length, max_tokens) for length in lengths))


def _num_tokens(row: dict) -> int:
    """Tokens of the prompt and the longer completion."""
    completions = [len(row[name]) for name in ("completion_ids", "chosen_ids", "rejected_ids") if name in row]
    return len(row["prompt_ids"]) + max(completions)
