"""POIR's preference pairs: good against bad rounds of one prompt, with all that they came from (section 3.1)."""

from dataclasses import asdict

from nbutils.collect.invent import Invention
from nbutils.experiment.records import Pair, Prompt, Round


def make_pairs(rounds: list[Round], good_score: int, pairs_per_prompt: str = "all") -> list[Pair]:
    """Good (score ≥ good_score) × bad (below) rounds of the same prompt (POIR section 3.1), best against worst first.

    pairs_per_prompt: all | one. Never a pair across prompts, never equal rewrite and response on both sides.
    """
    by_prompt: dict[str, list[Round]] = {}
    for each in rounds:
        by_prompt.setdefault(each.prompt_id, []).append(each)
    pairs = []
    for group in by_prompt.values():
        scored = [(each.score, each) for each in group if each.score is not None]
        good = sorted((pair for pair in scored if pair[0] >= good_score), key=lambda pair: -pair[0])
        bad = sorted((pair for pair in scored if pair[0] < good_score), key=lambda pair: pair[0])
        made = [_pair(g, b) for _, g in good for _, b in bad if (g.rewrite, g.response) != (b.rewrite, b.response)]
        pairs += made[:1] if pairs_per_prompt == "one" else made
    return pairs


def _pair(good: Round, bad: Round) -> Pair:
    return Pair(
        good.prompt_id,
        good.prompt,
        good.rewrite,
        good.response,
        bad.rewrite,
        bad.response,
        good.score,
        bad.score,
        good.round,
        bad.round,
    )


def lineage(row: Prompt, rounds: list[Round], pairs: list[Pair]) -> str:
    """Where a prompt and its pairs come from, to read: shots, nearest prompts, every round, the pairs made of them."""
    source = row.source or {}
    lines = [f"Prompt: {row.prompt}", *(f"  shown: {shot}" for shot in source.get("shots", []))]
    lines += [f"  nearest: {text} (ROUGE-L {score:.2f})" for text, score in source.get("nearest", [])]
    for each in (each for each in rounds if each.prompt_id == row.prompt_id):
        score = f"score {each.score}" if each.score is not None else f"unscored ({each.reason})"
        lines += [f"Round {each.round}, {score}: {each.rewrite}", f"  response: {each.response}"]
        lines += [f"  critique: {each.critique}"] if each.critique else []
    made = [f"round {pair.good_round} over round {pair.bad_round}" for pair in pairs if pair.prompt_id == row.prompt_id]
    return "\n".join([*lines, f"Pairs: {', '.join(made) or 'none'}"])


def export_rows(pairs: list[Pair], prompts: list[Prompt], rounds: list[Round]) -> list[dict]:
    """Pairs with their lineage, as plain rows: every Pair field, source (shots, nearest), critiques by round."""
    sources = {row.prompt_id: row.source for row in prompts}
    critiques: dict[str, dict[str, str | None]] = {}
    for each in rounds:
        critiques.setdefault(each.prompt_id, {})[str(each.round)] = each.critique
    return [
        asdict(pair) | {"source": sources.get(pair.prompt_id), "critiques": critiques.get(pair.prompt_id, {})}
        for pair in pairs
    ]


def count(made: Invention, prompts: list[Prompt], rounds: list[Round], pairs: list[Pair]) -> dict[str, dict[str, int]]:
    """What became of everything: `funnel`, stage by stage; `refused`, by reason; `rounds`, by outcome."""
    asked = sum(made.counts.values())
    funnel = {
        "instructions asked for": asked,
        "readable": asked - made.counts["unparsed"] - made.counts["no answer"],
        "accepted by every filter": made.counts["accepted"],
        "not close to a test prompt": len(prompts),
        "scored": len({each.prompt_id for each in rounds if each.score is not None}),
        "with a good and a bad response": len({each.prompt_id for each in pairs}),
    }
    refused = {name: number for name, number in sorted(made.counts.items()) if name != "accepted" and number}
    outcomes = {"rounds": len(rounds), "unscored": sum(each.score is None for each in rounds), "pairs": len(pairs)}
    return {"funnel": funnel, "refused": refused, "outcomes": outcomes}
