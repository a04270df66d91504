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
        (lambda: ParameterDistance(every_n_steps=None, at_start=False, at_end=False), "nothing would ever be measured"),
        (lambda: ParameterDistance(overhead=5), "overhead=5 must be a number between 0 and 1"),
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
        (lambda: SensitivityStop(patience="a"), "patience='a' must be a whole number ≥ 1"),
        (lambda: SensitivityStop(sigmas=None), "sigmas=None must be a number ≥ 0"),
        (lambda: SensitivityStop(gamma="a"), "gamma must be positive numbers"),
        (lambda: SensitivityStop(stop="no"), "stop='no' must be True or False"),
        (lambda: SensitivityStop(keep=3), "keep=3 must be the path of a checkpoint"),
        (lambda: ParameterDistance(500), "reference=500 must be 'start', the path.*every_n_steps=500 sets how often"),
        (lambda: ParameterDistance(["a"]), r"reference=\['a'\] must be 'start'"),
        (lambda: HessianTrace("start"), "every_n_steps='start' must be a whole number ≥ 1, or None"),
        (lambda: HessianTrace(True), "every_n_steps=True must be a whole number"),
        (lambda: HessianTrace(products="a"), "products='a' must be a whole number ≥ 2"),
        (lambda: HessianTrace(tolerance="a"), "tolerance='a' must be a number ≥ 0"),
        (lambda: HessianTrace(max_seconds=-1), "max_seconds=-1 must be a number ≥ 0"),
        (lambda: HessianTrace(top_eigenvalue=2), "top_eigenvalue=2 must be True or False"),
        (lambda: HessianTrace(outputs_fn=3, output_loss="mse"), "outputs_fn=3 must be a function"),
        (lambda: HessianTrace(at_start="yes"), "at_start='yes' must be True or False"),
        (lambda: HessianTrace(seed=1.5), "seed=1.5 must be a whole number ≥ 0"),
        (lambda: HessianTrace(overhead="a"), "overhead='a' must be a number between 0 and 1"),
        (lambda: HessianTrace(include=["net"]), r"include=\['net'\] must be a regular expression of parameter names"),
        (lambda: HessianTrace(exclude="("), r"exclude: '\(' is not a regular expression"),
        (lambda: HessianTrace(groups=["net"]), r"groups=\['net'\] must be a mapping of regular expressions"),
        (lambda: HessianTrace(groups={"(": "a"}), r"groups: '\(' is not a regular expression"),
        (lambda: HessianTrace(prefix=3), "prefix=3 must be a text"),
        (lambda: HessianTrace(trainable=None), "trainable=None must be True or False"),
        (lambda: HessianTrace(bn="kep"), "bn='kep' is unknown; did you mean 'kept'"),
        (lambda: HessianTrace(probe_batches=True), "probe_batches=True must be a whole number"),
        (lambda: HessianTrace(probe=7), "probe=7 must be a batch, a DataLoader, or 'val'"),
        (lambda: HessianTrace(loss_fn=torch.nn.CrossEntropyLoss()), r"CrossEntropyLoss\(\) takes outputs and targets"),
        (lambda: HessianTrace(loss_fn=Classifier), r"loss_fn=Classifier is a class; pass a function \(module, batch\)"),
        (lambda: HessianTrace(noise="init", reference=3), "reference=3 must be a function that builds a fresh module"),
        (lambda: PerturbationSensitivity(0.01), r"gammas=0.01 must be a list of positive numbers, such as \[0.01\]"),
        (lambda: PerturbationSensitivity("0.1"), "gammas='0.1' must be a list of positive numbers"),
        (lambda: PerturbationSensitivity(["a"]), r"gammas must be positive numbers, each once; got \['a'\]"),
        (lambda: PerturbationSensitivity([float("nan")]), "gammas must be positive numbers"),
        (lambda: PerturbationSensitivity([float("inf")]), "gammas must be positive numbers"),
        (lambda: PerturbationSensitivity([]), "gammas must be positive numbers"),
        (lambda: PerturbationSensitivity([0.1, 0.1]), "gammas must be positive numbers, each once"),
        (lambda: PerturbationSensitivity(draws=2.5), "draws=2.5 must be a whole number ≥ 2"),
        (lambda: PerturbationSensitivity(noise=None), "noise=None is unknown"),
        (lambda: PretrainingLoss("a.ckpt"), "pretrained='a.ckpt' must be the pre-trained module.*load_from_checkpoint"),
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
    refused(ParameterDistance("."), r"checkpoint \.: a folder, not a file")
    refused(HessianTrace(probe=iter(())), "the data loader gave no batch")
    refused(HessianTrace(probe=torch.zeros(2, 1, 8, 8, device="meta")), "tensors of the meta device")


def test_a_module_is_a_reference():
    module, reference = Classifier(), Classifier()
    distance = ParameterDistance(reference, every_n_steps=None)
    by_hand = sum(
        float((a - b).square().sum()) for a, b in zip(module.parameters(), reference.parameters(), strict=True)
    )
    trainer(max_steps=1, callbacks=[distance]).fit(module, images())
    assert distance.history[0].value == pytest.approx(by_hand**0.5, rel=1e-5)


def test_sharded_parameters_are_refused():
    class Run:
        strategy = FSDPStrategy()

    with pytest.raises(
        UserError, match=r"cannot run under FSDPStrategy.*ModelParallelStrategy.*'ddp'.*lightning-tl measure"
    ):
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
    refused(HessianTrace(on_error="raise"), r"returned a dict with the keys \['predictions'\], not a loss", NoReturn())


class Noisy(Classifier):
    generator = torch.Generator().manual_seed(0)

    def training_step(self, batch, batch_idx):
        return (self(batch[0]) + torch.rand(3, generator=self.generator)).square().mean()


def test_loss_with_its_own_random_numbers():
    refused(HessianTrace(on_error="raise"), "not a function of the weights", Noisy())


class Bare(LightningModule):
    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def training_step(self, batch, batch_idx):
        return (self.scale * batch[0]).square().mean()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)


def test_init_noise_without_initialisation():
    measuring = PerturbationSensitivity(on_error="raise")
    refused(measuring, "none of the 1 measured parameters gets noise.*noise='relative'", Bare())


def test_a_loss_of_another_network():
    own = HessianTrace(loss_fn=PretrainingLoss(Classifier()), on_error="raise")
    refused(own, "Bare has no backbone at 'backbone'", Bare())
