"""Tasks on networks of timm: from one task to another, ways of fine-tuning, and through the command line."""

from __future__ import annotations

import pytest
import torch
from tasks.real import write_ade20k, write_coco, write_folders
from tasks.toy import Squares, Toy, trainer
from training import weights
from transfer.transferred import sgd, state

from lightning_tl.cli.main import main
from lightning_tl.errors import UserError
from lightning_tl.tasks import Classification, MultiLabelClassification, ObjectDetection, SemanticSegmentation
from lightning_tl.transfer import (
    L2SP,
    LPFT,
    Adapter,
    BitFit,
    BNOnly,
    FreezeStages,
    Layerwise,
    LinearProbe,
    LoRA,
    Partial,
    Unfreeze,
    WiSEFT,
)

pytestmark = pytest.mark.filterwarnings("ignore")
VIT = "test_vit"  # of 0.3 million parameters; 64 px are 16 patches
SMALL = {"anchor_sizes": (4, 8, 16, 32, 64), "fpn_channels": 8, "representation_size": 16}


def fitted(task, folder, **more):
    made = trainer(folder, **({"max_steps": 1, "limit_val_batches": 1} | more))
    made.fit(task, Toy(task.task, 4, 8))
    return made


def test_a_vit_passes_from_labels_to_one_label_boxes_and_masks(tmp_path):
    first = MultiLabelClassification(3, VIT, optimizer=sgd)
    made = fitted(first, tmp_path)
    made.save_checkpoint(tmp_path / "a.ckpt")
    start = {name: value for name, value in weights(tmp_path / "a.ckpt").items() if name.startswith("backbone.")}
    for kind, classes, more in (
        (Classification, 3, {}),
        (ObjectDetection, 3, SMALL),
        (SemanticSegmentation, 4, {"output_stride": 8}),
    ):
        task = kind(classes, VIT, init_from=tmp_path / "a.ckpt", optimizer=sgd, **more)
        assert task.key_report.fraction == 1
        own = {name: value for name, value in state(task).items() if name.startswith("backbone.")}
        assert all(torch.equal(value, start[name]) for name, value in own.items())
        moved = fitted(task, tmp_path / kind.__name__)
        assert not torch.equal(task.backbone.patch_embed.proj.weight, start["backbone.patch_embed.proj.weight"])
        assert moved.global_step == 1
        moved.save_checkpoint(tmp_path / "b.ckpt")
        again = kind.load_from_checkpoint(tmp_path / "b.ckpt", weights_only=True)
        assert all(torch.equal(value, state(task)[name]) for name, value in state(again).items())
    assert {name.split(".")[0] for name, _ in task.head.named_parameters()} == {
        "pyramid",
        "classifier",
        "aux_classifier",
    }


def test_pretrained_weights_are_a_start_and_are_not_read_again(tmp_path, monkeypatch):
    """A checkpoint has the weights; so it loads where the pre-trained ones are not at hand."""
    with pytest.raises(UserError, match=r"model.init_from and model.pretrained are both given"):
        Classification(3, "resnet18", init_from="a.ckpt", pretrained=True)
    task = Classification(3, "test_convnext", transfer=L2SP(0.1), optimizer=sgd)
    with pytest.raises(UserError, match=r"L2SP .*give a pre-trained checkpoint"):
        fitted(task, tmp_path)
    asked = []
    monkeypatch.setattr("lightning_tl.tasks.base.load_pretrained", lambda *args: asked.append(args[1:]))
    options = {"drop_path_rate": 0.1}
    task = Classification(
        3, "test_convnext", transfer=L2SP(0.1), optimizer=sgd, pretrained="r160_in1k", backbone_options=options
    )
    assert asked == [("test_convnext", "r160_in1k", 3, options)]
    fitted(task, tmp_path).save_checkpoint(tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)["hyper_parameters"]
    assert (content["pretrained"], content["backbone_options"]) == (False, options)
    Classification.load_from_checkpoint(tmp_path / "a.ckpt", weights_only=True)
    assert len(asked) == 1


#: way of fine-tuning a ViT of 6 blocks → the parameters of the backbone that move, by a part of their names
MOVED = {
    FreezeStages(5): ("blocks.5.", "norm."),
    Unfreeze((0, 0)): ("blocks.4.", "blocks.5.", "norm."),
    BitFit(): (".bias",),
    LinearProbe(): (),
    LoRA(2): (".lora_A", ".lora_B"),
    Layerwise(0.5): ("",),
}


@pytest.mark.parametrize("method", MOVED, ids=lambda each: each.name)
def test_ways_of_fine_tuning_a_vit(tmp_path, method):
    task = Classification(3, VIT, transfer=method, optimizer=sgd)
    if method.name == "lora":  # its second factor starts at 0, where the first has no gradient
        for name, parameter in task.named_parameters():
            if name.endswith("lora_B"):
                torch.nn.init.normal_(parameter, std=0.1)
    before = state(task)
    fitted(task, tmp_path)
    after = dict(task.named_parameters())
    moved = {name for name, value in after.items() if name.startswith("backbone.") and (value != before[name]).any()}
    expected = {name for name in after if name.startswith("backbone.") and any(part in name for part in MOVED[method])}
    still = {name for name in expected if name.endswith("attn.qkv.bias")}  # the bias of keys has no influence
    assert expected - still <= moved <= expected
    if method.name == "layerwise":
        rates = {id(p): group["lr"] for group in task.optimizers().param_groups for p in group["params"]}
        assert rates[id(task.backbone.cls_token)] == pytest.approx(0.1 * 0.5**7)
        assert rates[id(task.backbone.norm.weight)] == pytest.approx(0.05)


def test_what_needs_a_resnet_says_so(tmp_path):
    with pytest.raises(UserError, match="BNOnly: the backbone has no BatchNorm"):
        fitted(Classification(3, VIT, transfer=BNOnly(), optimizer=sgd), tmp_path)
    with pytest.raises(UserError, match=r"Adapter: the backbone \(VisionTransformer\) has no residual blocks"):
        Classification(3, VIT, transfer=Adapter(2))
    with pytest.raises(UserError, match="Partial: share knows the convolutions and BatchNorms of a ResNet"):
        Classification(3, VIT, transfer=Partial(share=0.5))
    with pytest.raises(UserError, match="FreezeStages: stages is 7, but the backbone has 6"):
        fitted(Classification(3, VIT, transfer=FreezeStages(7), optimizer=sgd), tmp_path)
    assert Classification(3, VIT, transfer=LPFT()).transfer.label() == "lpft(share=0.2)"


def test_an_update_that_a_network_does_not_use_is_refused(tmp_path):
    """As timm's BEiT does, this network uses the weight of a layer, and not the layer."""
    task = Classification(3, VIT, transfer=LoRA(2), optimizer=sgd)
    attention = task.backbone.blocks[0].attn
    attention.qkv.forward = lambda x: torch.nn.functional.linear(x, attention.qkv.weight, attention.qkv.bias)
    with pytest.raises(UserError, match=r"LoRA: the update of backbone.blocks.0.attn.qkv has no influence on the loss"):
        fitted(task, tmp_path)


def test_without_batch_norm_nothing_is_estimated_again(tmp_path):
    task = Classification(3, VIT, transfer=WiSEFT((0.0, 1.0)), optimizer=sgd, init_from=None)
    task.init_from = "given"
    fitted(task, tmp_path, limit_val_batches=2)
    (method,) = task.transfer.methods
    assert [row["alpha"] for row in method.rows] == [0.0, 1.0]


def test_images_that_do_not_fit_are_refused_in_a_run(tmp_path):
    task = Classification(3, "mixer_s32_224", optimizer=sgd)
    with pytest.raises(UserError, match=r"mixer_s32_224 cannot take images of \[3, 64, 64\]"):
        trainer(tmp_path).fit(task, Toy("sinclass", 4, 4))
    assert Squares("sinclass", 1)[0][0].shape == (3, 64, 64)


def fit(recipe, out, *more):
    arguments = ["fit", f"--config={recipe}_small", f"--trainer.default_root_dir={out}"]
    assert main([*arguments, "--trainer.enable_progress_bar=false", "--trainer.log_every_n_steps=1", *more]) == 0
    rows = (out / "metrics.csv").read_text().splitlines()
    column = rows[0].split(",").index("train/loss")
    losses = [float(cells[column]) for row in rows[1:] if (cells := row.split(","))[column]]
    assert sum(losses[-5:]) / 5 < 0.9 * losses[0], losses
    return out / "checkpoints/last.ckpt"


FAMILIES = {
    "convnext_atto": [],
    "vit_tiny_patch16_224": [],
    "efficientnet_b0": [],
    "mobilenetv3_small_050": [],
    "regnetx_002": [],
    "swin_tiny_patch4_window7_224": [
        "--model.backbone_options={embed_dim: 24, depths: [1,1,1,1], num_heads: [1,2,2,4]}"
    ],
}


@pytest.fixture(scope="module")
def renders(tmp_path_factory):
    from tasks.real import write_renders

    return write_renders(tmp_path_factory.mktemp("renders") / "squares")


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", FAMILIES)
def test_families_through_the_command_line(tmp_path, renders, name):
    """Several labels → one label: both learn, and the weights of the second training start as the first's."""
    more = [f"--model.backbone={name}", *FAMILIES[name], "--model.optimizer=AdamW", "--model.optimizer.lr=0.0005"]
    more += ["--model.schedule.warmup_images=80"]
    first = fit("pretrain/mulclass", tmp_path / "a", f"--data.root={renders}", "--model.schedule.images=1600", *more)
    write_folders(tmp_path / "photos")
    second = [f"--data.root={tmp_path / 'photos'}", f"--model.init_from={first}", "--model.schedule.images=1152"]
    last = fit("finetune/sinclass", tmp_path / "b", *second, *more)
    test = ["test", f"--config={tmp_path / 'b'}/config.yaml", f"--ckpt_path={last}"]
    assert main([*test, "--trainer.enable_progress_bar=false"]) == 0


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", ["convnext_atto", "vit_tiny_patch16_224"])
def test_boxes_and_masks_through_the_command_line(tmp_path, renders, name):
    more = [f"--model.backbone={name}", "--model.optimizer=AdamW", "--model.optimizer.lr=0.0005"]
    more += ["--model.schedule.warmup_images=80"]
    first = fit("pretrain/mulclass", tmp_path / "a", f"--data.root={renders}", "--model.schedule.images=800", *more)
    write_coco(tmp_path / "boxes"), write_ade20k(tmp_path / "masks")
    start = [*more, f"--model.init_from={first}"]
    fit("finetune/objdet", tmp_path / "b", f"--data.root={tmp_path / 'boxes'}", "--model.schedule.images=480", *start)
    masks = [f"--data.root={tmp_path / 'masks'}", "--data.num_classes=4", "--model.schedule.images=240"]
    fit("finetune/semseg", tmp_path / "c", *masks, *start)
