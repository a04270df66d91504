"""Names of repositories of the Hugging Face Hub (``hf:USER/NAME@REVISION``) and of their files, and errors in words."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from lightning_tl.errors import UserError, one_line, shortened

PREFIX = "hf:"
#: Files that a model's folder may keep its tokenizer in.
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
)
_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


@dataclass(frozen=True)
class HubName:
    """A repository.

    Attributes:
        name: ``USER/NAME``.
        revision: Branch, tag or commit; None: the main branch.
    """

    name: str
    revision: str | None = None

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}" + (f"@{self.revision}" if self.revision else "")


def hub_name(text: str) -> HubName:
    """Return the repository that a text names.

    Raises:
        UserError: It is not of the form ``hf:USER/NAME`` or ``hf:USER/NAME@REVISION``.
    """
    name, at, revision = text.removeprefix(PREFIX).partition("@")
    if not text.startswith(PREFIX) or not _NAME.fullmatch(name) or (at and not revision):
        raise UserError(f"'{shortened(text)}' is no repository of the Hugging Face Hub; give hf:USER/NAME[@REVISION]")
    return HubName(name, revision or None)


def hub_library() -> Any:
    """Return the package ``huggingface_hub``.

    Raises:
        UserError: It is not installed.
    """
    try:
        return import_module("huggingface_hub")
    except ImportError:
        raise UserError(
            "hf:… needs the package huggingface_hub; install it with: pip install 'lightning-tl[hub]'"
        ) from None


def hub_error(error: Exception, name: HubName) -> UserError:
    """Return what an exception of ``huggingface_hub`` means, and what to do.

    Args:
        error: The exception.
        name: The repository.
    """
    kinds = {each.__name__ for each in type(error).__mro__}
    status = getattr(getattr(error, "response", None), "status_code", None)
    login = "log in by: hf auth login, or set HF_TOKEN"
    if "GatedRepoError" in kinds:
        return UserError(f"{name}: access must be granted by its owner: ask for it on its page, then {login}")
    if "RevisionNotFoundError" in kinds:
        return UserError(f"{name}: the repository has no such revision; leave out @{name.revision} for the main branch")
    if status == 403:
        return UserError(f"{name}: refused: your token may not do this; give it the right to write, or another name")
    if "LocalTokenNotFoundError" in kinds or (status == 401 and "RepositoryNotFoundError" not in kinds):
        return UserError(f"{name}: refused: there is no valid token; {login}")
    if "RepositoryNotFoundError" in kinds:
        return UserError(f"{name}: no such repository; check its name, or, where it is private, {login}")
    if "LocalEntryNotFoundError" in kinds or "OfflineModeIsEnabled" in kinds or _is_connection(error):
        return UserError(f"{name}: the Hub cannot be reached; check the network, or give a file on this machine")
    reason = f"{type(error).__name__}: {shortened(one_line(error), 300)}"
    return UserError(f"{name}: the Hub's library failed ({reason}); try again, or give a file on this machine")


def _is_connection(error: BaseException | None) -> bool:
    """Whether an exception, or one that it came from, is of a connection that was not made."""
    while error is not None:
        names = {each.__name__ for each in type(error).__mro__}
        if names & {"ConnectionError", "ConnectError", "ConnectTimeout", "TransportError", "TimeoutException"}:
            return True
        error = error.__cause__ or error.__context__
    return False
