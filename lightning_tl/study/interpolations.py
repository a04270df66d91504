"""Networks between the pre-trained and the fine-tuned one: the test error and the pre-training loss of each."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def interpolations(cli: Any, test: bool, start: Path | None) -> list[dict[str, float]]:
    """Return a row for each interpolation of a run whose ``transfer`` is WiSEFT; none for others.

    ``interpolations.csv`` in the run's folder is written again, with the new columns.

    Args:
        cli: The finished run.
        test: Whether the error on test images is measured.
        start: Folder of the pre-training run, where the pre-training loss is measured: as ``pretrain_loss_after`` of
            :func:`~lightning_tl.study.forgetting.forgotten`.
    """
    from lightning_tl.study.forgetting import Pretrained
    from lightning_tl.transfer import WiSEFT
    from lightning_tl.transfer.evaluation import error_on
    from lightning_tl.transfer.wiseft import write_interpolations

    methods = getattr(getattr(cli.model, "transfer", None), "methods", ())
    method = next((each for each in methods if isinstance(each, WiSEFT)), None)
    if method is None:
        return []
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    pretrained = Pretrained(start) if start is not None else None
    task.to(trainer.strategy.root_device)
    if test:
        data.setup("test")
    rows: list[dict[str, float]] = []
    for row in method.rows:
        with method.network(task, row["alpha"]):
            measured = {"error": error_on(trainer, task, data.test_dataloader())} if test else {}
            if pretrained is not None:
                weights = {f"backbone.{name}": value.detach().cpu() for name, value in task.backbone.named_parameters()}
                pretrained.load(weights)
                pretrained.reestimate()
                measured["pretrain_loss"] = pretrained.loss()
        rows.append({**row, **measured})
    write_interpolations(str(trainer.default_root_dir), rows)
    return rows
