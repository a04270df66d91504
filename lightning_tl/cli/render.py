"""`lightning-tl render`: a labelled data set from a configuration."""

from __future__ import annotations

import sys

from data_gen.farm import render
from data_gen.scene_sampler import RenderConfig
from lightning_tl.cli.parsing import command_parser, parse
from lightning_tl.progress import progress_bar

DESCRIPTION = """Render a labelled data set. The same command with a larger --images adds to it; with the same it checks
every finished shard and renders what is missing. It can be interrupted at any time."""


def main(argv: list[str] | None = None) -> int:
    """Render, and print what there is now."""
    parser = command_parser("render", DESCRIPTION)
    parser.add_argument(
        "--out",
        type=str,
        required=True,
        help="Folder or URL (s3://bucket/set) of the data set: train/ and val/ go into it.",
    )
    parser.add_argument("--images", type=int, required=True, help="Images of the training split.")
    parser.add_argument("--val-images", "--val_images", type=int, default=0, help="Images of the validation split.")
    parser.add_argument(
        "--workers",
        type=int | None,
        default=None,
        help="Renderer processes (default: one a core, or one a GPU; with ray as many as the cluster has room for).",
    )
    parser.add_argument(
        "--engine", choices=("local", "ray"), default="local", help="Processes of this machine, or of a Ray cluster."
    )
    parser.add_argument(
        "--address",
        type=str | None,
        default=None,
        help="Of the Ray cluster: auto, host:6379, ray://host:10001 (default: one is started here).",
    )
    parser.add_argument(
        "--on-error",
        "--on_error",
        choices=("continue", "skip"),
        default="continue",
        help="A scene that fails twice: render all other shards and end with an error, or leave it out.",
    )
    parser.add_class_arguments(RenderConfig)
    given = parse(parser, argv)
    config = parser.instantiate_classes(given)
    fields = {name: config[name] for name in RenderConfig.__dataclass_fields__}
    with progress_bar(f"render {given.out}", "images") as progress:
        summary = render(
            RenderConfig(**fields),
            given.out,
            given.images,
            given.val_images,
            given.workers,
            progress,
            on_error=given.on_error,
            say=lambda note: print(f"note: {note}", file=sys.stderr),
            engine=given.engine,
            address=given.address,
        )
    for split, scenes in summary.skipped.items():
        listed = ", ".join(map(str, scenes))
        print(f"left out of {split}: {len(scenes)} scenes that could not be rendered ({listed})", file=sys.stderr)
    return 0
