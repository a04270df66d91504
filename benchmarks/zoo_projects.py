"""Projects in the style of other packages' tutorials, none of which knows of the callbacks: what `zoo.py` measures."""

from __future__ import annotations

import copy
import importlib.util
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from torch import Tensor, nn


@dataclass(frozen=True)
class Project:
    """A project.

    Attributes:
        name: What it is.
        packages: What it imports, besides torch and Lightning.
        make: Returns a module and its batches.
        options: Arguments of the callbacks that measure a loss.
    """

    name: str
    packages: tuple[str, ...]
    make: Callable[[], tuple[LightningModule, list[Any]]]
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def absent(self) -> list[str]:
        """The packages that are not installed."""
        return [name for name in self.packages if importlib.util.find_spec(name) is None]


class Step(LightningModule):
    """A module around a network, with the loss given as a function."""

    def __init__(self, net: nn.Module, loss: Callable[[nn.Module, Any], Tensor], lr: float = 1e-3) -> None:
        super().__init__()
        self.net, self.loss, self.lr = net, loss, lr

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        loss = self.loss(self.net, batch)
        self.log("loss", loss, on_step=True, on_epoch=True, batch_size=2)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.AdamW(self.parameters(), lr=self.lr)


def pictures(count: int = 6, size: int = 32, batch: int = 4) -> list[Any]:
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(batch, 3, size, size, generator=generator), torch.randint(0, 5, (batch,), generator=generator))
        for _ in range(count)
    ]


def sentences(count: int = 6, words: int = 50) -> list[dict[str, Tensor]]:
    generator = torch.Generator().manual_seed(1)
    made = []
    for _ in range(count):
        ids = torch.randint(5, words, (2, 12), generator=generator)
        made.append({"input_ids": ids, "labels": ids.clone()})
    return made


def classify(net: nn.Module, batch: Any) -> Tensor:
    return F.cross_entropy(net(batch[0]), batch[1])


def timm_model(name: str, **options: Any) -> Callable[[], tuple[LightningModule, list[Any]]]:
    def make() -> tuple[LightningModule, list[Any]]:
        import timm

        return Step(timm.create_model(name, num_classes=5, **options), classify), pictures()

    return make


def smp_unet() -> tuple[LightningModule, list[Any]]:
    import segmentation_models_pytorch as smp

    net = smp.Unet("resnet18", encoder_weights=None, classes=4)
    dice = smp.losses.DiceLoss("multiclass")
    batches = [(x, torch.randint(0, 4, (4, 32, 32))) for x, _ in pictures()]
    return Step(net, lambda net, batch: dice(net(batch[0]), batch[1]) + classify(net, batch)), batches


def hugging_face(kind: str) -> Callable[[], tuple[LightningModule, list[Any]]]:
    def make() -> tuple[LightningModule, list[Any]]:
        import transformers as t

        width = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 48}
        ids = {"bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
        nets: dict[str, Callable[[], nn.Module]] = {
            "BERT": lambda: t.BertForMaskedLM(t.BertConfig(vocab_size=50, **width, **ids)),
            "Llama": lambda: t.LlamaForCausalLM(t.LlamaConfig(vocab_size=50, **width, **ids)),
            "T5": lambda: t.T5ForConditionalGeneration(
                t.T5Config(
                    vocab_size=50,
                    d_model=32,
                    d_kv=16,
                    d_ff=48,
                    num_layers=2,
                    num_heads=2,
                    decoder_start_token_id=0,
                    **ids,
                )
            ),
        }
        return Step(nets[kind](), lambda net, batch: net(**batch).loss), sentences()

    return make


def peft_lora() -> tuple[LightningModule, list[Any]]:
    import peft

    module, batches = hugging_face("Llama")()
    config = peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj"], lora_dropout=0.1, task_type="CAUSAL_LM")
    net = peft.get_peft_model(module.net, config)
    return Step(net, lambda net, batch: net(**batch).loss), batches


def diffusers_unet() -> tuple[LightningModule, list[Any]]:
    import diffusers

    net = diffusers.UNet2DModel(
        sample_size=16,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=8,
    )
    schedule = diffusers.DDPMScheduler(num_train_timesteps=100)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        noise = torch.randn_like(batch[0])
        at = torch.randint(0, 100, (len(noise),))
        return F.mse_loss(net(schedule.add_noise(batch[0], noise, at), at).sample, noise)

    return Step(net, loss), pictures(size=16)


def kornia_augmented() -> tuple[LightningModule, list[Any]]:
    import kornia.augmentation as K

    augment = K.AugmentationSequential(
        K.RandomHorizontalFlip(p=0.5), K.RandomAffine(15, p=0.7), K.ColorJiggle(0.1, 0.1, 0.1, 0.1, p=0.5)
    )
    net = nn.Sequential(
        augment,
        nn.Conv2d(3, 8, 3, 2),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 5),
    )
    return Step(net, lambda net, batch: F.cross_entropy(net(batch[0].sigmoid()), batch[1])), pictures()


def graph_nodes() -> tuple[LightningModule, list[Any]]:
    from torch_geometric.data import Data
    from torch_geometric.nn import GCNConv

    class Graph(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = GCNConv(6, 16), GCNConv(16, 3)

        def forward(self, data: Any) -> Tensor:
            return self.second(F.relu(self.first(data.x, data.edge_index)), data.edge_index)

    generator = torch.Generator().manual_seed(1)
    edges = torch.randint(0, 8, (2, 30), generator=generator)  # 12 of the 20 nodes are isolated
    data = Data(
        x=torch.randn(20, 6, generator=generator),
        edge_index=edges,
        y=torch.randint(0, 3, (20,), generator=generator),
        train_mask=torch.rand(20, generator=generator) < 0.7,
    )

    def loss(net: nn.Module, data: Any) -> Tensor:
        return F.cross_entropy(net(data)[data.train_mask], data.y[data.train_mask])

    return Step(Graph(), loss), [data] * 6


def temporal_fusion() -> tuple[LightningModule, list[Any]]:
    import numpy as np
    import pandas as pd
    from pytorch_forecasting import QuantileLoss, TemporalFusionTransformer, TimeSeriesDataSet

    rows = [(g, t, np.sin(t / 3 + g) + 0.1 * g) for g in range(3) for t in range(40)]
    frame = pd.DataFrame(rows, columns=["group", "time", "value"]).astype({"group": str})
    data = TimeSeriesDataSet(
        frame,
        time_idx="time",
        target="value",
        group_ids=["group"],
        max_encoder_length=12,
        max_prediction_length=4,
        time_varying_unknown_reals=["value"],
        static_categoricals=["group"],
    )
    net = TemporalFusionTransformer.from_dataset(
        data, hidden_size=8, attention_head_size=2, hidden_continuous_size=4, loss=QuantileLoss(), optimizer="adam"
    )
    return net, list(data.to_dataloader(train=False, batch_size=8))[:6]


class BYOL(LightningModule):
    """Lightly's heads, loss and update of the momentum encoder, as in its tutorial."""

    def __init__(self) -> None:
        super().__init__()
        from lightly.loss import NegativeCosineSimilarity
        from lightly.models.modules import BYOLPredictionHead, BYOLProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        self.backbone = small_backbone()
        self.projection_head = BYOLProjectionHead(16, 32, 8)
        self.prediction_head = BYOLPredictionHead(8, 32, 8)
        self.backbone_momentum = copy.deepcopy(self.backbone)
        self.projection_head_momentum = copy.deepcopy(self.projection_head)
        deactivate_requires_grad(self.backbone_momentum)
        deactivate_requires_grad(self.projection_head_momentum)
        self.criterion = NegativeCosineSimilarity()

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        from lightly.models.utils import update_momentum

        update_momentum(self.backbone, self.backbone_momentum, m=0.99)
        update_momentum(self.projection_head, self.projection_head_momentum, m=0.99)
        views = batch[0], batch[0].flip(-1)
        online = [self.prediction_head(self.projection_head(self.backbone(view))) for view in views]
        with torch.no_grad():
            target = [self.projection_head_momentum(self.backbone_momentum(view)) for view in views]
        loss = 0.5 * (self.criterion(online[0], target[1]) + self.criterion(online[1], target[0]))
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.06)


class DINO(LightningModule):
    """Lightly's heads and loss, whose centre is a buffer that each call moves."""

    def __init__(self) -> None:
        super().__init__()
        from lightly.loss import DINOLoss
        from lightly.models.modules import DINOProjectionHead
        from lightly.models.utils import deactivate_requires_grad

        self.student, self.student_head = small_backbone(), DINOProjectionHead(16, 32, 16, 24, freeze_last_layer=1)
        self.teacher, self.teacher_head = copy.deepcopy(self.student), DINOProjectionHead(16, 32, 16, 24)
        deactivate_requires_grad(self.teacher)
        deactivate_requires_grad(self.teacher_head)
        self.criterion = DINOLoss(output_dim=24, warmup_teacher_temp_epochs=2)

    def training_step(self, batch: Any, batch_idx: int) -> Tensor:
        from lightly.models.utils import update_momentum
        from lightly.utils.scheduler import cosine_schedule

        momentum = cosine_schedule(self.current_epoch, 10, 0.996, 1)
        update_momentum(self.student, self.teacher, m=momentum)
        update_momentum(self.student_head, self.teacher_head, m=momentum)
        views = batch[0], batch[0].flip(-1)
        with torch.no_grad():
            teacher = [self.teacher_head(self.teacher(view)) for view in views]
        student = [self.student_head(self.student(view)) for view in views]
        loss = self.criterion(teacher, student, epoch=self.current_epoch)
        self.log("loss", loss, on_step=True, on_epoch=True)
        return loss

    def on_after_backward(self) -> None:
        self.student_head.cancel_last_layer_gradients(current_epoch=self.current_epoch)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=1e-3)


def small_backbone() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 16, 3, 2), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())


def without_schedule(task: Any) -> LightningModule:
    """Return a task without its schedule, which needs a validation."""
    task.configure_optimizers = lambda: torch.optim.AdamW(task.parameters(), lr=1e-3)
    module: LightningModule = task
    return module


def torchgeo_byol() -> tuple[LightningModule, list[Any]]:
    from torchgeo.trainers import BYOLTask
    from torchgeo.trainers.byol import SimCLRAugmentation

    task = BYOLTask(model="resnet18", weights=None, in_channels=3)
    task.model.augment = SimCLRAugmentation((32, 32))  # by default images are enlarged to 224 pixels
    return without_schedule(task), [{"image": x} for x, _ in pictures(4)]


def torchgeo_segmentation() -> tuple[LightningModule, list[Any]]:
    from torchgeo.trainers import SemanticSegmentationTask

    task = SemanticSegmentationTask("unet", "resnet18", in_channels=3, num_classes=4, task="multiclass")
    return without_schedule(task), [{"image": x, "mask": torch.randint(0, 4, (4, 32, 32))} for x, _ in pictures()]


def manifold_mixup() -> tuple[LightningModule, list[Any]]:
    class Mixup(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder, self.head = small_backbone(), nn.Linear(16, 5)

    def loss(net: nn.Module, batch: Any) -> Tensor:
        h, other = net.encoder(batch[0]), torch.randperm(len(batch[1]))
        out = net.head(0.7 * h + 0.3 * h[other])
        return 0.7 * F.cross_entropy(out, batch[1]) + 0.3 * F.cross_entropy(out, batch[1][other])

    return Step(Mixup(), loss), pictures()


def clamped_critic() -> tuple[LightningModule, list[Any]]:
    def loss(net: nn.Module, batch: Any) -> Tensor:
        for p in net.parameters():
            p.data.clamp_(-0.05, 0.05)
        return net(torch.randn_like(batch[0])).mean() - net(batch[0]).mean()

    return Step(nn.Sequential(small_backbone(), nn.Linear(16, 1)), loss), pictures()


def weight_norms() -> tuple[LightningModule, list[Any]]:
    net = nn.Sequential(
        nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 8, 3, 2)),
        nn.GELU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.utils.parametrizations.spectral_norm(nn.Linear(8, 5)),
    )
    return Step(net, classify), pictures()


PROJECTS = [
    Project("lightly BYOL", ("lightly",), lambda: (BYOL(), pictures())),
    Project("lightly DINO", ("lightly",), lambda: (DINO(), pictures())),
    Project("torchgeo BYOL", ("torchgeo",), torchgeo_byol),
    Project("torchgeo segmentation", ("torchgeo",), torchgeo_segmentation),
    Project("segmentation_models_pytorch U-Net", ("segmentation_models_pytorch",), smp_unet),
    Project("timm ResNet-10", ("timm",), timm_model("resnet10t")),
    Project("timm ConvNeXt", ("timm",), timm_model("convnext_atto")),
    Project("timm ViT", ("timm",), timm_model("vit_tiny_patch16_224", img_size=32, depth=3)),
    Project(
        "timm Swin", ("timm",), timm_model("swin_tiny_patch4_window7_224", img_size=32, window_size=2, embed_dim=24)
    ),
    Project("Hugging Face BERT", ("transformers",), hugging_face("BERT")),
    Project("Hugging Face Llama", ("transformers",), hugging_face("Llama")),
    Project("Hugging Face T5", ("transformers",), hugging_face("T5")),
    Project("PEFT LoRA", ("transformers", "peft"), peft_lora),
    Project("diffusers U-Net", ("diffusers",), diffusers_unet),
    Project("PyTorch Geometric nodes", ("torch_geometric",), graph_nodes),
    Project("kornia augmentation", ("kornia",), kornia_augmented),
    Project("pytorch-forecasting TFT", ("pytorch_forecasting",), temporal_fusion),
    Project("manifold mixup", (), manifold_mixup),
    Project("clamped critic", (), clamped_critic),
    Project("weight and spectral norm", (), weight_norms),
]
