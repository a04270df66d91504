"""What is fuzzed: each target makes a damaged input in a folder of its own and gives it to the command."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import tarfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml
from mutations import ODD_TEXTS, Rng, damaged_bytes, damaged_text, damaged_value
from PIL import Image
from rendered_set import write_split
from tables import results
from training import finetuning

from lightning_tl.cli.main import main
from lightning_tl.config_files import configs_root

Target = Callable[[Rng, Path, "Inputs"], Any]
WORDS = [*ODD_TEXTS, "0", "-1", "1e309", "0.5", "[1, 2]", "{a: 1}", "&a", "*a", "!!int x", "- -", "9" * 4999, "~", "@x"]


class Inputs:
    """Sound inputs, made once, that the targets damage.

    Args:
        folder: A folder for them.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        write_split(folder / "renders/train", "train", 3, seed=1)
        write_split(folder / "renders/val", "val", 2, seed=2)
        self.table = results({"a": {n: 0.4 * n**-0.4 + 0.1 for n in (64, 128, 256, 512)}}, 0.3, seed=0).to_csv(
            index=False
        )
        (folder / "report").mkdir()
        (folder / "report/results.csv").write_text(self.table)
        assert main(["law", str(folder / "report/results.csv"), "--plots=none"]) == 0
        self.fits = json.loads((folder / "report/fits.json").read_text())
        self.facts = {
            "study": {"title": "T", "choose": {"key": "a"}},
            "seconds": {"train": 3.0},
            "failures": {"r": "x"},
        }
        self.facts["chosen"] = {"scratch": {"chosen": 1, "tried": [[1, 0.5]]}}
        self.facts["checkpoints"] = {"finetune": ["last.ckpt"]}
        self.facts["steps"] = _steps()
        self.overtraining = {"answer": ["A."], "sentences": ["B."], "figures": [{"file": "a.png", "caption": "c"}]}
        entropy = {"value": 3.0, "interval": [2.0, 4.0], "images": 9}
        self.complexity = {"a": {"key": "k", "checkpoint": "a/b/c.ckpt", "entropy": entropy}}
        self.configs = {path: path.read_text() for path in sorted(configs_root().rglob("*.yaml"))}
        self.coco = self._coco()

    @cached_property
    def run(self) -> Path:
        """The last checkpoint of a short run."""
        from lightning_tl.run import run

        run(finetuning(self.folder / "run", "--model.backbone=resnet10_w16"))
        return self.folder / "run/checkpoints/last.ckpt"

    def _coco(self) -> dict[str, Any]:
        (self.folder / "coco/images").mkdir(parents=True)
        rng = np.random.default_rng(0)
        images, annotations = [], []
        for number in range(4):
            Image.fromarray(rng.integers(0, 255, (24, 32, 3)).astype(np.uint8)).save(
                self.folder / f"coco/images/{number}.png"
            )
            images.append({"id": number, "file_name": f"{number}.png", "width": 32, "height": 24})
            box = {"image_id": number, "category_id": 1 + number % 2, "bbox": [2, 3, 8, 9], "area": 72, "iscrowd": 0}
            annotations.append({"id": number, **box})
        categories = [{"id": 1, "name": "a"}, {"id": 2, "name": "b"}]
        return {"images": images, "annotations": annotations, "categories": categories}


def _steps() -> dict[str, Any]:
    """A study in steps: one step before there are results, one look."""
    decision = {"group": "a", "state": "decided", "answer": "yes", "confidence": 0.95, "threshold": 0.94, "looks": 1}
    step = {"settings": "s", "question": "q", "done": False, "reason": "", "runs": 0, "cost": 0.0, "hours": 0.0}
    first = step | {
        "decisions": [],
        "looks": [],
        "notes": [],
        "batch": [{"group": "a", "n": 8, "seed": "0", "why": ""}],
    }
    last = first | {
        "done": True,
        "reason": "decided",
        "cost": 1.0,
        "batch": [],
        "looks": [{"runs": 3, "confidence": 0.9}],
    }
    last |= {"decisions": [decision | {"why": "because"}], "notes": ["look at it"]}
    spent = {"runs": 1, "cost": 1.0, "hours": None}
    return {
        "content": "c",
        "asked": "?",
        "taken": [first, last],
        "spent": spent,
        "grid": spent | {"runs": 2, "cost": 2.0},
    }


def law(rng: Rng, folder: Path, inputs: Inputs) -> Any:
    """A table of which bytes or cells are wrong, sometimes with odd options."""
    (folder / "t.csv").write_bytes(
        damaged_bytes(rng, inputs.table.encode())
        if rng.random() < 0.4
        else damaged_text(rng, inputs.table, WORDS).encode("utf-8", "surrogatepass")
    )
    names = ["where", "by", "cluster", "fix_d", "form", "size", "level", "target_error", "hold_out_from"]
    values = [*WORDS, "error < 0.5", "render", "render,render", "@a", "error.x() == 1", "shared", "0.9"]
    more = [f"--{rng.choice(names)}={rng.choice(values)}" for _ in range(rng.choice([0, 0, 1, 2]))]
    return main(["law", str(folder / "t.csv"), f"--out={folder}/out", "--plots=none", *more])


def report(rng: Rng, folder: Path, inputs: Inputs) -> Any:
    """One of the files of a study's folder, damaged."""
    files = {"fits.json": inputs.fits, "study.json": inputs.facts, "overtraining.json": inputs.overtraining}
    files["complexity.json"] = inputs.complexity
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    (folder / "results.csv").write_text(inputs.table)
    name = rng.choice([*files, "results.csv"])
    if name == "results.csv" or rng.random() < 0.2:
        (folder / name).write_bytes(damaged_bytes(rng, (folder / name).read_bytes()))
    else:
        (folder / name).write_text(json.dumps(damaged_value(rng, files[name])))
    return main(["report", str(folder)])


def renders(rng: Rng, folder: Path, inputs: Inputs) -> Any:
    """A manifest, labels, names or pictures of a rendered set, damaged, given to every reader."""
    root = folder / "renders"
    shutil.copytree(inputs.folder / "renders", root)
    path = root / "train/manifest.json"
    shard = root / "train/shards/000000.tar"
    manifest = json.loads(path.read_text())
    kind = rng.randrange(5)
    if kind == 0:
        path.write_text(json.dumps(damaged_value(rng, manifest)))
    elif kind == 1:
        path.write_bytes(damaged_bytes(rng, path.read_bytes()))
    else:
        if kind == 2:
            shard.write_bytes(damaged_bytes(rng, shard.read_bytes()))
        else:
            _rewrite(rng, shard, labels=kind == 3)
        manifest["shards"][0]["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
        path.write_text(json.dumps(manifest))
    form = rng.choice(["coco", "yolo", "bop", "hdf5", "imagefolder"])
    commands = [
        ["preview", str(root), f"--out={folder}/sheet.png", "--count=6"],
        ["validate", str(root), "--workers=1"],
        ["stats", str(root), f"--out={folder}/stats", "--count=4"],
        ["export", str(root), f"--format={form}", f"--out={folder}/out"],
    ]
    main(["dataset", *rng.choice(commands)])
    return _read_renders(rng, root)


def _rewrite(rng: Rng, shard: Path, labels: bool) -> None:
    with tarfile.open(shard) as archive:
        members = [(m.name, archive.extractfile(m).read()) for m in archive]  # type: ignore[union-attr]
    at = rng.randrange(len(members))
    name, content = members[at]
    if labels:
        at = rng.choice([place for place, (each, _) in enumerate(members) if each.endswith(".json")])
        name, content = members[at]
        content = json.dumps(damaged_value(rng, json.loads(content))).encode()
    elif rng.random() < 0.3:
        name = rng.choice([*ODD_TEXTS, "../../x.png", "/tmp/x.rgb.png", f"{name}/x", name.upper()])[:90] or "x"
    else:
        content = damaged_bytes(rng, content)
    members[at] = (name, content)
    with tarfile.open(shard, "w") as archive:
        for each, data in members:
            info = tarfile.TarInfo(each.replace("\0", "0"))
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _read_renders(rng: Rng, root: Path) -> None:
    from lightning_tl.data.rendered_module import Rendered
    from lightning_tl.errors import UserError

    try:
        data = Rendered(root, target=rng.choice(["mulclass", "sinclass", "objdet", "semseg", "normal"]), batch_size=2)
        data.setup("fit")
        data.splits["val"][[0, 1]]
        data.splits["train"][[0, 3]]
    except UserError:
        return


def coco(rng: Rng, folder: Path, inputs: Inputs) -> Any:
    """An instances file, damaged, and one of its images."""
    from lightning_tl.data.coco import CocoDetection
    from lightning_tl.errors import UserError

    shutil.copytree(inputs.folder / "coco", folder / "coco")
    text = json.dumps(damaged_value(rng, inputs.coco)).encode()
    for name in ("a.json", "b.json"):
        (folder / "coco" / name).write_bytes(damaged_bytes(rng, text) if rng.random() < 0.2 else text)
    if rng.random() < 0.4:
        picture = folder / f"coco/images/{rng.randrange(4)}.png"
        picture.write_bytes(damaged_bytes(rng, picture.read_bytes()))
    try:
        data = CocoDetection(
            folder / "coco",
            "images",
            "a.json",
            "images",
            "b.json",
            on_error=rng.choice(["raise", "skip"]),
            batch_size=2,
        )
        data.setup("fit")
        data.splits["train"][[0]]
        data.splits["val"][[0]]
    except UserError:
        return


def checkpoints(rng: Rng, folder: Path, inputs: Inputs) -> Any:
    """A checkpoint, damaged, from which a run is resumed, a backbone is loaded or a test is run."""
    path = folder / "a.ckpt"
    if rng.random() < 0.4:
        path.write_bytes(damaged_bytes(rng, inputs.run.read_bytes()))
    else:
        torch.save(_damaged_content(rng, torch.load(inputs.run, weights_only=True)), path)
    arguments = finetuning(folder / "out", "--model.backbone=resnet10_w16", "--trainer.logger=false")
    how = rng.choice(["init_from", "fit", "test"])
    if how == "init_from":
        return main([*arguments, f"--model.init_from={path}", "--trainer.max_steps=3"])
    return main([how, *arguments[1:], f"--ckpt_path={path}", *(["--trainer.max_steps=7"] if how == "fit" else [])])


def _damaged_content(rng: Rng, content: dict[str, Any]) -> Any:
    tensors = [torch.zeros(0), torch.zeros(2, 2), torch.full((3,), float("nan")), torch.zeros(3, dtype=torch.int8)]
    part = rng.choice([None, *content])
    if part is None:
        return damaged_value(rng, content, lambda rng: rng.choice(tensors))
    return content | {part: damaged_value(rng, content[part], lambda rng: rng.choice(tensors))}


def fit_yaml(rng: Rng, folder: Path, inputs: Inputs) -> Any:
    """A shipped configuration of pre-training or fine-tuning, damaged, up to its classes."""
    path = rng.choice([path for path in inputs.configs if path.parent.name in ("pretrain", "finetune", "callbacks")])
    file = _damaged_yaml(rng, folder, inputs.configs[path])
    base = ["--config=finetune/digits"] if path.parent.name == "callbacks" else []
    from lightning_tl.errors import UserError
    from lightning_tl.run import RunCLI

    class Unstarted(RunCLI):
        def _run_subcommand(self, subcommand: str) -> None:
            return

    arguments = [*base, f"--config={file}", f"--trainer.default_root_dir={folder}/out"]
    if path.parent.name == "pretrain":
        arguments.append(f"--data.root={inputs.folder}/renders")
    try:
        Unstarted(["fit", *arguments])
    except UserError:
        return


def study_yaml(rng: Rng, folder: Path, inputs: Inputs) -> Any:
    """A shipped study, damaged, up to its plan."""
    path = rng.choice([path for path in inputs.configs if "study" in path.parts])
    file = _damaged_yaml(rng, folder, inputs.configs[path])
    return main(["study", "status", f"--config={file}", f"--out={folder}/out"])


def render_yaml(rng: Rng, folder: Path, inputs: Inputs) -> Any:
    """A shipped configuration of renders, damaged, up to its checks."""
    from data_gen.config_check import load_config
    from lightning_tl.config_files import read_yaml
    from lightning_tl.errors import UserError

    path = rng.choice([path for path in inputs.configs if "render" in path.parts])
    file = _damaged_yaml(rng, folder, inputs.configs[path])
    try:
        load_config(read_yaml(file))
    except UserError:
        return


def _damaged_yaml(rng: Rng, folder: Path, text: str) -> Path:
    path = folder / "c.yaml"
    if rng.random() < 0.5:
        content = damaged_value(rng, yaml.safe_load(text))
        path.write_text(yaml.safe_dump(content, allow_unicode=True), encoding="utf-8", errors="surrogatepass")
    elif rng.random() < 0.7:
        path.write_text(damaged_text(rng, text, WORDS), encoding="utf-8")
    else:
        path.write_bytes(damaged_bytes(rng, text.encode()))
    return path


def images(rng: Rng, folder: Path, inputs: Inputs) -> Any:
    """Pictures of a folder of classes, damaged."""
    from lightning_tl.data.image_folder import ImageFolder
    from lightning_tl.errors import UserError

    for name in ("a", "b"):
        (folder / name).mkdir()
        for number in range(4):
            suffix = rng.choice(["PNG", "JPEG", "BMP", "GIF", "TIFF", "WEBP", "PPM"])
            file = io.BytesIO()
            Image.fromarray(np.full((16, 20, 3), 40 * number, np.uint8)).save(file, suffix)
            (folder / name / f"{number}.png").write_bytes(damaged_bytes(rng, file.getvalue()))
    try:
        data = ImageFolder(folder, on_error=rng.choice(["raise", "skip"]), batch_size=2)
        data.setup("fit")
        data.splits["train"][[0]]
    except UserError:
        return


#: target → share of the cases
TARGETS: dict[str, tuple[Target, float]] = {
    "law": (law, 0.2),
    "report": (report, 0.14),
    "renders": (renders, 0.2),
    "coco": (coco, 0.12),
    "images": (images, 0.08),
    "checkpoints": (checkpoints, 0.06),
    "fit_yaml": (fit_yaml, 0.07),
    "study_yaml": (study_yaml, 0.06),
    "render_yaml": (render_yaml, 0.07),
}
