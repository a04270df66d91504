"""What a study's YAML file says: stages, their axes, what to choose, and how the law is fitted."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, Literal

from lightning_tl._io.urls import is_url
from lightning_tl.errors import UserError, nearest, shortened
from lightning_tl.laws.law_options import LawOptions
from lightning_tl.study.grid import Point, excluder, points
from lightning_tl.study.until import Until


@dataclass
class Stage:
    """One kind of run, and its axes. Any key of its configuration can be fixed or varied, by its dotted name.

    Attributes:
        config: Configuration files, by path or shipped name, later ones over earlier ones. ``config`` can be an axis
            too: its values are names (or lists of them).
        set: Key → value, for all runs. Keys of one section can be nested: ``data: {n: 64}`` is ``data.n: 64``.
        product: Key → values: all combinations are run.
        zip: Groups of keys whose values go together.
        exclude: Combinations to leave out: key → value (or list of values). Fine-tuning can name ``render`` and
            ``pretrain.KEY`` too, pre-training ``render``.
        same: Axes of fine-tuning that must have pre-training's value, such as ``model.backbone``.
    """

    config: str | list[str] = field(default_factory=list)
    set: dict[str, Any] = field(default_factory=dict)
    product: dict[str, list[Any]] = field(default_factory=dict)
    zip: list[dict[str, list[Any]]] = field(default_factory=list)
    exclude: list[dict[str, Any]] = field(default_factory=list)
    same: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if isinstance(self.set, dict):
            self.set = _dotted(self.set)

    def files(self, point: Point) -> list[str]:
        """Return the names of the configuration files of a point."""
        own = point.get("config", [])
        return [
            *([self.config] if isinstance(self.config, str) else self.config),
            *([own] if isinstance(own, str) else own),
        ]

    @property
    def axes(self) -> frozenset[str]:
        """Keys that vary."""
        return frozenset(self.product).union(*self.zip)

    @property
    def followers(self) -> frozenset[str]:
        """Keys that a name need not tell, as they go with the first of their zip."""
        return frozenset(key for group in self.zip for key in list(group)[1:])

    def check_files(self, where: str) -> None:
        """Refuse values of the axis ``config`` that name no files.

        Raises:
            UserError: One is neither a name nor a list of names.
        """
        for key, kind in (("set", dict), ("product", dict), ("zip", list), ("exclude", list), ("same", list)):
            value = getattr(self, key)
            if not isinstance(value, kind) or (
                key in ("zip", "exclude") and not all(isinstance(v, dict) for v in value)
            ):
                raise UserError(f"{where}.{key} is {shortened(repr(value))}; give its values, or leave the key out")
        for axes in (self.product, *self.zip):
            for key, values in axes.items():
                if not isinstance(values, list | tuple):
                    raise UserError(f"{where}: the axis {key} is {shortened(repr(values))}; give a list of values")
            for value in axes.get("config", ()):
                names = value if isinstance(value, list | tuple) else [value]
                if not all(isinstance(name, str) for name in names):
                    raise UserError(f"{where}: config has the value {shortened(repr(value))}; give names of files")

    def overrides(self, point: Point) -> dict[str, Any]:
        """Return key → value of a point: what is set, then its axes."""
        return self.set | {key: value for key, value in point.items() if key != "config"}

    def grid(self, where: str, others: list[Point] | None = None) -> list[tuple[Point, Point]]:
        """Return pairs of a point of ``others`` and an own one, those that are excluded left out."""
        own = points(self.product, self.zip, where)
        others = others or [{}]
        excluded = excluder(self.exclude, [*own, *others], where)
        pairs = [(other, point) for other in others for point in own if not excluded(other | point)]
        return [(other, point) for other, point in pairs if all(_agree(key, other, point) for key in self.same)]


def _dotted(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings in which a section such as ``data`` is replaced by its keys; of a key given twice, the last."""
    dotted: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value and "." not in str(key) and "class_path" not in value:
            dotted |= {f"{key}.{last}": item for last, item in value.items()}
        else:
            dotted[key] = value
    return dotted


def _agree(key: str, other: Point, point: Point) -> bool:
    return f"pretrain.{key}" not in other or other[f"pretrain.{key}"] == point[key]


@dataclass
class RenderStage(Stage):
    """The data sets to render. How many images: the largest ``data.n`` of the pre-trainings on it.

    Attributes:
        val_images: Images of each one's validation split.
    """

    val_images: int = 256


@dataclass
class Choice:
    """A value to choose before the study, by trial runs.

    It is chosen once for scratch and once for each series of pre-trainings (those that differ only in n and seed), at
    the middle n. Trial runs are validated and never tested; the run with the chosen value is then done with its test.

    Attributes:
        key: Of fine-tuning, such as ``model.optimizer.lr``.
        values: To choose from.
        metric: The lowest wins. It must be measured on validation images; a test metric is refused.
        each: Axes of fine-tuning: one value is chosen for each of their values, such as ``[model.transfer]``. Of the
            other axes, trial runs have the first values.
    """

    key: str
    values: list[Any]
    metric: str = "val/error"
    each: list[str] = field(default_factory=list)


@dataclass
class Complexity:
    """How complex each rendering is to a network: the entropy H of its features, as ``dataset complexity`` gives it.

    Source: Mikami et al. (arXiv 2108.11018), §4.5, whose network was trained on COCO.

    Attributes:
        checkpoint: Of the network (default: the first fine-tuning from scratch, which saw only real images).
        images: Of each rendering, at most.
        size: Side of what the network sees, pixels.
        standardize: ``imagenet``, or ``image``: each by its own mean and deviation.
    """

    checkpoint: str | None = None
    images: int = 5000
    size: int = 224
    standardize: Literal["imagenet", "image"] = "imagenet"


@dataclass
class OvertrainingOptions:
    """Options of ``analysis: overtraining``.

    Attributes:
        level: Of intervals and verdicts.
        loss_window: Lowest and highest mean pre-training loss after fine-tuning; learning rates that leave it at any
            budget are left out of the analysis (Springer et al. 2025, App. C). null: all are used.
    """

    level: float = 0.95
    loss_window: tuple[float, float] | None = None


@dataclass
class TransferOptions:
    """Options of ``analysis: transfer``.

    Attributes:
        level: Of intervals and tests.
        equal: Share of the lowest error by which another method's may be higher and still count as equal.
        target_errors: Errors of which the fine-tuning images needed are asked. null: one that most curves reach.
    """

    level: float = 0.95
    equal: float = 0.1
    target_errors: list[float] | None = None


@dataclass
class Study:
    """Rendering, pre-training and fine-tuning, crossed; then a law.

    Attributes:
        title: Heading of the report.
        render: Data sets; every pre-training runs on each of them. None: the pre-trainings name their data.
        pretrain: Pre-trainings, each shared by all fine-tunings that start from it. None: only fine-tunings.
        finetune: Fine-tunings; each point starts from each pre-training.
        scratch: Also fine-tune from random weights. Keys and values: only the fine-tunings that have these, such as
            ``{model.transfer: Full}``, as other methods start from a pre-training.
        choose: A value of fine-tuning to choose first.
        test_at: Which network of a fine-tuning is tested: that after the ``last`` step, or that of the ``best``
            validation, of the lowest ``val/loss``.
        forgetting: Also measure the pre-training loss of each fine-tuned backbone and how far it has moved.
        complexity: Also measure how complex each rendering is, for alpha and C against it; null: do not.
        analysis: ``overtraining``: how fine-tuning depends on the length of pre-training; pre-trainings differ in it.
            ``transfer``: ways of fine-tuning compared; it is also done without being named where results differ in
            ``transfer``.
        overtraining: Options of the first analysis.
        transfer: Options of the second.
        until: When to stop: pre-trainings are begun in batches until its question is decided; null: all are run.
        law: Options of ``lightning-tl law`` for the table, such as ``{target_error: 0.1}``; null: no law is fitted.
        retries: How often a run that failed is tried again.
        engine: ``local``: processes here. ``ray``: a Ray cluster.
        workers: Runs at a time; default: as many as the CPU cores, or the Ray cluster, have room for.
        threads: CPU threads (with Ray: CPUs) of a run.
        gpus: GPUs of a run, with Ray.
        address: Of the Ray cluster; default: one is started here.
        store: With Ray, where nodes share no folder: a URL that fsspec knows (``s3://bucket/study``). Renderings,
            checkpoints and records go there; the study's folder gets tables, report, logs and records.
    """

    finetune: Stage
    title: str = "Is this pre-training worth anything?"
    render: RenderStage | None = None
    pretrain: Stage | None = None
    scratch: bool | dict[str, Any] = True
    choose: Choice | None = None
    test_at: Literal["last", "best"] = "last"
    forgetting: bool = False
    complexity: Complexity | None = None
    analysis: Literal["overtraining", "transfer"] | None = None
    overtraining: OvertrainingOptions = field(default_factory=OvertrainingOptions)
    transfer: TransferOptions = field(default_factory=TransferOptions)
    until: Until | None = None
    law: LawOptions | None = field(default_factory=LawOptions)
    retries: int = 1
    engine: Literal["local", "ray"] = "local"
    workers: int | None = None
    threads: int = 1
    gpus: float = 0
    address: str | None = None
    store: str | None = None

    def check(self) -> None:
        """Refuse what cannot be run.

        Raises:
            UserError: A number out of range, a stage without a configuration, a key on two stages.
        """
        for name, least in (("retries", 0), ("threads", 1), ("gpus", 0)):
            if getattr(self, name) < least:
                raise UserError(f"{name} is {getattr(self, name)}; it must be at least {least}")
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers is {self.workers}; it must be at least 1, or null for as many as have room")
        if self.store is not None and self.engine != "ray":
            raise UserError("store is for engine: ray, whose nodes may share no folder; here runs go to --out")
        if self.store is not None and not is_url(self.store):
            raise UserError(f"store is '{self.store}', which is no URL; a folder that all nodes see is given by --out")
        if self.render is not None and self.pretrain is None:
            raise UserError("there is a render stage but no pretrain stage that would use it")
        if self.pretrain is None and not self.scratch:
            raise UserError("without a pretrain stage and with scratch: false there is nothing to run")
        if self.forgetting and self.pretrain is None:
            raise UserError("forgetting is measured under a pre-training's head: there is no pretrain stage")
        self._check_analysis()
        if self.law is not None:
            try:
                self.law.check()
            except UserError as error:
                raise UserError(f"law: {error}") from None
        if self.complexity is not None:
            for name in ("images", "size"):
                if (value := getattr(self.complexity, name)) < 1:
                    raise UserError(f"complexity.{name} is {value}; it must be at least 1")
        if self.complexity is not None and self.render is None:
            raise UserError("complexity is measured on what was rendered: there is no render stage")
        if self.complexity is not None and self.complexity.checkpoint is None and not self.scratch:
            raise UserError("complexity needs a network: give complexity.checkpoint, or scratch: true")
        stages = {"render": self.render, "pretrain": self.pretrain, "finetune": self.finetune}
        for name, stage in stages.items():
            if stage is not None:
                stage.check_files(name)
            axes = frozenset[str]() if stage is None else stage.axes
            if stage is not None and not stage.config and "config" not in axes:
                raise UserError(f"{name} names no configuration: give {name}.config, such as {name}/digits")
            if stage is not None and (both := sorted(axes & stage.set.keys())):
                raise UserError(f"{name}: '{both[0]}' is both set and an axis")
        for key in self.finetune.same:
            for name in ("pretrain", "finetune"):
                axes = frozenset[str]() if (stage := stages[name]) is None else stage.axes
                if key not in axes:
                    raise UserError(f"finetune.same names '{key}', which is no axis of {name}{nearest(key, axes)}")
        for name in ("render", "pretrain"):
            if (stage := stages[name]) is not None and stage.same:
                raise UserError(f"{name}.same: only fine-tuning has an earlier stage to agree with: finetune.same")
        if self.render is not None and self.render.val_images < 1:
            raise UserError(f"render.val_images is {self.render.val_images}; it must be at least 1")
        if self.choose is not None:
            self._check_choice(self.choose)
        if self.until is not None:
            self.until.check(
                pretrain=self.pretrain is not None,
                scratch=bool(self.scratch),
                analysis=self.analysis,
                varied=self.finetune.axes - set(self.finetune.same),
            )

    def _check_analysis(self) -> None:
        if self.analysis is not None and (self.pretrain is None or not self.forgetting):
            raise UserError(f"analysis: {self.analysis} needs a pretrain stage and forgetting: true")
        for name, level in (("overtraining", self.overtraining.level), ("transfer", self.transfer.level)):
            if not 0 < level < 1:
                raise UserError(f"{name}.level is {level}; it must be between 0 and 1")
        if not 0 <= self.transfer.equal < 1:
            raise UserError(f"transfer.equal is {self.transfer.equal}; it must be at least 0 and below 1")
        for target in self.transfer.target_errors or ():
            if not 0 < target < 1:
                raise UserError(f"transfer.target_errors has {target}; an error of 10 % is 0.1")
        named = any("transfer" in key.split(".") or key == "config" for key in self.finetune.axes)
        if self.analysis == "transfer" and not named:
            raise UserError(
                "analysis: transfer compares ways of fine-tuning, and finetune has no axis of them: give "
                "finetune.product: {model.transfer: [Full, LinearProbe]}"
            )

    def _check_choice(self, choice: Choice) -> None:
        if not choice.values:
            raise UserError(f"choose.values is empty: give values of {choice.key} to choose from")
        for key in choice.each:
            if key not in self.finetune.axes:
                hint = nearest(key, self.finetune.axes)
                raise UserError(f"choose.each names '{key}', which is no axis of finetune{hint}")
        if "test" in re.split(r"[^a-z]+", choice.metric.lower()):
            raise UserError(
                f"choose.metric is {choice.metric}, which is measured on test images: those are for the results, not "
                "for choices; use one of validation images, such as val/error"
            )
