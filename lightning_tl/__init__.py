"""Is my synthetic pre-training worth anything? Render, pre-train, fine-tune, fit the scaling law, decide."""

__version__ = "0.1.0"
