"""Windows of a corpus beside plain slices; the same batches wherever and however often they are made."""

from __future__ import annotations

import copy
import json
import pickle
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from lightning_tl.corpus import builtin
from lightning_tl.corpus.build import BuildOptions, build_corpus
from lightning_tl.corpus.builtin import Generated
from lightning_tl.corpus.manifest import read_manifest
from lightning_tl.corpus.sources import plan_sources
from lightning_tl.data.digits import Digits
from lightning_tl.data.text import Text
from lightning_tl.errors import UserError


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("text")
    rng = random.Random(0)
    texts = ["".join(rng.choices("abcdefgh \n", k=rng.randrange(20, 200))) for _ in range(200)]
    (folder / "in.jsonl").write_text("".join(f"{json.dumps({'text': text})}\n" for text in texts))
    options = BuildOptions("ascii", 0.1, 0.1)
    build_corpus(plan_sources([str(folder / "in.jsonl")]), folder / "corpus", options)
    return folder / "corpus"


def module(corpus: Path, stage: str = "fit", **options: object) -> Text:
    data = Text(corpus, **{"context": 16, "batch_size": 8, **options})  # type: ignore[arg-type]
    data.setup(stage)
    return data


def test_a_sample_is_a_slice_and_its_targets_one_further_on(corpus):
    data = module(corpus)
    ids = np.fromfile(corpus / "train.bin", np.uint8)
    assert len(data.splits["train"]) == (len(ids) - 1) // 16
    for number in (0, 1, 57, len(data.splits["train"]) - 1):
        tokens, targets = data.splits["train"][number]
        assert tokens.tolist() == ids[16 * number : 16 * number + 16].tolist()
        assert targets.tolist() == ids[16 * number + 1 : 16 * number + 17].tolist()
    tokens, targets = data.splits["train"][[5, 0, 9]]
    assert (tokens.dtype, targets.dtype) == (torch.int64, torch.int64)
    assert torch.equal(tokens[1], data.splits["train"][0][0])
    assert torch.equal(targets[2], data.splits["train"][9][1])


def test_a_pass_shows_each_window_once_and_the_next_one_again(corpus):
    data = module(corpus, n=16 * 40)
    assert len(data.splits["train"]) == 40
    seen = torch.cat([batch[0] for batch, _ in zip(data.training_batches(), range(10), strict=False)])
    windows = np.fromfile(corpus / "train.bin", np.uint8)[: 16 * 40].reshape(40, 16).tolist()
    for part in (seen[:40], seen[40:]):
        assert sorted(part.tolist()) == sorted(windows)
    assert seen[:40].tolist() != seen[40:].tolist()


def test_budgets_are_nested(corpus):
    few, many = (module(corpus, n=n).splits["train"] for n in (170, 1700))
    assert (len(few), len(many)) == (10, 106)
    for mine, theirs in zip(few[list(range(10))], many[list(range(10))], strict=True):
        assert torch.equal(mine, theirs)


def test_the_whole_split_has_a_target_for_each_token(corpus):
    tokens = read_manifest(corpus).splits["train"].tokens
    for n in (tokens, tokens - 1, None):
        assert len(module(corpus, n=n, context=1).splits["train"]) == tokens - 1


def test_batches_follow_from_seed_and_step(corpus):
    first = module(corpus).training_batches()
    batches = [next(first) for _ in range(12)]
    later = module(corpus).training_batches(first=7)
    for expected in batches[7:]:
        got = next(later)
        assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    other = next(module(corpus, seed=1).training_batches())
    assert not torch.equal(other[0], batches[0][0])


@pytest.mark.parametrize("workers", [0, 2])
def test_loader_processes_give_the_same(corpus, workers):
    expected = module(corpus)
    data = module(corpus, num_workers=workers)
    for mine, theirs in zip(data.val_dataloader(), expected.val_dataloader(), strict=True):
        assert torch.equal(mine[0], theirs[0])
        assert torch.equal(mine[1], theirs[1])


def test_validation_and_test_are_the_first_windows_of_their_own_splits(corpus):
    data = module(corpus, val_samples=3, test_samples=None)
    for split, count in (("val", 3), ("test", (read_manifest(corpus).splits["test"].tokens - 1) // 16)):
        ids = np.fromfile(corpus / f"{split}.bin", np.uint8)
        loader = data.val_dataloader() if split == "val" else data.test_dataloader()
        tokens = torch.cat([batch[0] for batch in loader])
        assert tokens.flatten().tolist() == ids[: 16 * count].tolist()


def test_copies_open_their_own_file(corpus):
    data = module(corpus)
    window = data.splits["train"][3]
    content = pickle.dumps(data.splits["train"])
    assert len(content) < 5000
    for copied in (pickle.loads(content), copy.deepcopy(data.splits["train"])):
        assert torch.equal(copied[3][0], window[0])


def test_what_a_task_reads(corpus):
    data = module(corpus)
    assert (data.num_classes, data.task, data.sample_tokens) == (99, "language", 16)
    assert data.token_bytes.tolist() == [1] * 98 + [0]


@pytest.mark.parametrize("make", [lambda corpus: module(corpus), lambda corpus: _digits()], ids=["text", "digits"])
def test_the_loader_of_one_process_gives_what_torch_gives(corpus, make):
    def run(batches):
        torch.manual_seed(3)
        return [batch for batch, _ in zip(batches(), range(5), strict=False)], torch.rand(3)

    loader = make(corpus).train_dataloader()
    mine, after = run(lambda: iter(loader))
    theirs, expected = run(lambda: DataLoader.__iter__(loader))
    for a, b in zip(mine, theirs, strict=True):
        assert torch.equal(a[0], b[0])
        assert torch.equal(a[1], b[1])
    assert torch.equal(after, expected)  # as many draws from the global generator


def _digits() -> Digits:
    data = Digits(shots=5, batch_size=8)
    data.setup("fit")
    return data


@pytest.fixture
def cache(tmp_path, monkeypatch):
    monkeypatch.setattr(builtin, "_GENERATED", 200)  # documents
    monkeypatch.setenv("LIGHTNING_TL_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_builtin_text_is_made_at_first_use(cache, monkeypatch):
    read = Generated.documents
    calls = []
    monkeypatch.setattr(Generated, "documents", lambda self: (calls.append(self.source), read(self))[1])
    data = Text("builtin:arithmetic", n=1000, context=10)
    assert data.num_classes == 99
    assert not cache.exists()
    data.check()
    assert len(data.splits["train"]) == 100
    assert calls == ["builtin:arithmetic"]
    again = Text("builtin:arithmetic", context=10)
    again.check()
    assert calls == ["builtin:arithmetic"]
    (folder,) = [each for each in (cache / "corpora").iterdir() if each.is_dir()]
    assert folder.name.startswith("arithmetic-")


def test_a_builtin_text_with_another_tokenizer(cache):
    data = Text("builtin:arithmetic", context=10, tokenizer="bpe:300")
    assert data.num_classes == 300 == read_manifest(data.manifest.folder).vocab_size
    data.check()
    assert Text("builtin:arithmetic", tokenizer="bytes").num_classes == 257


@pytest.mark.parametrize(
    "options,message",
    [
        ({"context": 0}, "data.context is 0; it must be at least 1"),
        ({"n": 0}, "data.n is 0; it must be at least 1"),
        ({"val_samples": 0}, "data.val_samples is 0; it must be at least 1"),
        ({"test_samples": -1}, "data.test_samples is -1; it must be at least 1"),
        ({"batch_size": 0}, "data.batch_size is 0; it must be at least 1"),
        ({"tokenizer": "bytes"}, "data.tokenizer is 'bytes', but .*corpus was built with ascii: leave it out"),
        ({"n": 10**9}, r"data.n is 1000000000, but .*corpus has \d+ tokens to train on: choose a smaller n"),
        ({"n": 15}, "data.context is 16, but the train split of .* has 15 tokens to take samples from"),
        ({"context": 10**6}, r"data.context is 1000000, but the train split of .* has \d+ tokens"),
        ({"context": 3000}, r"data.context is 3000, but the val split of .* has \d+ tokens"),
    ],
)
def test_wrong_options(corpus, options, message):
    with pytest.raises(UserError, match=message):
        module(corpus, **options)


@pytest.mark.parametrize(
    "root,message",
    [
        ("nowhere", "nowhere: no such folder; build the corpus again"),
        ("builtin:pyton", "no built-in text 'pyton'; did you mean 'python'?"),
    ],
)
def test_a_root_that_is_none(cache, root, message):
    with pytest.raises(UserError, match=message.replace("?", r"\?")):
        Text(root).check()


def test_a_corpus_damaged_later(corpus, tmp_path):
    damaged = Path(shutil.copytree(corpus, tmp_path / "damaged"))
    with (damaged / "test.bin").open("ab") as file:
        file.write(b"x")
    with pytest.raises(UserError, match=r"test.bin: \d+ bytes, but manifest.json says \d+: it is damaged"):
        module(damaged)
