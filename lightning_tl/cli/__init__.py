"""The `lightning-tl` command: one module a sub-command, nothing heavy imported until its sub-command runs."""
