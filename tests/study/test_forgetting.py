"""The pre-training loss after fine-tuning, against losses computed by hand."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import update_bn
from training import finetuning, pretraining, weights

from lightning_tl.errors import UserError
from lightning_tl.run import run
from lightning_tl.study.forgetting import BN_IMAGES, Pretrained, forgotten, pretrained_network
from lightning_tl.study.runs import Call, do_run
from lightning_tl.tasks import Classification

pytestmark = pytest.mark.filterwarnings("ignore")  # Lightning's remarks on short runs


def done(out: Path, name: str, args: list[str], start: str | None = None) -> dict:
    args = [text for text in args[1:] if "default_root_dir" not in text]
    if start is not None:
        args.append(f"--model.init_from={out / start}/checkpoints/last.ckpt")
    paths = {"folder": str(out / name), "locks": str(out / "locks"), "targets": str(out / "targets")}
    outcome = do_run(
        Call(
            name,
            key=name,
            args=tuple(args),
            test=start is not None,
            start=str(out / start) if start else None,
            forgetting=start is not None,
            **paths,
        )
    )
    assert outcome.error is None, outcome.error
    return outcome.record["facts"]


@pytest.fixture(scope="module")
def folder(renders, tmp_path_factory):
    out = tmp_path_factory.mktemp("forgetting")
    done(out, "pre", pretraining(renders, Path("-"), "--config=pretrain/overtraining", *SHORT))
    return out


LAST = "{class_path: ModelCheckpoint, init_args: {dirpath: '${trainer.default_root_dir}/checkpoints', filename: last}}"
# the overlay ends at its schedule's length, and measures after it, which is left out here
SHORT = (
    "--model.schedule.init_args.images=160",
    f"--trainer.callbacks=[{LAST}]",
)


def test_every_loss_is_what_it_says(folder, renders):
    """Networks put together by hand, torch's own re-estimation, the loss by torch.nn.functional."""
    facts = done(folder, "fine", finetuning(Path("-"), "--data.draw=3"), "pre")
    before, after = (weights(folder / name / "checkpoints/last.ckpt") for name in ("pre", "fine"))
    statistics = {name for name in before if name.endswith(("running_mean", "running_var", "num_batches_tracked"))}
    parameters = [name for name in before if name.startswith("backbone.") and name not in statistics]
    moved = sum(float((before[name] - after[name]).square().sum()) for name in parameters) ** 0.5
    assert facts["param_distance"] == pytest.approx(moved, rel=1e-5)

    cli = run(["validate", f"--config={folder / 'pre/config.yaml'}", "--trainer.logger=false"])
    net, data = cli.model, cli.datamodule
    data.setup("fit")
    data.steps_per_epoch = BN_IMAGES // data.batch_size
    training = [images for images, _ in data.train_dataloader()]
    assert sum(map(len, training)) == BN_IMAGES

    def loss(state, reestimated=False):
        net.load_state_dict(state)
        if reestimated:
            update_bn(training, net)
        net.eval()
        with torch.no_grad():
            parts = [(F.binary_cross_entropy_with_logits(net(x), y).double(), len(x)) for x, y in data.val_dataloader()]
        return float(sum(value * count for value, count in parts) / sum(count for _, count in parts))

    fine = {name: after[name] if name in parameters else value for name, value in before.items()}
    own = {name: after.get(name, value) if name.startswith("backbone.") else value for name, value in before.items()}
    expected = {
        "pretrain_loss_saved": loss(before),
        "pretrain_loss_before": loss(before, reestimated=True),
        "pretrain_loss_after": loss(fine, reestimated=True),
        "pretrain_loss_after_saved_bn": loss(fine),
        "pretrain_loss_after_target_bn": loss(own),
    }
    assert {name: facts[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert len(set(expected.values())) == 5

    direction = {name: (after[name] - before[name]).double() for name in parameters}
    ((x, y),) = data.val_dataloader()
    net.double().train()  # BatchNorm by the batch; there is no dropout in it

    def along(size):
        parameters = {n: p.detach() + size * direction.get(n, 0.0) for n, p in net.named_parameters()}
        buffers = {n: b.clone() for n, b in net.named_buffers()}
        outputs = torch.func.functional_call(net, parameters | buffers, x.double())
        return F.binary_cross_entropy_with_logits(outputs, y.double())

    size = torch.zeros((), dtype=torch.float64, requires_grad=True)
    net.load_state_dict(before)
    start = along(size)
    (slope,) = torch.autograd.grad(start, size, create_graph=True)
    (curvature,) = torch.autograd.grad(slope, size)
    assert facts["line_rise"] == pytest.approx(float(along(1.0) - start), rel=1e-4)
    assert facts["line_slope"] == pytest.approx(slope.item(), rel=1e-3)
    assert facts["line_curvature"] == pytest.approx(curvature.item(), rel=1e-3)


@pytest.mark.parametrize("task", ["classification", pytest.param("segmentation", marks=pytest.mark.slow)])
def test_at_a_learning_rate_of_nothing_nothing_is_forgotten(folder, renders, task):
    """Statistics of the target images raise the loss; re-estimated ones do not."""
    if task == "classification":
        facts = done(folder, "still", finetuning(Path("-"), "--model.optimizer.lr=1e-12"), "pre")
    else:
        common = [
            "--data.batch_size=8",
            "--data.steps_per_epoch=2",
            "--data.transform={crop: 32, shorter: [32, 40], eval_shorter: 32}",
        ]
        common += ["--model.schedule.init_args.images=32", "--model.schedule.init_args.warmup_images=0"]
        done(folder, "seg", ["fit", "--config=pretrain/semseg_small", f"--data.root={renders}", "--data.n=24", *common])
        scenes = ["--data.target=semseg", "--data.fraction=0.01", "--model.optimizer.lr=1e-12"]
        args = ["fit", "--config=finetune/semseg_small", "--config=finetune/digit_scenes", *scenes, *common]
        facts = done(folder, "seg-still", args, "seg")
    before = facts["pretrain_loss_before"]
    assert abs(facts["pretrain_loss_after"] - before) < 1e-6 * before
    assert abs(facts["pretrain_loss_after_target_bn"] - before) > 1e-3 * before
    assert abs(facts["pretrain_loss_after_saved_bn"] - facts["pretrain_loss_saved"]) < 1e-6 * before
    assert abs(facts["line_rise"]) < 1e-6 * before


METHODS = {
    "lora": ("{class_path: LoRA, init_args: {rank: 3, alpha: 30}}", 0.05),
    "adapter": ("{class_path: Adapter, init_args: {width: 4}}", 0.05),
    "partial": ("{class_path: Partial, init_args: {share: 0.5, inherited: frozen}}", 0.01),
}


@pytest.mark.parametrize(
    "method", ["lora", *(pytest.param(each, marks=pytest.mark.slow) for each in ("adapter", "partial"))]
)
def test_what_a_method_has_done_to_the_backbone_is_forgotten(folder, method):
    """The fine-tuned backbone itself, with its factors or adapters, under the pre-training's head."""
    given, lr = METHODS[method]
    facts = done(
        folder, method, finetuning(Path("-"), f"--model.transfer={given}", f"--model.optimizer.lr={lr}"), "pre"
    )
    cli = run(["validate", f"--config={folder / 'pre/config.yaml'}", "--trainer.logger=false"])
    net, data = cli.model, cli.datamodule
    net.load_state_dict(weights(folder / "pre/checkpoints/last.ckpt"))
    before = {name: p.detach().clone() for name, p in net.backbone.named_parameters()}
    fine = Classification.load_from_checkpoint(folder / method / "checkpoints/last.ckpt")
    assert fine.transfer.label() == facts["transfer"]
    net.backbone, own = fine.backbone.requires_grad_(), net.backbone  # frozen layers would stay in eval mode
    data.setup("fit")
    data.steps_per_epoch = BN_IMAGES // data.batch_size
    update_bn([images for images, _ in data.train_dataloader()], net)
    net.eval()
    with torch.no_grad():
        parts = [(F.binary_cross_entropy_with_logits(net(x), y).double(), len(x)) for x, y in data.val_dataloader()]
    loss = float(sum(value * count for value, count in parts) / sum(count for _, count in parts))
    assert facts["pretrain_loss_after"] == pytest.approx(loss, rel=1e-4)
    assert abs(loss - facts["pretrain_loss_before"]) > 1e-3 * loss
    if method == "lora":
        pairs = [
            (m.weight + m.scaling * (m.lora_B.flatten(1) @ m.lora_A.flatten(1)).view_as(m.weight), name)
            for name, m in fine.backbone.named_modules()
            if hasattr(m, "lora_A")
        ]
        moved = sum(float((weight - before[f"{name}.weight"]).square().sum()) for weight, name in pairs)
    elif method == "adapter":
        moved = sum(float(p.square().sum()) for name, p in fine.backbone.named_parameters() if ".up." in name)
    else:
        moved = sum(float((p - before[name]).square().sum()) for name, p in fine.backbone.named_parameters())
    assert facts["param_distance"] == pytest.approx(moved**0.5, rel=1e-4)
    assert facts["backbone_params"] == sum(p.numel() for p in own.parameters())
    assert abs(facts["line_rise"]) > 0
    # as its own start, whose losses are of its own validation images
    fine = Classification.load_from_checkpoint(folder / method / "checkpoints/last.ckpt")
    same = forgotten(fine, Pretrained(folder / method))
    assert same["param_distance"] == pytest.approx(0, abs=1e-6 * facts["param_distance"])
    assert same["pretrain_loss_after"] == pytest.approx(same["pretrain_loss_before"], rel=1e-5)
    assert same["pretrain_loss_after_target_bn"] == pytest.approx(same["pretrain_loss_saved"], rel=1e-5)


def test_a_network_that_was_used_is_as_good_as_a_new_one(folder):
    fine = Classification.load_from_checkpoint(folder / "pre/checkpoints/last.ckpt")
    for parameter in fine.backbone.parameters():
        parameter.data.mul_(1.1)
    network = pretrained_network(folder / "pre")
    first = forgotten(fine, network)
    network.load({})
    network.reestimate()
    assert pretrained_network(folder / "pre") is network
    assert forgotten(fine, network) == first == forgotten(fine, Pretrained(folder / "pre"))
    network.adapted = True
    assert pretrained_network(folder / "pre") is not network


def test_the_same_images_each_time(folder):
    network = Pretrained(folder / "pre")
    losses = []
    for _ in range(2):
        network.load({})
        network.reestimate()
        losses.append(network.loss())
    assert losses[0] == losses[1]


def test_what_has_no_backbone(folder):
    with pytest.raises(UserError, match=r"Linear has no \.backbone to put under the pre-training's head"):
        forgotten(torch.nn.Linear(2, 2), Pretrained(folder / "pre"))
