"""Norms of all samples at once against one sample at a time: layers of other libraries, shared and repeated ones."""

import pytest
import timm
import torch
import torch.nn.functional as F
from torch import nn

from lightning_tl.measure import Objective, hessian_trace
from lightning_tl.measure.gauss_newton_trace import GaussNewtonTrace
from lightning_tl.measure.noise_scales import check_scales
from lightning_tl.measure.params import Layout
from tests.measure.cases import cross_entropy, exact, scales_of


def language(module, ids):
    logits = module(ids).logits
    return F.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())


def tiny_gpt2(vocabulary=11, width=8):
    from transformers import GPT2Config, GPT2LMHeadModel

    return GPT2LMHeadModel(
        GPT2Config(vocab_size=vocabulary, n_positions=6, n_embd=width, n_layer=1, n_head=2, n_inner=2 * width)
    )


def tiny_llama(vocabulary=11, width=8):
    from transformers import LlamaConfig, LlamaForCausalLM

    sizes = {"hidden_size": width, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=vocabulary, max_position_embeddings=8, **sizes))


LANGUAGE_MODELS = {"gpt2": tiny_gpt2, "llama": tiny_llama}


class Repeated(nn.Module):
    """Layers that are called several times, with inputs of different lengths, and a table that is also the head."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(7, 6)
        self.conv = nn.Conv2d(6, 6, 3, padding=1, groups=2)
        self.norm = nn.LayerNorm(6)
        self.linear = nn.Linear(6, 6)

    def forward(self, ids):
        x = self.linear(self.norm(self.embed(ids))) + self.embed((ids + 1) % 7)
        x = self.norm(self.linear(torch.tanh(x[:, :4])))
        x = x.transpose(1, 2).view(len(ids), 6, 2, 2)
        x = self.conv(self.conv(x)) + self.conv(x[:, :, :1])
        return x.mean((2, 3)) @ self.embed.weight.T + F.linear(self.norm(x.mean((2, 3))), self.embed.weight)


class TiedHead(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed, self.place = nn.Embedding(7, 6, padding_idx=2), nn.Embedding(5, 6)
        self.head = nn.Linear(6, 7, bias=False)
        self.head.weight = self.embed.weight

    def forward(self, ids):
        x = torch.tanh(self.embed(ids) + self.place(torch.arange(ids.shape[1])[None]))
        return self.head(self.head(x) @ self.embed(ids).mean(1, keepdim=True).expand(-1, 7, -1)).mean(1)


def images_with(layer):
    return nn.Sequential(nn.Conv2d(1, 4, 1), nn.Tanh(), layer, nn.Flatten(), nn.LazyLinear(3))


class ChannelNorm(nn.LayerNorm):
    """As in ConvNeXt: a LayerNorm over the channels of images [N, C, H, W]."""

    def forward(self, x):
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ChannelNorm2d(ChannelNorm):
    pass


MODULES = {
    "repeated": (Repeated, "ids", []),
    "tied": (TiedHead, "ids", []),
    "LayerNorm2d, 5 × 5": (lambda: images_with(ChannelNorm(4)), 5, []),
    "LayerNorm2d, 4 × 4": (lambda: images_with(ChannelNorm2d(4)), 4, []),
    # it looks as if the last dimension were normalised
    "LayerNorm2d under another name": (lambda: images_with(ChannelNorm(4)), 4, ["2.weight", "2.bias"]),
    "timm's": (lambda: images_with(timm.layers.LayerNorm2d(4)), 5, []),
    # padded inside, so that the patches are others than the layer's arguments say
    "timm's padding": (lambda: images_with(timm.layers.Conv2dSame(4, 2, 2, stride=2)), 5, ["2.weight", "2.bias"]),
    "activation inside": (lambda: images_with(timm.layers.BatchNormAct2d(4)), 5, ["2.weight", "2.bias"]),
}


def one_at_a_time(objective, direction, scales=None):
    """Return Σ_n ‖scale ∘ Jₙᵀvₙ‖² by parameter, from one backward pass for each sample."""
    total = torch.zeros(len(objective.params), dtype=torch.float64)
    for n in range(len(direction)):
        masked = torch.zeros_like(direction)
        masked[n] = direction[n]
        outputs = logits_of(objective.module, objective.batches[0])
        grads = torch.autograd.grad(outputs, objective.tensors, masked.view_as(outputs), allow_unused=True)
        for index, grad in enumerate(grads):
            if grad is not None:
                total[index] += (grad if scales is None else grad * scales[index]).square().sum()
    return total


def logits_of(module, batch):
    logits = module(batch[0] if isinstance(batch, tuple) else batch)
    return logits if isinstance(logits, torch.Tensor) else logits.logits[:, :-1].flatten(0, 1)


def check_norms(objective, uncovered=(), rel=1e-9):
    rows = check_scales(scales_of(objective, "rows"), objective.params)
    with objective.measuring():
        trace = GaussNewtonTrace(objective, 0, Layout(objective.params), torch.Generator().manual_seed(0))
        names = list(objective.params)
        assert [names[i] for i in trace.others] == list(uncovered)
        direction = trace.outputs.random_direction(torch.Generator().manual_seed(1))
        trace.scales = rows
        norms, scaled = trace._squared(direction, [], weighted=True)
        by_sample = direction.reshape(trace.samples, -1)
        for found, expected in (
            (norms, one_at_a_time(objective, by_sample)),
            (scaled, one_at_a_time(objective, by_sample, rows)),
        ):
            for index, name in enumerate(names):
                if name not in uncovered:
                    slack = rel * max(float(expected[index]), 1e-6 * float(expected.sum()))
                    assert abs(float(found[index] - expected[index])) <= slack, name
    return trace


@pytest.mark.parametrize("name", MODULES)
def test_norms_are_those_of_each_samples_gradient(name):
    build, kind, uncovered = MODULES[name]
    torch.manual_seed(1)
    x = torch.randint(0, 7, (6, 5)) if kind == "ids" else torch.randn(6, 1, kind, kind).double()
    module = build().double().eval()
    module(x)
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))
    classes = module(x).shape[1]
    objective = Objective(module, cross_entropy, [(x, torch.randint(0, classes, (6,)))])
    check_norms(objective, ["embed.weight"] if name == "repeated" else uncovered)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_all_parameters_of_language_models_are_covered(name):
    torch.manual_seed(0)
    module = LANGUAGE_MODELS[name](50, 16).eval()
    objective = Objective(module, language, [torch.randint(0, 50, (5, 6))])
    trace = check_norms(objective, rel=1e-4)
    direction = trace.outputs.random_direction(torch.Generator().manual_seed(1))
    found, expected = trace._squared(direction, [])[0], one_at_a_time(objective, direction.reshape(5, -1))
    assert float(found.sum()) == pytest.approx(float(expected.sum()), rel=1e-6)


@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_the_trace_of_a_language_model_is_that_of_its_dense_hessian(name):
    """Tr G from one direction for each position and class, Tr R from one product for each weight."""
    torch.manual_seed(0)
    module = LANGUAGE_MODELS[name](5, 4).double().eval()
    with torch.no_grad():
        for p in module.parameters():
            p.add_(0.3 * torch.randn_like(p))
    ids = torch.randint(0, 5, (3, 4))
    objective = Objective(module, language, [ids])
    with objective.measuring():
        trace = GaussNewtonTrace(objective, 0, Layout(objective.params), torch.Generator().manual_seed(0))
        assert trace.others == []
        positions, found = ids.shape[1] - 1, 0.0
        for t in range(positions):
            for c in range(5):
                unit = torch.zeros(3, positions, 5, dtype=torch.float64)
                unit[:, t, c] = 1
                direction = trace.outputs._factor(unit.view(-1, 5))
                found += float(trace._squared(direction, [])[0].sum())
        trace.prepare_remainder()
        remainder = 0.0
        for place, index in enumerate(trace.curved):
            for element in range(trace.tensors[index].numel()):
                probes = [torch.zeros_like(trace.tensors[i]) for i in trace.curved]
                probes[place].view(-1)[element] = 1
                remainder += float(trace._dots(probes, trace._images(probes)).sum())
        logits = module(ids).logits[:, :-1].flatten(0, 1)
        p = logits.softmax(1).detach()
        gauss_newton = 0.0
        for row in range(len(logits)):
            rows = [torch.autograd.grad(logits[row, c], objective.tensors, retain_graph=True) for c in range(5)]
            jacobian = torch.stack([torch.cat([g.flatten() for g in grads]) for grads in rows])
            curvature = (p[row].diag() - torch.outer(p[row], p[row])) / len(logits)
            gauss_newton += float((curvature * (jacobian @ jacobian.T)).sum())
    # Llama's RMSNorm computes in single precision, whatever the type of the model
    assert found == pytest.approx(gauss_newton, rel=1e-6)
    dense = exact(objective).trace
    assert found + remainder == pytest.approx(dense, rel=1e-6)
    estimate = hessian_trace(objective, 400)
    assert estimate.method == "gauss-newton"
    assert abs(estimate.value - dense) < 4 * estimate.stderr


def test_a_repeated_output_that_changes_the_loss_is_not_repeated():
    """A module that reads the number of samples off its table of positions."""

    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed, self.place, self.head = nn.Embedding(7, 6), nn.Embedding(5, 6), nn.Linear(6, 3)

        def forward(self, ids):
            place = self.place(torch.arange(ids.shape[1])[None])
            return self.head((torch.tanh(self.embed(ids)) + place / len(place)).mean(1))

    torch.manual_seed(0)
    objective = Objective(Counts().double(), cross_entropy, [(torch.randint(0, 7, (6, 5)), torch.randint(0, 3, (6,)))])
    trace = check_norms(objective, ["place.weight"])
    assert not trace.norms.expanded
