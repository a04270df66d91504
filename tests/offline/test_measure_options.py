"""Options that cannot be: reported before anything is read."""

from typing import get_args

import pytest

from lightning_tl.errors import UserError
from lightning_tl.measure.noise_scales import NoiseKind
from lightning_tl.offline import measure_options
from lightning_tl.offline.measure_options import MeasureOptions


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"quantities": ["traces"]}, "quantity 'traces' is unknown; did you mean 'trace'"),
        ({"noise": "initial"}, "noise='initial' is unknown; did you mean 'init'"),
        ({"bn": "interpolate"}, "bn='interpolate' is unknown; did you mean 'interpolated'"),
        ({"rest": "refer"}, "rest='refer' is unknown; did you mean 'reference'"),
        ({"gammas": [0.1, 1e300]}, "gammas must be above 0 and at most"),
        ({"gammas": [float("nan")]}, "gammas must be above 0 and at most"),
        ({"bits": [1]}, "bits must be whole numbers from 2 to 16; got"),
        ({"sparsities": [0.5, 1.0]}, "sparsities must be shares between 0 and 1; got"),
        ({"bits": [4, 4]}, "bits must be different from each other"),
        ({"draws": 1}, "draws=1: must be between 2, for a standard error, and 10,000"),
        ({"products": 10**9}, "products=1000000000: must be between 2"),
        ({"rest": "reference"}, "rest='reference' needs include="),
    ],
)
def test_what_cannot_be(arguments, message):
    with pytest.raises(UserError, match=message):
        MeasureOptions(**arguments)


def test_the_kinds_of_noise_are_those_that_can_be_measured():
    assert get_args(measure_options.NoiseKind) == get_args(NoiseKind)
