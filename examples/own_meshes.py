"""Render a labelled data set of meshes of your own, and train a small classifier on it.

    pip install '.[render]'                         # in a clone; Python 3.11
    python examples/own_meshes.py                   # works in a temporary folder
    python examples/own_meshes.py runs/vessels      # keeps meshes, renders and a contact sheet in this folder

The meshes are bottles, bowls and goblets that are turned from a profile, as a potter does; nothing is downloaded. They
are made twice: once for training and once for the test, so that the accuracy is of meshes that the network has not
seen.
"""

from __future__ import annotations

import logging
import sys
import tempfile
import warnings
from pathlib import Path

import numpy as np
import torch
from lightning.pytorch import Trainer
from scipy.stats import binomtest

from data_gen import CameraConfig, ImageConfig, RenderConfig, RoomConfig, SourceConfig, render
from lightning_tl.data import Rendered, RenderedImages
from lightning_tl.data.preview import contact_sheet
from lightning_tl.errors import UserError
from lightning_tl.tasks import Classification

#: Radius and height of each point of a profile, from the bottom to the top.
PROFILES = {
    "bottle": [(1.0, 0.0), (1.0, 1.8), (0.35, 2.4), (0.35, 3.2)],
    "bowl": [(0.5, 0.0), (0.9, 0.3), (1.1, 0.9), (1.0, 0.9), (0.8, 0.5)],
    "goblet": [(0.8, 0.0), (0.15, 0.2), (0.15, 1.2), (0.7, 1.6), (0.8, 2.4), (0.7, 2.4), (0.5, 1.8)],
}


def turned(profile: np.ndarray, sides: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """Return vertices ``[V, 3]`` and triangles ``[F, 3]`` of a profile ``[P, 2]`` that is turned about the z axis."""
    angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
    circle = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    rings = [np.column_stack([radius * circle, np.full(sides, height)]) for radius, height in profile]
    middles = [[0, 0, profile[0, 1]], [0, 0, profile[-1, 1]]]
    bottom, top, last = len(profile) * sides, len(profile) * sides + 1, (len(profile) - 1) * sides
    faces = []  # counter-clockwise, seen from outside
    for i, j in zip(range(sides), np.roll(range(sides), -1), strict=True):
        faces += [(bottom, j, i), (top, last + i, last + j)]
        for ring in range(0, last, sides):
            above = ring + sides
            faces += [(ring + i, ring + j, above + j), (ring + i, above + j, above + i)]
    return np.concatenate([*rings, middles]), np.array(faces)


def write_meshes(folder: Path, number: int, seed: int) -> None:
    """Write so many ``.obj`` files of each category, in a folder for each category; z points up."""
    rng = np.random.default_rng(seed)
    for category, profile in PROFILES.items():
        (folder / category).mkdir(parents=True, exist_ok=True)
        for index in range(number):
            factors = np.column_stack(
                [rng.uniform(0.7, 1.3, len(profile)), np.full(len(profile), rng.uniform(0.8, 1.3))]
            )
            vertices, faces = turned(np.array(profile) * factors)
            lines = ["v {:.4f} {:.4f} {:.4f}".format(*vertex) for vertex in vertices]
            lines += ["f {} {} {}".format(*face) for face in faces + 1]
            (folder / category / f"{index:03d}.obj").write_text("\n".join(lines) + "\n", encoding="utf-8")


def render_meshes(meshes: Path, out: Path, views: int, images: int, val_images: int) -> None:
    """Render one object per scene, each image with its labels: the Python of ``lightning-tl render``."""
    config = RenderConfig(
        sources=[SourceConfig(kind="folder", path=str(meshes))],
        appearance="single",
        camera=CameraConfig(views=views),
        room=RoomConfig(walls=0),
        image=ImageConfig(size=48, samples=4),
        scenes_per_shard=8,
    )
    summary = render(config, out, images, val_images, say=lambda note: print(f"note: {note}"))
    print(f"rendered {summary.rendered} images into {out}: {summary.seconds:.0f} s")


def train(seen: Path, new: Path) -> tuple[int, int]:
    """Train on the renders of some meshes; return how many images of new meshes are named right, and of how many."""
    transform = {"size": 32, "crop_scale": [0.8, 1.0], "hflip": 0.5}
    data = Rendered(seen, target="sinclass", transform=transform, batch_size=32, steps_per_epoch=50)
    task = Classification(data.num_classes, "resnet10_w16", optimizer=lambda weights: torch.optim.AdamW(weights, 4e-3))
    trainer = Trainer(
        max_steps=300,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(task, data)
    # renders have a train and a val part; here the val part of the new meshes is the test
    test = Rendered(new, target="sinclass", transform=transform)
    (scores,) = trainer.test(task, test, verbose=False)
    images = len(RenderedImages(new / "val"))
    return round(scores["test/score"] * images), images


def main(folder: Path) -> None:
    """Write meshes, render them, train, test."""
    for name, number, seed in (("seen", 20, 0), ("new", 100, 1)):
        write_meshes(folder / "meshes" / name, number, seed)
    seen, new = folder / "renders" / "seen", folder / "renders" / "new"
    render_meshes(folder / "meshes" / "seen", seen, views=4, images=288, val_images=32)
    # One view of each scene, and many meshes, so that few are drawn twice: images that share a scene or a mesh are not
    # independent, and the interval would be too narrow.
    render_meshes(folder / "meshes" / "new", new, views=1, images=8, val_images=96)
    contact_sheet(RenderedImages(seen / "train"), count=12).save(folder / "seen.png")
    right, images = train(seen, new)
    interval = binomtest(right, images).proportion_ci(method="wilson")
    print(
        f"{right} of {images} images of new meshes named right: accuracy {right / images:.2f} "
        f"(95 % interval {interval.low:.2f} to {interval.high:.2f}; by chance {1 / len(PROFILES):.2f})"
    )


if __name__ == "__main__":
    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    warnings.filterwarnings("ignore", message=".*LeafSpec")  # between versions of Lightning and torch
    torch.manual_seed(0)
    with tempfile.TemporaryDirectory() as temporary:
        try:
            main(Path(sys.argv[1] if len(sys.argv) > 1 else temporary))
        except UserError as problem:  # such as Blender that is not installed
            sys.exit(f"error: {problem}")
