"""At which steps a run is measured, and what that costs."""

import pytest

from lightning_tl.measure import measurement_schedule as module
from lightning_tl.measure.measurement_schedule import Cost, Schedule


def test_log_spaced_steps():
    schedule = Schedule(None, 3)
    assert [s for s in range(1, 1001) if schedule.due(s)] == [1, 3, 5, 10, 22, 47, 100, 216, 465, 1000]


@pytest.fixture
def clock(monkeypatch):
    now = [0.0]
    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    return now


def test_overhead_limits_the_time_of_measuring(clock):
    """A clock of our own: each measurement takes 1 s, each step 0.1 s; at most 20 % may go to measuring."""
    schedule = Schedule(1, overhead=0.2)
    for step in range(1, 2001):
        clock[0] += 0.1
        if schedule.due(step) and schedule.affordable():
            clock[0] += 1.0
            schedule.took(1.0)
    assert 0.15 < schedule.spent / clock[0] <= 0.2


def test_the_cost_is_in_steps_without_the_measurements(clock):
    """Steps of 0.1 s; after every second one, two measurements of 0.7 s, one of them of another callback."""
    cost, other = Cost(), Cost()
    assert cost.in_steps() is None
    for step in range(20):
        clock[0] += 0.1
        cost.step()
        if step % 2:
            for each in (cost, other):
                clock[0] += 0.7
                each.took(0.7)
    assert cost.in_steps() == pytest.approx(7)
