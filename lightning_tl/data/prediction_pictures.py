"""Pictures of predictions beside the truth: boxes, masks, normals, key points, classes, on the images themselves."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from PIL import Image, ImageDraw
from torch import Tensor

from lightning_tl._io.atomic import replacing
from lightning_tl.data.image_geometry import IGNORED
from lightning_tl.data.preview import category_color, free_place, visible_pixels

_SIDE = 256  # longer side of an image on a sheet, pixels
_TEXT, _GAP = 14, 6
_SURE = 0.5  # score or probability from which on something counts as predicted
_FEW = 3  # boxes that are shown where none is that sure


def prediction_sheet(
    images: Any, targets: Any, outputs: Any, classes: Sequence[str] = (), columns: int = 2
) -> Image.Image:
    """Return a sheet with each image twice: with its target on the left, with the prediction on the right.

    What is drawn follows from the shapes. Targets: a dictionary with ``boxes`` and ``labels`` (1 … K); a class; float
    ``[K]`` of several labels; int ``[H, W]`` classes by pixel; float ``[3, H, W]`` normals; float ``[K, 2]`` key points
    as shares of the sides, NaN for those not to be seen.

    Args:
        images: ``[B, C, H, W]`` or a list of ``[C, H, W]``, standardised.
        targets: One per image.
        outputs: What the task's ``forward`` gives for them.
        classes: Names of the classes, if they are known.
        columns: Pairs in a row.
    """
    pairs = []
    for image, target, output in zip(images, targets, outputs, strict=True):
        pixels = visible_pixels(image.float().cpu().numpy())
        pairs.append(_panels(pixels, target, output, _Names(classes)))
    across = 2 * _SIDE + 3 * _GAP
    rows = [pairs[at : at + columns] for at in range(0, len(pairs), columns)]
    downs = [max(tile.height for pair in row for tile in pair) for row in rows]
    height = sum(downs) + len(downs) * (_GAP + _TEXT) + _GAP
    sheet = Image.new("RGB", (min(columns, len(pairs)) * across, height), "white")
    draw, y = ImageDraw.Draw(sheet), _GAP
    for row, down in zip(rows, downs, strict=True):
        for place, pair in enumerate(row):
            for number, (tile, title) in enumerate(zip(pair, ("truth", "prediction"), strict=True)):
                x = place * across + number * (_SIDE + _GAP) + _GAP
                draw.text((x, y), title, fill="black")
                sheet.paste(tile, (x, y + _TEXT))
        y += down + _TEXT + _GAP
    return sheet


class _Names:
    """Names of classes by number."""

    def __init__(self, classes: Sequence[str]) -> None:
        self.classes = list(classes)

    def __getitem__(self, number: int) -> str:
        return self.classes[number] if 0 <= number < len(self.classes) else f"class {number}"


def _enlarged(pixels: np.ndarray) -> Image.Image:
    image = Image.fromarray(pixels).convert("RGB")
    scale = _SIDE / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    return image.resize(size, Image.Resampling.NEAREST if scale > 1 else Image.Resampling.BILINEAR)


def _panels(pixels: np.ndarray, target: Any, output: Any, names: _Names) -> tuple[Image.Image, Image.Image]:
    if isinstance(target, dict):
        scores = output["scores"].cpu()
        kept = scores >= _SURE
        if not bool(kept.any()):
            kept = torch.arange(len(scores)) < _FEW
        guessed = {name: value.cpu()[kept] for name, value in output.items()}
        return _boxes(pixels, target, names), _boxes(pixels, guessed, names)
    target, output = torch.as_tensor(target).cpu(), output.float().cpu()
    if target.ndim == 0:
        best = int(output.argmax())
        sure = float(output.softmax(0)[best])
        return _text(pixels, names[int(target)]), _text(pixels, f"{names[best]} ({100 * sure:.0f} %)")
    if target.ndim == 2 and output.ndim == 3:
        return _mask(pixels, target), _mask(pixels, output.argmax(0), target)
    if target.ndim == 3:
        known = target.abs().sum(0, keepdim=True) > 0
        unit = output / output.norm(dim=0, keepdim=True).clamp(min=1e-6)
        return _normals(target, known), _normals(unit, known)
    if target.ndim == 2 and target.shape == output.shape:
        return _points(pixels, target), _points(pixels, output)
    if target.ndim == 1 and target.shape == output.shape:
        shown = [names[i] for i in torch.nonzero(target > _SURE).flatten().tolist()]
        predicted = [names[i] for i in torch.nonzero(output.sigmoid() > _SURE).flatten().tolist()]
        return _text(pixels, ", ".join(shown) or "nothing"), _text(pixels, ", ".join(predicted) or "nothing")
    return _text(pixels, "no picture of such a target"), _text(pixels, "")


def _boxes(pixels: np.ndarray, output: dict[str, Tensor], names: _Names) -> Image.Image:
    tile = _enlarged(pixels)
    draw, scale = ImageDraw.Draw(tile), _SIDE / max(pixels.shape[:2])
    scores = output.get("scores")
    boxes = [tuple(value * scale for value in box) for box in output["boxes"].cpu().tolist()]
    taken: list[tuple[float, ...]] = []
    for box, label in zip(boxes, output["labels"].tolist(), strict=True):
        left, top, right, bottom = box
        corners = (left, top, max(left, right - 1), max(top, bottom - 1))
        draw.rectangle(corners, outline=category_color(int(label)), width=2)
    for number, (box, label) in enumerate(zip(boxes, output["labels"].tolist(), strict=True)):
        name = names[int(label) - 1] + (f" {float(scores[number]):.2f}" if scores is not None else "")
        width, height = (round(value) + 2 for value in draw.textbbox((0, 0), name)[2:])
        x, y = free_place((width, height), box, tile.size, taken, boxes)
        taken.append((x, y, x + width, y + height))
        draw.rectangle((x, y, x + width - 1, y + height - 1), fill=category_color(int(label)))
        draw.text((x + 1, y), name, fill="black")
    return tile


def _mask(pixels: np.ndarray, classes: Tensor, known: Tensor | None = None) -> Image.Image:
    """Draw classes half transparent over the image; those that do not count are grey."""
    numbers = classes.numpy()
    colors = np.array([category_color(number) for number in range(IGNORED)] + [(128, 128, 128)], np.uint8)
    ignored = numbers == IGNORED if known is None else known.numpy() == IGNORED
    over = colors[np.where(ignored, IGNORED, numbers.clip(0, IGNORED))]
    grey = pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, 2)
    return _enlarged((0.45 * grey + 0.55 * over).astype(np.uint8))


def _normals(vectors: Tensor, known: Tensor) -> Image.Image:
    stored = torch.where(known, (vectors + 1) / 2 * 255, 128.0).clamp(0, 255).round()
    return _enlarged(stored.permute(1, 2, 0).numpy().astype(np.uint8))


def _points(pixels: np.ndarray, shares: Tensor) -> Image.Image:
    tile = _enlarged(pixels)
    draw = ImageDraw.Draw(tile)
    for number, (x, y) in enumerate(shares.tolist()):
        if np.isfinite([x, y]).all():
            at = (x * tile.width, y * tile.height)
            draw.ellipse((at[0] - 4, at[1] - 4, at[0] + 4, at[1] + 4), fill=category_color(number), outline="black")
    return tile


def _text(pixels: np.ndarray, text: str) -> Image.Image:
    image = _enlarged(pixels)
    tile = Image.new("RGB", (image.width, image.height + _TEXT + 2), "white")
    tile.paste(image, (0, 0))
    ImageDraw.Draw(tile).text((2, image.height + 1), text, fill="black")
    return tile


def save_sheet(path: Path, model: Any, data: Any, batch: Any, narrow: Path | None = None) -> None:
    """Predict a batch of images with targets, and save the sheet.

    Args:
        path: PNG file to write.
        model: A task; it is put into evaluation mode meanwhile.
        data: Its data module, for the names of classes (``classes``).
        batch: ``(images, targets)``.
        narrow: PNG file to write with the pairs one below the other, for narrow screens.
    """
    images, targets = batch
    training = model.training
    model.eval()
    with torch.no_grad():
        device = model.device
        moved = [image.to(device) for image in images] if isinstance(images, list) else images.to(device)
        outputs = model(moved)
    model.train(training)
    path.parent.mkdir(parents=True, exist_ok=True)
    for file, columns in ((path, 2), (narrow, 1)):
        if file is not None:
            sheet = prediction_sheet(images, targets, outputs, getattr(data, "classes", ()), columns)
            with replacing(file) as beside:
                sheet.save(beside, "PNG")


class PredictionPictures(Callback):
    """Saves pictures of the first predictions beside the truth, in ``predictions.png`` of the run's folder.

    ``lightning-tl predict --pictures N`` adds it.

    Args:
        count: Number of images.
    """

    def __init__(self, count: int) -> None:
        self.count = count
        self._parts: list[tuple[list[Any], ...]] = []

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *_: Any
    ) -> None:
        """Keep the first images with targets and outputs."""
        left = self.count - sum(len(part[0]) for part in self._parts)
        if left > 0 and trainer.is_global_zero and isinstance(batch, list | tuple) and len(batch) == 2:
            self._parts.append(tuple(list(value)[:left] for value in (*batch, outputs)))

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the file."""
        if not self._parts:
            return
        images, targets, outputs = ([entry for part in self._parts for entry in part[i]] for i in range(3))
        classes = getattr(trainer.datamodule, "classes", ())  # type: ignore[attr-defined]
        path = Path(trainer.default_root_dir) / "predictions.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        prediction_sheet(images, targets, outputs, classes).save(path)
        rank_zero_info(f"{path}: {len(images)} images, the truth on the left, the prediction on the right")
