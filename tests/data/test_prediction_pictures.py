"""Pictures of predictions: the truth on the left, the prediction on the right, for each kind of task."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lightning_tl.cli.main import main
from lightning_tl.data.prediction_pictures import prediction_sheet
from lightning_tl.data.preview import category_color, free_place

SIDE, BIG, GAP, TEXT = 32, 256, 6, 14


def halves(sheet: Image.Image) -> tuple[np.ndarray, np.ndarray]:
    """The two pictures of a sheet of one pair."""
    pixels = np.array(sheet)[GAP + TEXT : GAP + TEXT + BIG]
    return pixels[:, GAP : GAP + BIG], pixels[:, 2 * GAP + BIG : 2 * GAP + 2 * BIG]


def image() -> torch.Tensor:
    """Black with one white pixel, so that nothing is scaled."""
    black = torch.zeros(1, 3, SIDE, SIDE)
    black[0, :, 0, 0] = 1
    return black


def has(pixels: np.ndarray, color: tuple[int, int, int], row: int, column: int) -> bool:
    """Whether a colour occurs within three pixels of a place."""
    near = pixels[max(0, row - 3) : row + 4, max(0, column - 3) : column + 4].reshape(-1, 3)
    return bool((near == color).all(1).any())


def test_boxes() -> None:
    target = {"boxes": torch.tensor([[4.0, 12, 12, 28]]), "labels": torch.tensor([2])}
    output = {
        "boxes": torch.tensor([[16.0, 12, 28, 28], [4.0, 12, 12, 28]]),
        "labels": torch.tensor([1, 3]),
        "scores": torch.tensor([0.9, 0.1]),
    }
    truth, guess = halves(prediction_sheet(list(image()), [target], [output], ["cat", "dog", "owl"]))
    for x, y in ((4, 12), (12, 28), (4, 28)):
        assert has(truth, category_color(2), 8 * y - 1, 8 * x - 1)
        assert not has(guess, category_color(3), 8 * y - 1, 8 * x - 1)  # not sure enough
    assert has(guess, category_color(1), 8 * 28 - 1, 8 * 28 - 1)
    # the name is beside the box, not in it
    inside = truth[8 * 12 + 3 : 8 * 28 - 3, 8 * 4 + 3 : 8 * 12 - 3]
    assert not inside.any()


def test_masks() -> None:
    target = torch.zeros(1, SIDE, SIDE, dtype=torch.int64)
    target[0, 8:16, 8:16] = 1
    target[0, :4] = 255
    output = torch.zeros(1, 3, SIDE, SIDE)
    output[0, 2, 20:28, 20:28] = 5
    truth, guess = halves(prediction_sheet(image(), target, output))
    shade = lambda number: tuple(int(0.55 * value) for value in category_color(number))  # noqa: E731
    assert tuple(truth[8 * 12, 8 * 12]) == shade(1)
    assert tuple(guess[8 * 12, 8 * 12]) == shade(0)
    assert tuple(guess[8 * 24, 8 * 24]) == shade(2)
    assert tuple(truth[8, 200]) == tuple(guess[8, 200]) == (70, 70, 70)  # not counted


def test_normals() -> None:
    target, output = torch.zeros(1, 3, SIDE, SIDE), torch.zeros(1, 3, SIDE, SIDE)
    target[0, 2, 8:] = 1
    output[0, 0] = 3.0
    truth, guess = halves(prediction_sheet(image(), target, output))
    assert tuple(truth[200, 200]) == (128, 128, 255)
    assert tuple(guess[200, 200]) == (255, 128, 128)
    assert tuple(truth[8, 8]) == tuple(guess[8, 8]) == (128, 128, 128)


def test_key_points() -> None:
    target = torch.tensor([[[0.25, 0.5], [torch.nan, torch.nan]]])
    output = torch.tensor([[[0.75, 0.5], [0.5, 0.25]]])
    truth, guess = halves(prediction_sheet(image(), target, output))
    assert tuple(truth[128, 64]) == category_color(0)
    assert tuple(guess[128, 192]) == category_color(0)
    assert tuple(guess[64, 128]) == category_color(1)
    assert not truth[64, 128].any()


@pytest.mark.parametrize(
    "target,output",
    [(torch.tensor([1]), torch.tensor([[0.0, 3.0, 1.0]])), (torch.tensor([[1.0, 0, 1]]), torch.tensor([[3.0, -3, 1]]))],
)
def test_classes_are_written_below(target: torch.Tensor, output: torch.Tensor) -> None:
    sheet = prediction_sheet(image(), target, output, ["cat", "dog", "owl"])
    below = np.array(sheet)[GAP + TEXT + BIG :]
    assert (below[:, :BIG] < 128).any()
    assert (below[:, GAP + BIG :] < 128).any()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("task", ["objdet", "sinclass"])
def test_the_command(tmp_path: Path, task: str) -> None:
    """Untrained networks on real digits."""
    size = "{size: 64, eval_resize: 64}" if task == "sinclass" else "{size: 64}"
    options = [f"--config=finetune/{task}_small", "--config=finetune/digit_scenes", f"--data.target={task}"]
    options += [
        f"--data.transform={size}",
        "--data.eval_batch_size=4",
        f"--trainer.default_root_dir={tmp_path / 'out'}",
    ]
    assert main(["predict", *options, "--pictures", "6", "--trainer.limit_predict_batches=2"]) == 0
    sheet = Image.open(tmp_path / "out" / "predictions.png")
    assert sheet.width == 2 * (2 * BIG + 3 * GAP)
    assert sheet.height >= 3 * BIG


@pytest.mark.parametrize("value", ["0", "many", ""])
def test_a_wrong_number(value: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", "--config=finetune/objdet_small", f"--pictures={value}"]) == 2
    assert f"--pictures is '{value}'; give a number of images, at least 1" in capsys.readouterr().err


def overlap(a: tuple[float, ...], b: tuple[float, ...]) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def test_names_of_boxes_stay_in_the_picture_and_off_each_other() -> None:
    """Four boxes side by side, whose names are wider than they: there is room above and below them."""
    boxes = [(20.0 + 40 * i, 100.0, 40.0 + 40 * i, 130.0) for i in range(4)]
    taken: list[tuple[float, ...]] = []
    for box in boxes:
        x, y = free_place((60.0, 12.0), box, (256, 256), taken, boxes)
        here = (x, y, x + 60, y + 12)
        assert 0 <= x <= 196
        assert 0 <= y <= 244
        assert not sum(overlap(here, other) for other in taken)
        assert not sum(overlap(here, other) for other in boxes)
        taken.append(here)
    corner = free_place((60.0, 12.0), (0.0, 0.0, 256.0, 256.0), (256, 256), [])
    assert overlap((*corner, corner[0] + 60, corner[1] + 12), (0, 0, 256, 256)) == 60 * 12
