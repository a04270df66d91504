"""Losses to measure: the training step of a LightningModule, and the pre-training loss while fine-tuning."""
