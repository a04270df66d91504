"""A decoder that starts from another one's checkpoint: ways of fine-tuning it, and what callbacks measure meanwhile."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity
from lightning_tl.tasks import CausalLanguageModel
from lightning_tl.transfer import L2SP, FreezeStages, LinearProbe, LoRA

SHAPE = {"width": 16, "layers": 2, "heads": 2, "hidden": 24}


def loader(seed: int) -> DataLoader:
    tokens = torch.randint(0, 20, (32, 13), generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(tokens[:, :-1], tokens[:, 1:]), 8)


def fitted(tmp_path, task, *callbacks, steps=8):
    runner = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    runner.fit(task, loader(1))
    return runner


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A checkpoint, and its weights."""
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(0)
    task = CausalLanguageModel(20, shape=SHAPE)
    fitted(folder, task).save_checkpoint(folder / "a.ckpt")
    return folder / "a.ckpt", {name: value.clone() for name, value in task.state_dict().items()}


def moved(task, weights):
    """Return how far each of the pre-trained weights has moved."""
    own = task.state_dict()
    return {name: float((own[name] - value).norm()) for name, value in weights.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("transfer", "still"),
    [
        (None, ()),
        (LinearProbe(), ("backbone.",)),
        (FreezeStages(1), ("backbone.embed_tokens", "backbone.layers.0.")),
    ],
    ids=["full", "probe", "freeze"],
)
def test_what_is_frozen_stays_and_the_rest_moves(tmp_path, start, transfer, still):
    checkpoint, weights = start
    task = CausalLanguageModel(20, shape=SHAPE, init_from=str(checkpoint), transfer=transfer)
    fitted(tmp_path, task)
    for name, distance in moved(task, weights).items():
        assert (distance == 0) == name.startswith(still or ("nothing",)), name


@pytest.mark.filterwarnings("ignore")
def test_a_pull_keeps_the_weights_near_the_start(tmp_path, start):
    checkpoint, weights = start
    far = {}
    for strength in (0.0, 10.0):
        transfer = L2SP(strength=strength) if strength else None
        task = CausalLanguageModel(20, shape=SHAPE, init_from=str(checkpoint), transfer=transfer)
        fitted(tmp_path, task, steps=40)
        far[strength] = sum(d**2 for name, d in moved(task, weights).items() if name.startswith("backbone."))
    assert far[10.0] < 0.5 * far[0.0]


@pytest.mark.filterwarnings("ignore")
def test_callbacks_measure_a_fine_tuning_with_low_rank_updates(tmp_path, start):
    checkpoint, weights = start
    distance = ParameterDistance(every_n_steps=8)
    others = [
        HessianTrace(every_n_steps=8, products=4),
        PerturbationSensitivity(gammas=[0.05], draws=2, every_n_steps=8, trainable=False, exclude="lora_"),
    ]
    torch.manual_seed(1)
    task = CausalLanguageModel(20, shape=SHAPE, init_from=str(checkpoint), transfer=LoRA(rank=2))
    runner = fitted(tmp_path, task, distance, *others)
    logged = {key: float(value) for key, value in runner.callback_metrics.items()}
    for key in ("hessian/trace", "sensitivity/gamma_0.05", "perturbed_loss/gamma_0.05"):
        assert torch.isfinite(torch.tensor(logged[key])), key
    # the pre-trained matrices are as they were
    for name, value in weights.items():
        if name.startswith("backbone.layers") and "norm" not in name:
            assert torch.equal(task.state_dict()[name], value)
    assert logged["param_distance/merged"] > 0
    # measuring changes nothing
    torch.manual_seed(1)
    plain = CausalLanguageModel(20, shape=SHAPE, init_from=str(checkpoint), transfer=LoRA(rank=2))
    fitted(tmp_path, plain)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), task.state_dict().values(), strict=True))
