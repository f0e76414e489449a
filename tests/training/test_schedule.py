import math

import pytest

from segfocal.training.schedule import Budget, lr_factor


@pytest.mark.parametrize("schedule", ["cosine", "poly"])
def test_a_decay_rises_through_the_warm_up_and_falls_to_zero(schedule):
    factors = [lr_factor(p / 100, schedule, 0.1) for p in range(101)]
    assert factors[:11] == pytest.approx([0.1 + 0.09 * p for p in range(11)])  # a straight line
    assert factors[10:] == sorted(factors[10:], reverse=True)
    assert factors[10] == 1.0
    assert factors[100] == pytest.approx(0.0, abs=1e-12)


def test_poly_has_power_nine_tenths_and_cosine_is_half_way_at_half_time():
    assert lr_factor(0.75, "poly", 0.0) == pytest.approx(0.25**0.9)
    assert lr_factor(0.5, "cosine", 0.0) == pytest.approx(0.5)
    assert lr_factor(0.99, "constant", 0.0) == 1.0
    assert lr_factor(0.0, "cosine", 0.0) == 1.0


def test_without_a_time_limit_progress_is_the_share_of_steps():
    budget = Budget(200, None, started_s=0.0, loop_started_s=5.0)
    assert budget.progress(50, now_s=1e9) == 0.25
    assert budget.progress(250, now_s=1e9) == 1.0
    assert budget.remaining_s(1e9) == math.inf


def test_with_a_time_limit_whichever_is_further_counts():
    budget = Budget(100, 110.0, started_s=0.0, loop_started_s=10.0, reserve_s=20.0)
    assert budget.progress(0, now_s=10.0) == 0.0
    assert budget.progress(0, now_s=50.0) == pytest.approx(0.5)
    assert budget.progress(75, now_s=50.0) == 0.75
    assert budget.progress(0, now_s=90.0) == 1.0
    assert budget.remaining_s(100.0) == 10.0


def test_a_budget_smaller_than_its_reserve_ends_at_once():
    for limit_s in (5.0, 12.0):  # the end lies before the first step, and on it
        assert Budget(100, limit_s, 0.0, 4.0, reserve_s=8.0).progress(0, 4.0) == 1.0
