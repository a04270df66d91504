"""What a table's sizes count and what is measured, for sentences, figures and files."""

from __future__ import annotations

from dataclasses import dataclass

from lightning_tl.laws.forms import Measured

#: Share of the error that ten times the size must take away to be worth it. A loss has a part that nothing removes
#: (the entropy of text), so that a smaller share of it matters: 2 % of 2.5 nats are 0.05 nats.
WORTHWHILE: dict[Measured, float] = {"error": 0.10, "loss": 0.02}


@dataclass(frozen=True)
class Terms:
    """Words for what a table holds.

    Attributes:
        sizes: What pre-training sizes n count: images, tokens.
        seconds: What the second sizes s count, in laws that use them.
        measured: Whether it is an error, at most 1, or a loss.
    """

    sizes: str = "images"
    seconds: str = "fine-tuning images"
    measured: Measured = "error"

    @property
    def worthwhile(self) -> float:
        """Share of the error that ten times the size must take away to be worth it."""
        return WORTHWHILE[self.measured]

    @property
    def by_model(self) -> bool:
        """Whether the second size is the model's."""
        return self.seconds == "parameters"

    @property
    def symbol(self) -> str:
        """Letter of the pre-training size: D beside the N of a model's parameters, else n."""
        return "D" if self.by_model else "n"

    @property
    def size(self) -> str:
        """The pre-training size with its unit in brackets, for axes."""
        return f"pre-training size {self.symbol} ({self.sizes})"

    @property
    def score(self) -> str:
        """What is measured, for axes."""
        return "test error (1 − score)" if self.measured == "error" else "test loss"

    @property
    def gap(self) -> str:
        """The transfer gap, for axes."""
        return f"transfer gap C (test {self.measured})"

    @property
    def samples(self) -> str:
        """What models are fine-tuned and tested on."""
        return "images" if self.sizes == "images" else "samples"

    def verdict(self, of_images: str) -> str:
        """Return a verdict in the words of this table; what is said of images does not fit text."""
        if self.sizes == "images":
            return of_images
        return {
            "render more": f"pre-train on more {self.sizes}",
            "render differently": "change the data or the model",
        }.get(of_images, of_images)
