"""One process of a run under ModelParallelStrategy; started by tests/callbacks/test_fsdp.py."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.strategies import ModelParallelStrategy
from torch.utils.data import DataLoader, TensorDataset

from lightning_tl.callbacks import HessianTrace, ModificationSensitivity, ParameterDistance, PerturbationSensitivity
from tests.measure.cases import Attention


class Language(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.net = Attention(vocabulary=11, width=16)
        self.drop = torch.nn.Dropout(0.2)

    def configure_model(self) -> None:
        from torch.distributed.fsdp import fully_shard

        if self.device_mesh is None or getattr(self, "split", False):
            return
        self.split = True
        mesh = self.device_mesh["data_parallel"]
        fully_shard(self.net.mlp, mesh=mesh)
        fully_shard(self.net, mesh=mesh)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        ids = batch[0]
        loss = F.cross_entropy(self.drop(self.net(ids[:, :-1])).flatten(0, 1), ids[:, 1:].flatten())
        self.log("loss", loss)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=1e-2)


def callbacks() -> list[Any]:
    return [
        ParameterDistance(every_n_steps=1, on_error="raise"),
        HessianTrace(products=4, every_n_steps=2, noise="relative", on_error="raise"),
        PerturbationSensitivity([0.1], draws=2, noise="relative", every_n_steps=1, on_error="raise"),
        ModificationSensitivity([4], [0.5], every_n_steps=2, on_error="raise"),
    ]


def sequences() -> torch.Tensor:
    return torch.randint(0, 11, (16, 9), generator=torch.Generator().manual_seed(1))


def run(rank: int, world: int, port: int, folder: str) -> None:
    """Fit without and with callbacks, then resume from the checkpoint of the second step."""
    os.environ |= {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
        "WORLD_SIZE": str(world),
        "NODE_RANK": "0",
        "LOCAL_RANK": str(rank),
        "GLOO_SOCKET_IFNAME": "lo",
    }
    torch.set_num_threads(1)
    found: dict[str, Any] = {}
    for kind in ("without", "with", "resumed"):
        module = Language()
        extra = [] if kind == "without" else callbacks()
        trainer = Trainer(
            max_steps=3,
            accelerator="cpu",
            devices=world,
            strategy=ModelParallelStrategy(data_parallel_size=world, tensor_parallel_size=1),
            accumulate_grad_batches=2,
            use_distributed_sampler=False,
            callbacks=extra,
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            enable_checkpointing=False,
            default_root_dir=folder,
        )
        loader = DataLoader(TensorDataset(sequences()[rank::world]), batch_size=2)
        path = Path(folder) / "after.ckpt"
        trainer.fit(module, loader, ckpt_path=path if kind == "resumed" else None, weights_only=None)
        if kind == "with":
            trainer.save_checkpoint(path)
        module.net.reshard()
        found[kind] = {
            "weights": [p.to_local().detach().clone() for p in module.parameters()],
            "loss": float(trainer.callback_metrics.get("loss", torch.tensor(0.0))),
            "history": [[record.row() for record in callback.history] for callback in extra],
        }
    torch.save(found, Path(folder) / f"rank{rank}.pt")
