"""`lightning-tl dataset preview`: look at a rendered data set."""

from __future__ import annotations

from pathlib import Path

from lightning_tl.cli.parsing import command_parser, parse
from lightning_tl.errors import UserError, nearest

ACTIONS = ("preview",)


def main(argv: list[str]) -> int:
    """Run the action that ``argv`` begins with."""
    if not argv or argv[0] in ("-h", "--help"):
        print("usage: lightning-tl dataset preview DIR [--out FILE] [--split train] [--count 24]")
        print("\npreview  a contact sheet with boxes, masks and normals drawn")
        return 0 if argv else 2
    if argv[0] not in ACTIONS:
        raise UserError(f"dataset: no action '{argv[0]}'{nearest(argv[0], ACTIONS)}")
    parser = command_parser("dataset preview", "Draw a contact sheet: colours with boxes, masks, normals.")
    parser.add_argument("root", type=Path, help="Folder that lightning-tl render wrote.")
    parser.add_argument("--out", type=Path | None, default=None, help="PNG file (default: DIR/preview.png).")
    parser.add_argument("--split", type=str, default="train", help="train or val.")
    parser.add_argument("--count", type=int, default=24, help="How many images.")
    parser.add_argument("--side", type=int, default=128, help="Side of a tile in pixels.")
    given = parse(parser, argv[1:])
    if given.count < 1 or given.side < 16:
        raise UserError(f"--count is {given.count} and --side {given.side}; they must be at least 1 and 16")
    from lightning_tl.data.preview import contact_sheet
    from lightning_tl.data.shards import RenderedImages

    out = given.out or given.root / "preview.png"
    out.parent.mkdir(parents=True, exist_ok=True)
    contact_sheet(RenderedImages(given.root / given.split), given.count, given.side).save(out)
    print(out)
    return 0
