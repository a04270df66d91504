"""Real renders, pre-trainings and fine-tunings on handwritten digits, up to the table that the law is fitted to."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning_tl.config_files import find_config
from lightning_tl.errors import UserError
from lightning_tl.progress import progress_bar
from lightning_tl.study.jobs import Job, Workers
from lightning_tl.study.records import write_results, write_whole


@dataclass
class Quickstart:
    """What the quickstart does.

    Attributes:
        renders: Name → rendering configuration. Each is rendered, pre-trained on and judged.
        sizes: Pre-training sizes n, nested: each is the first n images of the largest.
        val_images: Images of each rendering's validation split.
        pretrain: Configuration of pre-training.
        pretrain_steps: Its steps, the same for every n.
        finetune: Configuration of fine-tuning.
        finetune_steps: Its steps.
        shots: Real training images of each class.
        draws: Draws of these images, the same for every n and for n = 0.
        learning_rates: Of fine-tuning, to choose from once for scratch and once for each rendering (at its middle
            size, first draw): the one with the lowest error on the real validation images.
        target_error: Test error to reach, for which the report says how many images it takes.
        workers: Processes of one thread each (``None``: one a CPU core).
    """

    renders: dict[str, str] = field(default_factory=lambda: {"digits": "render/digits", "shapes": "render/shapes"})
    sizes: list[int] = field(default_factory=lambda: [64, 128, 256, 512, 1024, 2048])
    val_images: int = 256
    pretrain: str = "pretrain/small_images"
    pretrain_steps: int = 500
    finetune: str = "finetune/digits"
    finetune_steps: int = 200
    shots: int = 10
    draws: list[int] = field(default_factory=lambda: [0, 1, 2])
    learning_rates: list[float] = field(default_factory=lambda: [0.004, 0.008])
    target_error: float = 0.05
    workers: int | None = None

    def __post_init__(self) -> None:
        self.sizes = sorted(set(self.sizes))
        for name in ("renders", "sizes", "draws", "learning_rates"):
            if not getattr(self, name):
                raise UserError(f"quickstart: {name} is empty; at least one is needed")
        if self.sizes[0] < 1:
            raise UserError(f"quickstart: sizes holds {self.sizes[0]}; n = 0 is always run, give sizes of at least 1")
        for name in ("val_images", "pretrain_steps", "finetune_steps"):
            if getattr(self, name) < 1:
                raise UserError(f"quickstart: {name} is {getattr(self, name)}; it must be at least 1")
        if not 0 < self.target_error < 1:
            raise UserError(f"quickstart: target_error is {self.target_error}; it must be between 0 and 1")


def pretrain_job(settings: Quickstart, out: Path, render: str, n: int) -> Job:
    """Return the pre-training on the first n images of a rendering."""
    steps = settings.pretrain_steps
    manifests = [(out / "renders" / render / split / "manifest.json").read_text() for split in ("train", "val")]
    return Job(
        name=f"pretrain-{render}-n{n}",
        args=(
            f"--config={settings.pretrain}",
            f"--data.root={{runs}}/../renders/{render}",
            f"--data.n={n}",
            f"--trainer.max_steps={steps}",
            f"--data.steps_per_epoch={max(1, steps // 5)}",
            "--trainer.enable_progress_bar=false",
        ),
        steps=steps,
        # the shards' hashes fix the images; where they lie does not matter, nor does what else was rendered later
        inputs={"shards": [json.loads(text)["shards"] for text in manifests], "config": _text(settings.pretrain)},
    )


def finetune_job(settings: Quickstart, start: str | None, draw: int, lr: float) -> Job:
    """Return the fine-tuning on one draw of real digits, from a pre-training job's checkpoint or from scratch."""
    steps = settings.finetune_steps
    args = (
        f"--config={settings.finetune}",
        f"--seed_everything={draw}",
        f"--data.shots={settings.shots}",
        f"--data.draw={draw}",
        f"--data.seed={draw}",
        f"--data.steps_per_epoch={steps}",
        f"--trainer.max_steps={steps}",
        f"--model.optimizer.lr={lr}",
        "--trainer.enable_progress_bar=false",
    )
    origin = "scratch" if start is None else start.removeprefix("pretrain-")
    return Job(
        name=f"finetune-{origin}-draw{draw}-lr{lr:g}",
        args=args if start is None else (*args, f"--model.init_from={{{start}}}"),
        steps=steps,
        needs=() if start is None else (start,),
        test=True,
        inputs={"config": _text(settings.finetune)},
    )


def _text(config: str) -> str:
    return find_config(config).read_text()


def quickstart(settings: Quickstart, out: Path) -> None:
    """Render and train, up to ``results.csv``; what has a record is not run again.

    Args:
        settings: What to do.
        out: Folder of everything that is made.

    Raises:
        UserError: A configuration that is not there, a run that failed.
        DataGenError: What rendering needs is missing.
    """
    out = out.resolve()
    facts = _Facts(out / "quickstart.json")
    count = settings.workers or os.cpu_count() or 1
    with facts.stage("render"):
        _render(settings, out, count)
    workers = Workers(min(count, len(settings.renders) * len(settings.sizes)))
    try:
        with facts.stage("train"):
            rows, choice = _train(settings, out, workers)
    finally:
        workers.close()
    write_results(out / "results.csv", rows)
    facts.write(settings=asdict(settings), learning_rates=choice, cores=os.cpu_count())


def _stages(settings: Quickstart) -> int:
    return len(settings.renders) + 2


def _render(settings: Quickstart, out: Path, count: int) -> None:
    from data_gen.config import load_config
    from data_gen.farm import render
    from lightning_tl.data.preview import contact_sheet
    from lightning_tl.data.shards import RenderedImages

    for number, (name, config) in enumerate(settings.renders.items(), start=1):
        root = out / "renders" / name
        with progress_bar(f"{number}/{_stages(settings)} render {name}", "images") as progress:
            render(load_config(find_config(config)), root, settings.sizes[-1], settings.val_images, count, progress)
        contact_sheet(RenderedImages(root / "train", settings.sizes[-1]), count=16, side=96).save(out / f"{name}.png")


def _train(settings: Quickstart, out: Path, workers: Workers) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    _real_images(settings, out)
    folder = out / "runs"
    pretrain = {
        (render, n): pretrain_job(settings, out, render, n) for render in settings.renders for n in settings.sizes
    }
    middle = settings.sizes[len(settings.sizes) // 2]
    first = settings.draws[0]
    # from where fine-tuning starts, when its learning rate is chosen
    starts = {"scratch": None} | {render: pretrain[render, middle].name for render in settings.renders}
    trials = {
        (origin, lr): finetune_job(settings, start, first, lr)
        for origin, start in starts.items()
        for lr in settings.learning_rates
    }
    # the pre-trainings that the choice of the learning rates waits for come first
    jobs = [pretrain[key] for key in sorted(pretrain, key=lambda key: key[1] != middle)]
    stages = _stages(settings)
    with progress_bar(f"{stages - 1}/{stages} pre-train", "steps") as progress:
        records = workers.run([*jobs, *trials.values()], folder, progress)
    errors = {
        origin: {lr: records[trials[origin, lr].name]["metrics"]["val/error"] for lr in settings.learning_rates}
        for origin in starts
    }
    chosen = {origin: min(found, key=found.__getitem__) for origin, found in errors.items()}

    runs = {
        (render, n, draw): finetune_job(settings, pretrain[render, n].name, draw, chosen[render])
        for (render, n) in pretrain
        for draw in settings.draws
    }
    scratch = {draw: finetune_job(settings, None, draw, chosen["scratch"]) for draw in settings.draws}
    jobs = [*pretrain.values(), *scratch.values(), *runs.values()]  # the former have their records by now
    with progress_bar(f"{stages}/{stages} fine-tune", "steps") as progress:
        records |= workers.run(jobs, folder, progress)

    rows = [
        _row(settings, render, 0, draw, chosen["scratch"], job, records[job.name], None)
        for render in settings.renders
        for draw, job in scratch.items()
    ]
    rows += [
        _row(settings, render, n, draw, chosen[render], job, records[job.name], records[pretrain[render, n].name])
        for (render, n, draw), job in runs.items()
    ]
    choice = {
        origin: {"chosen": chosen[origin], "validation_error": {f"{lr:g}": error for lr, error in found.items()}}
        for origin, found in errors.items()
    }
    return rows, choice


def _real_images(settings: Quickstart, out: Path) -> None:
    from lightning_tl.data.digits import load_digits, split_digits
    from lightning_tl.data.preview import image_grid

    train = split_digits(settings.shots, settings.draws[0])["train"]
    image_grid(load_digits()[0][train], columns=20, side=40).save(out / "target.png")


def _row(
    settings: Quickstart,
    render: str,
    n: int,
    draw: int,
    lr: float,
    job: Job,
    record: dict[str, Any],
    pretrained: dict[str, Any] | None,
) -> dict[str, Any]:
    from lightning_tl.data.digits import POOL

    row: dict[str, Any] = {
        "run_id": job.name,
        "render": render,
        "pretrain_images": n,
        "backbone": "resnet10_w16",
        "finetune_task": "sinclass",
        "finetune_data": "mnist5000",
        "finetune_fraction": settings.shots / POOL,
        "finetune_images": 10 * settings.shots,
        "transfer": "full",
        "lr": lr,
        "draw_seed": draw,
        "metric": "accuracy",
        "score": round(record["metrics"]["test/score"], 6),
        "error": round(record["metrics"]["test/error"], 6),
        "seconds": record["seconds"],
    }
    if pretrained is not None:
        row |= {
            "pretrain_task": "mulclass",
            "pretrain_steps": settings.pretrain_steps,
            "pretrain_seed": 0,
            "pretrain_loss_before": round(pretrained["metrics"]["val/loss"], 6),
        }
    return row


class _Facts:
    """`quickstart.json`: what was run and how long each stage took, kept over interruptions."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.content: dict[str, Any] = json.loads(path.read_text()) if path.is_file() else {"seconds": {}}

    def write(self, **facts: Any) -> None:
        self.content |= facts
        write_whole(self.path, json.dumps(self.content, indent=1) + "\n")

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            seconds = self.content["seconds"]
            seconds[name] = round(seconds.get(name, 0.0) + time.monotonic() - begun, 1)
            self.write()
