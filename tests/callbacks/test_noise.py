"""Doubts about the noise of the initialisation."""

import warnings

import torch

from lightning_tl.callbacks import HessianTrace, PerturbationSensitivity
from lightning_tl.measure.measures import Noise
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


def test_weights_that_nothing_tells_of_get_their_scale_from_the_start_of_the_run():
    class Strange(Classifier):
        def __init__(self):
            super().__init__()
            self.place = torch.nn.Parameter(0.02 * torch.randn(30, 40))
            torch.nn.init.normal_(self.head.weight, std=0.7)

        def training_step(self, batch, index):
            return super().training_step(batch, index) + self.place.sum() ** 2

    torch.manual_seed(0)
    module, measuring = Strange(), PerturbationSensitivity([0.1], draws=2, every_n_steps=2, at_start=False)
    before = float(module.place.detach().std(correction=0))
    trainer(max_steps=2, callbacks=[measuring]).fit(module, images())
    assert abs(float(module.place.detach().std(correction=0)) - before) > 1e-9 or module.place.mean().abs() > 0.01
    noise = measuring.of_noise.noise
    state = noise.state()
    assert abs(state["scales"]["place"] - before) < 1e-6
    assert noise.sources["place"] == "their values at the start of the run"
    # a run that is resumed before its first measurement still knows
    early = Noise("init")
    early.load({**state, "scales": None})
    assert early.state()["start"] == state["start"]
