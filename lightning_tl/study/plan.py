"""From a study's YAML to its data sets and runs, each with a key that says what its result depends on."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from lightning_tl.config_files import find_config, merge_keys, read_yaml
from lightning_tl.errors import UserError
from lightning_tl.study.config import Stage, Study
from lightning_tl.study.grid import Point, label
from lightning_tl.study.records import fingerprint, load_json
from lightning_tl.study.runs import Call

# Keys that fine-tuning chooses a value for once, whatever their values are.
_SERIES = ("data.n", "seed_everything")
_CONFIG = "--config="


@dataclass(frozen=True)
class DataSet:
    """A data set to render.

    Attributes:
        name: Also its folder's name.
        point: Its axes' values.
        config: The resolved rendering configuration.
        images: How many training images.
        val_images: How many of validation.
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
        name: Stage, label and the beginning of its key; also its folder's name.
        label: The axes' values, those of its start first.
        stage: ``pretrain`` or ``finetune``.
        point: Its axes' values, of its start too (``pretrain.KEY``), and ``render``.
        args: Of ``lightning-tl fit``, but for the folders of data set and start.
        start: Name of the pre-training that it starts from, or None.
        render: Name of the data set it reads, or None.
        key: A hash of its configuration, its data and its start's key.
        forgetting: Measure the pre-training's loss afterwards.
        test_at: Which network is tested, ``last`` or ``best``.
        trial: A run to choose a value by: validated, and never tested.
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
        """Return what a worker needs, once the start has its record."""
        args = list(self.args)
        configs: dict[str, str] = {}
        if store is not None:
            for number, arg in enumerate(args):
                if arg.startswith(_CONFIG):
                    file = Path(arg.removeprefix(_CONFIG))
                    text = file.read_text(encoding="utf-8")
                    path = str(out / "configs" / f"{fingerprint(text)[:8]}-{file.name}")
                    configs[path], args[number] = text, _CONFIG + path
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


def data_sets(study: Study) -> list[DataSet]:
    """Return what is to be rendered: each data set once, at its largest n.

    Raises:
        UserError: A configuration is missing or wrong, an n is no positive whole number, two data sets of one name.
    """
    if study.render is None or study.pretrain is None:
        return []
    found = []
    for _, point in study.render.grid("render"):
        config = _merged(study.render, point, "render")
        name = label(point) or label({"config": study.render.files(point)})
        pairs = study.pretrain.grid("pretrain", _render_points(study))
        sizes: list[int] = []
        for n in (study.pretrain.overrides(own).get("data.n") for render, own in pairs if render["render"] == name):
            if isinstance(n, bool) or not isinstance(n, int) or n < 1:
                raise UserError(
                    f"pretrain: data.n is {n!r}; where data are rendered, give it as an axis or under set, "
                    "whole numbers of at least 1 (n = 0 is scratch: true)"
                )
            sizes.append(n)
        if sizes:
            found.append(DataSet(name, point, config, max(sizes), study.render.val_images))
    _unique([each.name for each in found], "data sets")
    return found


def plan(study: Study, out: Path, chosen: Mapping[str, Any] | None = None) -> list[Run]:
    """Return the runs: pre-trainings, then fine-tunings.

    Args:
        study: What to run.
        out: Its folder, with the data sets rendered.
        chosen: Origin → chosen value; None, where the study chooses one: the runs to choose it by.

    Raises:
        UserError: A configuration is missing or wrong, or two runs are the same.
    """
    pretrain = _pretrainings(study, out)
    if study.choose is not None and chosen is None:
        return [*pretrain, *trials(study, pretrain)]
    runs = [*pretrain, *_finetunings(study, pretrain, chosen or {})]
    _unique([run.name for run in runs], "runs")
    return runs


def origin(run: Run | None) -> str:
    """Return what a value is chosen once for: the axes of a pre-training but n and seed; ``scratch`` for none."""
    if run is None:
        return "scratch"
    return label({key: value for key, value in run.point.items() if key not in _SERIES}) or "pretrained"


def trials(study: Study, pretrain: list[Run]) -> list[Run]:
    """Return the runs to choose a value by: for each origin, and configuration of fine-tuning, all values.

    They are not tested, so that no test image is read before everything is chosen.
    """
    assert study.choose is not None
    series: dict[str, list[Run]] = {}
    for run in pretrain:
        series.setdefault(origin(run), []).append(run)
    starts: list[Run | None] = [None] if study.scratch else []
    for members in series.values():
        sizes = sorted({run.point.get("data.n", 0) for run in members})
        starts.append(next(run for run in members if run.point.get("data.n", 0) == sizes[len(sizes) // 2]))
    pairs = study.finetune.grid("finetune", _starts(pretrain))
    runs = []
    for start in starts:
        first: dict[str, Point] = {}
        for other, point in pairs:
            if start is None or other["start"] == start.name:
                first.setdefault(repr(point.get("config")), point)
        runs += [
            _finetuning(study, start, point, {study.choose.key: value}, trial=True)
            for point in first.values()
            for value in study.choose.values
        ]
    return runs


def choose(study: Study, runs: Iterable[Run], records: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return by origin (and configuration of fine-tuning) the value with the lowest metric, and all values' metrics.

    Raises:
        UserError: The metric was not logged.
    """
    assert study.choose is not None
    found: dict[str, dict[str, Any]] = {}
    by_name = {run.name: run for run in runs}
    for run in by_name.values():
        if run.stage != "finetune" or run.name not in records:
            continue
        metrics = records[run.name]["metrics"]
        if study.choose.metric not in metrics:
            raise UserError(
                f"choose.metric is {study.choose.metric}, which run {run.name} did not log; it has {', '.join(metrics)}"
            )
        entry = found.setdefault(_choice_key(by_name.get(run.start or ""), run.point), {"tried": []})
        entry["tried"].append([run.point[study.choose.key], metrics[study.choose.metric]])
    for entry in found.values():
        entry["chosen"] = min(entry["tried"], key=lambda pair: pair[1])[0]
    return found


def _choice_key(start: Run | None, point: Point) -> str:
    config = point.get("config")
    return origin(start) + (f" {label({'config': config})}" if config else "")


def _pretrainings(study: Study, out: Path) -> list[Run]:
    if study.pretrain is None:
        return []
    runs = []
    for render, point in study.pretrain.grid("pretrain", _render_points(study)):
        name = render.get("render")
        inputs = {} if name is None else _images(out / "renders" / name, study.pretrain.overrides(point)["data.n"])
        runs.append(_run("pretrain", study.pretrain, render | point, point, None, name, inputs))
    return runs


def _finetunings(study: Study, pretrain: list[Run], chosen: Mapping[str, Any]) -> list[Run]:
    by_name = {run.name: run for run in pretrain}
    others = _starts(pretrain)
    starts: list[tuple[Run | None, Point]] = [
        (by_name[other["start"]], point) for other, point in study.finetune.grid("finetune", others) if "start" in other
    ]
    if study.scratch:
        scratch = [point for _, point in replace(study.finetune, exclude=_own(study)).grid("finetune")]
        starts = [*((None, point) for point in scratch), *starts]
    runs = []
    for start, point in starts:
        extra = {}
        if study.choose is not None and study.choose.key not in point:
            extra = {study.choose.key: chosen[_choice_key(start, point)]["chosen"]}
        runs.append(_finetuning(study, start, point, extra))
    return runs


def _own(study: Study) -> list[dict[str, Any]]:
    """Return the exclusions that name only fine-tuning's own axes, which hold for scratch too."""
    return [rule for rule in study.finetune.exclude if rule.keys() <= study.finetune.axes]


def _starts(pretrain: list[Run]) -> list[Point]:
    """Return the pre-trainings as points that fine-tuning's exclusions can name."""
    return [
        {"start": run.name} | {key if key == "render" else f"pretrain.{key}": value for key, value in run.point.items()}
        for run in pretrain
    ]


def _finetuning(study: Study, start: Run | None, point: Point, extra: Point, trial: bool = False) -> Run:
    before = {} if start is None else next(iter(_starts([start])))
    before.pop("start", None)
    forgetting = study.forgetting and start is not None and not trial
    own = point | extra
    # the version of the measure, so that records of an earlier one are not taken for it
    inputs: dict[str, Any] = {"forgetting": 2 if forgetting else False}
    inputs |= {"trial": True} if trial else {}
    inputs |= {} if study.test_at == "last" else {"test_at": study.test_at}
    run = _run("finetune", study.finetune, before | own, own, start, None, inputs, "trial" if trial else "finetune")
    return replace(run, forgetting=forgetting, test_at=study.test_at, trial=trial)


def _render_points(study: Study) -> list[Point]:
    if study.render is None:
        return [{}]
    return [
        {"render": label(point) or label({"config": study.render.files(point)})}
        for _, point in study.render.grid("render")
    ]


def _run(
    stage: str,
    settings: Stage,
    point: Point,
    own: Point,
    start: Run | None,
    render: str | None,
    inputs: Mapping[str, Any],
    kind: str | None = None,
) -> Run:
    files = [find_config(name) for name in settings.files(own)]
    args = (
        *(f"{_CONFIG}{file}" for file in files),
        *(f"--{key}={_text(value)}" for key, value in settings.overrides(own).items()),
    )
    content = [read_yaml(file) for file in files]  # what the files say, not where they lie
    overrides = settings.overrides(own)
    key = fingerprint([stage, content, overrides, inputs, start.key if start else None])
    # what a name tells: where the run starts from, then its own axes
    origin = "scratch" if stage == "finetune" and start is None else start.label if start else render or ""
    own_label = label({k: v for k, v in own.items() if k not in settings.followers})
    text = "-".join(filter(None, [origin, own_label]))[:100]
    name = "-".join(filter(None, [kind or stage, text, key[:8]]))
    return Run(name, text, stage, point, args, start.name if start else None, render, key)


def _images(root: Path, n: int) -> dict[str, Any]:
    """Return the hashes of the shards that hold the first n images and the validation's: they fix what is seen."""
    shards: list[str] = []
    images = 0
    for shard in load_json(root / "train" / "manifest.json")["shards"]:
        if images >= n:
            break
        shards.append(shard["sha256"])
        images += shard["images"]
    val = [shard["sha256"] for shard in load_json(root / "val" / "manifest.json")["shards"]]
    return {"train": shards, "val": val}


def _merged(stage: Stage, point: Point, where: str) -> dict[str, Any]:
    """Return the configuration of a point as one nested dict: files, then overrides by dotted key."""
    merged: dict[str, Any] = {}
    for name in stage.files(point):
        merge_keys(merged, deepcopy(read_yaml(find_config(name))))
    for key, value in stage.overrides(point).items():
        into = merged
        *parents, last = key.split(".")
        for parent in parents:
            into = into.setdefault(parent, {})
            if not isinstance(into, dict):
                raise UserError(f"{where}: '{key}' goes through '{parent}', which is a value and not a group")
        into[last] = value
    return merged


def _text(value: Any) -> str:
    """Return a value as the command line takes it: plain, or as YAML in one line."""
    if isinstance(value, str):
        return value
    if type(value) is int:  # most are, and YAML's writer is slow
        return str(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


def _unique(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"two {what} are the same: {name}; an axis has a value twice, or differs in nothing")
        seen.add(name)
