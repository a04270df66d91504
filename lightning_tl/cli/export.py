"""`lightning-tl export`: a part of a checkpoint as a file that other projects read."""

from __future__ import annotations

from pathlib import Path

from lightning_tl.cli.parsing import command_parser, parse


def main(argv: list[str]) -> int:
    """Write the file, and print what it holds."""
    parser = command_parser(
        "export",
        "Write the backbone of a checkpoint as a plain state dict with torchvision's names, without the head, with "
        "low-rank updates (LoRA) merged into the weights; torch.load(FILE, weights_only=True) reads it. Or a language "
        "model as a folder for Hugging Face's libraries.",
    )
    parser.add_argument("checkpoint", type=str, help="Checkpoint of any task, or a state dict: path or URL.")
    parser.add_argument("--out", type=Path, required=True, help="New file, or folder.")
    parser.add_argument("--format", type=str, default="backbone", help="What to write: backbone or huggingface.")
    options = parse(parser, argv)
    from lightning_tl.models.export import export

    print(export(options.checkpoint, options.out, options.format))
    print(options.out)
    return 0
