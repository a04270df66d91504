"""Uploads an export to the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

from lightning_tl.hub_names import hub_error, hub_library, hub_name


def push_folder(folder: Path, target: str, private: bool = False) -> str:
    """Upload a folder's files to a repository of models, as one commit; the repository is made where there is none.

    Args:
        folder: The folder.
        target: ``hf:USER/NAME``, or ``hf:USER/NAME@BRANCH`` for an existing branch.
        private: Whether a new repository is private.

    Returns:
        The address of the commit.

    Raises:
        UserError: The package is missing; the token is missing or refused; the Hub cannot be reached.
    """
    name, library = hub_name(target), hub_library()
    try:
        hub = library.HfApi()
        hub.create_repo(name.name, repo_type="model", private=private, exist_ok=True)
        commit = hub.upload_folder(
            repo_id=name.name,
            folder_path=folder,
            revision=name.revision,
            commit_message="Export of lightning-tl",
        )
    except Exception as error:  # of the library, its connection, or the token
        raise hub_error(error, name) from error
    return str(commit)
