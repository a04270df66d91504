"""What one process of a sharded run measures; started by tests/measure/test_sharded.py."""

from __future__ import annotations

import copy
import os
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

from lightning_tl.measure import (
    Objective,
    distance,
    hessian_trace,
    loss_along,
    noise_scales,
    perturbation_sensitivity,
    select,
)
from lightning_tl.measure.modifications import Noise, Prune, Quantise, channel_dims
from lightning_tl.measure.modify import modified_loss


def llama() -> nn.Module:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=32,
        initializer_range=0.2,
    )
    return LlamaForCausalLM(config)


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=61,
        n_positions=32,
        n_embd=32,
        n_layer=2,
        n_head=4,
        resid_pdrop=0.1,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return GPT2LMHeadModel(config)


MODELS = {"llama": llama, "gpt2": gpt2}


def blocks(module: nn.Module) -> nn.ModuleList:
    return module.model.layers if hasattr(module, "model") else module.transformer.h  # type: ignore[union-attr,return-value]


def sequences() -> Tensor:
    return torch.randint(0, 61, (12, 17), generator=torch.Generator().manual_seed(1))


def loss(module: nn.Module, ids: Tensor) -> Tensor:
    logits = module(ids[:, :-1], use_cache=False).logits
    return F.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten())


def measure(module: nn.Module, start: dict[str, Tensor], batches: list[Tensor]) -> dict[str, Any]:
    """Return all quantities; with one process by substitution too, so that nothing but the sharding differs."""
    found: dict[str, Any] = {}
    params = select(module)
    objective = Objective(module, loss, batches, substitute=True)
    scales = noise_scales(module, objective.params, "relative")
    found["scales"] = {name: float(s.max()) for name, s in scales.items()}
    for level in perturbation_sensitivity(objective, scales, [0.05, 0.2], draws=3):
        found[f"sensitivity {level.gamma}"] = [level.loss, *level.draws]
    for name, change, strength in (("4 bit", Quantise(channel_dims=channel_dims(module)), 4), ("half", Prune(), 0.5)):
        level = modified_loss(objective, change, [strength])[0]
        found[name] = [level.modified_loss, level.batch_stderr]
    trace = hessian_trace(objective, products=4, scales=scales)
    found["trace"] = [trace.value, trace.stderr, *trace.groups.values()]
    found["weighted"] = [trace.weighted.value]
    direction = {name: tensor - 1.1 * tensor for name, tensor in start.items()}
    curve = loss_along(objective, direction, [0.5])
    found["along"] = [*curve.loss, curve.slope, curve.curvature]
    moved = distance(params, start)
    found["distance"] = [moved.total, moved.relative, moved.cosine, *moved.groups.values()]
    noise = Noise({name: torch.ones(()) for name in params}, seed=5)
    found["noise"] = {name: noise.noise(name, torch.empty(p.shape), 1) for name, p in params.items()}
    return found


def shard(module: nn.Module, policy: MixedPrecisionPolicy | None = None) -> None:
    policy = policy or MixedPrecisionPolicy()
    for block in blocks(module):
        fully_shard(block, mp_policy=policy)
    fully_shard(module, mp_policy=policy)


def mixed(module: nn.Module, batches: list[Tensor]) -> list[float]:
    """Return losses under noise of weights that are computed with in half precision."""
    objective = Objective(module, loss, batches, substitute=True)
    scales = {name: torch.tensor(0.02) for name in objective.params}
    level = perturbation_sensitivity(objective, scales, [0.1], draws=2)[0]
    return [level.loss, *level.draws, hessian_trace(objective, products=3).value]


def train(module: nn.Module, ids: Tensor, measuring: bool, sharded: bool) -> dict[str, Any]:
    """Train by AdamW, three steps of two accumulated batches; measure between them, and in the middle of each."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-2)
    module.train()
    losses, values = [], []
    for step in range(3):
        for part in (0, 1):
            if sharded:
                module.set_requires_gradient_sync(part == 1)
            torch.manual_seed(10 * step + part)
            value = loss(module, ids[part::2])
            value.backward()
            losses.append(value.item())
            if measuring:
                objective = Objective(module, loss, [ids[:2]], substitute=True)
                scales = noise_scales(module, objective.params, "relative")
                values.append(perturbation_sensitivity(objective, scales, [0.1], draws=2)[0].sensitivity)
                values.append(hessian_trace(objective, products=2).value)
        optimizer.step()
        optimizer.zero_grad()
    if sharded:
        module.reshard()
    local = [p.to_local() if hasattr(p, "to_local") else p for p in module.parameters()]
    state = [optimizer.state[p]["exp_avg_sq"] for p in module.parameters()]
    return {
        "losses": losses,
        "weights": [p.detach().clone() for p in local],
        "state": [s.to_local() if hasattr(s, "to_local") else s for s in state],
        "values": values,
    }


def single(kind: str) -> dict[str, Any]:
    module = MODELS[kind]().eval()
    start = {name: p.detach() * 0.9 for name, p in module.named_parameters()}
    return measure(module, start, list(sequences().split(2)))


def run(rank: int, world: int, folder: str) -> None:
    """Measure and train in one of several processes."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=world)
    found: dict[str, Any] = {}
    for kind, build in MODELS.items():
        module = build().eval()
        start = {name: p.detach() * 0.9 for name, p in module.named_parameters()}
        plain = copy.deepcopy(module)
        shard(module)
        own = list(sequences().split(2))[rank::world]
        found[kind] = measure(module, start, own)
        fits = []
        for measuring in (False, True):
            trained = copy.deepcopy(plain)
            shard(trained)
            fits.append(train(trained, torch.cat(own), measuring, sharded=True))
        found[f"{kind} training"] = fits
    module = llama().eval()
    shard(module, MixedPrecisionPolicy(param_dtype=torch.bfloat16, output_dtype=torch.float32))
    found["mixed"] = mixed(module, list(sequences().split(2))[rank::world])
    torch.save(found, Path(folder) / f"rank{rank}.pt")
    dist.destroy_process_group()
