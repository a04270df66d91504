"""Tokenizers beside plain loops, and BPE beside Hugging Face's own reading of the file."""

from __future__ import annotations

import json

import numpy as np
import pytest
from tokenizers import Tokenizer as HuggingFaceTokenizer
from tokenizers import decoders, models, pre_tokenizers, trainers

from lightning_tl.corpus.bpe import BpeTokenizer, load_tokenizer, train_bpe
from lightning_tl.corpus.tokenizers import AsciiTokenizer, ByteTokenizer, id_type

TEXTS = ["def f(x):\n\treturn x + 1\n", "naïve café — 漢字 🙂", "", "a\r\nb\0c", "plain " * 50]


@pytest.mark.parametrize("text", TEXTS)
def test_bytes_are_those_of_utf8(text):
    tokenizer = ByteTokenizer()
    ids = tokenizer.encode(text)
    assert ids.tolist() == list(text.encode())
    assert ids.dtype == np.uint16
    assert tokenizer.decode(np.append(ids, tokenizer.separator)) == text
    assert int(tokenizer.token_bytes[ids].sum()) == len(text.encode())
    assert tokenizer.token_bytes[tokenizer.separator] == 0


@pytest.mark.parametrize("text", TEXTS)
def test_ascii_has_one_id_per_character(text):
    symbols = ["\n", "\t", *(chr(code) for code in range(32, 127))]
    tokenizer = AsciiTokenizer()
    ids = tokenizer.encode(text)
    assert ids.tolist() == [symbols.index(char) if char in symbols else len(symbols) for char in text]
    assert (ids.dtype, tokenizer.vocab_size, tokenizer.separator) == (np.uint8, 99, 98)
    assert tokenizer.decode(ids) == "".join(char if char in symbols else "\ufffd" for char in text)
    assert tokenizer.decode(np.array([98])) == ""
    assert int(tokenizer.token_bytes[ids].sum()) == len(text)


def test_the_type_of_an_id_holds_the_largest():
    for size in (99, 256, 257, 65536, 65537):
        assert np.iinfo(id_type(size)).max >= size - 1
    assert [id_type(size).itemsize for size in (256, 257, 65536, 65537)] == [1, 2, 2, 4]


@pytest.fixture(scope="module")
def bpe():
    return train_bpe(["the cat sat on the mat\n" * 20, "the naïve café " * 20], 300)


def test_bpe_is_read_back_and_agrees_with_hugging_face(bpe, tmp_path):
    (tmp_path / "tokenizer.json").write_text(bpe.definition)
    theirs = HuggingFaceTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    for read in (load_tokenizer(str(tmp_path)), load_tokenizer(str(tmp_path / "tokenizer.json"))):
        for text in TEXTS:
            assert read.encode(text).tolist() == theirs.encode(text).ids
            assert read.decode(read.encode(text)) == text
    assert bpe.vocab_size == theirs.get_vocab_size() <= 300
    assert max(len(ids) for ids in bpe.encode_batch(["the cat"])) < len("the cat")


def test_bytes_of_bpe_tokens_add_up(bpe):
    for text in TEXTS:
        assert int(bpe.token_bytes[bpe.encode(text)].sum()) == len(text.encode())


def test_a_text_cannot_contain_the_separator(bpe):
    text = "before <|endoftext|> after"
    ids = bpe.encode(text)
    assert bpe.separator not in ids
    assert bpe.decode(ids) == text


def test_training_does_not_depend_on_the_process_or_its_threads(bpe):
    again = train_bpe(["the cat sat on the mat\n" * 20, "the naïve café " * 20], 300)
    turned = train_bpe(["the naïve café " * 20, "the cat sat on the mat\n" * 20], 300)
    assert again.definition == turned.definition == bpe.definition


def test_bytes_of_tokens_that_are_no_bytes():
    theirs = HuggingFaceTokenizer(models.BPE(byte_fallback=True))
    theirs.pre_tokenizer = pre_tokenizers.Metaspace()
    theirs.decoder = decoders.Metaspace()
    theirs.train_from_iterator(["été à la plage"] * 5, trainers.BpeTrainer(special_tokens=["<s>", "</s>", "<0x0A>"]))
    definition = json.loads(theirs.to_str())
    definition["added_tokens"] = [token for token in definition["added_tokens"] if token["content"] != "<0x0A>"]
    tokenizer = BpeTokenizer(json.dumps(definition), "file", "here")
    assert tokenizer.separator == theirs.token_to_id("</s>")
    vocabulary = theirs.get_vocab()
    assert tokenizer.token_bytes[vocabulary["é"]] == 2
    assert tokenizer.token_bytes[vocabulary["▁"]] == 1
    assert tokenizer.token_bytes[vocabulary["<0x0A>"]] == 1
    assert tokenizer.token_bytes[vocabulary["<s>"]] == 0
