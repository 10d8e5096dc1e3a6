"""Accuracy, loss and calibration of margins, against numbers computed by hand."""

import math

import pytest

from nbutils.analyse import margins

LOG3 = math.log(3)  # σ(log 3) = 3/4


def test_accuracy_and_its_wilson_interval():
    """3 of 4: centre (3 + z²/2) / (4 + z²), half-width z √(4 · 3/4 · 1/4 + z²/4) / (4 + z²), z = 1.959964."""
    found = margins.accuracy([2.0, -1.0, 0.5, 0.1])
    assert found.value == 0.75 and found.num == 4
    assert (found.low, found.high) == pytest.approx((0.300642, 0.954413), abs=1e-6)


def test_a_margin_of_zero_is_not_right_and_missing_ones_are_left_out():
    assert margins.accuracy([0.0, 1.0, None, float("nan"), float("inf")])[::3] == (0.5, 2)
    alone, nothing = margins.accuracy([1.0]), margins.accuracy([None])
    assert alone.value == 1 and math.isnan(alone.low) and math.isnan(nothing.value) and nothing.num == 0


def test_log_loss_is_equation_1():
    """−(log σ(log 3) + log σ(−log 3)) / 2 = −(log 3/4 + log 1/4) / 2."""
    assert margins.log_loss([LOG3, -LOG3, None]) == pytest.approx(-(math.log(3 / 4) + math.log(1 / 4)) / 2)
    assert margins.log_loss([0.0]) == pytest.approx(math.log(2))
    assert margins.log_loss([-1e9, 1e9]) == 5e8  # no overflow
    assert math.isnan(margins.log_loss([]))


def test_calibration_error_by_hand():
    """Bin one: |m| = log 3, 4 pairs, 2 right: |1/2 − 3/4|; bin two: log 9, P = 9/10, all 4 right: |1 − 9/10|."""
    values = [LOG3, LOG3, -LOG3, -LOG3, *[2 * LOG3] * 4]
    first, second = margins.calibration_bins(values[::-1], 2)
    assert (first["predicted"], first["right"], first["num"]) == pytest.approx((0.75, 0.5, 4))
    assert (second["predicted"], second["right"]) == pytest.approx((0.9, 1.0))
    assert first["right_low"] < 0.5 < first["right_high"]
    assert margins.calibration_error(values, 2) == pytest.approx((0.25 + 0.1) / 2)
    assert math.isnan(margins.calibration_error([]))


def test_a_calibrated_model_has_no_error_and_swapped_sides_are_seen():
    values = [LOG3] * 30 + [-LOG3] * 10
    assert margins.calibration_error(values, 1) == pytest.approx(0)
    assert margins.calibration_error([-value for value in values], 1) == pytest.approx(0.5)
    assert margins.accuracy([-value for value in values]).value == 0.25


@pytest.mark.parametrize(("num", "bins"), [(1, 1), (39, 1), (40, 2), (1000, 10)])
def test_bins_hold_enough_pairs_and_do_not_depend_on_the_order(num, bins):
    values = [math.sin(i) for i in range(num)]
    found = margins.calibration_bins(values)
    assert len(found) == bins and sum(each["num"] for each in found) == num
    assert found == margins.calibration_bins(values[::-1])
