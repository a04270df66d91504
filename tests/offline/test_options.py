"""Options that cannot be: reported before anything is read."""

from typing import get_args

import pytest

from lightning_tl.errors import UserError
from lightning_tl.measure import noise
from lightning_tl.offline import options
from lightning_tl.offline.options import MeasureOptions


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"quantities": ["traces"]}, "quantity 'traces' is unknown; did you mean 'trace'"),
        ({"noise": "initial"}, "noise='initial' is unknown; did you mean 'init'"),
        ({"bn": "interpolate"}, "bn='interpolate' is unknown; did you mean 'interpolated'"),
        ({"rest": "refer"}, "rest='refer' is unknown; did you mean 'reference'"),
        ({"rest": "reference"}, "rest='reference' needs include="),
    ],
)
def test_what_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message):
        MeasureOptions(**arguments)


def test_the_kinds_of_noise_are_those_that_can_be_measured():
    assert get_args(options.NoiseKind) == get_args(noise.NoiseKind)
