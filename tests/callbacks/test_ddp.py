"""Two processes on gloo: the global quantity, equal on all ranks, and training as it was."""

import json
import os

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import ModelCheckpoint
from ports import free_port
from torch.utils.data import DataLoader, TensorDataset

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity
from lightning_tl.measure import Objective, hessian_trace, noise_scales, perturbation_sensitivity
from lightning_tl.measured_value import Measured, logged
from tests.callbacks.modules import Classifier, trainer
from tests.measured_values import only


class Quiet(Classifier):
    """No noise of its own, so that the two ranks' losses are those of their halves of the data."""

    def training_step(self, batch, batch_idx):
        return F.cross_entropy(self.head(self.backbone(batch[0])), batch[1])


class Note(Callback):
    """Write what each rank saw."""

    def on_train_end(self, trainer, pl_module):
        note = {
            "rank": trainer.global_rank,
            "histories": [[r.row() for r in c.history] for c in trainer.callbacks if hasattr(c, "history")],
            "weights": [float(p.detach().double().sum()) for p in pl_module.parameters()],
        }
        with open(f"rank{trainer.global_rank}.json", "w") as file:
            json.dump(note, file)


def data():
    generator = torch.Generator().manual_seed(1)
    y = torch.randint(0, 3, (32,), generator=generator)
    return torch.randn(32, 1, 8, 8, generator=generator) + y[:, None, None, None], y


def callbacks():
    return [
        ParameterDistance(every_n_steps=2),
        HessianTrace(every_n_steps=2, method="matvec", products=24),
        HessianTrace(every_n_steps=2, prefix="known/"),
        PerturbationSensitivity([0.1], draws=3, every_n_steps=2),
        HessianTrace(every_n_steps=2, method="matvec", products=4, loss_fn=fails_on_one, prefix="failing/"),
    ]


def fails_on_one(module, batch):
    """Only the second process fails, in the middle of its second measurement, while the first waits for its number."""
    if module.global_rank == 1 and module.trainer.global_step == 2:
        raise RuntimeError("only here")
    return Quiet.training_step(module, batch, 0)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Fit Quiet in two spawned processes, with and without the callbacks."""
    fits, here = {}, os.getcwd()
    for kind, extra in (("with", callbacks()), ("without", [])):
        folder = tmp_path_factory.mktemp(kind)
        os.chdir(folder)
        os.environ["MASTER_PORT"] = str(free_port())
        try:
            torch.manual_seed(0)
            module = Quiet()
            x, y = data()
            run = trainer(
                max_steps=4,
                devices=2,
                strategy="ddp_spawn",
                callbacks=[
                    *extra,
                    Note(),
                    ModelCheckpoint(folder, every_n_train_steps=2, save_top_k=-1, filename="{step}"),
                ],
                enable_checkpointing=True,
                use_distributed_sampler=True,
            )
            start = {n: t.clone() for n, t in module.state_dict().items()}
            run.fit(module, DataLoader(TensorDataset(x, y), batch_size=4))
        finally:
            os.chdir(here)
            del os.environ["MASTER_PORT"]
        ranks = [json.loads((folder / f"rank{r}.json").read_text()) for r in (0, 1)]
        fits[kind] = {"folder": folder, "start": start, "ranks": ranks}
    return fits


def histories(rank):
    return [[Measured(**row) for row in rows] for rows in rank["histories"]]


def test_training_is_the_same_with_and_without(runs):
    assert runs["with"]["ranks"][0]["weights"] == runs["without"]["ranks"][0]["weights"]


def test_all_ranks_log_equal_values(runs):
    first, second = (histories(rank)[:4] for rank in runs["with"]["ranks"])
    assert [list(dict.fromkeys(record.step for record in history)) for history in first] == [[0, 2, 4]] * 4
    for left, right in zip(first, second, strict=True):
        assert [(r.step, r.key) for r in left] == [(r.step, r.key) for r in right]
        for step in (0, 2, 4):
            own, other = (logged(r for r in history if r.step == step) for history in (left, right))
            assert own == pytest.approx(other, rel=1e-12)


def test_a_failure_of_one_process_is_one_of_all_and_does_not_end_the_run(runs):
    for rank in runs["with"]["ranks"]:
        assert list(dict.fromkeys(record.step for record in histories(rank)[4])) == [0, 4]


def probes(runs):
    paths = sorted(runs["with"]["folder"].glob("*.ckpt"))
    state = torch.load(paths[0], weights_only=True)["callbacks"]
    (key,) = [k for k in state if "Sensitivity" in k]
    return state[key]["probe"]["batches"]


def test_values_are_those_of_the_whole_batch(runs):
    """The two ranks' first batches together, measured in this one process."""
    module = Quiet()
    module.load_state_dict(runs["with"]["start"])
    both = [rank[0] for rank in probes(runs)]
    objective = Objective(module, lambda m, b: Quiet.training_step(m, b, 0), both)
    _, matvec, known, noisy, _ = histories(runs["with"]["ranks"][0])
    trace = only(known, 0, "known/hessian", "trace")
    assert trace.value == pytest.approx(hessian_trace(objective).value, rel=1e-4)
    assert trace.stderr == 0
    again = hessian_trace(objective, method="matvec", products=24)
    trace = only(matvec, 0, "hessian", "trace")
    assert trace.value == pytest.approx(again.value, rel=1e-3)
    assert trace.stderr == pytest.approx(again.stderr, rel=1e-2)
    level = perturbation_sensitivity(objective, noise_scales(module, objective.params), [0.1], 3)[0]
    assert only(noisy, 0, "sensitivity", gamma=0.1).value == pytest.approx(level.sensitivity, rel=1e-3)


def test_checkpoint_holds_the_probe_batches_of_all_ranks(runs):
    x, _ = data()
    at = [[i for image in rank[0][0] for i in range(len(x)) if torch.equal(image, x[i])] for rank in probes(runs)]
    assert [len(indices) for indices in at] == [4, 4]
    assert not set(at[0]) & set(at[1])
