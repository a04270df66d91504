"""Modules in the style of other projects, none of them changed for the callbacks."""

import math

import lightning.pytorch as pl
import pytest
import torch
import torch.nn.functional as F
import torchvision
import transformers
from lightning.pytorch import LightningModule
from torch import nn
from torch.utils.data import DataLoader

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity
from lightning_tl.measured_value import logged
from tests.callbacks.modules import trainer
from tests.measure.cases import Attention
from tests.measured_values import only


class SimCLR(LightningModule):
    """Two augmented views, a projection head, the NT-Xent loss over the batch."""

    def __init__(self):
        super().__init__()
        net = torchvision.models.resnet18()
        self.backbone = nn.Sequential(*list(net.children())[:-1])
        self.projection = nn.Sequential(nn.Linear(512, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 16))

    def training_step(self, batch, batch_idx):
        (x0, x1), _, _ = batch
        z = torch.cat([self.projection(self.backbone(x).flatten(1)) for x in (x0, x1)])
        z = F.normalize(z, dim=1)
        n = len(x0)
        similarity = (z @ z.T / 0.5).masked_fill(torch.eye(2 * n, dtype=torch.bool), -1e9)
        loss = F.cross_entropy(similarity, torch.arange(2 * n).roll(n))
        self.log("train_loss_ssl", loss, batch_size=n)
        return loss

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01, momentum=0.9)

    @staticmethod
    def data():
        return [((torch.randn(4, 3, 32, 32), torch.randn(4, 3, 32, 32)), torch.zeros(4), ["a", "b", "c", "d"])]


class Segmentation(LightningModule):
    """Dict batches, an auxiliary head, an ignored label."""

    def __init__(self):
        super().__init__()
        self.model = torchvision.models.segmentation.lraspp_mobilenet_v3_large(
            weights=None, weights_backbone=None, num_classes=4
        )

    def training_step(self, batch, batch_idx):
        out = self.model(batch["image"])["out"]
        loss = F.cross_entropy(out, batch["mask"], ignore_index=255)
        self.log("train_loss", loss)
        return {"loss": loss, "prediction": out.detach()}

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.01)

    @staticmethod
    def data():
        mask = torch.randint(0, 4, (2, 32, 32))
        mask[:, :4] = 255
        return [{"image": torch.randn(2, 3, 32, 32), "mask": mask, "path": ["a", "b"]}]


class LanguageModel(LightningModule):
    """A causal language model in ten lines: tied embedding, fused attention, a loss the model computes itself."""

    def __init__(self):
        super().__init__()
        self.model = Attention(vocabulary=11, width=16, tied=True)

    def training_step(self, batch, batch_idx):
        logits = self.model(batch["input_ids"])[:, :-1]
        return F.cross_entropy(logits.reshape(-1, 11), batch["labels"][:, 1:].reshape(-1))

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)

    @staticmethod
    def data():
        ids = torch.randint(0, 11, (4, 8))
        return [{"input_ids": ids, "labels": ids}]


class HuggingFace(LightningModule):
    """A Hugging Face causal language model in ten lines: the loss comes in the model's own output."""

    def __init__(self):
        super().__init__()
        size = {"n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 8, "vocab_size": 11}
        self.model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**size, bos_token_id=0, eos_token_id=0))

    def training_step(self, batch, batch_idx):
        return self.model(**batch).loss

    def configure_optimizers(self):
        return torch.optim.AdamW(self.parameters(), lr=1e-3)

    data = LanguageModel.data


class Detector(LightningModule):
    """Gives losses in train mode alone; samples anchors at random; its RoI pooling has no double backward."""

    def __init__(self):
        super().__init__()
        backbone = nn.Sequential(nn.Conv2d(3, 8, 3, 4, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, 4, 1))
        backbone.out_channels = 8
        self.model = torchvision.models.detection.FasterRCNN(
            backbone,
            min_size=64,
            max_size=64,
            rpn_anchor_generator=torchvision.models.detection.anchor_utils.AnchorGenerator(((16, 32),), ((1.0,),)),
            box_roi_pool=torchvision.ops.MultiScaleRoIAlign(["0"], 3, 2),
            box_head=torchvision.models.detection.faster_rcnn.TwoMLPHead(8 * 9, 16),
            box_predictor=torchvision.models.detection.faster_rcnn.FastRCNNPredictor(16, 3),
        )

    def training_step(self, batch, batch_idx):
        images, targets = batch
        losses = self.model(images, targets)
        self.log_dict({k: v.detach() for k, v in losses.items()}, batch_size=len(images))
        return sum(losses.values())

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.001)

    @staticmethod
    def data():
        target = {"boxes": torch.tensor([[5.0, 5.0, 30.0, 30.0]]), "labels": torch.tensor([1])}
        images = [torch.rand(3, 64, 64), torch.rand(3, 64, 48)]
        return [(images, [target, {k: v.clone() for k, v in target.items()}])]


class GAN(LightningModule):
    """Manual optimisation with two optimisers: its training_step moves the weights."""

    def __init__(self):
        super().__init__()
        self.automatic_optimization = False
        self.generator = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        self.discriminator = nn.Sequential(nn.Linear(2, 8), nn.LeakyReLU(), nn.Linear(8, 1))

    def generator_loss(self, real):
        fake = self.discriminator(self.generator(torch.randn(len(real), 4)))
        return F.binary_cross_entropy_with_logits(fake, torch.ones_like(fake))

    def training_step(self, batch, batch_idx):
        first, second = self.optimizers()
        loss = self.generator_loss(batch)
        first.zero_grad()
        self.manual_backward(loss)
        first.step()
        real = self.discriminator(batch)
        fake = self.discriminator(self.generator(torch.randn(len(batch), 4)).detach())
        loss = F.softplus(-real).mean() + F.softplus(fake).mean()
        second.zero_grad()
        self.manual_backward(loss)
        second.step()
        self.log("d_loss", loss)

    def configure_optimizers(self):
        return [torch.optim.Adam(part.parameters(), 1e-3) for part in (self.generator, self.discriminator)], []

    @staticmethod
    def data():
        return [torch.randn(8, 2)]


def fit(kind, measuring, steps=2, **options):
    pl.seed_everything(5)
    module = kind()
    loader = DataLoader(kind.data() * 4, batch_size=None)
    run = trainer(max_steps=steps * (2 if kind is GAN else 1), callbacks=measuring, **options)
    run.fit(module, loader)
    return module, run


LOSS = {GAN: {"loss_fn": lambda module, batch: module.generator_loss(batch), "include": "^generator"}}
# what layers without reset_parameters() ask for
NOISE = {Detector: {"noise": "relative"}, HuggingFace: {"reference": HuggingFace}}


@pytest.mark.parametrize(
    "kind", [pytest.param(SimCLR, marks=pytest.mark.slow), Segmentation, LanguageModel, HuggingFace, Detector, GAN]
)
def test_attached_unmodified(kind):
    options = LOSS.get(kind, {})
    measuring = [
        ParameterDistance(every_n_steps=1),
        HessianTrace(every_n_steps=1, products=4, **options),
        PerturbationSensitivity([0.01], draws=2, every_n_steps=1, **NOISE.get(kind, {}), **options),
    ]
    module, run = fit(kind, measuring)
    plain, _ = fit(kind, [])
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, module.state_dict()[name]), name
    for callback in measuring:
        assert callback.measured_steps == [0, 1, 2]
        assert all(math.isfinite(value) for value in logged(callback.history).values())
    assert only(measuring[1].history, 0, "hessian", "trace").stderr >= 0
    assert only(measuring[0].history, 2, "param_distance", "total").value > 0
    assert "hessian/trace" in run.callback_metrics


def test_a_hugging_face_model_has_a_known_loss_and_gets_noise_as_it_was_initialised():
    trace = HessianTrace(None, products=8)
    fit(HuggingFace, [trace], steps=1)
    assert only(trace.history, 0, "hessian", "trace").stderr > 0
    # of the Gauss-Newton part: the loss behind the model's output was recognised
    assert "variances" in trace.of_trace.memory
    noisy = PerturbationSensitivity([0.01])
    fit(HuggingFace, [noisy], steps=1)
    assert noisy.doubts == []
    scales = noisy.of_noise.noise.state()["scales"]
    assert scales["model.transformer.wte.weight"] == 0.02
    assert scales["model.transformer.h.0.attn.c_proj.weight"] == pytest.approx(0.02 / 2)  # /√(2 · 2 layers)
    assert scales["model.transformer.h.0.attn.c_attn.bias"] == 0


def test_the_detector_is_measured_in_train_mode_by_differences():
    trace = HessianTrace(None, products=4)
    fit(Detector, [trace], steps=1)
    assert trace.recorder.mode == "frozen-train"
    assert trace.of_trace.memory["differences"]


def test_a_compiled_module_is_measured_uncompiled():
    def run(compiled):
        pl.seed_everything(5)
        module = LanguageModel()
        trace = HessianTrace(every_n_steps=1, products=4)
        noisy = PerturbationSensitivity([0.01], draws=2, every_n_steps=1)
        fit = trainer(max_steps=2, callbacks=[ParameterDistance(every_n_steps=1), trace, noisy])
        loader = DataLoader(LanguageModel.data() * 2, batch_size=None)
        fit.fit(torch.compile(module, backend="eager") if compiled else module, loader)
        return [(record.step, logged([record])) for record in trace.history + noisy.history]

    for (step, compiled), (same, plain) in zip(run(True), run(False), strict=True):
        assert step == same
        assert compiled == pytest.approx(plain, rel=1e-4)
