"""A network of the user's own, by its code: ``net.py:NAME`` or ``package.module:NAME`` (`repro.usercode` finds it)."""

from pathlib import Path

from torch import nn
from torch.nn.modules.dropout import _DropoutNd

from repro import usercode
from repro.errors import UsageError
from repro.nets.check import require_parameters
from repro.nets.layout import layout_of


def create(network: str, *, num_classes: int, in_chans: int) -> nn.Module:
    """What NAME, a function or a class, makes of ``num_classes`` and ``in_chans``, dropout switched off.

    Given [N, in_chans, H, W] it has to return logits [N, num_classes]; the first forward pass checks that.
    Raises UsageError for code that is missing or of another pin, that fails, or makes no module with weights to prune.
    """
    path, name, maker = usercode.attribute(network)
    asked = f"num_classes={num_classes}, in_chans={in_chans}"
    try:
        module = maker(num_classes=num_classes, in_chans=in_chans)
    except Exception as error:
        raise UsageError(
            f"{name} of {path} fails with {asked} ({usercode.reason(error, path)}): it has to take both "
            "and return a torch.nn.Module"
        ) from error
    if not isinstance(module, nn.Module):
        raise UsageError(f"{name} of {path} returns {type(module).__name__}: it has to be a torch.nn.Module")
    _require_weights(module, name, path)
    for part in module.modules():  # as of timm's networks: draws of the global generator could not be repeated
        if isinstance(part, _DropoutNd):
            part.p = 0.0
        for rate in ("drop_prob", "drop_rate"):
            if isinstance(getattr(part, rate, None), float):
                setattr(part, rate, 0.0)
    _check_first_output(module, name, path, num_classes)
    return module


def _require_weights(module: nn.Module, name: str, path: Path) -> None:
    require_parameters(module, f"{name} of {path}")
    try:
        count = layout_of(module).num_prunable
    except (RuntimeError, ValueError) as error:  # parameters without a shape: lazy modules
        raise UsageError(
            f"{name} of {path} has parameters that cannot be laid out ({usercode.reason(error, path)}): "
            "give every layer its size"
        ) from error
    if not count:
        raise UsageError(
            f"{name} of {path} has no weights to prune: it needs an nn.Conv2d or an nn.Linear that is trained"
        )


def _check_first_output(module: nn.Module, name: str, path: Path, num_classes: int) -> None:
    def check(_, given: tuple, logits) -> None:
        handle.remove()
        found, wanted = getattr(logits, "shape", type(logits).__name__), (len(given[0]), num_classes)
        if found != wanted:
            shown = f"shape {tuple(found)}" if isinstance(found, tuple) else found
            raise UsageError(
                f"{name} of {path} gives {shown} for {wanted[0]} image(s): it has to give logits of shape {wanted}"
            )

    handle = module.register_forward_hook(check)
