"""A decoder that starts from another one's checkpoint: ways of fine-tuning it, and what callbacks measure meanwhile."""

from __future__ import annotations

import lightning.pytorch as pl
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

from lightning_tl.callbacks import HessianTrace, ParameterDistance, PerturbationSensitivity
from lightning_tl.corpus.build import BuildOptions, build_corpus
from lightning_tl.corpus.sources import plan_sources
from lightning_tl.data import Text
from lightning_tl.errors import UserError
from lightning_tl.tasks import CausalLanguageModel, Classification
from lightning_tl.transfer import L2SP, FreezeStages, LinearProbe, LoRA

SHAPE = {"width": 16, "layers": 2, "heads": 2, "hidden": 24}


def loader(seed: int) -> DataLoader:
    tokens = torch.randint(0, 20, (32, 13), generator=torch.Generator().manual_seed(seed))
    return DataLoader(TensorDataset(tokens[:, :-1], tokens[:, 1:]), 8)


def fitted(tmp_path, task, *callbacks, steps=8):
    runner = pl.Trainer(
        default_root_dir=tmp_path,
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        callbacks=list(callbacks),
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    runner.fit(task, loader(1))
    return runner


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A checkpoint, and its weights."""
    folder = tmp_path_factory.mktemp("start")
    torch.manual_seed(0)
    task = CausalLanguageModel(20, shape=SHAPE)
    fitted(folder, task).save_checkpoint(folder / "a.ckpt")
    return folder / "a.ckpt", {name: value.clone() for name, value in task.state_dict().items()}


def moved(task, weights):
    """Return how far each of the pre-trained weights has moved."""
    own = task.state_dict()
    return {name: float((own[name] - value).norm()) for name, value in weights.items()}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("transfer", "still"),
    [
        (None, ()),
        (LinearProbe(), ("backbone.",)),
        (FreezeStages(1), ("backbone.embed_tokens", "backbone.layers.0.")),
    ],
    ids=["full", "probe", "freeze"],
)
def test_what_is_frozen_stays_and_the_rest_moves(tmp_path, start, transfer, still):
    checkpoint, weights = start
    task = CausalLanguageModel(20, shape=SHAPE, init_from=str(checkpoint), transfer=transfer)
    fitted(tmp_path, task)
    for name, distance in moved(task, weights).items():
        assert (distance == 0) == name.startswith(still or ("nothing",)), name


@pytest.mark.filterwarnings("ignore")
def test_a_pull_keeps_the_weights_near_the_start(tmp_path, start):
    checkpoint, weights = start
    far = {}
    for strength in (0.0, 10.0):
        transfer = L2SP(strength=strength) if strength else None
        task = CausalLanguageModel(20, shape=SHAPE, init_from=str(checkpoint), transfer=transfer)
        fitted(tmp_path, task, steps=40)
        far[strength] = sum(d**2 for name, d in moved(task, weights).items() if name.startswith("backbone."))
    assert far[10.0] < 0.5 * far[0.0]


@pytest.mark.filterwarnings("ignore")
def test_callbacks_measure_a_fine_tuning_with_low_rank_updates(tmp_path, start):
    checkpoint, weights = start
    distance = ParameterDistance(every_n_steps=8)
    others = [
        HessianTrace(every_n_steps=8, products=4),
        PerturbationSensitivity(gammas=[0.05], draws=2, every_n_steps=8, trainable=False, exclude="lora_"),
    ]
    torch.manual_seed(1)
    task = CausalLanguageModel(20, shape=SHAPE, init_from=str(checkpoint), transfer=LoRA(rank=2))
    runner = fitted(tmp_path, task, distance, *others)
    logged = {key: float(value) for key, value in runner.callback_metrics.items()}
    for key in ("hessian/trace", "sensitivity/gamma_0.05", "perturbed_loss/gamma_0.05"):
        assert torch.isfinite(torch.tensor(logged[key])), key
    # the pre-trained matrices are as they were
    for name, value in weights.items():
        if name.startswith("backbone.layers") and "norm" not in name:
            assert torch.equal(task.state_dict()[name], value)
    assert logged["param_distance/merged"] > 0
    # measuring changes nothing
    torch.manual_seed(1)
    plain = CausalLanguageModel(20, shape=SHAPE, init_from=str(checkpoint), transfer=LoRA(rank=2))
    fitted(tmp_path, plain)
    assert all(torch.equal(a, b) for a, b in zip(plain.state_dict().values(), task.state_dict().values(), strict=True))


def corpus(folder, letters, tokenizer, name=""):
    texts = [f"{a}{b} {c}{a} {letters}" for a in letters for b in letters for c in letters]
    (folder / f"{letters}.txt").write_text("<end>".join(texts))
    chunks = plan_sources([str(folder / f"{letters}.txt")], delimiter="<end>")
    out = folder / (name or letters)
    build_corpus(chunks, out, BuildOptions(tokenizer, 0.2, 0.2))
    return out


@pytest.mark.filterwarnings("ignore")
def test_a_start_of_another_tokenizer_is_refused(tmp_path):
    one, other = (corpus(tmp_path, letters, "bpe:270") for letters in ("abcdef", "uvwxyz"))
    again = corpus(tmp_path, "uvwxyz", str(one), "again")  # other texts, by the first one's tokenizer
    data = {root: Text(root, context=8, batch_size=4, val_samples=4) for root in (one, other, again)}
    vocabulary = data[one].num_classes
    assert {each.num_classes for each in data.values()} == {vocabulary}

    def runner(**options):
        quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
        return pl.Trainer(default_root_dir=tmp_path, max_steps=1, enable_checkpointing=False, **quiet, **options)

    task = CausalLanguageModel(vocabulary, shape=SHAPE)
    first = runner()
    first.fit(task, data[one])
    first.save_checkpoint(tmp_path / "a.ckpt")
    task = CausalLanguageModel(vocabulary, shape=SHAPE, init_from=tmp_path / "a.ckpt")
    runner().fit(task, data[again])
    runner().validate(task, data[again], ckpt_path=tmp_path / "a.ckpt", verbose=False)
    said = r"was trained on texts of another tokenizer than .* both have \d+ tokens: use the tokenizer of its training"
    with pytest.raises(UserError, match=r"model.init_from .*a.ckpt " + said):
        runner().fit(CausalLanguageModel(vocabulary, shape=SHAPE, init_from=tmp_path / "a.ckpt"), data[other])
    with pytest.raises(UserError, match="the checkpoint " + said):
        runner().validate(CausalLanguageModel(vocabulary, shape=SHAPE), data[other], ckpt_path=tmp_path / "a.ckpt")
    with pytest.raises(UserError, match=rf"has a vocabulary of {vocabulary} tokens, and that of the data has 99: use"):
        CausalLanguageModel(99, shape=SHAPE, init_from=tmp_path / "a.ckpt")
    content = torch.load(tmp_path / "a.ckpt", weights_only=True)
    del content["lightning_tl"]["tokenizer"]  # as it was before it was written down
    torch.save(content, tmp_path / "before.ckpt")
    runner().fit(CausalLanguageModel(vocabulary, shape=SHAPE, init_from=tmp_path / "before.ckpt"), data[other])


def test_a_start_of_another_kind_is_called_so(tmp_path):
    task = Classification(10, backbone="resnet10_w8")
    checkpoint = {"state_dict": task.state_dict()}
    task.on_save_checkpoint(checkpoint)
    torch.save(checkpoint, tmp_path / "images.ckpt")
    with pytest.raises(UserError, match=r"is a checkpoint of another backbone \(it holds a 'resnet10_w8'\)"):
        CausalLanguageModel(11, shape=SHAPE, init_from=tmp_path / "images.ckpt")
