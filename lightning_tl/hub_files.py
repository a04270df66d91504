"""Weights of repositories of the Hugging Face Hub, fetched into its cache."""

from __future__ import annotations

from pathlib import Path

from lightning_tl.errors import UserError
from lightning_tl.hub_names import hub_error, hub_library, hub_name

#: Files with weights, in the order in which they are looked for.
WEIGHTS = (
    "model.safetensors",
    "backbone.safetensors",
    "backbone.pt",
    "torchvision.pt",
    "pytorch_model.bin",
)


def hub_weights(text: str) -> Path:
    """Return the file of a repository's weights on this machine; it is downloaded where the cache lacks it.

    Args:
        text: ``hf:USER/NAME`` or ``hf:USER/NAME@REVISION``.

    Raises:
        UserError: The package is missing, the repository or revision does not exist, is refused or cannot be reached,
            or has no file of :data:`WEIGHTS`.
    """
    name, library = hub_name(text), hub_library()
    missing = library.errors.RemoteEntryNotFoundError if hasattr(library.errors, "RemoteEntryNotFoundError") else None
    for file in WEIGHTS:
        try:
            return Path(library.hf_hub_download(name.name, file, revision=name.revision))
        except Exception as error:  # of the library, its connection, or the disk
            absent = isinstance(error, missing or library.errors.EntryNotFoundError)
            if absent and not isinstance(error, library.errors.LocalEntryNotFoundError):
                continue
            if isinstance(error, OSError) and error.errno is not None:
                raise
            raise hub_error(error, name) from error
    raise UserError(f"{name}: has none of the files {', '.join(WEIGHTS)}, in which weights are looked for")
