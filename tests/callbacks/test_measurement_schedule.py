"""At which steps a callback measures."""

from lightning_tl.callbacks import ParameterDistance
from lightning_tl.callbacks import measurement_schedule as module
from lightning_tl.callbacks.measurement_schedule import MeasurementSchedule
from tests.callbacks.modules import Classifier, images, trainer


def test_log_spaced_steps():
    schedule = MeasurementSchedule(None, 3, True, False, False, None)
    assert [s for s in range(1, 1001) if schedule.due(s)] == [1, 3, 5, 10, 22, 47, 100, 216, 465, 1000]


def test_overhead_limits_the_time_of_measuring(monkeypatch):
    """A clock of our own: each measurement takes 1 s, each step 0.1 s; at most 20 % may go to measuring."""
    now = [0.0]

    class Strategy:
        def broadcast(self, value):
            return value

    class Run:
        strategy = Strategy()

    monkeypatch.setattr(module.time, "perf_counter", lambda: now[0])
    schedule = MeasurementSchedule(1, None, True, False, False, 0.2)
    for step in range(1, 2001):
        now[0] += 0.1
        if schedule.due(step) and schedule.affordable(Run()):
            now[0] += 1.0
            schedule.took(1.0)
    assert 0.15 < schedule.spent / now[0] <= 0.2


def test_a_run_with_overhead_says_that_its_steps_depend_on_the_machine(caplog):
    with caplog.at_level("INFO"):
        trainer(max_steps=1, callbacks=[ParameterDistance(overhead=0.05)]).fit(Classifier(), images())
    assert "will not measure at the same steps" in caplog.text
