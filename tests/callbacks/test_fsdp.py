"""Lightning's ModelParallelStrategy with ``fully_shard`` (FSDP2): two processes on gloo."""

import pytest
import torch
from lightning.pytorch import Trainer
from ports import free_port
from torch import multiprocessing

from lightning_tl.callbacks import ParameterDistance
from lightning_tl.errors import UserError
from lightning_tl.measure import Objective, distance, noise_scales, perturbation_sensitivity
from tests.callbacks import fsdp_worker
from tests.callbacks.fsdp_worker import Language, sequences
from tests.callbacks.modules import Classifier


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("fsdp")
    multiprocessing.spawn(fsdp_worker.run, (2, free_port(), str(folder)), nprocs=2)
    return [torch.load(folder / f"rank{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.slow
def test_training_is_the_same_with_and_without(ranks):
    for rank in ranks:
        for left, right in zip(rank["without"]["weights"], rank["with"]["weights"], strict=True):
            assert torch.equal(left, right)
        assert rank["without"]["loss"] == rank["with"]["loss"]


@pytest.mark.slow
def test_values_are_equal_on_all_ranks_and_those_of_one_process(ranks):
    assert ranks[0]["with"]["history"] == ranks[1]["with"]["history"]
    module = Language()
    batches = [(sequences()[[0, 2]],), (sequences()[[1, 3]],)]  # the first of each process
    objective = Objective(module, lambda m, b: Language.training_step(m, b, 0), batches, substitute=True)
    scales = noise_scales(module, objective.params, "relative")
    level = perturbation_sensitivity(objective, scales, [0.1], draws=2)[0]
    start = [r for r in ranks[0]["with"]["history"][2] if r["step"] == 0 and r["quantity"] == "sensitivity"]
    assert start[0]["value"] == pytest.approx(level.sensitivity, rel=1e-4)
    end = [torch.cat(parts) for parts in zip(*(rank["with"]["weights"] for rank in ranks), strict=True)]
    moved = distance(
        dict(zip(objective.params, end, strict=True)), {n: p.detach() for n, p in objective.params.items()}
    )
    last = [r for r in ranks[0]["with"]["history"][0] if r["step"] == 3 and r["group"] == "total"]
    assert last[0]["value"] == pytest.approx(moved.total, rel=1e-5)


@pytest.mark.slow
def test_a_resumed_run_keeps_its_reference(ranks):
    for rank in ranks:
        assert rank["resumed"]["history"][0] == rank["with"]["history"][0]


def test_strategies_that_hide_parameters_are_refused(monkeypatch):
    from lightning.pytorch.strategies import FSDPStrategy

    callback, trainer = ParameterDistance(), Trainer(accelerator="cpu", logger=False, enable_checkpointing=False)
    monkeypatch.setattr(trainer.strategy, "__class__", FSDPStrategy)
    with pytest.raises(UserError, match="cannot run under FSDPStrategy, which hides the parameters"):
        callback.setup(trainer, Classifier(), "fit")
