"""Imported first by the fork server of the workers, which must not outlive the study, even while it imports."""

from __future__ import annotations

from lightning_tl._io.processes import die_with_parent

die_with_parent()
