"""`lightning-tl render`: a labelled data set from a configuration."""

from __future__ import annotations

import sys

from data_gen.farm import render
from data_gen.scene_sampler import RenderConfig
from lightning_tl.cli.parsing import command_parser, parse
from lightning_tl.progress import progress_bar

DESCRIPTION = """Render a labelled data set. Repeated with a larger --images the command adds images; with the same
number it verifies every finished shard and renders missing ones. It can be interrupted at any time."""


def main(argv: list[str] | None = None) -> int:
    """Render a data set; return 0."""
    parser = command_parser("render", DESCRIPTION)
    parser.add_argument(
        "--out",
        type=str,
        required=True,
        help="Folder or URL (s3://bucket/set) for the data set's train/ and val/.",
    )
    parser.add_argument("--images", type=int, required=True, help="Number of training images.")
    parser.add_argument("--val-images", "--val_images", type=int, default=0, help="Number of validation images.")
    parser.add_argument(
        "--workers",
        type=int | None,
        default=None,
        help="Renderer processes (default: one per core, or per GPU; with ray as many as fit on the cluster).",
    )
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="Processes of this machine, or of a Ray cluster."
    )
    parser.add_argument(
        "--address",
        type=str | None,
        default=None,
        help="Address of the Ray cluster: auto, host:6379, ray://host:10001 (default: start one on this machine).",
    )
    parser.add_argument(
        "--on-error",
        "--on_error",
        choices=("continue", "skip"),
        default="continue",
        help="If a scene fails twice: continue with the other shards and end with an error, or skip the scene.",
    )
    parser.add_class_arguments(RenderConfig)
    options = parse(parser, argv)
    config = parser.instantiate_classes(options)
    fields = {name: config[name] for name in RenderConfig.__dataclass_fields__}
    for note in _rounded(options.images, options.val_images, config.scenes_per_shard * config.camera.views):
        print(f"note: {note}", file=sys.stderr)
    with progress_bar(f"render {options.out}", "images") as progress:
        summary = render(
            RenderConfig(**fields),
            options.out,
            options.images,
            options.val_images,
            options.workers,
            progress,
            on_error=options.on_error,
            say=lambda note: print(f"note: {note}", file=sys.stderr),
            engine=options.engine,
            address=options.address,
        )
    for split, scenes in summary.skipped.items():
        listed = ", ".join(map(str, scenes))
        print(f"skipped in {split}: {len(scenes)} scenes that could not be rendered ({listed})", file=sys.stderr)
    return 0


def _rounded(images: int, val_images: int, per_shard: int) -> list[str]:
    """Return notes on numbers of images that are not those of whole shards."""
    return [
        f"{option} {count} becomes {-(-count // per_shard) * per_shard}, as whole shards of {per_shard} images are "
        "rendered (scenes_per_shard × camera.views)"
        for option, count in (("--images", images), ("--val-images", val_images))
        if count > 0 and per_shard > 0 and count % per_shard
    ]
