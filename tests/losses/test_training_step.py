"""A module's training step called outside training: its loss, in silence, in the mode in which it works."""

import pytest
import torch
import torch.nn.functional as F
from lightning.pytorch import LightningModule
from lightning.pytorch.loggers import CSVLogger

from lightning_tl.errors import UserError
from lightning_tl.losses.training_step import find_mode, quiet, step_loss
from lightning_tl.measure import Objective
from tests.callbacks.modules import trainer


class Module(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer, self.drop = torch.nn.Linear(3, 2), torch.nn.Dropout(0.5)
        self.printed = []

    def forward(self, x):
        return self.drop(self.layer(x)).square().mean()

    def print(self, *args, **kwargs):
        self.printed.append(args)


class WithIndex(Module):
    def training_step(self, batch, batch_idx):
        return self(batch) + batch_idx


class WithoutIndex(Module):
    def training_step(self, batch):
        return {"loss": self(batch), "other": None}


class Manifold(Module):
    def training_step(self, batch, batch_idx, dataloader_idx=0):
        return self(batch)


@pytest.mark.parametrize("kind", [WithIndex, WithoutIndex, Manifold])
def test_the_loss_is_what_the_step_returns(kind):
    module, x = kind().eval(), torch.randn(4, 3)
    assert torch.equal(step_loss(module, x), module(x))


class Nothing(Module):
    def training_step(self, batch, batch_idx):
        return None


class Predictions(Module):
    def training_step(self, batch, batch_idx):
        return {"predictions": batch}


class Iterating(Module):
    def training_step(self, dataloader_iter):
        return self(next(dataloader_iter))


@pytest.mark.parametrize(
    "kind, message",
    [
        (Nothing, r"Nothing.training_step returned NoneType, not a loss; pass loss_fn\(module, batch\)"),
        (Predictions, r"returned a dict with the keys \['predictions'\], not a loss"),
        (Iterating, r"training_step\(dataloader_iter\) takes no batch; pass loss_fn\(module, batch\)"),
    ],
)
def test_steps_without_a_loss(kind, message):
    with pytest.raises(UserError, match=message):
        step_loss(kind(), torch.randn(4, 3))


class Talkative(Module):
    """Logs outside a trainer's loop, which Lightning refuses unless it is muted; holds a module that does so too."""

    def __init__(self):
        super().__init__()
        self.inner = WithIndex()

    def training_step(self, batch, batch_idx):
        self.log("loss", 1.0)
        self.log_dict({"a": 1.0})
        self.print("hello")
        self.inner.print("hello")
        if self._trainer is not None:
            for logger in self.trainer.loggers:
                logger.log_metrics({"a": 1.0}, step=0)
        return self(batch)


def test_logging_is_muted_and_comes_back(tmp_path):
    module = Talkative()
    logger = CSVLogger(tmp_path)
    run = trainer(logger=logger)
    module.trainer = run
    with quiet(module, run):
        step_loss(module, torch.randn(4, 3))
    assert (module.printed, module.inner.printed) == ([], [])
    assert logger.experiment.metrics == []
    assert run.loggers == [logger]
    assert not {"log", "log_dict", "print"} & (vars(module).keys() | vars(module.inner).keys())
    module.print("hello")
    assert module.printed == [("hello",)]


def test_an_attribute_that_was_set_on_the_module_comes_back():
    module = Module()
    own = module.log = lambda *args, **kwargs: None
    with quiet(module):
        assert module.log is not own
    assert module.log is own


class OnlyInTraining(Module):
    """As torchvision's detectors."""

    def training_step(self, batch, batch_idx):
        return self(batch) if self.training else {"boxes": []}


class Failing(Module):
    def training_step(self, batch, batch_idx):
        raise KeyError("no labels")


class WithItsOwnGenerator(Module):
    generator = torch.Generator().manual_seed(0)

    def training_step(self, batch, batch_idx):
        return self(batch + torch.rand(3, generator=self.generator))


def mode_of(module, loss_fn=step_loss):
    batch = torch.randn(4, 3)
    return find_mode(lambda mode: Objective(module, loss_fn, [batch], mode=mode), own_loss=loss_fn is step_loss)


def test_the_mode_is_eval_if_there_is_a_loss_in_it():
    assert mode_of(WithIndex()) == "eval"
    assert mode_of(OnlyInTraining()) == "frozen-train"


def test_a_step_that_gives_no_loss_in_either_mode():
    with pytest.raises(UserError, match=r"in eval mode: KeyError: 'no labels'; in frozen-train mode: KeyError") as info:
        mode_of(Failing())
    assert isinstance(info.value.__cause__, KeyError)


def test_errors_of_the_users_own_loss_come_through():
    def wrong(module, batch):
        return F.mse_loss(module.layer(batch), absent)  # noqa: F821

    with pytest.raises(NameError):
        mode_of(Module(), wrong)


def test_a_loss_that_is_no_function_of_the_weights():
    with pytest.raises(UserError, match="not a function of the weights"):
        mode_of(WithItsOwnGenerator())
