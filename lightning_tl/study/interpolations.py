"""Networks between the pre-trained and the fine-tuned one: the test error and the pre-training loss of each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lightning_tl.study.forgetting import Pretrained


def interpolations(cli: Any, test: bool, pretrained: Pretrained | None) -> list[dict[str, float]]:
    """Return a row for each interpolation of a run whose ``transfer`` is WiSEFT; none for others.

    ``interpolations.csv`` in the run's folder is written again, with the new columns.

    Args:
        cli: The finished run.
        test: Whether the error on test images is measured.
        pretrained: The pre-training's network, where its loss is measured: as ``pretrain_loss_after`` of
            :func:`~lightning_tl.study.forgetting.forgotten`.
    """
    from lightning_tl.transfer import WiSEFT
    from lightning_tl.transfer.wiseft import write_interpolations

    methods = getattr(getattr(cli.model, "transfer", None), "methods", ())
    method = next((each for each in methods if isinstance(each, WiSEFT)), None)
    if method is None:
        return []
    trainer, task, data = cli.trainer, cli.model, cli.datamodule
    task.to(trainer.strategy.root_device)
    if test:
        data.setup("test")
    rows = [dict(row) for row in method.rows]
    if test:
        for row, error in zip(rows, method.errors(trainer, task, data.test_dataloader()), strict=True):
            row["error"] = error
    for row in rows:
        if pretrained is None:
            break
        with method.network(task, row["alpha"]):
            named = task.backbone.named_parameters()
            pretrained.load({f"backbone.{name}": value.detach().cpu() for name, value in named})
        pretrained.reestimate()
        row["pretrain_loss"] = pretrained.loss()
    write_interpolations(str(trainer.default_root_dir), rows)
    return rows
