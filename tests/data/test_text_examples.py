"""Prompts and responses beside rows written by a plain loop; broken files and templates: one error each."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningDataModule
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from lightning_tl.corpus.bpe import train_bpe
from lightning_tl.corpus.tokenizers import ByteTokenizer
from lightning_tl.data.text_examples import TextExamples
from lightning_tl.data.text_templates import Template
from lightning_tl.errors import UserError

SEPARATOR = 256
CHOICES = {0: " sport", 1: " art", "two": " science"}
CLASSES = Template("{text}:", label="topic", choices=CHOICES)


def write(path: Path, rows: list[Any]) -> Path:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def numbered(count: int, **more: Any) -> list[dict[str, Any]]:
    return [
        {"prompt": f"say {number} ", "response": "x" * (1 + number % 5) + str(number), **more}
        for number in range(count)
    ]


def topics(count: int) -> list[dict[str, Any]]:
    return [{"text": f"about {number}", "topic": (0, "1", "two")[number % 3]} for number in range(count)]


def make(root: Path, **options: Any) -> TextExamples:
    data = TextExamples(root, "bytes", **options)
    data.setup("fit")
    return data


def in_words(tokens: list[int], targets: list[int]) -> tuple[str, str, int]:
    """Return the prompt and response of a padded row, and how many targets are scored."""
    whole = [*tokens, *targets[-1:]]
    scored = [place for place, target in enumerate(targets) if target != -100]
    assert scored == list(range(scored[0], scored[-1] + 1))
    assert all(targets[place] == whole[place + 1] for place in scored)
    assert tokens[0] == SEPARATOR
    prompt, response = tokens[1 : scored[0] + 1], [targets[place] for place in scored]
    return bytes(prompt).decode(), bytes(id for id in response if id != SEPARATOR).decode(), len(scored)


def test_the_loss_is_on_the_response_and_its_end(tmp_path):
    rows = numbered(40)
    data = make(write(tmp_path / "a.jsonl", rows))
    found = []
    for name in ("train", "val", "test"):
        tokens, targets = data.splits[name][list(range(len(data.splits[name])))]
        assert tokens.dtype == targets.dtype == torch.int64
        for row, scores in zip(tokens.tolist(), targets.tolist(), strict=True):
            prompt, response, count = in_words(row, scores)
            assert count == len(response) + 1  # the separator after it
            found.append({"prompt": prompt, "response": response})
    assert sorted(found, key=str) == sorted(rows, key=str)
    assert [len(data.splits[name]) for name in ("train", "val", "test")] == [32, 4, 4]


def test_a_batch_is_as_wide_as_its_longest_example(tmp_path):
    rows = [{"prompt": f"{number:02d}", "response": "x" * (1 + number)} for number in range(20)]
    split = make(write(tmp_path / "a.jsonl", rows)).splits["train"]
    whole = [split[[number]] for number in range(len(split))]
    for tokens, targets in whole:
        assert int(targets[0, -1]) == SEPARATOR
        assert tokens.shape == targets.shape
    for pair in ([0, 5], [3, 9, 11]):
        tokens, targets = split[pair]
        widths = [whole[number][0].shape[1] for number in pair]
        assert tokens.shape == (len(pair), max(widths))
        for row, number in enumerate(pair):
            assert torch.equal(tokens[row, : widths[row]], whole[number][0][0])
            assert torch.equal(targets[row, : widths[row]], whole[number][1][0])
            assert (targets[row, widths[row] :] == -100).all()


def test_a_template_fills_in_keys(tmp_path):
    rows = [{"q": f"what {number}", "a": number, "lang": "en"} for number in range(20)]
    template = Template("[{lang}] {{Q}}: {q}\nA:", " {a}.")
    data = make(write(tmp_path / "a.jsonl", rows), template=template)
    tokens, targets = data.splits["val"][0]
    prompt, response, _ = in_words(tokens[0].tolist(), targets[0].tolist())
    number = response.strip(" .")
    assert (prompt, response) == (f"[en] {{Q}}: what {number}\nA:", f" {number}.")


def test_classes_are_trained_on_the_right_words_and_scored_on_all(tmp_path):
    rows = topics(60)
    data = make(write(tmp_path / "a.jsonl", rows), template=CLASSES)
    assert data.choices == ["0", "1", "two"]
    words = list(CHOICES.values())
    right = {f"{row['text']}:": ["0", "1", "two"].index(str(row["topic"])) for row in rows}
    tokens, targets = data.splits["train"][list(range(len(data.splits["train"])))]
    for row, scores in zip(tokens.tolist(), targets.tolist(), strict=True):
        prompt, response, count = in_words(row, scores)
        assert response == words[right.pop(prompt)]
        assert count == len(response)  # without an end: words of other lengths are compared
    for loader in (data.val_dataloader(), data.test_dataloader()):
        ((tokens, (targets, answer)),) = list(loader)
        assert tokens.shape == targets.shape == (6, 3, tokens.shape[2])
        for row, scores, number in zip(tokens.tolist(), targets.tolist(), answer.tolist(), strict=True):
            read = [in_words(each, score)[:2] for each, score in zip(row, scores, strict=True)]
            assert [response for _, response in read] == words
            assert {prompt for prompt, _ in read} == {read[0][0]}
            assert right.pop(read[0][0]) == number
    assert not right


def test_of_a_long_example_the_beginning_of_the_prompt_is_left_out(tmp_path):
    rows = [{"prompt": f"{number:02d}" + "abcdefghij" * 3, "response": "yes"} for number in range(20)]
    data = make(write(tmp_path / "a.jsonl", rows), context=12)
    tokens, targets = data.splits["train"][0]
    assert tokens.shape == (1, 12)
    assert bytes(tokens[0].tolist()) == b"bcdefghijyes"[:12]
    assert [id for id in targets[0].tolist() if id != -100] == [*b"yes", SEPARATOR]


def test_fewer_examples_are_part_of_more(tmp_path):
    root = write(tmp_path / "a.jsonl", numbered(60))

    def texts(n: int | None, draw: int = 0, split: str = "train") -> list[bytes]:
        part = make(root, n=n, draw=draw).splits[split]
        return [bytes(min(id, 255) for id in part[k][0][0].tolist()).strip(b"\xff") for k in range(len(part))]

    assert texts(10) == texts(30)[:10]
    assert sorted(texts(None)) == sorted(texts(None, draw=1)) != texts(None)
    assert texts(10, draw=1) != texts(10)
    assert texts(10, split="test") == texts(None, draw=3, split="test")


def test_splits_of_their_own(tmp_path):
    for name, count, shift in (("train", 9, 0), ("val", 3, 100), ("test", 4, 200)):
        write(tmp_path / f"{name}.jsonl", [{"prompt": f"p{shift + k}", "response": "r"} for k in range(count)] * 2)
    data = make(tmp_path)
    assert [len(data.splits[name]) for name in ("train", "val", "test")] == [9, 3, 4]  # each example once
    write(tmp_path / "val.jsonl", [{"prompt": "p3", "response": "r"}])
    with pytest.raises(UserError, match=r"1 examples are in train.jsonl and in val.jsonl; delete them from one"):
        make(tmp_path)
    (tmp_path / "test.jsonl").unlink()
    with pytest.raises(UserError, match=r"test.jsonl: no such file"):
        make(tmp_path)


def test_batches_follow_from_seed_and_step(tmp_path):
    root = write(tmp_path / "a.jsonl", numbered(60))
    first = make(root, batch_size=7).training_batches()
    batches = [next(first) for _ in range(12)]
    later = make(root, batch_size=7, num_workers=1).training_batches(first=9)
    for expected in batches[9:]:
        assert all(torch.equal(a, b) for a, b in zip(next(later), expected, strict=True))


def test_written_in_yaml(tmp_path):
    root = write(tmp_path / "a.jsonl", topics(60))
    parser = ArgumentParser()
    parser.add_argument("--config", action="config")
    parser.add_subclass_arguments(LightningDataModule, "data")
    (tmp_path / "a.yaml").write_text(
        "data:\n  class_path: TextExamples\n  init_args:\n"
        f"    root: {root}\n    tokenizer: bytes\n    template:\n      prompt: '{{text}}:'\n      label: topic\n"
        "      choices: {0: ' sport', 1: ' art', two: ' science'}\n"
    )
    data = parser.instantiate_classes(parser.parse_args([f"--config={tmp_path / 'a.yaml'}"])).data
    assert data.template == CLASSES
    data.check()
    assert (data.num_classes, data.task) == (257, "language")
    assert data.token_bytes.tolist() == ByteTokenizer().token_bytes.tolist()


GOOD: dict[str, Any] = {"prompt": "p", "response": "r"}
BROKEN: dict[str, tuple[list[Any], Template, dict[str, Any], str]] = {
    "broken JSON": ([GOOD, '{"prompt": '], Template(), {}, r"a.jsonl, line 2: not JSON .*; correct or delete the line"),
    "no object": ([GOOD, "", "[1]"], Template(), {}, r"a.jsonl, line 3: not a JSON object"),
    "no example": ([], Template(), {}, r"a.jsonl: no example in it"),
    "one example": ([GOOD], Template(), {}, r"1 .* are too few to split off a validation part|nothing to train on"),
    "no prompt": (
        [{"prmpt": "p", "response": "r"}],
        Template(),
        {},
        r"line 1: no key 'prompt', which data.template.prompt names; did you mean 'prmpt'",
    ),
    "no response": (
        [{"prompt": "p"}],
        Template(),
        {},
        r"line 1: no key 'response', which data.template.response names",
    ),
    "an empty response": ([{"prompt": "p", "response": ""}], Template(), {}, r"line 1: the response is empty"),
    "a prompt that is a list": ([{**GOOD, "prompt": ["p"]}], Template(), {}, r"line 1: 'prompt' is no text or number"),
    "no class": ([{"text": "t"}], CLASSES, {}, r"line 1: no key 'topic', which data.template.label names"),
    "an unknown class": (
        [{"text": "t", "topic": "tow"}],
        CLASSES,
        {},
        r"line 1: class 'tow' is not in data.template.choices; did you mean 'two'\?",
    ),
    "a response that is too long": (
        [{**GOOD, "response": "r" * 50}, *numbered(40)],
        Template(),
        {"context": 20, "val_share": 0.02, "test_share": 0.02},
        r"data.context is 20, but the response 'r+' of \w+ has 51 tokens: choose a larger context",
    ),
    "more than there are": (numbered(20), Template(), {"n": 17}, r"data.n is 17, but .*a.jsonl has 16 examples"),
    "a context of one": ([GOOD], Template(), {"context": 1}, r"data.context is 1; it must be at least 2"),
    "a negative draw": ([GOOD], Template(), {"draw": -1}, r"data.draw is -1; it must be at least 0"),
    "a share out of range": (
        numbered(20),
        Template(),
        {"val_share": 0.0},
        r"data.val_share is 0.0; it must be between",
    ),
    "a brace without its partner": ([GOOD], Template("{prompt"), {}, r"data.template.prompt: expected '}' .*write {{"),
    "a placeholder that is no key": (
        [GOOD],
        Template(response="{response.name}"),
        {},
        r"data.template.response: '{response.name}' must be the name of a key",
    ),
    "an empty placeholder": ([GOOD], Template("{}"), {}, r"data.template.prompt: '{}' must be the name of a key"),
    "a format": ([GOOD], Template("{prompt:>9}"), {}, r"data.template.prompt: '{prompt}' must be the name of a key"),
    "choices without a label": ([GOOD], Template(choices=CHOICES), {}, r"label and choices belong together"),
    "a label without choices": ([GOOD], Template(label="topic"), {}, r"label and choices belong together"),
    "one class": ([GOOD], Template(label="topic", choices={0: "a"}), {}, r"choices has one class"),
    "words that are empty": (
        [GOOD],
        Template(label="topic", choices={0: "a", 1: ""}),
        {},
        r"data.template.choices: class '1' has no words",
    ),
    "words of two classes": (
        [GOOD],
        Template(label="topic", choices={0: "a", 1: "a"}),
        {},
        r"data.template.choices: two classes have the words 'a'",
    ),
}


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_and_templates(tmp_path, name):
    rows, template, options, message = BROKEN[name]
    with pytest.raises(UserError, match=message):
        make(write(tmp_path / "a.jsonl", rows), template=template, **options)


def test_a_tokenizer_that_is_none(tmp_path):
    with pytest.raises(UserError, match="no tokenizer 'byts'; did you mean 'bytes'"):
        TextExamples(tmp_path, "byts")


def metaspace(path: Path, words: str) -> str:
    """Write a tokenizer that puts a space before each text, as Llama 2's."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    tokenizer.train_from_iterator([words], trainers.BpeTrainer(special_tokens=["</s>"], show_progress=False))
    tokenizer.save(str(path))
    return str(path)


@pytest.mark.parametrize(
    ("kind", "prompt", "response", "fits"),
    [
        ("bpe", "is it? answer:", " yes", True),
        ("bpe", "is it? answer: ", "yes", False),
        ("metaspace", "is it? answer", " yes", True),
        ("metaspace", "is it? answer", "yes", False),
    ],
)
def test_a_warning_where_the_parts_have_other_tokens_than_the_whole(tmp_path, kind, prompt, response, fits):
    words = "is it? answer: yes is it? answer: yes "
    if kind == "bpe":
        (tmp_path / "tokenizer.json").write_text(train_bpe([words] * 5, 300).definition)
    path = metaspace(tmp_path / "m.json", words) if kind == "metaspace" else str(tmp_path / "tokenizer.json")
    root = write(tmp_path / "a.jsonl", [{"prompt": prompt, "response": response + "!" * number} for number in range(9)])
    data = TextExamples(root, path)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.setup("fit")
    said = [str(each.message) for each in caught if "as a whole" in str(each.message)]
    # what is true of the tokenizer, by its own package
    theirs = Tokenizer.from_file(path)
    ids = [theirs.encode(text, add_special_tokens=False).ids for text in (prompt, response, prompt + response)]
    assert (ids[0] + ids[1] == ids[2]) == fits
    assert len(said) == (not fits)
    assert fits or "move the space between prompt and response to the other one" in said[0]
