"""Mistakes in a run's arguments: they are named, with the file or the numbers that contradict each other."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from data.sets import write_ade20k, write_folder
from PIL import Image
from training import pretraining

from lightning_tl.data.ade20k import ADE20K
from lightning_tl.data.image_folder import ImageFolder
from lightning_tl.data.transforms import CropTransform
from lightning_tl.errors import UserError
from lightning_tl.run import run
from lightning_tl.run_arguments import check_braces, given_values, in_its_file

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize("option", ["--model.num_classes=7", "--model.init_args.num_classes=7", "file"])
def test_another_number_of_classes_is_refused(renders: Path, tmp_path: Path, option: str) -> None:
    if option == "file":
        (tmp_path / "seven.yaml").write_text("model: {init_args: {num_classes: 7}}\n")
        option = f"--config={tmp_path / 'seven.yaml'}"
    with pytest.raises(UserError, match=r"num_classes is 7, but Rendered has 3 classes: leave it out"):
        run(pretraining(renders, tmp_path / "out", option))


def test_the_right_number_of_classes_may_be_given(renders: Path, tmp_path: Path) -> None:
    run(pretraining(renders, tmp_path / "out", "--model.num_classes=3", "--trainer.fast_dev_run=1"))


def test_far_fewer_classes_than_asked_for_are_noticed(tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    root = write_ade20k(tmp_path, classes=5)
    words = r"data.num_classes is not given, and the largest class in 6 masks of .* is 5, where ADE20K has 150 classes"
    with pytest.raises(UserError, match=words):
        ADE20K(root).setup("fit")
    ADE20K(root, num_classes=150).setup("fit")
    (warning,) = [str(item.message) for item in recwarn if "num_classes" in str(item.message)]
    assert "data.num_classes is 150, but the largest class in 6 masks of" in warning
    assert warning.endswith("is 5: if there are no more, set data.num_classes to 5")
    recwarn.clear()
    ADE20K(tmp_path, num_classes=5).setup("fit")
    assert not [item for item in recwarn if "num_classes" in str(item.message)]


def fit(renders: Path, out: Path, *more: str) -> None:
    schedule = "{class_path: Cosine, init_args: {images: 160, warmup_images: 16}}"
    options = ["--model.scheduler=null", f"--model.schedule={schedule}", "--data.batch_size=8", *more]
    run(pretraining(renders, out, *options))


@pytest.mark.parametrize(
    "option,words",
    [
        ("--trainer.max_epochs=1", r"trainer\.max_epochs is 1: the training ends after 4 of the 20 steps.*leave"),
        ("--trainer.max_steps=5", r"trainer\.max_steps is 5: the training ends after 5 of the 20 steps.*leave"),
    ],
)
def test_a_schedule_that_is_cut_short_is_warned_of(renders: Path, tmp_path: Path, option: str, words: str) -> None:
    limit = ["--trainer.max_steps=-1", option]
    with pytest.warns(UserWarning, match=words):
        fit(renders, tmp_path / "out", *limit)


def test_a_whole_schedule_is_not_warned_of(renders: Path, tmp_path: Path, recwarn: pytest.WarningsRecorder) -> None:
    fit(renders, tmp_path / "out", "--trainer.max_steps=-1")
    assert not [item for item in recwarn if "of the 20 steps" in str(item.message)]


def test_a_second_fit_into_one_folder_is_refused(renders: Path, tmp_path: Path) -> None:
    run(pretraining(renders, tmp_path / "out"))
    last = tmp_path / "out/checkpoints/last.ckpt"
    before = last.stat().st_mtime_ns
    with pytest.raises(UserError, match=r"holds the checkpoints of an earlier training.*--ckpt_path \S*last\.ckpt"):
        run(pretraining(renders, tmp_path / "out"))
    assert last.stat().st_mtime_ns == before
    run(pretraining(renders, tmp_path / "out", f"--ckpt_path={last}"))


def test_braces_without_spaces() -> None:
    with pytest.raises(UserError, match=r"--data\.transform \{size:32,eval_resize:32\}: put a space after the colon"):
        check_braces(["fit", "--data.transform", "{size:32,eval_resize:32}"])
    check_braces(["fit", "--data.transform", "{size: 32}", "--x={}", "--y={", "--z={a: null}"])


@pytest.mark.parametrize("wrong", ["data: {roooot: x}", "data: {init_args: {roooot: x}}"])
def test_a_wrong_key_is_placed_in_its_file(renders: Path, tmp_path: Path, wrong: str) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(wrong + "\n")
    with pytest.raises(UserError, match=rf"^{path}: .*roooot"):
        run(pretraining(renders, tmp_path / "out", f"--config={path}"))


def test_a_wrong_option_is_not_blamed_on_a_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("data: {n: 3}\n")
    error = UserError("unknown key 'data.m' in the configuration")
    assert in_its_file(error, [f"--config={path}"]) is error
    inner = UserError("data: unknown key 'm' in the configuration")  # of the class, which the key's group is named for
    assert in_its_file(inner, [f"--config={path}", "--data.m=3"]) is inner
    assert in_its_file(inner, [f"--config={path}", "--data.init_args.m=3"]) is inner
    path.write_text("model: {init_args: {optimizer: {init_args: {lr: 1}}}}")
    given = UserError("model: optimizer: unknown key 'rate' in the configuration")  # the file has the optimizer only
    assert in_its_file(given, [f"--config={path}", "--model.optimizer.rate=3"]) is given
    assert str(in_its_file(given, [f"--config={path}"])).startswith(f"{path}: model: ")
    path.write_text("data: {n: 3}")
    wrong = UserError("data.n: should be a number")
    assert in_its_file(wrong, [f"--config={path}", "--data.n=x"]) is wrong


def test_given_values_are_those_that_count(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("model: {class_path: X, init_args: {num_classes: 4}}\n")
    assert given_values(["fit", "--config", str(path)], ("model.num_classes",)) == {"model.num_classes": 4}
    both = given_values(["--config", str(path), "--model.num_classes", "5"], ("model.num_classes",))
    assert both == {"model.num_classes": 5}


def test_a_relative_root_says_where_it_was_looked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match=rf"data\.root is photos: no such folder in {tmp_path}, where the command runs"):
        ImageFolder(Path("photos"))
    Path("photos").write_text("")
    with pytest.raises(UserError, match="a file, not a folder"):
        ImageFolder(Path("photos"))


def test_skipped_images_are_named_without_addresses(
    tmp_path: Path, recwarn: pytest.WarningsRecorder, caplog: pytest.LogCaptureFixture
) -> None:
    root = write_folder(tmp_path / "set", {"train": (8, 6, 4)})
    (root / "train/cat/cat0.jpg").write_bytes(b"no picture")
    data = ImageFolder(root, transform=CropTransform(size=32, eval_resize=32), on_error="skip")
    with caplog.at_level(logging.INFO):
        data.setup("fit")
        data.setup("test")
    (said,) = {str(item.message) for item in recwarn if "skipped" in str(item.message)}
    assert "cat0.jpg: cannot be decoded (cannot identify it)" in said
    assert "0x" not in said
    assert "on_error: skip" not in said
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(root / "train/cat/cat0.jpg")
