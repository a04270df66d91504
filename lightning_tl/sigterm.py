"""SIGTERM in trainings on several processes."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Trainer


def only_note_sigterm(trainer: Trainer) -> None:
    """Let a SIGTERM be noted and passed on to the other processes, and nothing else.

    Lightning's own handler also broadcasts it, from within whatever the process is doing. Where one process is writing
    a checkpoint and the others wait for it, each then waits for the other without end. The broadcast is not needed:
    processes agree on it before every batch.
    """
    connector = trainer._signal_connector

    def note(signum: Any, frame: Any) -> None:
        launcher = trainer.strategy.launcher
        if not connector.received_sigterm and launcher is not None:
            launcher.kill(signum)
        connector.received_sigterm = True

    connector._sigterm_notifier_fn = note  # type: ignore[assignment]
