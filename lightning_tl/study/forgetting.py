"""What fine-tuning does to the pre-training: its loss under the fine-tuned backbone, and how far the backbone moved."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning_tl.errors import UserError
from lightning_tl.measure.distance import distance
from lightning_tl.study.records import load_json


def forgotten(finetuned: Any, start: Path) -> dict[str, float]:
    """Return the pre-training loss before and after, on the pre-training's validation data, and the distance moved.

    Args:
        finetuned: The fine-tuned module.
        start: Folder of the pre-training run that it started from.

    Returns:
        ``pretrain_loss_before``, ``pretrain_loss_after`` (fine-tuned backbone under the saved pre-training head) and
        ``param_distance``, ‖θ_pre − θ_ft‖₂ of the backbone's parameters (Springer et al. 2025, §3 and Fig. 8).

    Raises:
        UserError: The folder is no finished run, or a module has no backbone.
    """
    from lightning_tl.run import run

    if not hasattr(finetuned, "backbone"):
        raise UserError(f"forgetting: {type(finetuned).__name__} has no .backbone to put under the pre-training's head")
    checkpoint = start / load_json(start / "record.json")["checkpoint"]
    args = ["validate", f"--config={start / 'config.yaml'}", f"--ckpt_path={checkpoint}", "--trainer.logger=false"]
    cli = run([*args, "--trainer.enable_progress_bar=false"])
    before = float(cli.trainer.callback_metrics["val/loss"])
    backbone = cli.model.backbone
    moved = distance(dict(finetuned.backbone.named_parameters()), dict(backbone.named_parameters())).total
    backbone.load_state_dict(finetuned.backbone.state_dict())
    after = cli.trainer.validate(cli.model, cli.datamodule, verbose=False)[0]["val/loss"]
    return {"pretrain_loss_before": before, "pretrain_loss_after": float(after), "param_distance": moved}
