"""The lab of partial transfer: a share of the filters of a small ReLU network is inherited (arXiv 2509.22056)."""

from __future__ import annotations

from functools import partial
from typing import Any

from lightning_tl.labs.outcome import Array, Comparison, Outcome, compared
from lightning_tl.labs.partial_transfer_parameters import PartialTransferParameters
from lightning_tl.labs.partial_transfer_theory import Setting, accuracy, harmful_share
from lightning_tl.labs.shares import compared_share

#: Difference of accuracies that counts as agreement, for shares below 1.
_ALLOWED = 0.03


class PartialTransfer(PartialTransferParameters):
    """Inherit a share of the filters from an upstream task that has a part of the signal in common."""

    def run(self) -> Outcome:
        """See :meth:`~lightning_tl.labs.lab.Lab.run`."""
        from lightning_tl.labs.partial_transfer_figures import CAPTIONS, figures
        from lightning_tl.labs.partial_transfer_simulation import simulate

        self.check()
        comparisons, cells = self.beside_theory(*simulate(self))
        outcome = Outcome("Partial transfer", comparisons, ("", "", ""), {"cells": cells})
        outcome.captions, outcome.draw = CAPTIONS, partial(figures, self, outcome)
        outcome.paragraphs = self._paragraphs(outcome)
        return outcome

    def beside_theory(
        self, scratch: dict[float, Array], found: dict[tuple[int, float, float], Array]
    ) -> tuple[list[Comparison], list[dict[str, Any]]]:
        """Set simulated accuracies beside the theory's.

        Args:
            scratch: As :func:`~.partial_transfer_simulation.simulate` gives them.
            found: Likewise.

        Returns:
            The comparisons; by upstream samples, τ and share the gain over training from scratch.
        """
        comparisons: list[Comparison] = []
        cells: list[dict[str, Any]] = []
        for (upstream, shared, share), accuracies in found.items():
            setting, case = self.setting(upstream, shared), f"n₁ = {upstream}, τ = {shared:g}"
            start, theory = accuracy(setting, 0.0), accuracy(setting, share)
            allowed = _ALLOWED if share < 1 else None
            comparisons.append(compared("accuracy", case, share, theory, accuracies, None, allowed))
            gain = compared("gain", case, share, theory - start, accuracies - scratch[shared], None)
            comparisons.append(gain)
            cells.append({"upstream": upstream, "shared": shared, "share": share} | _cell(gain, setting, self.networks))
        for shared, accuracies in scratch.items():
            theory = accuracy(self.setting(self.upstream[0], shared), 0.0)
            comparisons.append(compared("scratch", f"τ = {shared:g}", shared, theory, accuracies, None, _ALLOWED))
        decided = [cell for cell in cells if cell["decided"]]
        if decided:
            right = sum(cell["right"] for cell in decided)
            comparisons.append(
                compared_share("sign of the gain", "of those beyond chance", 0.0, 1.0, right, len(decided), 0.05)
            )
        return comparisons, cells

    def _paragraphs(self, outcome: Outcome) -> tuple[str, str, str]:
        cells = outcome.facts["cells"]
        decided = [cell for cell in cells if cell["decided"]]
        harmful = [cell for cell in decided if cell["gain"] < 0]
        claimed = [item for item in outcome.comparisons if item.part in ("accuracy", "scratch") and item.allowed]
        off = max(abs(item.theory - item.simulation) for item in claimed)
        full = [abs(item.theory - item.simulation) for item in outcome.part("accuracy") if item.at == 1]
        last = f", and by up to {max(full):.3f} where all filters are inherited" if full else ""
        simple = sum(cell["simple_right"] for cell in decided)
        most = max((cell["shared"] for cell in harmful), default=None)
        counted = f"at {len(harmful)} of {len(cells)} points"
        where = "nowhere" if most is None else f"{counted}, of which the largest τ is {most:g}"
        return (
            "A ReLU network sees a patch with a signal and a patch of noise. Upstream and downstream share a universal "
            "part of the signal, with the share τ of its square. An inherited filter brings the universal signal, but "
            "also upstream's own signal and the noise that it has memorised: both answer to new noise at random. A "
            "signal-to-noise argument gives the accuracy, and so where inheriting harms (negative transfer).",
            f"Simulated: {self.networks} networks for each point, with data of their own, trained to a loss of "
            f"{self.loss:g} upstream and downstream. The filters are inherited by the library's method Partial. A "
            "network has the same downstream samples with and without transfer, so that the gain is a paired "
            "difference.",
            f"Negative transfer beyond chance: {where}. The argument gives the accuracy to {off:.3f}{last}. Where the "
            f"gain differs from 0 beyond chance it has the right sign at {sum(cell['right'] for cell in decided)} of "
            f"{len(decided)} points; its lowest order, a threshold for the share, at {simple}.",
        )


def _cell(gain: Comparison, setting: Setting, networks: int) -> dict[str, Any]:
    """Return the gain with its 95 % interval over networks, and whether the theories have its sign."""
    from scipy.special import stdtrit

    half = float(stdtrit(networks - 1, 0.975)) * gain.stderr
    threshold = harmful_share(setting)
    return {
        "gain": gain.simulation,
        "low": gain.simulation - half,
        "high": gain.simulation + half,
        "theory": gain.theory,
        "harmful_share": threshold,
        "decided": bool(abs(gain.simulation) > half),
        "right": bool(gain.theory * gain.simulation > 0),
        "simple_right": bool((gain.at > threshold) == (gain.simulation < 0)),
    }
