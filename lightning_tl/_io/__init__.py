"""Atomic files, locks, URLs, stores and folders, for all packages. Uses the standard library, fsspec, filelock."""
