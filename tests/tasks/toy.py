"""Small generated batches for every task, and a quiet trainer."""

from __future__ import annotations

import lightning.pytorch as pl
import torch
from torch.utils.data import DataLoader, Dataset

SIDE = 64


def trainer(folder, **settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False}
    quiet |= {"enable_checkpointing": False, "max_steps": 3, "max_epochs": -1, "num_sanity_val_steps": 0}
    return pl.Trainer(default_root_dir=folder, accelerator="cpu", devices=1, **(quiet | settings))


class Squares(Dataset):
    """A bright square on noise: its place, its class (its colour), and a normal that leans towards its colour."""

    def __init__(self, task: str, number: int = 16, classes: int = 3, seed: int = 0):
        self.task, self.number, self.classes, self.seed = task, number, classes, seed

    def __len__(self):
        return self.number

    def __getitem__(self, index):
        generator = torch.Generator().manual_seed(1000 * self.seed + index)
        image = 0.2 * torch.rand(3, SIDE, SIDE, generator=generator)
        kind = int(torch.randint(self.classes, (), generator=generator))
        x, y = torch.randint(4, SIDE - 32, (2,), generator=generator).tolist()
        image[kind, y : y + 28, x : x + 28] += 1
        mask = torch.zeros(SIDE, SIDE, dtype=torch.int64)
        mask[y : y + 28, x : x + 28] = kind + 1
        if self.task == "semseg":
            mask[:4] = 255
            return image, mask
        if self.task == "normal":
            normals = torch.zeros(3, SIDE, SIDE)
            normals[2] = 1.0
            lean = torch.zeros(3)
            lean[kind] = 0.8
            lean[2] += 0.6
            normals[:, mask > 0] = (lean / lean.norm())[:, None]
            normals[:, :4] = 0
            return image, normals
        if self.task == "mulclass":
            return image, torch.eye(self.classes)[kind]
        if self.task == "sinclass":
            return image, torch.tensor(kind)
        return image, {
            "boxes": torch.tensor([[x, y, x + 28, y + 28]], dtype=torch.float32),
            "labels": torch.tensor([kind + 1]),
            "iscrowd": torch.tensor([0]),
            "area": torch.tensor([784.0]),
            "image_id": torch.tensor(index),
        }


def lists(samples):
    """Batch as torchvision's detectors want it."""
    images, targets = zip(*samples, strict=True)
    return list(images), list(targets)


def whole(rows):
    """Return a loader of batches that are there already; Lightning takes a plain list for a list of loaders."""
    return DataLoader(rows, batch_size=None, collate_fn=lambda row: row)


class Toy(pl.LightningDataModule):
    """Squares as a data module."""

    def __init__(self, task: str, batch_size: int = 8, number: int = 16):
        super().__init__()
        self.task, self.batch_size, self.number = task, batch_size, number
        self.num_classes = {"semseg": 4}.get(task, 3)

    def loader(self, seed, number):
        collate = lists if self.task == "objdet" else None
        return DataLoader(Squares(self.task, number, seed=seed), self.batch_size, collate_fn=collate)

    def train_dataloader(self):
        return self.loader(0, self.number)

    def val_dataloader(self):
        return self.loader(1, 8)

    test_dataloader = val_dataloader
