"""Cost of one more prompt in the novelty filter's pool, beside a loop of the package rouge-score over the pool.

NoveltyFilter.accept finds the nearest neighbour and, where it is far enough, adds the prompt; the peer's loop scores
the prompt against every prompt of the pool. The pool is made of the public prompts in shared/data beside the
repository: a text follows one prompt and, at a word in four, goes on from the same word in another prompt. So words,
word frequencies and lengths are those of real prompts, and near copies occur.

The peer's loop is measured on a sample of pairs, drawn at random from the same prompts and pool, and scaled to the
pool's size: it is a plain loop, its cost is the number of pairs. The two sides take turns. CPU time of one process
(time.process_time), not wall time, because other work may run beside it. A sample of the neighbours is checked
against a comparison with the whole pool. Run it by hand, from the repository's root:

    OMP_NUM_THREADS=1 .venv/bin/python tests/bench/novelty.py
"""

import argparse
import json
import random
import statistics
import sys
import time
import tracemalloc
from pathlib import Path

from rouge_score.rouge_scorer import RougeScorer

from nbutils.data import novelty

ROOT = Path(__file__).resolve().parents[2]
POOLS = (1_000, 10_000, 50_000)
THRESHOLD = 0.7
ROUNDS = 10  # turns of each side
MOST_WORDS = 200  # a mixture may otherwise wander on
JUMP = 0.25  # chance to go on in another prompt, at a word


def load_prompts(folder: Path) -> list[str]:
    """The prompts of the four public sets, each once."""

    def lines(name):
        return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]

    def rows(name):
        return json.loads((folder / name).read_text(encoding="utf-8"))

    made = [row["instruction"] for row in lines("seed_tasks.jsonl")] + [
        row["text"] for row in lines("vicuna_eval.jsonl")
    ]
    made += ["\n".join(filter(None, (row["instruction"], row["context"]))) for row in rows("dolly_eval.json")]
    made += [row[key] for row in rows("bpo_test.json") for key in ("prompt", "optimized_prompt")]
    return list(dict.fromkeys(made))


def mix(prompts: list[str], rng: random.Random, num_texts: int) -> list[str]:
    """num_texts different mixtures of the prompts, in random order."""
    texts, made = [prompt.split() for prompt in prompts], {}
    places: dict[str, list[tuple[int, int]]] = {}
    for number, words in enumerate(texts):
        for position, word in enumerate(words):
            places.setdefault(word.lower(), []).append((number, position))
    while len(made) < num_texts:
        number, position, words = rng.randrange(len(texts)), 0, []
        while position < len(texts[number]) and len(words) < MOST_WORDS:
            words.append(texts[number][position])
            if rng.random() < JUMP:
                number, position = rng.choice(places[words[-1].lower()])
            position += 1
        made[" ".join(words)] = None
    return list(made)


def seconds(work) -> float:
    start = time.process_time()
    work()
    return time.process_time() - start


def measure(pool: list[str], prompts: list[str], num_pairs: int, rng: random.Random) -> dict:
    """Seconds per prompt of both sides (medians over the turns), what was accepted, the filter's megabytes."""
    tracemalloc.start()
    growing = novelty.NoveltyFilter(THRESHOLD, pool)
    megabytes = tracemalloc.get_traced_memory()[0] / 1e6
    tracemalloc.stop()
    scorer, ours, peer, found = RougeScorer(["rougeL"], use_stemmer=False), [], [], []
    for turn in range(ROUNDS):
        batch = prompts[turn::ROUNDS]
        pairs = [(rng.choice(prompts), rng.choice(pool)) for _ in range(num_pairs // ROUNDS)]
        ours.append(seconds(lambda: found.extend([growing.accept(prompt) for prompt in batch])) / len(batch))  # noqa: B023
        peer.append(seconds(lambda: [scorer.score(*pair) for pair in pairs]) / len(pairs) * len(pool))  # noqa: B023
    for prompt in rng.sample(prompts, 20):
        scores = novelty.rouge_l_matrix([prompt], growing.prompts)[0]
        best = [(growing.prompts[number], float(scores[number])) for number in (-scores).argsort(kind="stable")[:5]]
        if growing.nearest(prompt, 5) != [each for each in best if each[1] > 0]:
            sys.exit(f"wrong neighbours for {prompt!r}")
    return {
        "ours": statistics.median(ours),
        "peer": statistics.median(peer),
        "accepted": sum(is_new for is_new, _ in found) / len(found),
        "megabytes": megabytes,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=ROOT.parent / "shared" / "data")
    parser.add_argument("--prompts", type=int, default=500, help="prompts offered to each pool")
    parser.add_argument("--pairs", type=int, default=2000, help="pairs that the peer's loop is measured on")
    args = parser.parse_args()
    if not args.data.is_dir():
        sys.exit(f"{args.data} not found: give the folder of the public prompt sets with --data")
    rng = random.Random(0)
    texts = mix(load_prompts(args.data), rng, max(POOLS) + args.prompts)
    prompts = texts[max(POOLS) :]
    print("pool: peer's loop / filter, CPU time per prompt of both, accepted, memory of the filter")
    for size in POOLS:
        row = measure(texts[:size], prompts, args.pairs, rng)
        print(
            f"{size:,}: {row['peer'] / row['ours']:,.0f} times, {1000 * row['ours']:.2f} ms against "
            f"{row['peer']:.2f} s, {row['accepted']:.0%} accepted, {row['megabytes']:.0f} MB",
            flush=True,
        )


if __name__ == "__main__":
    main()
