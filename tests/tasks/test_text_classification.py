from __future__ import annotations

import json
import math

import lightning.pytorch as pl
import numpy as np
import pytest
import torch

from lightning_tl.data.text_examples import Template, TextExamples
from lightning_tl.errors import UserError
from lightning_tl.tasks import CausalLanguageModel, TextClassification

SHAPE = {"width": 32, "layers": 1, "heads": 2, "hidden": 48}
WORDS = {"a": " apple", "b": " bee"}


@pytest.fixture
def data(tmp_path):
    """Prompts that end with the first letter of the class, in a list of 60."""
    rows = [{"text": f"{'xyz'[i % 3]}{i} {'ab'[i % 2]}", "topic": "ab"[i % 2]} for i in range(60)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    template = Template(prompt="{text}:", label="topic", choices=WORDS)
    return TextExamples(tmp_path / "rows.jsonl", "ascii", template, context=24, batch_size=8, eval_batch_size=4)


def trainer(tmp_path, **settings):
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "logger": False, "accelerator": "cpu"}
    return pl.Trainer(default_root_dir=tmp_path, enable_checkpointing=False, **(quiet | settings))


def test_scores_are_those_of_a_plain_computation(tmp_path, data):
    task = TextClassification(data.num_classes, shape=SHAPE).eval()
    (result,) = trainer(tmp_path).test(task, data, verbose=False)
    encode = data.tokenizer.encode
    split = data.splits["test"]
    right, nats = [], []
    for i in range(len(split)):
        tokens, (words, answer) = (part for part in split[[i]])
        scores = []
        for k, word in enumerate(WORDS.values()):
            wanted = encode(word).tolist()
            prompt = tokens[0, k][words[0, k] != -100]  # the words begin after the last of the prompt
            assert len(prompt) == len(wanted)
            at = [t for t in range(tokens.shape[2]) if int(words[0, k, t]) != -100]
            chance = 0.0
            for t, token in zip(at, wanted, strict=True):
                logits = task(tokens[0, k, : t + 1][None])[0, -1].double()
                chance += float(logits[token] - logits.logsumexp(0))
            scores.append(chance / len(wanted))
        right.append(int(np.argmax(scores)) == int(answer[0]))
        nats.append(math.log(sum(map(math.exp, scores))) - scores[int(answer[0])])
    assert result["test/score"] == pytest.approx(np.mean(right))
    assert result["test/loss"] == pytest.approx(np.mean(nats), rel=1e-4)
    assert result["test/perplexity"] == pytest.approx(math.exp(np.mean(nats)), rel=1e-4)
    assert "test/error_stderr" in result


def test_it_learns_the_words_of_the_class(tmp_path, data):
    task = TextClassification(data.num_classes, shape=SHAPE, optimizer=lambda p: torch.optim.AdamW(p, lr=0.01))
    runner = trainer(tmp_path, max_epochs=15)
    runner.fit(task, data)
    (result,) = runner.test(task, data, verbose=False)
    assert result["test/error"] == 0
    assert result["test/perplexity"] < 1.5


def test_wrong_batches(tmp_path, data):
    with pytest.raises(UserError, match=r"CausalLanguageModel takes batches of int64 tokens \[B, T\]"):
        trainer(tmp_path).test(CausalLanguageModel(data.num_classes, shape=SHAPE), data, verbose=False)
    task = TextClassification(10, shape=SHAPE)
    tokens, words = torch.zeros(2, 3, 5, dtype=torch.int64), torch.zeros(2, 3, 5, dtype=torch.int64)
    for targets in (
        words,
        (words, torch.zeros(3, dtype=torch.int64)),
        (words.float(), torch.zeros(2, dtype=torch.int64)),
    ):
        with pytest.raises(UserError, match=r"takes batches of int64 tokens \[B, K, T\] with"):
            task.check_batch(tokens, targets, "val")
    with pytest.raises(UserError, match="a token is 10, but the model's vocabulary has 10 tokens"):
        task.check_batch(tokens + 10, (words, torch.zeros(2, dtype=torch.int64)), "val")
