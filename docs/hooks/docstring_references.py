"""References in docstrings (``:class:`Name```) as links to the reference, each checked to name something."""

from __future__ import annotations

import logging
import re
from importlib import import_module
from typing import Any

import griffe

_ROLE = re.compile(r":(?:class|func|meth|mod|data|attr|obj|exc):`(~?)\.?([\w.]+)`")
_log = logging.getLogger("mkdocs.hooks.docstring_references")  # warnings of mkdocs' loggers fail a strict build


class DocstringReferences(griffe.Extension):
    """Turns the references of a package's docstrings into links, and warns of names that do not exist."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **_: Any) -> None:
        """Go through all docstrings of a package that was read."""
        waiting: list[griffe.Object] = [pkg]
        while waiting:
            item = waiting.pop()
            if item.docstring is not None:
                item.docstring.value = linked(item.docstring.value, item, loader.modules_collection)
            waiting += [each for each in item.members.values() if isinstance(each, griffe.Object)]


def linked(text: str, item: griffe.Object, collection: griffe.ModulesCollection) -> str:
    """Return a docstring with its references as links.

    Args:
        text: The docstring.
        item: What it documents: short names are looked up from there outwards.
        collection: All modules that were read.
    """

    def link(match: re.Match[str]) -> str:
        short, name = match.groups()
        path = found(name, item, collection)
        if path is None:
            _log.warning(f"{item.path}: the docstring refers to '{name}', which does not exist")
            return f"`{name}`"
        shown = name.rpartition(".")[2] if short else name
        # optional: what is not part of the reference stays without a link
        return f'<autoref identifier="{path}" optional><code>{shown}</code></autoref>'

    return _ROLE.sub(link, text)


def found(name: str, item: griffe.Object, collection: griffe.ModulesCollection) -> str | None:
    """Return the full path of a name in a docstring, or None where there is nothing of this name."""
    scope: griffe.Object | None = item
    while scope is not None:
        for start in dict.fromkeys((scope.path, _package_of(scope))):
            if (path := _existing(f"{start}.{name}", collection)) is not None:
                return path
        scope = scope.parent
    return _existing(name, collection) or _imported(name) or _imported(f"{item.module.path}.{name}")


def _package_of(item: griffe.Object) -> str:
    """Return the path of the package of a module: ``~.forms.split`` is relative to it."""
    return item.module.path if item.module.is_init_module else item.module.path.rpartition(".")[0]


def _existing(path: str, collection: griffe.ModulesCollection) -> str | None:
    """Return the path under which the reference lists something, if it exists."""
    try:
        return str(collection.get_member(path).canonical_path)
    except (KeyError, griffe.AliasResolutionError, griffe.CyclicAliasError, AttributeError):
        pass
    owner, _, attribute = path.rpartition(".")
    try:  # inherited
        holder = collection.get_member(owner)
        return str(holder.all_members[attribute].canonical_path) if holder.is_class else None
    except (KeyError, griffe.AliasResolutionError, griffe.CyclicAliasError, AttributeError, ValueError):
        return None


def _imported(name: str) -> str | None:
    """Return a name that cannot be read from the source, or is of another package, if it is there when imported."""
    module, _, attribute = name.rpartition(".")
    try:
        return name if module and hasattr(import_module(module), attribute) else None
    except ImportError:
        return None
