"""From a study's expanded axes to its data sets and runs. A run's key is a hash of all that its result depends on."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from lightning_tl.config_files import find_config, merge_keys, read_yaml
from lightning_tl.errors import UserError
from lightning_tl.study.choice import alike, chosen_value, origin
from lightning_tl.study.config import Stage, Study
from lightning_tl.study.expansion import Expansion, finetuning_axes
from lightning_tl.study.grid import Point, label
from lightning_tl.study.plan_items import CONFIG, DataSet, Run
from lightning_tl.study.records import fingerprint, load_json
from lightning_tl.study.shapes import Shards


def content_key(expansion: Expansion) -> str:
    """Return a hash of what all runs have in common: the contents of the configurations, and what is set in them.

    It stays the same where values of axes are added or left out.
    """
    study = expansion.study
    stages = [stage for stage in (study.render, study.pretrain, study.finetune) if stage is not None]
    content = [[stage.set, [read_yaml(find_config(name)) for name in stage.files({})]] for stage in stages]
    return fingerprint([content, study.choose and vars(study.choose), study.test_at])


def data_sets(expansion: Expansion) -> list[DataSet]:
    """Return the data sets to render, each with the largest n that a pre-training needs.

    Raises:
        UserError: A configuration is missing or wrong, or an n is not a positive whole number.
    """
    study = expansion.study
    if study.render is None or study.pretrain is None:
        return []
    sizes: dict[str, list[int]] = {}
    for planned in expansion.pretrain:
        overrides = study.pretrain.overrides(planned.own)
        n = overrides.get("data.n")
        if n is None:
            close = difflib.get_close_matches("data.n", overrides, n=1, cutoff=0.6)
            hint = f" (it has '{close[0]}')" if close else ""
            raise UserError(
                f"pretrain: data.n is not given{hint}; where data are rendered, give it as an axis or under set, whole "
                "numbers of at least 1"
            )
        if isinstance(n, bool) or not isinstance(n, int) or n < 1:
            raise UserError(
                f"pretrain: data.n is {n!r}; where data are rendered, give it as an axis or under set, "
                "whole numbers of at least 1 (n = 0 is scratch: true)"
            )
        sizes.setdefault(planned.render or "", []).append(n)
    configs = {name: merged_config(study.render, point, "render") for name, point in expansion.renders.items()}
    return [
        DataSet(name, point, configs[name], max(sizes[name]), study.render.val_images)
        for name, point in expansion.renders.items()
        if name in sizes
    ]


def pretrainings(expansion: Expansion, out: Path) -> list[Run]:
    """Return the pre-trainings, in the order of the expansion.

    Args:
        expansion: The expanded axes of the study.
        out: Folder of the study; the data sets are rendered there.
    """
    settings = expansion.study.pretrain
    if settings is None:
        return []
    runs = []
    for planned in expansion.pretrain:
        inputs = {}
        if planned.render is not None:
            inputs = _images(out / "renders" / planned.render, settings.overrides(planned.own)["data.n"])
        runs.append(_run("pretrain", settings, planned.point, planned.own, None, planned.render, inputs))
    return runs


def plan(expansion: Expansion, out: Path, chosen: Mapping[str, Any] | None = None) -> list[Run]:
    """Return the runs: pre-trainings, then fine-tunings.

    Args:
        expansion: The expanded axes of the study.
        out: Folder of the study; the data sets are rendered there.
        chosen: From :func:`.choice.choose`. Where the study chooses a value and this is None, the trials are returned
            instead of the fine-tunings.

    Raises:
        UserError: A configuration is missing or wrong, or two runs are the same.
    """
    study = expansion.study
    starts = pretrainings(expansion, out)
    if study.choose is not None and chosen is None:
        return [*starts, *trials(expansion, starts)]
    pairs: list[tuple[Run | None, Point]] = [(None, point) for point in expansion.scratch]
    pairs += [(starts[number], point) for number, point in expansion.finetune]
    runs = list(starts)
    for start, point in pairs:
        runs.append(finetuning(study, start, point, chosen_value(study, start, point, chosen or {})))
    _unique([run.name for run in runs], "runs")
    return runs


def trials(expansion: Expansion, starts: list[Run]) -> list[Run]:
    """Return the trial runs: all values to choose from, for each series and each value of the axes of ``choose.each``.

    Trials start from the middle n of a series. They are validated and not tested, so that no test image is read before
    the choice is made.
    """
    study = expansion.study
    if study.choose is None:
        return []
    members: list[tuple[Run | None, list[Point]]] = []
    if study.scratch:
        paired = [] if isinstance(study.scratch, dict) else [point for _, point in expansion.finetune]
        members.append((None, paired or list(expansion.scratch)))
    for middle in trial_starts(expansion):
        members.append((starts[middle], [point for number, point in expansion.finetune if number == middle]))
    runs = []
    for start, points in members:
        first: dict[str, Point] = {}
        for point in points:
            first.setdefault(repr(alike(study.choose, point)), point)
        for point in first.values():
            for value in study.choose.values:
                runs.append(finetuning(study, start, point, {study.choose.key: value}, trial=True))
    return runs


def trial_starts(expansion: Expansion) -> list[int]:
    """Return which pre-trainings trial runs start from: of each series the first at the middle n."""
    series: dict[str, list[int]] = {}
    for number, planned in enumerate(expansion.pretrain):
        series.setdefault(origin(planned.point), []).append(number)
    middles = []
    for numbers in series.values():
        size = {number: expansion.pretrain[number].own.get("data.n", 0) for number in numbers}
        sizes = sorted(set(size.values()))
        middles.append(next(number for number in numbers if size[number] == sizes[len(sizes) // 2]))
    return middles


def finetuning(study: Study, start: Run | None, point: Point, extra: Point, trial: bool = False) -> Run:
    """Return a fine-tuning.

    Args:
        study: The study.
        start: The pre-training that it starts from; None for random weights.
        point: Values of its own axes.
        extra: Further keys and values, such as the chosen one.
        trial: Whether it is a trial run.
    """
    before = {} if start is None else finetuning_axes(start.point)
    forgetting = study.forgetting and start is not None and not trial
    own = point | extra
    # the number is the version of the measure: records of an earlier version do not count
    inputs: dict[str, Any] = {"forgetting": 2 if forgetting else False}
    inputs |= {"trial": True} if trial else {}
    inputs |= {} if study.test_at == "last" else {"test_at": study.test_at}
    run = _run("finetune", study.finetune, before | own, own, start, None, inputs, "trial" if trial else "finetune")
    return replace(run, forgetting=forgetting, test_at=study.test_at, trial=trial)


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
        *(f"{CONFIG}{file}" for file in files),
        *(f"--{key}={_text(value)}" for key, value in settings.overrides(own).items()),
    )
    content = [read_yaml(file) for file in files]  # the content of the files, not their paths
    overrides = settings.overrides(own)
    key = fingerprint([stage, content, overrides, inputs, start.key if start else None])
    # a name consists of the start and the run's own axes
    scratch = stage == "finetune" and start is None and not _has_weights([*content, overrides])
    origin = "scratch" if scratch else start.label if start else render or ""
    own_label = label({k: v for k, v in own.items() if k not in settings.followers})
    text = "-".join(filter(None, [origin, own_label]))[:100]
    name = "-".join(filter(None, [kind or stage, text, key[:8]]))
    return Run(name, text, stage, point, args, start.name if start else None, render, key)


def _has_weights(settings: Iterable[Any]) -> bool:
    """Return whether settings name weights to start from, as ``model.init_from`` or ``model.pretrained``."""
    for each in settings:
        for key, value in each.items() if isinstance(each, dict) else ():
            named = str(key).rpartition(".")[2] in ("init_from", "pretrained") and bool(value)
            if named or (isinstance(value, dict) and _has_weights([value])):
                return True
    return False


def _images(root: Path, n: int) -> dict[str, Any]:
    """Return the hashes of the shards with the first n training images, and of the validation shards."""
    shards: list[str] = []
    images = 0
    for shard in load_json(root / "train" / "manifest.json", shape=Shards)["shards"]:
        if images >= n:
            break
        shards.append(shard["sha256"])
        images += shard["images"]
    val = [shard["sha256"] for shard in load_json(root / "val" / "manifest.json", shape=Shards)["shards"]]
    return {"train": shards, "val": val}


def merged_config(stage: Stage, point: Point, where: str, classes: bool = False) -> dict[str, Any]:
    """Return the configuration of a point as one nested dict: files, then overrides by dotted key.

    Args:
        stage: The stage.
        point: Values of its axes.
        where: The stage, for messages.
        classes: Whether a text may be a class's name, as in training. It becomes ``{class_path: NAME}`` where a later
            key sets one of its arguments.

    Raises:
        UserError: A key goes through a value that holds no keys.
    """
    merged: dict[str, Any] = {}
    for name in stage.files(point):
        merge_keys(merged, deepcopy(read_yaml(find_config(name))))
    for key, value in stage.overrides(point).items():
        into = merged
        *parents, last = key.split(".")
        for parent in parents:
            if classes and isinstance(into.get(parent), str):
                into[parent] = {"class_path": into[parent]}
            into = into.setdefault(parent, {})
            if not isinstance(into, dict):
                raise UserError(f"{where}: '{key}' goes through '{parent}', which is a value and not a group")
        into[last] = deepcopy(value)  # a later key may set a part of it
    return merged


def _text(value: Any) -> str:
    """Return a value as the command line takes it: plain, or as YAML in one line."""
    if isinstance(value, str):
        return value
    if type(value) is int:  # the common case, and YAML's writer is slow
        return str(value)
    return yaml.safe_dump(value, default_flow_style=True, width=10**6).removesuffix("\n...\n").strip()


def _unique(names: Iterable[str], what: str) -> None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            raise UserError(f"two {what} are the same: {name}; an axis has a value twice, or differs in nothing")
        seen.add(name)
