"""Which of the methods go together, and what is said of those that do not."""

from __future__ import annotations

import pytest
from transferred import data, fit, pretrained, state, task

from lightning_tl.errors import UserError
from lightning_tl.transfer import (
    EWC,
    L2SP,
    LPFT,
    SAM,
    Adapter,
    Average,
    BNOnly,
    Layerwise,
    LinearProbe,
    LoRA,
    Partial,
    Replay,
    WiSEFT,
)

pytestmark = pytest.mark.filterwarnings("ignore")


@pytest.mark.parametrize(
    "one, other, reason",
    [
        (WiSEFT(), LinearProbe(), "the backbone does not move"),
        (WiSEFT(), LoRA(4), "between low-rank factors"),
        (WiSEFT(), Adapter(4), "nothing to interpolate"),
        (WiSEFT(), Partial(share=0.5), "has no pre-trained weights"),
        (WiSEFT(), Average(ema=0.9), "both change the average"),
        (Replay(0.5), LinearProbe(), "nothing of the pre-training is forgotten"),
        (Replay(0.5), LoRA(4), "on the backbone's own weights"),
        (Replay(0.5), Adapter(4), "without adapters"),
        (EWC(1.0), L2SP(1.0), "both change the pull"),
        (EWC(1.0), LinearProbe(), "nothing to pull"),
        (EWC(1.0), LoRA(4), "nothing to pull"),
        (EWC(1.0), Partial(share=0.5), "has no pre-trained weights"),
        (SAM(), SAM(), "both change the optimiser"),
    ],
)
def test_pairs_that_are_refused(one, other, reason):
    names = f"{type(other).__name__} and {type(one).__name__} cannot be combined: .*{reason}"
    with pytest.raises(UserError, match=names):
        task(None, [other, one])


@pytest.mark.parametrize(
    "methods",
    [
        lambda: [LoRA(2), SAM(), Average(ema=0.5)],
        lambda: [BNOnly(), SAM(), Average(last_k=2)],
        lambda: [LPFT(probe_steps=1), Layerwise(0.5), L2SP(1.0), SAM(), WiSEFT([0, 1])],
    ],
)
@pytest.mark.parametrize("target", ["mulclass", "semseg"])
def test_methods_that_go_together(renders, tmp_path, methods, target):
    module = task(pretrained(tmp_path / "pre.ckpt"), methods(), target)
    before = state(module)
    trains = module.transfer.trains(module)
    fit(module, data(renders, target), tmp_path / "run")
    after = state(module)
    for name, _ in module.named_parameters():
        assert trains(name) or before[name].equal(after[name])
    assert any(not before[name].equal(after[name]) for name, _ in module.named_parameters() if trains(name))


def test_bases_are_no_methods():
    for name in ("FinalWeights", "UsesPretraining", "Pull"):
        with pytest.raises(UserError, match=f"model.transfer: no method '{name}'"):
            task(None, name)
