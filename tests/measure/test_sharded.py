"""Parameters that are split over processes by ``fully_shard``: every quantity is that of one process."""

import pytest
import torch
from torch import multiprocessing

from tests.measure import sharded_worker

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def single():
    return {kind: sharded_worker.single(kind) for kind in sharded_worker.MODELS}


@pytest.fixture(scope="module", params=[2, 3])
def ranks(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    multiprocessing.spawn(sharded_worker.run, (request.param, str(folder)), nprocs=request.param)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in range(request.param)]


@pytest.mark.parametrize("kind", sharded_worker.MODELS)
def test_quantities_are_those_of_one_process(single, ranks, kind):
    for rank in ranks:
        for quantity, expected in single[kind].items():
            if quantity in ("noise", "scales"):
                continue
            slack = 1e-4 if quantity in ("trace", "weighted", "along") else 1e-5
            assert rank[kind][quantity] == pytest.approx(expected, rel=slack, abs=1e-6), quantity
        assert rank[kind]["scales"] == pytest.approx(single[kind]["scales"], rel=1e-6)


def test_mixed_precision_is_computed_in_fp32(ranks):
    """As of one process with weights rounded to bfloat16; forward passes in it would be off by about 4e-4."""
    module = sharded_worker.llama().eval()
    for parameter in module.parameters():
        parameter.data = parameter.data.bfloat16().float()
    expected = sharded_worker.mixed(module, list(sharded_worker.sequences().split(2)))
    for rank in ranks:
        assert rank["mixed"][:3] == pytest.approx(expected[:3], rel=1e-6)
        assert rank["mixed"][3] == pytest.approx(expected[3], rel=1e-3)


@pytest.mark.parametrize("kind", sharded_worker.MODELS)
def test_noise_is_the_same_to_the_bit(single, ranks, kind):
    for rank in ranks:
        assert rank[kind]["noise"].keys() == single[kind]["noise"].keys()
        for name, noise in single[kind]["noise"].items():
            assert torch.equal(rank[kind]["noise"][name], noise)


@pytest.mark.parametrize("kind", sharded_worker.MODELS)
def test_training_is_the_same_to_the_bit(ranks, kind):
    for rank in ranks:
        without, measured = rank[f"{kind} training"]
        assert without["losses"] == measured["losses"]
        for part in ("weights", "state"):
            assert all(torch.equal(a, b) for a, b in zip(without[part], measured[part], strict=True))
        assert len(measured["values"]) == 12
        assert all(abs(value) > 1e-6 for value in measured["values"])
