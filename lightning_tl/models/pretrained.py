"""timm's pre-trained weights."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

from lightning_tl.errors import UserError, nearest, one_line, shortened
from lightning_tl.models.weights import KeyReport, load_backbone


def load_pretrained(
    backbone: nn.Module,
    name: str,
    pretrained: bool | str,
    in_chans: int = 3,
    options: Mapping[str, Any] | None = None,
) -> KeyReport:
    """Copy timm's pre-trained weights into a backbone, in place; they are downloaded where this machine lacks them.

    timm adapts them to the number of channels, and position embeddings to the size of the images.

    Args:
        backbone: Of ``build_backbone``.
        name: With which it was built.
        pretrained: True for timm's own choice, or the tag of others.
        in_chans: Channels of the images.
        options: With which it was built.

    Returns:
        What was loaded.

    Raises:
        UserError: There are no such weights, or they cannot be downloaded or read.
    """
    import timm

    tags = [full.partition(".")[2] for full in timm.list_pretrained(f"{name}.*")]
    if not tags:
        raise UserError(f"model.pretrained: timm has no weights of {name}; leave it out, or give model.init_from")
    if isinstance(pretrained, str) and pretrained not in tags:
        raise UserError(f"model.pretrained: timm has no weights '{pretrained}' of {name}{nearest(pretrained, tags)}")
    tagged = f"{name}.{pretrained}" if isinstance(pretrained, str) else name
    try:
        net: Any = timm.create_model(tagged, pretrained=True, in_chans=in_chans, num_classes=0, **(options or {}))
    except Exception as error:  # of the network, the file or the disk, each in its own way
        raise UserError(
            f"model.pretrained: the weights of {tagged} cannot be had ({type(error).__name__}: "
            f"{shortened(one_line(error), 300)}); where this machine has no network, download them elsewhere, and give "
            "the file as model.init_from"
        ) from error
    tag = net.pretrained_cfg.get("tag")
    return load_backbone(net.state_dict(), backbone, source_name=f"timm's {name}{f'.{tag}' if tag else ''}")
