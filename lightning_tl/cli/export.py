"""`lightning-tl export`: the network of a checkpoint as files that other projects read, and on the Hugging Face Hub."""

from __future__ import annotations

import tempfile
from pathlib import Path

from lightning_tl.cli.parsing import command_parser, parse
from lightning_tl.errors import UserError


def main(argv: list[str]) -> int:
    """Write the files, upload them if asked, and print what they hold."""
    parser = command_parser(
        "export",
        "Write the network of a checkpoint, or its backbone, for other projects, with low-rank updates (LoRA) merged "
        "into the weights; beside it a transfer card: class names, preprocessing, scores, law, forgetting, fragility, "
        "how to reproduce it.",
    )
    parser.add_argument("checkpoint", type=str, help="Checkpoint of any task, or a state dict: path or URL.")
    parser.add_argument("--out", type=Path | None, default=None, help="New file, or folder (timm, huggingface).")
    parser.add_argument(
        "--format",
        type=str,
        default="backbone",
        help="What to write: backbone, torchvision, timm, safetensors, onnx, torchscript or huggingface.",
    )
    parser.add_argument(
        "--size", type=int | None, default=None, help="onnx, torchscript: side of the images in pixels."
    )
    parser.add_argument("--law", type=Path | None, default=None, help="fits.json, whose law goes into the card.")
    parser.add_argument(
        "--measurements", type=Path | None, default=None, help="measurements.csv for the card (default: the run's)."
    )
    parser.add_argument("--license", type=str | None, default=None, help="Licence of the weights, for the card.")
    parser.add_argument("--push", type=str | None, default=None, help="Upload to the Hub: hf:USER/NAME[@BRANCH].")
    parser.add_argument("--private", type=bool, default=False, help="Whether a new repository is private.")
    options = parse(parser, argv)
    if options.out is None and options.push is None:
        raise UserError("export: give --out, a new file or folder, or --push hf:USER/NAME")
    from lightning_tl.hub_names import hub_name
    from lightning_tl.sharing.export import export, export_folder
    from lightning_tl.sharing.hub_upload import push_folder
    from lightning_tl.sharing.transfer_card import CardSources, check_license

    sources = CardSources(options.law, options.measurements, check_license(options.license))
    if options.push is not None:
        hub_name(options.push)  # before anything is written
    if options.out is not None:
        print(export(options.checkpoint, options.out, options.format, options.size, sources))
        print(options.out)
    if options.push is not None:
        with tempfile.TemporaryDirectory(prefix="lightning-tl-push-") as beside:
            folder = Path(beside) / "export"
            text = export_folder(options.checkpoint, folder, options.format, options.size, sources)
            if options.out is None:
                print(text)
            print(push_folder(folder, options.push, options.private))
    return 0
