from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from lightning_tl.data.sample_order import StepBatches, step_generator


def samples(sampler, steps):
    return [pick.sample for step in steps for pick in sampler.batch(step)]


@pytest.mark.parametrize("length,batch", [(10, 4), (7, 7), (5, 12), (64, 10), (1, 3)])
def test_each_sample_equally_often(length, batch):
    sampler = StepBatches(length, batch, seed=3)
    for steps in (1, 2, 7, 30):
        seen = Counter(samples(sampler, range(steps)))
        assert sum(seen.values()) == steps * batch
        assert max(seen.values()) - min(seen.get(i, 0) for i in range(length)) <= 1


def test_one_pass_is_a_permutation_and_passes_differ():
    sampler = StepBatches(12, 4, seed=0)
    first, second = samples(sampler, range(3)), samples(sampler, range(3, 6))
    assert sorted(first) == sorted(second) == list(range(12))
    assert first != second
    assert first != list(range(12))


def test_a_function_of_seed_and_step():
    forwards, backwards = StepBatches(20, 6, seed=1), StepBatches(20, 6, seed=1)
    there = [list(forwards.batch(step)) for step in range(9)]
    back = [list(backwards.batch(step)) for step in reversed(range(9))]
    assert there == back[::-1]
    assert all(pick.step == step for step, batch in enumerate(there) for pick in batch)
    assert there != [list(StepBatches(20, 6, seed=2).batch(step)) for step in range(9)]


@pytest.mark.parametrize(
    "total,in_epoch,expected",
    [(0, 0, range(5)), (5, 0, range(5, 10)), (7, 2, range(7, 10)), (10, 5, range(10, 15)), (9, 4, range(9, 10))],
    ids=["start", "second epoch", "interrupted", "interrupted after the last batch", "one batch left"],
)
def test_a_resumed_epoch_goes_on(total, in_epoch, expected):
    sampler = StepBatches(100, 3, seed=0, steps=5, done=lambda: (total, in_epoch))
    assert [batch.step for batch in sampler] == list(expected)
    assert list(map(list, sampler)) == [list(sampler.batch(step)) for step in expected]


def test_length():
    assert len(StepBatches(10, 4, 0)) == 3
    assert len(StepBatches(10, 4, 0, steps=50)) == 50


def test_generators_of_steps_are_their_own():
    def draw(seed, step):
        return torch.rand(4, generator=step_generator(seed, step)).numpy()

    np.testing.assert_array_equal(draw(0, 5), draw(0, 5))
    drawn = {draw(seed, step).tobytes() for seed in range(3) for step in range(4)}
    assert len(drawn) == 12
