"""What names of revisions tell, and which are taken."""

from itertools import pairwise

import pytest

from lightning_tl.errors import UserError
from lightning_tl.offline.revisions import Revision, count_of, local_revisions, ordered, revision_of, spread


@pytest.mark.parametrize(
    "name, step, tokens",
    [
        ("step1000-tokens4B", 1000, 4 * 10**9),  # OLMo
        ("stage1-step140000-tokens294B", 140_000, 294 * 10**9),  # OLMo 2
        ("step99000-tokens415.2B", 99_000, 415_200_000_000),
        ("step3000", 3000, None),  # Pythia
        ("ckpt_100", 100, None),  # Amber
        ("checkpoint-500", 500, None),  # Hugging Face's Trainer
        ("intermediate-step-1431k-3T", 1_431_000, 3 * 10**12),  # TinyLlama
        ("300B-tokens", None, 300 * 10**9),
        ("iter_0001000", 1000, None),  # Megatron
        ("epoch=3-step=400.ckpt", 400, None),  # Lightning
        ("main", None, None),
        ("v1.0", None, None),
    ],
)
def test_what_a_name_tells(name, step, tokens):
    assert revision_of(name) == Revision(name, step, tokens)


def test_tokens_from_steps():
    assert revision_of("step3000", 2_097_152).tokens == 3000 * 2_097_152
    assert revision_of("step1000-tokens4B", 5).tokens == 4 * 10**9  # what the name says counts
    assert [count_of(text) for text in ("4B", "2.5M", "300k", "1e9", "3T", "17")] == [
        4 * 10**9, 2_500_000, 300_000, 10**9, 3 * 10**12, 17
    ]  # fmt: skip
    for text in ("4 apples", "", "B", "-3"):
        with pytest.raises(UserError, match="is not a number of tokens; write 4B"):
            count_of(text)


def test_the_order_is_that_of_training():
    names = ["step2000-tokens8B", "step1000-tokens4B", "step10000-tokens40B"]
    assert [r.name for r in ordered([revision_of(name) for name in names])] == [names[1], names[0], names[2]]
    for names, message in [
        (["step10", "main"], "the names of main tell neither step nor tokens; give --tokens"),
        (["step10", "step20-tokens4B"], "the names of step10 tell only the step, those of others the tokens"),
        (["step10", "checkpoint-10"], r"step10 and checkpoint-10 have seen the same training \(10\)"),
    ]:
        with pytest.raises(UserError, match=message):
            ordered([revision_of(name) for name in names])


def test_a_few_of_many_evenly_spaced():
    """Pythia's: steps 0, 1, 2, 4 … 512, then every thousandth."""
    steps = [0, *(2**i for i in range(10)), *range(1000, 144_000, 1000)]
    every = [revision_of(f"step{step}") for step in steps]
    taken = [r.step for r in spread(every, 8)]
    assert len(taken) == 8
    assert taken[0] == 1
    assert taken[-1] == 143_000
    ratios = [b / a for a, b in pairwise(taken)]
    assert max(ratios) < 2.2 * min(ratios)
    assert spread(every[:3], 8) == every[:3]


def test_sub_folders_with_a_model(tmp_path):
    for name in ("step2", "step1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").touch()
    (tmp_path / "logs").mkdir()
    assert local_revisions(tmp_path) == ["step1", "step2"]
    with pytest.raises(UserError, match="has no sub-folder with a saved model; each revision needs one"):
        local_revisions(tmp_path / "logs")
