"""Every refusal says what, where, and what to pass instead."""

import pytest
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.strategies import FSDPStrategy

from lightning_tl.callbacks import (
    HessianTrace,
    ParameterDistance,
    PerturbationSensitivity,
    PretrainingLoss,
    SensitivityStop,
)
from lightning_tl.errors import UserError
from tests.callbacks.modules import Classifier, images, trainer


@pytest.mark.parametrize(
    "make, message",
    [
        (lambda: ParameterDistance(every_n_steps=0), "every_n_steps=0 must be a whole number"),
        (lambda: HessianTrace(log_steps=-1), "log_steps=-1 must be a whole number"),
        (lambda: ParameterDistance(every_n_steps=None, at_start=False), "nothing would ever be measured"),
        (lambda: ParameterDistance(overhead=5), "overhead=5 must be between 0 and 1"),
        (lambda: HessianTrace(products=1), "at least 2 products"),
        (lambda: HessianTrace(method="exact"), "method='exact' is unknown; valid: auto"),
        (lambda: HessianTrace(outputs_fn=lambda m, b: b), "outputs_fn and output_loss go together"),
        (lambda: HessianTrace(outputs_fn=lambda m, b: b, output_loss="crossentropy"), "did you mean 'cross_entropy'"),
        (
            lambda: HessianTrace(outputs_fn=lambda m, b: b, output_loss="mse", loss_fn=lambda m, b: b),
            "either loss_fn, or outputs_fn",
        ),
        (lambda: HessianTrace(noise="relativ"), "noise='relativ' is unknown; did you mean 'relative'"),
        (lambda: HessianTrace(reference="start.ckpt"), "reference= is used only with noise='init'"),
        (lambda: HessianTrace(loss_fn="mse"), "loss_fn must be a function"),
        (lambda: HessianTrace(probe_batches=0), "probe_batches=0 must be"),
        (lambda: PerturbationSensitivity([-1]), "gammas must be positive"),
        (lambda: PerturbationSensitivity(draws=1), "at least 2"),
        (lambda: PerturbationSensitivity(noise="int"), "noise='int' is unknown; did you mean 'init'"),
        (lambda: SensitivityStop(patience=0), "patience=0 must be"),
        (lambda: SensitivityStop(stop=False), "does nothing; set keep="),
    ],
)
def test_arguments(make, message):
    with pytest.raises(UserError, match=message):
        make()


def refused(callbacks, message, module=None, **options):
    callbacks = callbacks if isinstance(callbacks, list) else [callbacks]
    with pytest.raises(UserError, match=message):
        trainer(max_steps=1, callbacks=callbacks, **options).fit(module or Classifier(), images())


def test_setups_that_cannot_be_measured():
    refused(SensitivityStop(), "add one to the trainer")
    refused([PerturbationSensitivity([0.1]), SensitivityStop(gamma=0.2)], r"gamma=0.2\) is not measured")
    refused(ParameterDistance(groups={"bode": "x"}), "'bode' matches no parameter")
    refused(HessianTrace(include="nothing"), "no parameter of Classifier is left")
    refused(ParameterDistance("absent.ckpt"), "absent.ckpt: no such file")
    refused(HessianTrace(probe=iter(())), "the data loader gave no batch")


def test_sharded_parameters_are_refused():
    class Run:
        strategy = FSDPStrategy()

    with pytest.raises(UserError, match=r"cannot run under FSDPStrategy.*strategy='ddp'.*lightning-tl measure"):
        ParameterDistance().setup(Run(), Classifier(), "fit")


class Manual(Classifier):
    def __init__(self):
        super().__init__()
        self.automatic_optimization = False


class NoReturn(Classifier):
    def training_step(self, batch, batch_idx):
        return {"predictions": self(batch[0])}


def test_training_steps_that_cannot_be_called():
    refused(HessianTrace(), r"manual optimisation.*Pass loss_fn\(module, batch\)", Manual())
    refused(HessianTrace(), r"returned a dict with the keys \['predictions'\], not a loss", NoReturn())


class Noisy(Classifier):
    generator = torch.Generator().manual_seed(0)

    def training_step(self, batch, batch_idx):
        return (self(batch[0]) + torch.rand(3, generator=self.generator)).square().mean()


def test_loss_with_its_own_random_numbers():
    refused(HessianTrace(), "not a function of the weights", Noisy())


class Bare(LightningModule):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, batch_idx):
        return (self.scale * batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_init_noise_without_initialisation():
    refused(PerturbationSensitivity(), "none of the 1 measured parameters gets noise.*noise='relative'", Bare())


def test_a_loss_of_another_network():
    refused(HessianTrace(loss_fn=PretrainingLoss(Classifier())), "Bare has no backbone at 'backbone'", Bare())
