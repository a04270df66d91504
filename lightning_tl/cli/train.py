"""`lightning-tl fit|validate|test|predict`: LightningCLI."""

from __future__ import annotations

from typing import Any

from lightning_tl.errors import UserError


def main(argv: list[str]) -> int:
    """Run one of the four commands; ``argv`` begins with its name.

    ``predict --pictures N`` also saves pictures of the first N predictions beside the truth.
    """
    from lightning_tl.run import run

    arguments, count = _without_pictures(argv) if argv[0] == "predict" else (argv, 0)
    callbacks: list[Any] = []
    if count:
        from lightning_tl.data.prediction_pictures import PredictionPictures

        callbacks.append(PredictionPictures(count))
    run(arguments, callbacks)
    return 0


def _without_pictures(argv: list[str]) -> tuple[list[str], int]:
    """Return the arguments without ``--pictures N``, and N."""
    rest, values = [], []
    arguments = iter(argv)
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if name == "--pictures":
            values.append(value if equals else next(arguments, ""))
        else:
            rest.append(argument)
    if not values:
        return rest, 0
    if not values[-1].isdecimal() or int(values[-1]) < 1:
        raise UserError(f"--pictures is '{values[-1]}'; give a number of images, at least 1")
    return rest, int(values[-1])
