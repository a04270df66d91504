"""`lightning-tl dataset`: preview, validate, count and export a rendered data set, and measure its complexity."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning_tl._io.atomic import write_atomically
from lightning_tl._io.urls import to_place
from lightning_tl.cli.parsing import command_parser, parse
from lightning_tl.errors import UserError, nearest


def _preview(argv: list[str]) -> int:
    parser = command_parser("dataset preview", "Draw a contact sheet: colours with boxes, masks, normals.")
    parser.add_argument("root", type=str, help="Rendered data set: folder or URL.")
    parser.add_argument(
        "--out", type=Path | None, default=None, help="PNG file (default: DIR/preview.png; for a URL ./preview.png)."
    )
    parser.add_argument("--split", type=str, default="train", help="train or val.")
    parser.add_argument("--count", type=int, default=24, help="Number of images.")
    parser.add_argument("--side", type=int, default=128, help="Side of a tile in pixels.")
    options = parse(parser, argv)
    if options.count < 1 or options.side < 16:
        raise UserError(f"--count is {options.count} and --side {options.side}; they must be at least 1 and 16")
    from lightning_tl.data.preview import contact_sheet
    from lightning_tl.data.rendered_images import RenderedImages

    root = to_place(options.root)
    out = options.out or _beside(options.root) / "preview.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(RenderedImages(root / options.split), options.count, options.side).save(out)
    print(out)
    return 0


def _beside(root: str) -> Path:
    """Return where pictures of a data set go: into its folder, or for a URL into the current one."""
    place = to_place(root)
    return place if isinstance(place, Path) else Path()


def _validate(argv: list[str]) -> int:
    parser = command_parser(
        "dataset validate",
        "Check every image: files, ids, masks against boxes and labels, colours, normals, balance, duplicates. Exit "
        "code 1 if there is a fault.",
    )
    parser.add_argument("root", type=str, help="Rendered data set, or one of its splits: folder or URL.")
    parser.add_argument("--strict", action="store_true", help="Remarks count as faults.")
    parser.add_argument("--out", type=Path | None, default=None, help="JSON file with all findings.")
    parser.add_argument("--examples", type=int, default=3, help="Number of examples printed per fault.")
    parser.add_argument(
        "--workers", type=int, default=min(8, os.cpu_count() or 1), help="Number of processes that read shards."
    )
    options = parse(parser, argv)
    _at_least(options, workers=1, examples=1)
    from lightning_tl.inspection.validate import validate
    from lightning_tl.inspection.validation_report import as_json, summary

    report = validate(options.root, options.workers)
    print(summary(report, options.examples))
    _write_json(options.out, as_json(report))
    return int(bool(report.faults if options.strict else report.serious()))


def _stats(argv: list[str]) -> int:
    parser = command_parser("dataset stats", "Histograms and contact sheets on one page.")
    parser.add_argument("root", type=str, help="Rendered data set, or one of its splits: folder or URL.")
    parser.add_argument(
        "--out",
        type=Path | None,
        default=None,
        help="Folder for stats.html, stats.json and the pictures (default: DIR/stats; for a URL ./stats).",
    )
    parser.add_argument("--count", type=int, default=24, help="Number of images on a contact sheet.")
    options = parse(parser, argv)
    _at_least(options, count=1)
    from lightning_tl.inspection.statistics_page import write_statistics

    print(write_statistics(options.root, options.out or _beside(options.root) / "stats", options.count))
    return 0


def _export(argv: list[str]) -> int:
    parser = command_parser("dataset export", "Convert the data set to another format.")
    parser.add_argument("root", type=str, help="Rendered data set, or one of its splits: folder or URL.")
    parser.add_argument("--format", type=str, required=True, help="coco, yolo, bop, hdf5, parquet or imagefolder.")
    parser.add_argument("--out", type=Path, required=True, help="New folder, or the folder of an interrupted export.")
    parser.add_argument(
        "--license", type=str | None, default=None, help="parquet, imagefolder: licence of the images, as cc-by-4.0."
    )
    options = parse(parser, argv)
    from lightning_tl.inspection.export import export

    for note in export(options.root, options.format, options.out, options.license):
        print(note)
    print(options.out)
    return 0


def _complexity(argv: list[str]) -> int:
    parser = command_parser(
        "dataset complexity",
        "The entropy H of a Gaussian fitted to a backbone's features, and its distance to other images.",
    )
    parser.add_argument("root", type=str, help="Rendered data set (folder or URL), or a folder of images.")
    parser.add_argument("--ckpt", type=Path, required=True, help="Checkpoint with the backbone.")
    parser.add_argument(
        "--backbone", type=str | None, default=None, help="Name of the backbone, if the checkpoint does not contain it."
    )
    parser.add_argument(
        "--against", type=str | None, default=None, help="Target images: a folder or a rendered data set."
    )
    parser.add_argument("--images", type=int, default=5000, help="Most images to read of each.")
    parser.add_argument("--size", type=int, default=224, help="Side of the backbone's input in pixels.")
    parser.add_argument(
        "--standardize",
        type=str,
        default="imagenet",
        help="imagenet (its mean and deviation), or image (each image's own).",
    )
    parser.add_argument("--draws", type=int, default=100, help="Number of bootstrap draws for the interval.")
    parser.add_argument("--seed", type=int, default=0, help="Seed of the draws.")
    parser.add_argument("--out", type=Path | None, default=None, help="JSON file.")
    options = parse(parser, argv)
    _at_least(options, images=8, size=8, draws=20, seed=0)
    from lightning_tl.inspection.complexity_report import complexity

    text, record = complexity(
        options.root,
        options.ckpt,
        options.backbone,
        options.against,
        images=options.images,
        size=options.size,
        standardize=options.standardize,
        draws=options.draws,
        seed=options.seed,
    )
    print(text)
    _write_json(options.out, record)
    return 0


ACTIONS: dict[str, tuple[Callable[[list[str]], int], str]] = {
    "preview": (_preview, "DIR [--out FILE]: a contact sheet with boxes, masks and normals"),
    "validate": (_validate, "DIR [--strict]: check every image; exit code 1 if there is a fault"),
    "stats": (_stats, "DIR [--out DIR]: histograms and contact sheets on one page"),
    "export": (_export, "DIR --format coco|yolo|bop|hdf5|parquet|imagefolder --out DIR"),
    "complexity": (_complexity, "DIR --ckpt CKPT [--against FOLDER]: entropy of the features, distance to a target"),
}


def main(argv: list[str]) -> int:
    """Run the action that ``argv`` begins with."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: lightning-tl dataset ACTION DIR [OPTIONS]\n")
        print("\n".join(f"lightning-tl dataset {name} {line}" for name, (_, line) in ACTIONS.items()))
        return 0 if argv else 2
    if argv[0] not in ACTIONS:
        raise UserError(f"dataset: no action '{argv[0]}'{nearest(argv[0], ACTIONS)}")
    return ACTIONS[argv[0]][0](argv[1:])


def _at_least(options: Any, **minimum: int) -> None:
    for name, value in minimum.items():
        if options[name] < value:
            raise UserError(f"--{name} is {options[name]}; it must be at least {value}")


def _write_json(path: Path | None, content: dict[str, Any]) -> None:
    if path is not None:
        write_atomically(path, json.dumps(content, indent=2))
        print(path)
