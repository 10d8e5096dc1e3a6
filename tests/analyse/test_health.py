"""The health card: rates by hand, limits that fail the right judges, nothing said where nothing was compared."""

import math
from dataclasses import asdict

import pandas as pd
import pytest
from trial import TEMPLATE, answers, controlled

from nbutils.analyse import health
from nbutils.evaluate.judging import Panel, judge_arms
from nbutils.experiment.records import Control, Verdict
from nbutils.models.texts import Sampling


def verdict(number, first, word, control="", arm="poir", reason=None):
    row = Verdict(f"id{number}", "set", arm, "nan", 0, first, word, reason, "raw")
    return Control(**asdict(row), control=control) if control else row


def card_of(judge):
    verdicts = judge_arms(answers(30), "nan", Panel((judge,), TEMPLATE, Sampling(0.0)))
    return health.card(answers(30), verdicts, controlled(judge, 20, 10, rows=answers(30)), "main").set_index("check")


def test_rates_by_hand():
    verdicts = [
        *(verdict(0, "poir", "win"), verdict(0, "nan", "win")),  # decided, not flipped; first chosen once
        *(verdict(1, "poir", "win"), verdict(1, "nan", "lose")),  # flipped; first chosen twice
        *(verdict(2, "poir", "tie"), verdict(2, "nan", "tie")),
        *(verdict(3, "poir", "unscored", reason="garbage"), verdict(3, "nan", "tie")),
        *(verdict(4, arm, "unscored", reason="no response from poir") for arm in ("poir", "nan")),
    ]
    controls = [
        *(verdict(0, "same", "tie", "same", "same"), verdict(0, "nan", "win", "same", "same")),
        *(verdict(0, "constant", "win", "constant", "constant"), verdict(0, "nan", "win", "constant", "constant")),
        *(verdict(1, "constant", "win", "constant", "constant"), verdict(1, "nan", "lose", "constant", "constant")),
        *(verdict(0, "poir", "win", "again"), verdict(0, "nan", "lose", "again"), verdict(3, "poir", "tie", "again")),
    ]
    made = health.card([], verdicts, controls).set_index("check")
    wanted = {
        "verdicts that could not be read": (1, 8),
        "verdict changes with the order": (1, 3),
        "first response chosen": (3, 4),
        "identical responses called different": (1, 2),
        "constant response preferred": (1, 2),
        "padded response preferred": (0, 0),
        "same verdict when asked again": (1, 2),
        "longer response chosen": (0, 0),
    }
    assert dict(made.num) == {check: num for check, (_, num) in wanted.items()}
    for check, (hits, num) in wanted.items():
        assert made.value[check] == pytest.approx(hits / num) if num else math.isnan(made.value[check])
    assert made.sound["padded response preferred"] is None and made.sound["constant response preferred"] is False


@pytest.mark.parametrize(
    "judge, fails",
    [
        ("sandbox/judge", set()),
        (
            "fakes:always_first",
            {"verdict changes with the order", "first response chosen", "identical responses called different"},
        ),
        ("fakes:longer", {"constant response preferred", "padded response preferred"}),
        ("fakes:mute", {"verdicts that could not be read"}),
    ],
)
def test_each_bad_judge_fails_its_own_checks(judge, fails):
    card = card_of(judge)
    assert set(card.index[card.sound.map(lambda sound: sound is False)]) == fails
    said = health.banner(card.reset_index())
    assert bool(said) == bool(fails) and all(check in said for check in fails)


def test_a_card_without_anything_is_no_verdict():
    made = health.card([], [], [])
    assert made.num.sum() == 0 and made.sound.isna().all() and health.banner(made) == ""


def test_a_card_survives_a_csv(tmp_path):
    card = card_of("fakes:longer").reset_index()
    card.to_csv(tmp_path / "card.csv", index=False)
    assert health.failed(pd.read_csv(tmp_path / "card.csv").replace({float("nan"): None})) == health.failed(card)
