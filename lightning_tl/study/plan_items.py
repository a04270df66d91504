"""The items of a plan: data sets to render and training runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_tl.study.grid import Point
from lightning_tl.study.records import fingerprint
from lightning_tl.study.runs import Call

#: Prefix of a configuration file among a run's arguments.
CONFIG = "--config="


@dataclass(frozen=True)
class DataSet:
    """A data set to render.

    Attributes:
        name: Name of the data set and of its folder.
        point: Values of its axes.
        config: The resolved rendering configuration.
        images: Number of training images.
        val_images: Number of validation images.
    """

    name: str
    point: Point
    config: dict[str, Any]
    images: int
    val_images: int


@dataclass(frozen=True)
class Run:
    """A training run.

    Attributes:
        name: Stage, label and first characters of the key; also the folder's name.
        label: Values of the axes, those of its start first.
        stage: ``pretrain`` or ``finetune``.
        point: Values of its axes and of its start's (``pretrain.KEY``), and ``render``.
        args: Arguments of ``lightning-tl fit``, without the folders of data set and start.
        start: Name of the pre-training that it starts from, or None.
        render: Name of the data set it reads, or None.
        key: Hash of its configuration, its data and its start's key.
        forgetting: Whether the pre-training loss is measured afterwards.
        test_at: Which network is tested, ``last`` or ``best``.
        trial: Whether it is a trial run, which is validated and never tested.
    """

    name: str
    label: str
    stage: str
    point: Point
    args: tuple[str, ...]
    start: str | None
    render: str | None
    key: str
    forgetting: bool = False
    test_at: str = "last"
    trial: bool = False

    def call(self, out: Path, records: Mapping[str, Mapping[str, Any]], threads: int, store: str | None = None) -> Call:
        """Return what a worker needs to do the run; the run that it starts from must have its record.

        Args:
            out: Folder of the study.
            records: Run name → record.
            threads: CPU threads of the run.
            store: URL of the study's store, or None.
        """
        args = list(self.args)
        configs: dict[str, str] = {}
        if store is not None:
            for number, arg in enumerate(args):
                if arg.startswith(CONFIG):
                    file = Path(arg.removeprefix(CONFIG))
                    text = file.read_text(encoding="utf-8")
                    path = str(out / "configs" / f"{fingerprint(text)[:8]}-{file.name}")
                    configs[path], args[number] = text, CONFIG + path
        if self.render is not None:
            args.append(f"--data.root={store or out}/renders/{self.render}")
        if self.start is not None:
            args.append(f"--model.init_from={out / 'runs' / self.start / records[self.start]['checkpoint']}")
        return Call(
            name=self.name,
            folder=str(out / "runs" / self.name),
            key=self.key,
            args=tuple(args),
            test=self.stage == "finetune" and not self.trial,
            start=str(out / "runs" / self.start) if self.start else None,
            forgetting=self.forgetting,
            test_at=self.test_at,
            locks=str(out / "locks"),
            targets=str(out / "targets"),
            threads=threads,
            store=store,
            configs=tuple(configs.items()),
        )
