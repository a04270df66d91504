from __future__ import annotations

import json

import lightning.pytorch as pl
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    CohereForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
)

from lightning_tl.errors import UserError
from lightning_tl.models.decoder import DECODERS, Decoder
from lightning_tl.models.stages import stage_of
from lightning_tl.models.weights import load_head
from lightning_tl.sharing.export import export
from lightning_tl.tasks import CausalLanguageModel, Cosine
from lightning_tl.transfer import LoRA

SHAPE = {"width": 32, "layers": 2, "heads": 4, "hidden": 48}


def windows(text, length):
    """Return (tokens, targets): windows of a long text, each target one further on."""
    count = (len(text) - 1) // length
    tokens = torch.as_tensor(text[: count * length]).view(count, length)
    return tokens, torch.as_tensor(text[1 : count * length + 1]).view(count, length)


def trainer(tmp_path, **settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return pl.Trainer(default_root_dir=tmp_path, **(quiet | settings))


def llama(shape, vocabulary, **settings):
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=vocabulary,
            hidden_size=shape["width"],
            intermediate_size=shape["hidden"],
            num_hidden_layers=shape["layers"],
            num_attention_heads=shape["heads"],
            rms_norm_eps=1e-6,
            **settings,
        )
    )


@pytest.mark.parametrize("tied", [False, True])
def test_a_decoder_is_a_llama_of_the_same_weights(tmp_path, tied):
    task = CausalLanguageModel(61, shape=SHAPE, tie_head=tied)
    for parameter in task.parameters():  # also the norms' gains are no ones
        torch.nn.init.normal_(parameter, std=0.5)
    reference = llama(SHAPE, 61, tie_word_embeddings=tied)
    names = {
        name.replace("backbone.", "model.").replace("head.", "lm_head."): p for name, p in task.state_dict().items()
    }
    reference.load_state_dict(names)
    tokens = torch.randint(0, 61, (3, 40))
    torch.testing.assert_close(task.eval()(tokens), reference.eval()(tokens).logits, rtol=1e-5, atol=1e-5)
    assert (task.head.weight is task.backbone.embed_tokens.weight) == tied


@pytest.mark.parametrize("tied", [False, True])
def test_exported_to_hugging_face_and_back(tmp_path, tied):
    task = CausalLanguageModel(61, shape=SHAPE, tie_head=tied).eval()
    loader = DataLoader(TensorDataset(*windows(np.random.default_rng(0).integers(0, 61, 400), 16)), 4)
    runner = trainer(tmp_path, max_steps=2)
    runner.fit(task, loader)
    runner.save_checkpoint(tmp_path / "a.ckpt")
    export(tmp_path / "a.ckpt", tmp_path / "exported", "huggingface")
    tokens = torch.randint(0, 61, (3, 40))
    expected = task.eval()(tokens)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    torch.testing.assert_close(theirs.eval()(tokens).logits, expected, rtol=1e-5, atol=1e-5)
    back = CausalLanguageModel(61, backbone=f"hf:{tmp_path / 'exported'}").eval()
    torch.testing.assert_close(back(tokens), expected, rtol=1e-5, atol=1e-5)
    again = CausalLanguageModel.load_from_checkpoint(tmp_path / "a.ckpt").eval()
    assert torch.equal(again(tokens), expected)


def test_the_loss_of_a_bigram_world_is_its_entropy(tmp_path):
    random = np.random.default_rng(0)
    chances = random.dirichlet([0.3] * 8, 8)
    text = np.zeros(60_000, np.int64)
    draws = random.random(len(text))
    for place in range(1, len(text)):
        text[place] = np.searchsorted(chances[text[place - 1]].cumsum(), draws[place])
    tokens, targets = windows(np.minimum(text, 7), 32)
    shape = {"width": 16, "layers": 1, "heads": 1, "hidden": 32}
    task = CausalLanguageModel(8, shape=shape, optimizer=adam, schedule=Cosine(images=9_600))
    runner = trainer(tmp_path, max_epochs=-1, enable_checkpointing=False)
    runner.fit(task, DataLoader(TensorDataset(tokens[:1500], targets[:1500]), 32, shuffle=True))
    held_out = tokens[1500:], targets[1500:]
    (result,) = runner.test(task, DataLoader(TensorDataset(*held_out), 64), verbose=False)
    surprise = -np.log(chances[held_out[0].numpy(), held_out[1].numpy()])  # of the true world, on the same text
    assert result["test/loss"] == pytest.approx(surprise.mean(), abs=0.01)
    assert result["test/loss"] > surprise.mean() - 0.002  # nobody can know more than the world


def adam(parameters):
    return torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.0)


def test_values_are_those_of_a_plain_computation(tmp_path):
    task = CausalLanguageModel(7, shape=SHAPE).eval()
    tokens, targets = windows(np.random.default_rng(1).integers(0, 7, 330), 20)
    targets = torch.where(torch.rand(targets.shape) < 0.3, -100, targets)
    targets[3] = -100
    data = pl.LightningDataModule()
    data.token_bytes = [1, 1, 2, 3, 1, 4, 1]
    data.test_dataloader = lambda: DataLoader(TensorDataset(tokens, targets), 5)
    (result,) = trainer(tmp_path).test(task, data, verbose=False)
    with torch.no_grad():
        chances = task(tokens).double().softmax(-1).numpy()
    nats, right, size, count = 0.0, 0, 0, 0
    for i in range(len(tokens)):
        for t in range(20):
            if (truth := int(targets[i, t])) >= 0:
                nats -= np.log(chances[i, t, truth])
                right += int(chances[i, t].argmax() == truth)
                size += data.token_bytes[truth]
                count += 1
    assert result["test/loss"] == pytest.approx(nats / count, rel=1e-5)
    assert result["test/perplexity"] == pytest.approx(np.exp(nats / count), rel=1e-5)
    assert result["test/bits_per_byte"] == pytest.approx(nats / np.log(2) / size, rel=1e-5)
    assert result["test/score"] == pytest.approx(right / count)
    assert result["test/error"] == pytest.approx(1 - right / count)
    assert 0 < result["test/error_stderr"] < 0.1


def gpt2():
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=32, n_layer=2, n_head=2, n_positions=64))


@pytest.mark.parametrize("model", [gpt2, lambda: llama(SHAPE, 61)], ids=["gpt2", "llama"])
def test_a_hugging_face_model_is_split_into_backbone_and_head(tmp_path, model):
    reference = model().eval()
    reference.save_pretrained(tmp_path / "theirs")
    task = CausalLanguageModel(61, backbone=f"hf:{tmp_path / 'theirs'}").eval()
    tokens = torch.randint(0, 61, (3, 40))
    assert torch.equal(task(tokens), reference(tokens).logits)
    assert CausalLanguageModel(61, backbone=f"hf:{tmp_path / 'theirs'}").backbone.training  # dropout is on, as usual
    fresh = task.freshly_initialised()
    assert fresh.state_dict().keys() == task.state_dict().keys()
    assert not torch.equal(fresh.eval()(tokens), task(tokens))
    assert torch.equal(task(tokens), reference(tokens).logits)
    drawn = CausalLanguageModel(61, backbone=f"hf:{tmp_path / 'theirs'}", pretrained=False).eval()
    assert not torch.equal(drawn(tokens), task(tokens))


@pytest.mark.parametrize(
    ("model", "transfer"),
    [
        (gpt2, None),
        (lambda: llama(SHAPE, 61), None),
        (lambda: llama(SHAPE, 61, tie_word_embeddings=True), LoRA(rank=2)),
    ],
    ids=["gpt2", "llama", "tied-lora"],
)
def test_a_hugging_face_model_is_fine_tuned_and_goes_back(tmp_path, model, transfer):
    reference = model().eval()
    reference.save_pretrained(tmp_path / "theirs")
    (tmp_path / "theirs" / "tokenizer.json").write_text("{}")
    task = CausalLanguageModel(61, backbone=f"hf:{tmp_path / 'theirs'}", transfer=transfer)
    loader = DataLoader(TensorDataset(*windows(np.random.default_rng(0).integers(0, 61, 400), 16)), 4)
    runner = trainer(tmp_path, max_steps=2)
    runner.fit(task, loader)
    runner.save_checkpoint(tmp_path / "a.ckpt")
    said = export(tmp_path / "a.ckpt", tmp_path / "exported", "huggingface")
    assert said.startswith(type(reference).__name__)
    tokens = torch.randint(0, 61, (3, 40))
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path / "exported", output_loading_info=True)
    assert type(theirs) is type(reference)
    assert not report["missing_keys"]
    torch.testing.assert_close(theirs.eval()(tokens).logits, task.eval()(tokens), rtol=1e-5, atol=1e-5)
    assert not torch.equal(theirs(tokens).logits, reference(tokens).logits)
    assert (tmp_path / "exported" / "tokenizer.json").read_text() == "{}"


def test_a_model_whose_folder_was_changed_or_moved_is_not_exported(tmp_path):
    gpt2().save_pretrained(tmp_path / "theirs")
    task = CausalLanguageModel(61, backbone=f"hf:{tmp_path / 'theirs'}")
    runner = trainer(tmp_path, max_steps=1)
    runner.fit(task, DataLoader(TensorDataset(*windows(np.arange(100) % 61, 16)), 4))
    runner.save_checkpoint(tmp_path / "a.ckpt")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config | {"n_layer": 1}))
    with pytest.raises(UserError, match=r"backbone\.h\.1\..* does not fit the configuration of its model"):
        export(tmp_path / "a.ckpt", tmp_path / "out", "huggingface")
    (tmp_path / "theirs" / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded as a causal language model"):
        export(tmp_path / "a.ckpt", tmp_path / "out", "huggingface")
    assert not [path.name for path in tmp_path.iterdir() if "out" in path.name]


def test_a_decoder_starts_from_another_ones_backbone_with_a_new_head(tmp_path):
    first = CausalLanguageModel(61, shape=SHAPE)
    runner = trainer(tmp_path, max_steps=1)
    loader = DataLoader(TensorDataset(*windows(np.random.default_rng(0).integers(0, 61, 100), 16)), 4)
    runner.fit(first, loader)
    runner.save_checkpoint(tmp_path / "a.ckpt")
    kept = CausalLanguageModel(61, shape=SHAPE, init_from=tmp_path / "a.ckpt")
    assert torch.equal(kept.head.weight, first.head.weight)
    with pytest.raises(UserError, match=r"its head does not fit \(bias is only in one of the two\); use data with the"):
        load_head(tmp_path / "a.ckpt", torch.nn.Linear(32, 61))
    with pytest.raises(UserError, match=r"weight is \[61, 32\] there and \[60, 32\] here"):
        load_head(tmp_path / "a.ckpt", torch.nn.Linear(32, 60, bias=False))
    second = CausalLanguageModel(61, shape=SHAPE, init_from=tmp_path / "a.ckpt", keep_head=False)
    for name, value in first.backbone.state_dict().items():
        assert torch.equal(second.backbone.state_dict()[name], value)
    assert not torch.equal(first.head.weight, second.head.weight)
    stages = stage_of(second.backbone)
    assert stages["embed_tokens.weight"] == 0
    assert stages["layers.0.mlp.up_proj.weight"] == 1
    assert stages["layers.1.mlp.up_proj.weight"] == 2
    assert stages["norm.weight"] == 3


def test_recomputed_blocks_give_the_same_gradients():
    torch.manual_seed(0)
    plain = CausalLanguageModel(61, shape=SHAPE).train()
    saving = CausalLanguageModel(61, shape=SHAPE, checkpoint_blocks=True).train()
    saving.load_state_dict(plain.state_dict())
    tokens = torch.randint(0, 61, (2, 20))
    for task in (plain, saving):
        task.loss(task(tokens), tokens).backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_dropout_is_on_in_training_only():
    task = CausalLanguageModel(61, shape=SHAPE, dropout=0.2)
    tokens = torch.randint(0, 61, (2, 20))
    assert not torch.equal(task.train()(tokens), task(tokens))
    assert torch.equal(task.eval()(tokens), task(tokens))


def test_tokens_do_not_see_those_after_them():
    task = CausalLanguageModel(61, shape=SHAPE).eval()
    tokens = torch.randint(0, 61, (1, 20))
    changed = tokens.clone()
    changed[0, 12:] = (changed[0, 12:] + 1) % 61
    torch.testing.assert_close(task(tokens)[:, :12], task(changed)[:, :12])
    assert not torch.allclose(task(tokens)[:, 12:], task(changed)[:, 12:])


@pytest.mark.parametrize("base, grows", [(None, True), (32, False)])
def test_mup_keeps_what_a_step_changes_constant_over_widths(base, grows):
    """The coordinate check of Yang et al.: how far logits move in three steps of Adam."""
    moved = []
    for width in (32, 128, 512):
        torch.manual_seed(0)
        shape = {"width": width, "layers": 2, "heads": width // 16, "hidden": 2 * width}
        task = CausalLanguageModel(61, shape=shape, mup_base_width=base, optimizer=adam)
        groups = task.parameter_groups()
        optimizer = torch.optim.Adam([g | {"lr": 0.01 * g.pop("lr_factor", 1.0)} for g in groups])
        tokens = torch.randint(0, 61, (8, 32), generator=torch.Generator().manual_seed(1))
        before = task(tokens).detach()
        for _ in range(3):
            optimizer.zero_grad()
            task.loss(task(tokens), tokens.roll(-1, 1)).backward()
            optimizer.step()
        moved.append(float((task(tokens).detach() - before).square().mean().sqrt()))
    ratio = moved[2] / moved[1]
    assert ratio > 1.5 if grows else 1 / 1.5 < ratio < 1.5


def test_gains_of_norms_are_not_decayed():
    task = CausalLanguageModel(61, shape=SHAPE)
    matrices, gains = task.parameter_groups()
    assert gains["weight_decay"] == 0
    assert all(p.ndim == 1 for p in gains["params"])
    assert len(matrices["params"]) + len(gains["params"]) == len(list(task.parameters()))


@pytest.mark.parametrize("name, millions", [("decoder_15m", 15), ("decoder_30m", 30), ("decoder_90m", 90)])
def test_sizes(name, millions):
    with torch.device("meta"):
        decoder = Decoder(DECODERS[name], 10)
    assert sum(p.numel() for p in decoder.parameters()) == pytest.approx(millions * 1e6, rel=0.03)


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"backbone": "decoder_6kk"}, "no decoder 'decoder_6kk'; did you mean 'decoder_6k'?"),
        ({"shape": SHAPE | {"width": 34}}, "make the width a multiple of 8"),
        ({"shape": SHAPE | {"layers": 0}}, "shape.layers is 0; it must be at least 1"),
        ({"shape": {"width": 32}}, "model.shape lacks layers"),
        ({"shape": SHAPE | {"hiden": 3}}, "model.shape has no 'hiden'; did you mean 'hidden'?"),
        ({"dropout": 1.0}, "model.dropout is 1.0; it must be at least 0 and below 1"),
        ({"mup_base_width": 0}, "model.mup_base_width is 0"),
        ({"mup_base_width": 8, "tie_head": True}, "model.mup_base_width needs a head with weights of its own"),
        ({"backbone": "hf:nowhere", "dropout": 0.1}, "model.dropout is for our own decoder"),
        ({"backbone": "hf:/nowhere"}, "cannot be loaded as a causal language model"),
    ],
)
def test_what_cannot_be_made(settings, message):
    with pytest.raises(UserError) as error:
        CausalLanguageModel(61, **settings)
    assert message in str(error.value)


def test_hugging_face_models_that_do_not_fit(tmp_path):
    config = CohereConfig(
        vocab_size=61, hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=4, logit_scale=0.1
    )
    CohereForCausalLM(config).save_pretrained(tmp_path / "scaled")
    with pytest.raises(UserError, match="computes its logits otherwise"):
        CausalLanguageModel(61, backbone=f"hf:{tmp_path / 'scaled'}")
    gpt2().save_pretrained(tmp_path / "small")
    with pytest.raises(UserError, match="has 61 tokens, and the data 99"):
        CausalLanguageModel(99, backbone=f"hf:{tmp_path / 'small'}")


@pytest.mark.parametrize(
    "tokens, targets, message",
    [
        (torch.rand(2, 5), torch.zeros(2, 5, dtype=torch.int64), "takes batches of int64 tokens"),
        (torch.zeros(2, 5, dtype=torch.int64), torch.zeros(2, 4, dtype=torch.int64), "takes batches of int64 tokens"),
        (torch.full((2, 5), 61), torch.zeros(2, 5, dtype=torch.int64), "a token is 61, but the model's vocabulary"),
        (torch.full((2, 5), -1), torch.zeros(2, 5, dtype=torch.int64), "a token is -1"),
    ],
)
def test_wrong_batches(tmp_path, tokens, targets, message):
    with pytest.raises(UserError) as error:
        CausalLanguageModel(61, shape=SHAPE).shared_step((tokens, targets), "test")
    assert message in str(error.value)


def test_what_cannot_be_exported(tmp_path):
    (tmp_path / "there").mkdir()
    with pytest.raises(UserError, match="exists already"):
        export("any.ckpt", tmp_path / "there", "huggingface")
    torch.save({"state_dict": {"conv1.weight": torch.zeros(3)}}, tmp_path / "other.ckpt")
    with pytest.raises(UserError, match="is not of CausalLanguageModel; for other networks"):
        export(tmp_path / "other.ckpt", tmp_path / "out", "huggingface")
    with pytest.raises(UserError, match="no format 'hugingface'; did you mean 'huggingface'"):
        export(tmp_path / "other.ckpt", tmp_path / "out", "hugingface")
    assert not (tmp_path / "out").exists()


def test_the_exported_configuration_is_plain_json(tmp_path):
    task = CausalLanguageModel(61)
    runner = trainer(tmp_path, max_steps=1)
    runner.fit(task, DataLoader(TensorDataset(*windows(np.arange(100) % 61, 16)), 4))
    runner.save_checkpoint(tmp_path / "a.ckpt")
    export(tmp_path / "a.ckpt", tmp_path / "out", "huggingface")
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "llama"
    files = {path.name for path in (tmp_path / "out").iterdir()}
    assert files == {"config.json", "model.safetensors", "README.md", "transfer_card.json"}


@pytest.mark.filterwarnings("ignore")
def test_accumulated_batches_count_alike_however_many_tokens_each_has(tmp_path):
    """The step is the mean of the batches' means, as docs/language.md says; for equal numbers, the mean over tokens."""
    tokens, targets = windows(np.random.default_rng(3).integers(0, 7, 81), 10)
    some = targets.clone()
    some[:4, 2:] = -100  # the first of two batches has 8 tokens, the other 40
    for wanted, of_tokens in ((targets, True), (some, False)):
        torch.manual_seed(0)
        task = CausalLanguageModel(7, shape=SHAPE, optimizer=lambda parameters: torch.optim.SGD(parameters, lr=1.0))
        before = {name: value.clone() for name, value in task.named_parameters()}
        parts = [task.loss(task(tokens[i : i + 4]), wanted[i : i + 4]) for i in (0, 4)]
        whole = task.loss(task(tokens), wanted)
        means, tokenwise = (torch.autograd.grad(one, list(task.parameters())) for one in (sum(parts) / 2, whole))
        runner = trainer(tmp_path, max_steps=1, accumulate_grad_batches=2, enable_checkpointing=False)
        runner.fit(task, DataLoader(TensorDataset(tokens, wanted), 4))
        after = dict(task.named_parameters())
        for (name, start), mean, over_tokens in zip(before.items(), means, tokenwise, strict=True):
            torch.testing.assert_close(start - after[name], mean, rtol=1e-4, atol=1e-5)
            assert torch.allclose(mean, over_tokens, atol=1e-6) == of_tokens
