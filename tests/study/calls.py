"""Single runs of a study as calls, with and without a store."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import fsspec

from lightning_tl.study.runs import Call

HERE = Path(__file__).parent.parent


def arguments(args: list[str]) -> tuple[str, ...]:
    return tuple(text for text in args[1:] if "default_root_dir" not in text)


def call(out: Path, name: str, args: list[str], test: bool = False, start: str | None = None) -> Call:
    folders = {"folder": str(out / name), "locks": str(out / "locks"), "targets": str(out / "targets")}
    return Call(
        name,
        folders.pop("folder"),
        f"key of {name}",
        arguments(args),
        test,
        start,
        forgetting=start is not None,
        **folders,
    )


def untimed(record: dict) -> dict:
    return {key: value for key, value in record.items() if key != "seconds"}


def stored(url: str, out: Path, name: str, args: list[str], start: str | None = None) -> Call:
    plain = call(out / "runs", name, args, test=start is not None, start=start and str(out / "runs" / start))
    return replace(plain, locks=str(out / "locks"), targets=str(out / "targets"), store=url)


def files(url: str) -> set[str]:
    system, root = fsspec.core.url_to_fs(url)
    system.invalidate_cache()
    return {path[len(root) + 1 :] for path in system.find(root)}
