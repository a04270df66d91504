"""Any network of timm by its name: made, and what it can do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from lightning_tl.errors import UserError, nearest, one_line, shortened

#: Strides of the four maps that detection and dense tasks use.
STRIDES = (4, 8, 16, 32)
#: Arguments of timm that a task has under its own name, with that name.
_OWN = {"in_chans": "in_chans", "output_stride": "output_stride", "pretrained": "pretrained", "num_classes": ""}


@dataclass(frozen=True)
class MapPlan:
    """Which maps of a network of timm are used.

    Attributes:
        indices: Their places in timm's ``feature_info``.
        channels: Of each.
        strides: Side of the image over that of the map, of each.
        modules: Modules that give them, where the network cannot return them itself.
    """

    indices: tuple[int, ...]
    channels: tuple[int, ...]
    strides: tuple[int, ...]
    modules: tuple[str, ...] = ()


def is_known(name: str) -> bool:
    """Return whether timm has a network of this name."""
    import timm  # takes half a second to import, so only when a network is asked for

    return "." not in name and bool(timm.is_model(name))


def unknown_network(name: str, own: Sequence[str]) -> UserError:
    """Return the error for a name that no network has.

    Args:
        name: The name.
        own: Names of this library's networks.
    """
    import timm

    architecture, _, tag = name.partition(".")
    if tag and timm.is_model(architecture):
        return UserError(
            f"model.backbone is '{name}': give the network as model.backbone ({architecture}), and the weights as "
            f"model.pretrained ({tag})"
        )
    hint = nearest(name, {*own, *timm.list_models()})
    if hint.startswith("; valid"):  # over a thousand names
        hint = f"{nearest(name, own)}, and the names of timm (timm.list_models())"
    return UserError(f"no backbone '{name}'{hint}")


def create(name: str, in_chans: int = 3, output_stride: int = 32, options: Mapping[str, Any] | None = None) -> Any:
    """Return a network of timm without its classifier, with random weights.

    A network that can take images of any size is made so: its position embedding keeps the shape of the pre-training,
    and is resampled for each size.

    Args:
        name: timm's, without a tag.
        in_chans: Channels of the images.
        output_stride: 32, or 16 or 8 for convolutional networks whose last stages can be dilated.
        options: Further arguments of ``timm.create_model``, as ``img_size`` or ``drop_path_rate``.

    Raises:
        UserError: An option is unknown or a value wrong; the network cannot be dilated.
    """
    import timm

    options = dict(options or {})
    for key in options.keys() & _OWN.keys():
        own = f"set model.{_OWN[key]}" if _OWN[key] else "the head has the classes"
        raise UserError(f"model.backbone_options has {key}: leave it out there; {own}")
    stride = {} if output_stride == 32 else {"output_stride": output_stride}

    def make(**more: Any) -> Any:
        return timm.create_model(name, pretrained=False, in_chans=in_chans, num_classes=0, **more)

    if "img_size" not in options:
        try:
            return make(dynamic_img_size=True, **stride, **options)
        except (TypeError, ValueError, AssertionError, RuntimeError, AttributeError):
            pass  # it has no such option; if something else is wrong, the next lines say so
    try:
        return make(**stride, **options)
    except Exception as error:  # each network refuses in its own way
        problem = f"{type(error).__name__}: {shortened(one_line(error), 200)}"
    if stride:
        try:
            make(**options)
        except Exception:  # then something else is wrong
            pass
        else:
            raise UserError(
                f"model.output_stride is {output_stride}, but {name} cannot be dilated ({problem}): set it to 32"
            )
    raise UserError(f"model.backbone {name} cannot be made with model.backbone_options {options} ({problem})")


def has_one_map(net: Any) -> bool:
    """Return whether all maps of a network have the same stride, as those of a ViT, of which the last one is used."""
    return len({each["reduction"] for each in _feature_info(net)}) == 1


def with_maps(net: Any, name: str, output_stride: int, plain: Callable[[], Any]) -> Any:
    """Prepare a network for ``maps``, and remove the layers that only its pooled features need.

    Args:
        net: Of :func:`create`.
        name: For messages.
        output_stride: With which it was made.
        plain: Makes the network without dilation.

    Raises:
        UserError: It has no maps of the strides that are needed.
    """
    info = _feature_info(net)
    if not info:
        raise UserError(f"model.backbone {name} gives no feature maps (timm's features_only); choose another network")
    if has_one_map(net):
        places = [len(info) - 1]
        stride = info[-1]["reduction"]
        if stride not in (4, 8, 16, 32):
            raise UserError(
                f"model.backbone {name} has one map of stride {stride:g}, from which no maps of strides "
                f"{_listed(STRIDES)} can be made; choose a network with patches of 8, 16 or 32 px"
            )
    else:
        reductions = [each["reduction"] for each in (info if output_stride == 32 else _feature_info(plain()))]
        if len(reductions) != len(info) or any(stride not in reductions for stride in STRIDES):
            raise UserError(
                f"model.backbone {name} has maps of strides {_listed(reductions)}; detection and dense tasks need "
                f"{_listed(STRIDES)}"
            )
        places = [len(reductions) - 1 - reductions[::-1].index(stride) for stride in STRIDES]
    returns_maps = hasattr(net, "forward_intermediates")
    if returns_maps and hasattr(net, "prune_intermediate_layers"):
        net.prune_intermediate_layers(places, prune_norm=True, prune_head=True)
    net.map_plan = MapPlan(
        tuple(places),
        tuple(int(info[place]["num_chs"]) for place in places),
        tuple(int(info[place]["reduction"]) for place in places),
        () if returns_maps else tuple(info[place]["module"] for place in places),
    )
    return net


def _feature_info(net: Any) -> list[dict[str, Any]]:
    info = getattr(net, "feature_info", None) or []
    return list(getattr(info, "info", info))


def _listed(strides: Sequence[float]) -> str:
    return ", ".join(f"{stride:g}" for stride in strides)


def maps(net: Any, images: Tensor) -> list[Tensor]:
    """Return the maps of a network that was prepared by :func:`with_maps`, each ``[B, C, H, W]``."""
    plan: MapPlan = net.map_plan
    if not plan.modules:
        found: list[Tensor] = net.forward_intermediates(
            images, indices=list(plan.indices), intermediates_only=True, output_fmt="NCHW"
        )
        return found
    kept: dict[str, Tensor] = {}
    with ExitStack() as stack:
        for module in plan.modules:

            def keep(_: nn.Module, __: Any, output: Tensor, module: str = module) -> None:
                kept[module] = output

            stack.enter_context(net.get_submodule(module).register_forward_hook(keep))
        net.forward_features(images)
    return [kept[module] for module in plan.modules]


@torch.no_grad()
def size_problem(net: nn.Module, run: Callable[[Tensor], object], images: Tensor) -> str:
    """Return why a network cannot take images ``[B, C, H, W]``; empty if it can take one of them."""
    modes = [(module, module.training) for module in net.modules()]
    net.eval()
    try:
        run(images[:1])
    except (AssertionError, ValueError, RuntimeError, TypeError) as error:
        return shortened(one_line(error), 200)
    finally:
        for module, training in modes:
            module.training = training
    return ""
