"""log π(y | x) of whole texts under a local model, in nats: for KL divergences and total variations of real models.

The policy is the one that `generate` samples from: temperature, top-k and top-p are part of it, so that a text outside
the nucleus has log-probability −∞. A text may begin with the thought that its model wrote first. It is read as the
tokens that it has behind its prompt, with the opening of its chat template (turns.py) where decoding drops that: the
sampled ones, unless the model split a word in an unusual way or left the template's opening out.
"""

import math

from nbutils.models import chat, loading, references
from nbutils.models.devices import Runtime
from nbutils.models.generate import cut_batches, run_batches
from nbutils.models.sampling import filter_scores
from nbutils.models.texts import Sampling, messages_of, spoken, unopened
from nbutils.models.turns import Turn, continued, decode, turn_of


def log_probabilities(
    model: str,
    prompts: list,
    texts: list[str],
    finished: list[bool],
    sampling: Sampling,
    runtime: Runtime = Runtime(),
) -> list[float]:
    """log π(text | prompt), nats per whole text, one per row, in order.

    prompts: strings or lists of messages; finished: whether the model ended the text itself, so that the end counts
    too. ValueError for an API or a Python function, which tell no probabilities, and for temperature 0;
    FloatingPointError where the model computes no numbers.
    """
    if references.kind(model) in ("api", "callable"):
        raise ValueError(f"{model}: log-probabilities need a model of one's own, not an API or a function")
    if sampling.temperature <= 0:
        raise ValueError("temperature 0: a greedy choice has no log-probabilities; wanted a temperature above 0")
    net, tokenizer = loading.load_causal(model, runtime)
    turns = [turn_of(model, tokenizer, messages_of(prompt)) for prompt in prompts]
    heads = chat.encode(tokenizer, [turn.head for turn in turns])
    rows = list(zip(heads, written_ids(tokenizer, turns, texts), finished, strict=True))
    unique = {(tuple(prompt), tuple(text), bool(end)): None for prompt, text, end in rows}
    order = sorted(unique, key=lambda row: (-len(row[0]) - len(row[1]), row))
    batches = cut_batches(order, [len(row[0]) + len(row[1]) for row in order], runtime)
    found: dict[tuple, float] = {}
    for batch, values in run_batches(batches, lambda batch: _forward(net, tokenizer, batch, sampling)):
        if any(map(math.isnan, values)):
            raise FloatingPointError(f"{model}: its log-probabilities are not numbers (NaN); try dtype float32")
        found.update(zip(batch, values, strict=True))
    return [found[tuple(prompt), tuple(text), bool(end)] for prompt, text, end in rows]


def knows_probabilities(model: str) -> bool:
    """Whether log_probabilities takes this model reference."""
    return references.kind(model) not in ("api", "callable")


def written_ids(tokenizer, turns: list[Turn], texts: list[str]) -> list[list[int]]:
    """The ids that a model wrote in each turn, of which generation gave back text: with the template's opening where
    that leaves no trace in the text (a blank that a SentencePiece decoder strips), else the text's alone."""
    heads, openings = [turn.head for turn in turns], [turn.opening or "" for turn in turns]
    marked = [chat.marked(tokenizer, unopened(turn.head, text)) for turn, text in zip(turns, texts, strict=True)]
    plain = continued(tokenizer, heads, marked)
    if not any(openings):
        return plain
    opened = continued(tokenizer, heads, [opening + text for opening, text in zip(openings, marked, strict=True)])
    rows = zip(opened, plain, texts, strict=True)
    return [both if spoken(decode(tokenizer, both)) == text else own for both, own, text in rows]


def _forward(net, tokenizer, rows: list[tuple], sampling: Sampling) -> list[float]:
    """Rows are padded on the right, where no position depends on it: some models count padding in front as text."""
    import torch

    inputs = tokenizer.pad(
        {"input_ids": [[*row[0], *row[1]] for row in rows]}, padding_side="right", return_tensors="pt"
    )
    inputs = inputs.to(net.device)
    width = inputs["input_ids"].shape[1]
    wanted = {"logits_to_keep": width - min(len(row[0]) for row in rows) + 1}  # from the first text's first token on
    with torch.inference_mode():
        logits = net(input_ids=inputs["input_ids"], attention_mask=inputs["attention_mask"], **wanted).logits
    left_out = width - logits.shape[1]  # columns; a model that takes no such wish makes all
    found = []
    for row, made in zip(rows, logits, strict=True):
        first = len(row[0]) - 1 - left_out
        found.append(_sum(made[first : first + len(row[1]) + 1], row[1], row[2], _ends(net), sampling))
    return found


def _ends(net) -> list[int]:
    ends = net.generation_config.eos_token_id
    return [ends] if isinstance(ends, int) else list(ends or ())


def _sum(logits, text: tuple, finished: bool, ends: list[int], sampling: Sampling) -> float:
    """Σ_t log π(token_t), and log π(end) where finished; logits: (len(text) + 1, V)."""
    import torch

    scores = filter_scores(logits.float() / sampling.temperature, sampling)
    logps = torch.log_softmax(scores, dim=-1)  # (len(text) + 1, V)
    total = logps[:-1].gather(1, torch.tensor(text, device=logps.device, dtype=torch.int64)[:, None]).double().sum()
    if finished:
        total = total + torch.logsumexp(logps[-1, ends].double(), dim=0)
    return total.item()
