"""Rendering a data set, or the shards that it lacks, by workers here or on a cluster. Never imports Blender."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from data_gen.check import check_environment
from data_gen.devices import default_workers
from data_gen.dispatch import Dispatch, Pool, ShardTask
from data_gen.interpreter import named_blender
from data_gen.local_pool import LocalPool
from data_gen.manifest import Split
from data_gen.scene_sampler import RenderConfig, check_config, config_to_dict
from data_gen.sources import Catalogue, open_catalogue
from data_gen.temporary_folders import staging
from lightning_tl._io.locks import lock_owner, try_lock, waiting_lock
from lightning_tl._io.urls import is_url
from lightning_tl.errors import UserError

LOCK = ".render.lock"
Engine = Literal["local", "ray"]
OnError = Literal["continue", "skip"]


@dataclass(frozen=True)
class RenderSummary:
    """What :func:`render` did.

    Attributes:
        images: number of images of each split now (whole shards, so there may be more than requested).
        rendered: number of images that this call rendered; 0 where none was missing and the call only verified hashes.
        seconds: duration of the call.
        skipped: scenes that could not be rendered and were left out, by split.
        notes: what the user should know about the sources: what is missing, left out or made smaller.
    """

    images: dict[str, int]
    rendered: int
    seconds: float
    skipped: dict[str, list[int]]
    notes: tuple[str, ...] = ()


def render(
    config: RenderConfig,
    out: Path | str,
    images: int,
    val_images: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    recycle_scenes: int = 2000,
    recycle_mib: int = 4096,
    on_error: OnError = "continue",
    say: Callable[[str], None] | None = None,
    engine: Engine = "local",
    address: str | None = None,
    wait: bool = False,
) -> RenderSummary:
    """Render a data set, or the shards that it lacks, and verify the others.

    The bytes depend only on the configuration: not on the engine, the number of workers or nodes, nor on
    interruptions. Whole shards are rendered, so ``images`` is rounded up to a multiple of
    ``scenes_per_shard × views``.

    Args:
        config: what to render.
        out: folder, or URL that fsspec knows (``s3://bucket/set``); gets ``train/`` and ``val/``. In a folder the
            hashes of finished shards are verified, on a store their sizes. A folder is locked by one process at a time;
            a store cannot be locked, so only one process may write a data set there. With ``ray`` all nodes must see
            the folder.
        images: number of training images, 1 or more.
        val_images: number of validation images, 0 or more.
        workers: number of processes, of one thread each; ``None``: one per core or GPU, with ``ray`` as many as the
            cluster has room for at any time. A cluster that grows on demand grows to this number.
        progress: called with (images done, images in all) at the start and as scenes finish.
        recycle_scenes: a worker is replaced by a new one after about this many scenes, so that its memory stays flat.
        recycle_mib: a worker is also replaced after the shard in which its memory reaches this size.
        on_error: what to do with a scene that fails twice. ``continue``: all other shards are rendered, then an error
            names the scene, and its shard is missing. ``skip``: the scene is left out of its shard, and the manifest
            lists it.
        say: called with each note on the sources before rendering starts, and when a node is lost.
        engine: ``local``: processes of this machine. ``ray``: processes of a Ray cluster.
        address: address of the cluster (``auto``, ``host:6379``, ``ray://host:10001``); ``None`` starts one here.
        wait: wait while another process renders into the folder, instead of raising an error.

    Raises:
        UserError: anything wrong with the arguments, the folder or store, the machine, the cluster or a scene, in
            one message.
        KeyboardInterrupt: on Ctrl-C, with all workers stopped; finished shards are kept.
    """
    started = time.monotonic()
    check_config(config)
    for key, value, valid in (("on_error", on_error, get_args(OnError)), ("engine", engine, get_args(Engine))):
        if value not in valid:
            raise UserError(f"'{key}' cannot be {value!r}; valid: {', '.join(valid)}")
    for name, count, least in (("images", images, 1), ("val_images", val_images, 0), ("workers", workers, 1)):
        if name == "workers" and count is None:
            continue
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise UserError(f"'{name}' must be a whole number of at least {least}, not {count!r}")
    out = str(out).rstrip("/") if is_url(out) else str(out).removeprefix("file://")
    with _locked_output(out, wait, say) as record:
        catalogue = open_catalogue(config, record, _checking(say))
        for note in catalogue.notes:
            if say is not None:
                say(note)
        splits = [Split(f"{out}/train", config, images, catalogue)]
        if val_images:
            splits.append(Split(f"{out}/val", config, val_images, catalogue))
        tasks = [ShardTask(split, shard) for split in splits for shard in split.missing]
        dispatch = Dispatch(config, out, splits, tasks, progress, recycle_scenes, recycle_mib, on_error, say)
        dispatch.report()
        if tasks:
            if say is not None and (blender := named_blender()):
                say(f"rendering in {blender}, which the variable BLENDER names")
            if is_url(out):
                for split in splits:  # so that a store that refuses is known now, not when the first shard is ready
                    split.write_manifest()
            dispatch.run(_pool(config, catalogue, record, engine, address, workers))
        for split in splits:
            if gone := split.vanished():
                raise UserError(
                    f"{split.folder.at()}: {len(gone)} finished shards are gone, the first {gone[0]}: were they "
                    "deleted meanwhile? Run the same command again"
                )
            split.write_manifest()
        if dispatch.lost:
            raise dispatch.lost_scenes()
    return RenderSummary(
        {s.name: s.images_done for s in splits},
        sum(task.split.images(task.shard) for task in tasks),
        time.monotonic() - started,
        {s.name: sorted(s.skipped) for s in splits if s.skipped},
        catalogue.notes,
    )


@contextmanager
def _locked_output(out: str, wait: bool, say: Callable[[str], None] | None) -> Iterator[Path]:
    """Lock the output, if it is a folder; yield the path of the record of the sources."""
    if is_url(out):
        with staging() as folder:
            yield folder / "sources.json"
        return
    folder = Path(out)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the output folder {out}: {error.strerror}") from None
    with ExitStack() as stack:
        if not stack.enter_context(try_lock(folder / LOCK)):
            other = f"another process (id {lock_owner(folder / LOCK)}) is rendering into {folder}"
            if not wait:
                raise UserError(f"{other}: wait for it, end it, or choose another folder")
            if say is not None:
                say(f"{other}: waiting for it")
            stack.enter_context(waiting_lock(folder / LOCK))
        yield folder / "sources.json"


def _pool(
    config: RenderConfig,
    catalogue: Catalogue,
    record: Path,
    engine: Engine,
    address: str | None,
    workers: int | None,
) -> Pool:
    start = {"config": _with_full_paths(config_to_dict(config)), "contents": catalogue.fingerprint}
    if engine == "ray":
        from data_gen.ray_pool import RayPool

        return RayPool(config, start, record, address, workers)
    check_environment()
    return LocalPool(config, start, record, workers or default_workers(config.image.device))


def _checking(say: Callable[[str], None] | None) -> Callable[[int, int], None] | None:
    """Return a progress function that reports the checking of many meshes ten times, and that of few not at all."""

    def advance(done: int, total: int) -> None:
        if say is not None and total >= 200 and done * 10 // total > (done - 1) * 10 // total:
            say(f"checked {done} of {total} meshes")

    return advance


def _with_full_paths(config: dict[str, Any]) -> dict[str, Any]:
    """Return the configuration with absolute paths, as a worker may be started in another folder."""
    for values, key in (
        *((source, "path") for source in config["sources"]),
        (config["camera"], "intrinsics"),
        (config["lights"], "hdris"),
        (config["room"], "materials"),
    ):
        if values[key]:
            values[key] = str(Path(values[key]).absolute())
    return config
