"""Doubts about the noise of the initialisation."""

import warnings

import torch

from lightning_tl.callbacks import HessianTrace, PerturbationSensitivity
from tests.callbacks.modules import Classifier, images, trainer


def test_a_doubtful_initialisation_is_warned_of_once_and_kept_in_the_state():
    class Deep(Classifier):
        def __init__(self):
            super().__init__()
            torch.nn.init.orthogonal_(self.head.weight)

    measuring = [PerturbationSensitivity([0.1], draws=2, every_n_steps=1), HessianTrace(1, noise="init")]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer(max_steps=3, callbacks=measuring).fit(Deep(), images())
    warned = [str(w.message) for w in caught if "it is not certain how" in str(w.message)]
    assert len(warned) == 2  # once by each callback, not at each of its four measurements
    assert "the constructor of Deep" in warned[0]
    for callback in measuring:
        assert callback.measured_steps == [0, 1, 2, 3]
        assert callback.doubts == warned[:1]
    state = measuring[0].state_dict()
    again = PerturbationSensitivity([0.1])
    again.load_state_dict(state)
    assert again.doubts == warned[:1]
    assert HessianTrace().doubts == []
