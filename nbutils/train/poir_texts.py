"""What POIR and its ablations teach, from the pairs of 01_collect: texts by target, and their token ids.

| target  | trains    | prompt          | chosen against rejected                            |
|---------|-----------|-----------------|----------------------------------------------------|
| poir    | prompter  | rewrite request | rewrite + delimiter + response, good against bad   |
| dpo_awi | prompter  | rewrite request | rewrite + delimiter, good against bad              |
| sft     | prompter  | rewrite request | the good rewrite + delimiter                       |
| dpo_awo | responder | the prompt      | response, good against bad                         |

The rewrite request is the template rewrite_answer, for all three, and generation stops at the delimiter: so they differ
in what they were taught and in nothing else, and the arm untrained_poir in that it was taught nothing. The request
alone moves the reward: in the sandbox that arm lies 0.2 below the meta-prompt's, on vague prompts. `dpo_awo` also takes
the pairs of nbutils.data.pairs.

Departure from TRL 1.16: the token ids are made here, so that training sees what inference will meet (see `tokenize`).
"""

from nbutils.data.pairs import PreferencePair
from nbutils.evaluate import arms
from nbutils.experiment.records import Pair
from nbutils.models import chat, templates
from nbutils.models.texts import spoken
from nbutils.models.turns import Turn, continued, decode, turn_of

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
    return "prompter", *arms.POIR_REQUEST


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
    return join(pair.good_rewrite), join(pair.bad_rewrite)


def join(rewrite: str, response: str = "") -> str:
    """rewrite + delimiter + response, without blanks around the two: what POIR trains on; without a response what its
    ablations do."""
    return rewrite.strip() + templates.DELIMITER + response.strip()


def turn(role: str, content: str) -> list[dict]:
    return [{"role": role, "content": content}]


# Token ids


def tokenize(rows: list[dict], target: str, tokenizer, policy: str) -> list[dict]:
    """Token ids of `examples`: prompt_ids, and per side <side>_ids and <side>_split, the tokens of its rewrite.

    prompt_ids are what `generate` feeds the model, to the last token, where TRL drops a tail that merges with the
    completion. Completions are what the chat template writes behind them: its opening of the turn (a blank for
    Mistral's kind, an empty thought for Qwen3), the text without blanks around it, its closing, but behind a delimiter
    that ends the text (see `_parts`). No token lies across the end of the prompt or of the delimiter: these have the
    same ids whatever follows. Within these bounds tokens are the tokenizer's own, so a full stop and the delimiter's
    first line end may be one token, as the model itself would write them. Raises ValueError where a text cannot be cut,
    or would not be read back as it is taught.
    """
    turns = [turn_of(policy, tokenizer, row["prompt"]) for row in rows]
    for opening in dict.fromkeys(turn.opening for turn in turns):
        _check_opening(policy, tokenizer, opening)
    heads = [turn.head for turn in turns]
    made: list[dict] = [{"prompt_ids": ids} for ids in chat.encode(tokenizer, heads)]
    for side in ("completion",) if target == "sft" else ("chosen", "rejected"):
        texts = [chat.marked(tokenizer, row[side][0]["content"]) for row in rows]
        parts = [_parts(text, each, target) for text, each in zip(texts, turns, strict=True)]
        first = continued(tokenizer, heads, [rewrite for rewrite, _ in parts])
        middles = [head + rewrite for head, (rewrite, _) in zip(heads, parts, strict=True)]
        second = continued(tokenizer, middles, [response for _, response in parts])
        for row, rewrite, response in zip(made, first, second, strict=True):
            row |= {f"{side}_ids": rewrite + response, f"{side}_split": len(rewrite)}
    return made


def _parts(text: str, around: Turn, target: str) -> tuple[str, str]:
    """(rewrite with delimiter, response) of a completion, with what the chat template writes around it.

    What ends with the delimiter has no closing: generation stops there, and nothing is said of what would follow.
    """
    opening = around.opening or ""
    if target != "dpo_awo":
        rewrite, delimiter, response = text.partition(templates.DELIMITER)
        return opening + rewrite + delimiter, response + around.closing if target == "poir" else ""
    if opening.strip() and spoken(text) != text:  # a thought of its own stands for the empty one
        opening = ""
    return "", opening + text.strip() + around.closing


def _check_opening(policy: str, tokenizer, opening: str | None) -> None:
    """ValueError where the template's answer does not follow its prompt, or opens with words of its own, which would be
    read as the text's: those of a header, where the template knows no add_generation_prompt."""
    if opening is None:
        what = "writes an answer elsewhere than behind its generation prompt"
        raise ValueError(f"{policy}'s chat template {what}: mend its chat_template.jinja")
    shown = decode(tokenizer, chat.encode(tokenizer, [opening])[0])
    if (spoken(shown) or "").strip():
        what = f"leaves {opening!r} to the model, and each text would be read with it"
        raise ValueError(f"{policy}'s chat template {what}: write that under add_generation_prompt in its template")


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
