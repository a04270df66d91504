"""Where the revisions of a series of language models are: on the Hugging Face Hub, or in sub-folders of a folder."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Protocol

from lightning_tl.errors import UserError, one_line
from lightning_tl.offline.revisions import local_revisions
from lightning_tl.offline.stored_weights import holds_weights

_CONFIGURATION = ("*.json", "*.model", "*.txt", "*.jinja")


class Place(Protocol):
    """The revisions of a model.

    Attributes:
        name: What the model is called.
    """

    name: str

    def revisions(self) -> list[str]:
        """Return the names of all revisions."""
        ...

    def folder(self, revision: str, weights: bool = True) -> Path:
        """Return a folder with a revision's configuration, and weights if wanted, downloaded if they have to be."""
        ...

    def release(self, revision: str) -> None:
        """Say that a revision's weights are not needed any more."""
        ...


def place_of(name: str, downloads: Path | None = None) -> Place:
    """Return the place of a model: a folder of this machine if there is one of this name, else the Hub.

    Args:
        name: Path of a folder, or a repository's name, ``owner/model``.
        downloads: Folder into which revisions are downloaded, and from which they are deleted when they are released;
            None: the Hub's common cache, from which nothing is deleted.

    Raises:
        UserError: It is neither.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return LocalPlace(folder)
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"--model hf:{name}: no such folder, and not the name of a model on the Hub (owner/model)")
    return HubPlace(name, downloads)


class LocalPlace:
    """A folder with one sub-folder per revision, each as ``save_pretrained`` writes it.

    Args:
        folder: The folder.
    """

    def __init__(self, folder: Path) -> None:
        self.path, self.name = folder, folder.resolve().name

    def revisions(self) -> list[str]:
        """Return the names of the sub-folders."""
        return local_revisions(self.path)

    def folder(self, revision: str, weights: bool = True) -> Path:
        """Return the sub-folder.

        Raises:
            UserError: There is none.
        """
        if not (self.path / revision / "config.json").is_file():
            raise UserError(f"{self.path / revision}: no saved model there (it has no config.json)")
        return self.path / revision

    def release(self, revision: str) -> None:
        """Do nothing: the folder is the user's."""


class HubPlace:
    """A repository on the Hugging Face Hub.

    Args:
        name: ``owner/model``.
        downloads: As for :func:`place_of`.
    """

    def __init__(self, name: str, downloads: Path | None = None) -> None:
        self.name, self._downloads = name, downloads

    def revisions(self) -> list[str]:
        """Return the names of branches and tags."""
        from huggingface_hub import HfApi

        with _explained(self.name):
            refs = HfApi().list_repo_refs(self.name)
        return [ref.name for ref in (*refs.branches, *refs.tags)]

    def folder(self, revision: str, weights: bool = True) -> Path:
        """Return the folder of a revision; what is there is not downloaded again."""
        from huggingface_hub import HfApi, snapshot_download
        from huggingface_hub.errors import LocalEntryNotFoundError

        own = None if self._downloads is None else self._downloads / _file_name(revision)
        if own is None:
            with suppress(LocalEntryNotFoundError):
                found = Path(snapshot_download(self.name, revision=revision, local_files_only=True))
                if holds_weights(found) or not weights:
                    return found
        with _explained(f"{self.name}, revision {revision}"):
            wanted = list(_CONFIGURATION)
            if weights:
                files = HfApi().list_repo_files(self.name, revision=revision)
                wanted.append("*.safetensors" if any(file.endswith(".safetensors") for file in files) else "*.bin")
            return Path(snapshot_download(self.name, revision=revision, allow_patterns=wanted, local_dir=own))

    def release(self, revision: str) -> None:
        """Delete the revision, if it was downloaded into a folder of this series."""
        if self._downloads is not None:
            shutil.rmtree(self._downloads / _file_name(revision), ignore_errors=True)


def _file_name(revision: str) -> str:
    return revision.replace("/", "--")


@contextmanager
def _explained(what: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # of the Hub's client: no such model or revision, no network, gated
        raise UserError(
            f"{what}: cannot be read from the Hugging Face Hub ({one_line(error)[:300]}); is the name right, is there "
            "a network, and for a gated model a token (HF_TOKEN)?"
        ) from error
