"""Attach the measurements to a Hugging Face Trainer: how fragile does a language model become while it is trained?

    pip install '.[transformers]'      # in a clone
    python examples/fragility_of_a_hugging_face_model.py

A tiny Llama with random weights learns to count; nothing is downloaded. With your own Trainer only the last lines of
``main`` are needed.
"""

from __future__ import annotations

import tempfile

import torch
from torch.utils.data import Dataset
from transformers import LlamaConfig, LlamaForCausalLM, PrinterCallback, Trainer, TrainingArguments

from lightning_tl.integrations.transformers import MeasureCallback
from lightning_tl.measure.distance_measure import DistanceMeasure
from lightning_tl.measure.measures import SensitivityMeasure, TraceMeasure

VOCABULARY, LENGTH = 32, 16


class Counting(Dataset[dict[str, torch.Tensor]]):
    """Sequences that count upward from a random number, modulo the vocabulary."""

    def __len__(self) -> int:
        return 512

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        tokens = (torch.arange(LENGTH) + index * 7) % VOCABULARY
        return {"input_ids": tokens, "labels": tokens}


def main() -> None:
    """Train for 100 steps; print loss, sensitivity and trace as they were measured."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        max_position_embeddings=LENGTH,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
    )
    model = LlamaForCausalLM(config)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            max_steps=100,
            per_device_train_batch_size=32,
            learning_rate=3e-3,
            logging_steps=25,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            use_cpu=True,
        )
        trainer = Trainer(model, arguments, train_dataset=Counting())
        trainer.remove_callback(PrinterCallback)  # which prints all values of each logging step
        measures = [DistanceMeasure(), TraceMeasure(), SensitivityMeasure(gammas=[0.02])]
        trainer.add_callback(MeasureCallback(trainer, measures, every_n_steps=25))
        trainer.train()
    for row in trainer.state.log_history:
        if "sensitivity/gamma_0.02" in row:
            rise, error = row["sensitivity/gamma_0.02"], row["sensitivity/gamma_0.02_stderr"]
            print(
                f"step {row['step']:3d}: moved {row['param_distance/total']:.3f}, trace {row['hessian/trace']:.0f}, "
                f"noise of γ = 0.02 raises the loss by {rise:.2g} ± {error:.1g}"
            )


if __name__ == "__main__":
    main()
