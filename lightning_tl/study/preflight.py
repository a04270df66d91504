"""Checks a whole study before anything runs: keys, values, data, networks, and what is chosen and fitted at the end."""

from __future__ import annotations

import json
import sys
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lightning_tl.errors import UserError, nearest, one_line
from lightning_tl.laws.law_options import LawOptions
from lightning_tl.study.collect import axis_columns
from lightning_tl.study.config import Study
from lightning_tl.study.expansion import Expansion
from lightning_tl.study.plan import plan
from lightning_tl.study.plan_items import CONFIG, DataSet, Run
from lightning_tl.study.records import RESULT_COLUMNS

# settings of a data module that change neither which files it reads nor how many
_ORDER = ("seed", "draw", "batch_size", "eval_batch_size", "steps_per_epoch", "num_workers", "transform", "cache_bytes")
# what callbacks log, and what is logged by step: not known before a training
_LOGGED_LATER = ("train/", "hessian/", "sensitivity/", "perturbed_loss/", "param_distance/", "pretrain_loss/", "lr-")

# ways to treat D by which curves lend each other a parameter
_LENT = ("auto", "median", "shared", "pooled")


@dataclass(frozen=True)
class Draft:
    """All runs of a study, as far as they are known before it.

    Attributes:
        runs: Pre-trainings, then fine-tunings (with the first of the values to choose from).
        trials: The trial runs of ``choose``.
    """

    runs: list[Run]
    trials: list[Run]

    def distinct(self) -> list[Run]:
        """Return all of them, each once."""
        return list({run.name: run for run in (*self.trials, *self.runs)}.values())


def check_study(expansion: Expansion, sets: Sequence[DataSet], out: Path) -> Draft:
    """Check all that can be checked before the first image is rendered.

    Of each configuration as many runs are parsed as it takes for every value of every axis to occur (of numbers: the
    smallest and the largest). Where the runs will be on this machine, their trainer, data and network are also made,
    and their images are listed.

    Args:
        expansion: The expanded axes of the study.
        sets: The data sets to render.
        out: Folder of the study.

    Returns:
        The runs; names of those that read data still to be rendered are provisional.

    Raises:
        UserError: Anything is wrong; the message names the stage.
    """
    study = expansion.study
    _check_columns(study, expansion)
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        prepare_renders(sets, out, place)
        draft = draw_up(expansion, place)
        _check_runs(draft, place, study)
    if note := too_few_sizes(study, expansion):
        print(f"note: {note}", file=sys.stderr)
    return draft


def too_few_sizes(study: Study, expansion: Expansion) -> str:
    """Return what to say where the law asked for cannot be determined from the study's sizes; else nothing."""
    if study.law is None or study.analysis is not None or not expansion.pretrain:
        return ""
    form = study.law.law_form()
    if form.uses_s or study.law.size != "pretrain_images" or study.law.fix_d in _LENT:
        return ""  # other columns count too, or curves lend each other a parameter
    needed = len(form.parameters) + 1 - (study.law.fix_d != "free")
    sizes = {point.own.get("data.n") for point in expansion.pretrain}
    if len(sizes) >= needed:
        return ""
    return (
        f"the law needs {needed} pre-training sizes, and this study has {len(sizes)}: its report will say whether "
        "pre-training is better than none, but not what more images would bring; add values to data.n under pretrain"
    )


def draw_up(expansion: Expansion, place: Path) -> Draft:
    """Return all runs, where ``place/renders`` holds the data sets or stand-ins for them."""
    choice = expansion.study.choose
    if choice is None:
        return Draft(plan(expansion, place), [])
    value = {"chosen": choice.values[0]}  # in place of what the trials will choose
    first: Mapping[str, Any] = defaultdict(lambda: value, {"": value})
    trials = [run for run in plan(expansion, place) if run.stage == "finetune"]
    return Draft(plan(expansion, place, first), trials)


def prepare_renders(sets: Sequence[DataSet], out: Path, place: Path) -> None:
    """Link the rendered data sets; of the others write empty ones, which have the categories."""
    from data_gen.config_check import check_config, load_config
    from data_gen.manifest import Split
    from data_gen.sources import open_catalogue

    (place / "renders").mkdir()
    for data in sets:
        try:
            config = load_config(data.config)
            check_config(config)
            rendered = out / "renders" / data.name
            if (rendered / "val" / "manifest.json").is_file():
                (place / "renders" / data.name).symlink_to(rendered.resolve())
                continue
            catalogue = open_catalogue(config)
        except UserError as error:
            raise UserError(f"render {data.name}: {error}") from None
        for name in ("train", "val"):
            Split(place / "renders" / data.name / name, config, 1, catalogue).write_manifest()


def _check_runs(draft: Draft, place: Path, study: Study) -> None:
    by_name = {run.name: run for run in draft.distinct()}
    here = study.engine == "local" or (study.address is None and study.store is None)
    listed: set[str] = set()
    backbones: dict[str, tuple[Any, Any]] = {}
    chosen_metric: set[str] = set()
    for run in covering(draft.distinct()):
        start = by_name[run.start] if run.start else None
        with _named(run, study):
            # data sets that are on other machines only are not looked for here
            config = _checked(run, place, here, listed, study, chosen_metric)
            if start is not None:
                signature = _backbone_signature(start)
                if signature not in backbones:
                    backbones[signature] = _backbone(_checked(start, place, False, listed, study, chosen_metric))
                _same_backbone(backbones[signature], _backbone(config), start)


def _checked(run: Run, place: Path, make: bool, listed: set[str], study: Study, tried: set[str]) -> Any:
    """Return a run's parsed configuration. With ``make``, its trainer, data and network are made, too."""
    from lightning_tl.run import CheckCLI

    args = list(run.args)
    if run.render is not None:
        args.append(f"--data.root={place / 'renders' / run.render}")
    if run.start is not None:
        args.append("--model.init_from=of-the-pre-training.ckpt")
    cli = CheckCLI(["fit", *args], make=make)
    config = cli.config["fit"]
    if make and run.render is None:
        key = _read_key(config)
        if key not in listed:
            listed.add(key)
            cli.open_data()
    if make and run.stage == "finetune":
        choice = study.choose
        model = str(config.model.class_path)
        if choice is not None and model not in tried and not choice.metric.startswith(_LOGGED_LATER):
            tried.add(model)
            logged = cli.validation_metrics()
            if choice.metric not in logged:
                raise UserError(
                    f"choose.metric is {choice.metric}, which validation does not log{nearest(choice.metric, logged)}"
                )
    return config


def _read_key(config: Any) -> str:
    """Return what decides which files a data module reads."""
    settings = config.data.as_dict()
    settings["init_args"] = {k: v for k, v in settings.get("init_args", {}).items() if k not in _ORDER}
    return json.dumps(settings, default=str, sort_keys=True)


@contextmanager
def _named(run: Run, study: Study) -> Iterator[None]:
    """Say in errors which stage, and which configuration of it, is wrong."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except Exception as error:  # of the user's classes and values, too
        text = (
            str(error).splitlines()[0] if isinstance(error, UserError) else f"{type(error).__name__}: {one_line(error)}"
        )
        files = [Path(arg.removeprefix(CONFIG)).stem for arg in run.args if arg.startswith(CONFIG)]
        raise UserError(f"{run.stage} ({', '.join(files)}): {text}") from error


def covering(runs: Iterable[Run]) -> list[Run]:
    """Return runs in which every argument occurs beside each set of configuration files.

    Of numbers on an axis the smallest and the largest occur. Every combination of pre-training's and fine-tuning's
    settings of the backbone occurs.
    """
    runs = list(runs)
    by_name = {run.name: run for run in runs}
    limits: dict[tuple[Any, ...], list[float]] = {}
    for run in runs:
        for argument in run.args:
            key, number = _number(argument)
            if number is not None:
                low, high = limits.setdefault((run.stage, _files(run), key), [number, number])
                limits[run.stage, _files(run), key] = [min(low, number), max(high, number)]
    seen: set[Any] = set()
    kept = []
    for run in runs:
        start = by_name.get(run.start or "")
        traits: set[Any] = {(run.stage, _files(run), start is None)}
        if start is not None:
            traits.add((run.stage, _backbone_signature(start), _backbone_signature(run)))
        for argument in run.args:
            key, number = _number(argument)
            if number is None or number in limits[run.stage, _files(run), key]:
                traits.add((run.stage, _files(run), argument))
        if not traits <= seen:
            seen |= traits
            kept.append(run)
    return kept


def _files(run: Run) -> tuple[str, ...]:
    return tuple(argument for argument in run.args if argument.startswith(CONFIG))


def _number(argument: str) -> tuple[str, float | None]:
    key, _, text = argument.partition("=")
    try:
        return key, float(text)
    except ValueError:
        return key, None


def _backbone_signature(run: Run) -> str:
    return " ".join(arg for arg in run.args if arg.startswith(CONFIG) or "backbone" in arg or "in_chans" in arg)


def _backbone(config: Any) -> tuple[Any, Any]:
    return config.get("model.init_args.backbone"), config.get("model.init_args.in_chans")


def _same_backbone(before: tuple[Any, Any], own: tuple[Any, Any], start: Run) -> None:
    for name, theirs, ours in zip(("backbone", "in_chans"), before, own, strict=True):
        if theirs is not None and ours is not None and theirs != ours:
            raise UserError(
                f"model.{name} is {ours}, but that of the pre-training it starts from ({start.label or start.name}) "
                f"is {theirs}: give both the same; where it is an axis of both, name it under finetune.same"
            )


def _check_columns(study: Study, expansion: Expansion) -> None:
    """Refuse options of the law that name a column that ``results.csv`` will not have."""
    if study.law is None:
        return
    known = {*RESULT_COLUMNS, "pretrain_run", "pretrain_passes", "pretrain_tokens", "backbone_params"}
    known |= axis_columns(expansion)
    if study.complexity is not None:
        known |= {"complexity", "complexity_low", "complexity_high"}
    law, default = study.law, LawOptions()
    named = {name: getattr(law, name) for name in ("size", "score", "target_size", "model_size", "complexity")}
    lists = {name: getattr(law, name) for name in ("by", "share_by", "cluster")}
    columns = [(name, value) for name, value in named.items() if value and value != getattr(default, name)]
    for name, text in lists.items():
        for item in (text or "").split(","):
            columns += [(name, part.strip()) for part in item.split(":") if part.strip()]
    for name, column in columns:
        if column not in known:
            raise UserError(f"law: {name} names '{column}', which is no column of results.csv{nearest(column, known)}")


def describe(draft: Draft, sets: Sequence[DataSet], done: set[str], out: Path) -> str:
    """Return what a study would do, for ``study run --dry-run``: one line per data set and run.

    Args:
        draft: The runs.
        sets: The data sets.
        done: Names of the runs that are finished.
        out: Folder of the study.
    """
    lines = [f"{len(sets)} data sets" + (":" if sets else "")] if sets else []
    for data in sets:
        ready = (out / "renders" / data.name / "val" / "manifest.json").is_file()
        state = "rendered" if ready else "to render"
        lines.append(f"  {data.name}: {data.images:,} images for training, {data.val_images:,} for validation, {state}")
    stages = {
        "pre-trainings": [run for run in draft.runs if run.stage == "pretrain"],
        "trial runs": draft.trials,
        "fine-tunings": [run for run in draft.runs if run.stage == "finetune"],
    }
    for title, runs in stages.items():
        finished = sum(run.name in done for run in runs)
        if runs:
            lines.append(f"{len(runs)} {title}" + (f", {finished} finished:" if finished else ":"))
        lines += [f"  {run.label}" + (" (finished)" if run.name in done else "") for run in runs]
    return "\n".join([*lines, "nothing was run (--dry-run)"])
