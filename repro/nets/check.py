"""Checks of a network before its first step: whether it can be trained, resumed and grown with the same result.

All of a network's state is its parameters and floating-point buffers, and all randomness is addressed. Anything else
that a network keeps or draws would silently change a resumed run, so it is refused.
"""

import copy
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize

from repro.errors import UsageError
from repro.nets.layout import freeze, layout_of
from repro.nets.resnet import CifarResNet

Make = Callable[[], nn.Module]
_WEIGHTED = (nn.modules.conv._ConvNd, nn.Linear)


def require_trainable(make: Make, name: str, image_shape: tuple[int, int, int], num_classes: int) -> list[str]:
    """Warnings about a network that can be trained.

    Arguments:
        make: constructs the network; called twice.
        name: of the network, for messages.
        image_shape: (channels, height, width) of its images.

    Raises UsageError, in one sentence, for a network that cannot be trained, or not with the same result again.
    """
    with undisturbed():
        network = make()
        if type(network) is CifarResNet and all(p.requires_grad for p in network.parameters()):
            return []  # known to pass
        require_parameters(network, name)
        if bare := [key for key, tensor in network.named_parameters() if tensor.is_meta]:
            raise UsageError(f"{name} has no numbers for {bare[0]} (it is on the meta device): construct it on the CPU")
        network, other = network.float(), make().float()
        _require_plain_weights(network, name)
        _require_momentum(network, name)
        images = torch.rand(2, *image_shape)
        _require_one_construction(network, other, name, images)
        _require_logits(network, name, images, num_classes)
        _require_no_draws(network, name, images)
        _require_same_counters(network, name, images)
        freeze(network, idle_parameters(network, image_shape))
        layout = layout_of(network)
    if not layout.num_prunable:
        raise UsageError(
            f"{name} has no weights to prune: each one of its Conv2d and Linear layers is frozen, or takes no part in "
            "its logits"
        )
    lines = []
    if idle := [entry.name for entry in layout.idle]:
        lines.append(
            f"{len(idle)} parameters of {name} are frozen or take no part in its logits: they stay as they are "
            f"created, neither trained nor pruned: {_listed(idle)}"
        )
    weights = [entry for entry in layout.parameters if len(entry.shape) > 1 and entry not in layout.idle]
    if dense := [entry for entry in weights if entry not in layout.prunable]:
        share = sum(entry.size for entry in dense) / sum(entry.size for entry in weights)
        lines.append(
            f"{100 * share:.1f} % of the weights of {name} stay dense, since only those of Conv2d and Linear layers "
            f"are pruned: {_listed([entry.name for entry in dense])}"
        )
    return lines


def require_parameters(network: nn.Module, name: str) -> None:
    """Raises UsageError for parameters or buffers that no flat vector of real numbers holds."""
    for key, tensor in [*network.named_parameters(), *network.named_buffers()]:
        kind = str(tensor.dtype).removeprefix("torch.")
        if tensor.is_complex() or (isinstance(tensor, nn.Parameter) and not tensor.is_floating_point()):
            what = "parameter" if isinstance(tensor, nn.Parameter) else "buffer"
            raise UsageError(f"{name} has the {what} {key} of type {kind}: only real floating-point ones are trained")
        if tensor.layout is not torch.strided:
            raise UsageError(f"{name} has the sparse tensor {key}: make it dense, pruning has masks of its own")


def require_batches(
    make: Make,
    name: str,
    image_shape: tuple[int, int, int],
    *,
    size: int,
    batch_size: int,
    drop_last: bool,
    advice: str,
) -> None:
    """Raises UsageError where passes over ``size`` images have a batch of one image that the network cannot train on.

    Batch norm has no variance of one value a channel.
    """
    if batch_size > 1 and (drop_last or size % batch_size != 1):
        return
    with undisturbed():
        try:
            make().train()(torch.rand(1, *image_shape))
        except ValueError:
            last = "every batch" if batch_size == 1 else f"the last batch of {size} images in batches of {batch_size}"
            raise UsageError(
                f"{last} is one image, and batch norm of {name} in training mode needs two values a channel: give "
                f"{advice}"
            ) from None


def idle_parameters(network: nn.Module, image_shape: tuple[int, int, int]) -> dict[str, str]:
    """The parameters that `torch.optim.SGD` would leave alone: name -> 'frozen' or 'unused'.

    Frozen: ``requires_grad`` is False. Unused: it takes no part in a training forward pass, so it has no gradient.
    """
    frozen = {key: "frozen" for key, tensor in network.named_parameters() if not tensor.requires_grad}
    with undisturbed():
        probe = copy.deepcopy(network).float().train()
        probe.zero_grad(set_to_none=True)
        with torch.enable_grad():
            logits = probe(torch.rand(2, *image_shape))
            if logits.requires_grad:
                logits.sum().backward()
    return frozen | {
        key: "unused" for key, tensor in probe.named_parameters() if tensor.requires_grad and tensor.grad is None
    }


# --- one check each ---------------------------------------------------------------------------------------------------


def _require_plain_weights(network: nn.Module, name: str) -> None:
    for key, module in network.named_modules():
        computed = isinstance(module, _WEIGHTED) and "weight" not in module._parameters
        if parametrize.is_parametrized(module) or computed:
            raise UsageError(
                f"{name} computes weights of {key or 'its layer'} from other parameters (weight norm, spectral norm, "
                "pruning): a mask on them would mean nothing, so remove the parametrisation"
            )


def _require_momentum(network: nn.Module, name: str) -> None:
    for key, module in network.named_modules():
        if isinstance(module, _BatchNorm) and module.track_running_stats and module.momentum is None:
            raise UsageError(
                f"{name} has batch norm {key or 'layer'} with momentum=None, whose count of batches is not kept: give "
                "it a momentum, 0.1 is usual"
            )


def _require_one_construction(network: nn.Module, other: nn.Module, name: str, images: Tensor) -> None:
    """Whether two constructions with equal numbers are one network."""
    for what in ("named_parameters", "named_buffers"):
        ours, theirs = (dict(getattr(each, what)()) for each in (network, other))
        if {key: value.shape for key, value in ours.items()} != {key: value.shape for key, value in theirs.items()}:
            raise UsageError(f"{name} has other layers each time it is constructed: fix the seed they are drawn by")
        for key, value in theirs.items():
            if value.is_floating_point():
                with torch.no_grad():
                    value.copy_(ours[key])
            elif not torch.equal(value, ours[key]):
                raise UsageError(
                    f"{name} draws its buffer {key} anew each time it is constructed, and buffers of type "
                    f"{str(value.dtype).removeprefix('torch.')} are not kept: draw it with a fixed seed"
                )
    network.eval(), other.eval()
    with torch.no_grad():
        if _moves_random_state(network, name, images):
            raise UsageError(f"{name} draws random numbers when it is measured: switch that off in evaluation mode")
        ours, theirs = (_forward(each, name, images) for each in (network, other))
        if not torch.allclose(ours, theirs, rtol=1e-4, atol=1e-5, equal_nan=True):
            raise UsageError(
                f"two constructions of {name} with equal parameters and buffers give other logits: it draws something "
                "else when it is constructed, fix the seed of that"
            )


def _require_no_draws(network: nn.Module, name: str, images: Tensor) -> None:
    """Whether a training forward pass draws random numbers, which neither checkpoints nor artifacts keep."""
    network.train()
    with torch.no_grad():
        if _moves_random_state(network, name, images):
            key = _drawing(network, images)
            place = f" in {key} ({type(network.get_submodule(key)).__name__})" if key else ""
            raise UsageError(
                f"{name} draws random numbers while it is trained{place}, which could not be repeated: set its "
                "dropout, or what else it draws, to 0"
            )


def _forward(network: nn.Module, name: str, images: Tensor) -> Tensor:
    try:
        return network(images)
    except UsageError:  # from the check of a user's network's first output
        raise
    except Exception as error:  # a network may raise anything
        raise _untrainable(name, images, error) from error


def _untrainable(name: str, images: Tensor, error: Exception) -> UsageError:
    reason = " ".join(str(error).split()).rstrip(".")
    size = " x ".join(map(str, images.shape[2:]))
    return UsageError(f"{name} cannot be trained on {size} images ({reason}): choose another --network, or mend it")


def _require_logits(network: nn.Module, name: str, images: Tensor, num_classes: int) -> None:
    """Whether a training step gives logits, and gradients."""
    network.train()
    with torch.enable_grad():
        logits, wanted = _forward(network, name, images), (len(images), num_classes)
        if getattr(logits, "shape", None) != wanted:
            found = f"shape {tuple(logits.shape)}" if isinstance(logits, Tensor) else f"a {type(logits).__name__}"
            raise UsageError(
                f"{name} gives {found} for {len(images)} images while it is trained: it has to give logits of shape "
                f"{wanted}, as in evaluation mode (no auxiliary outputs)"
            )
        if not logits.requires_grad:
            raise UsageError(f"{name} has no parameter to train: each is frozen, or takes no part in its logits")
        try:
            F.cross_entropy(logits, torch.zeros(len(images), dtype=torch.int64)).backward()
        except Exception as error:  # a network may raise anything
            raise _untrainable(name, images, error) from error


def _require_same_counters(network: nn.Module, name: str, images: Tensor) -> None:
    """Whether a training forward pass changes no state that is not kept."""
    before = {key: value.clone() for key, value in _counters(network)}
    with torch.no_grad():
        network.train()(images)
    for key, value in _counters(network):
        if not torch.equal(value, before[key]):
            raise UsageError(
                f"{name} changes its buffer {key} while it is trained, and buffers of type "
                f"{str(value.dtype).removeprefix('torch.')} are not kept: make it a floating-point one"
            )


def _counters(network: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """Buffers that hold no floating-point numbers, without batch norm's count, which has no effect."""
    for place, module in network.named_modules():
        for key, value in module.named_buffers(prefix=place, recurse=False):
            unread = isinstance(module, _BatchNorm) and key.rpartition(".")[2] == "num_batches_tracked"
            if not value.is_floating_point() and not unread:
                yield key, value


# --- random state -----------------------------------------------------------------------------------------------------


@contextmanager
def undisturbed(seed: int | None = None) -> Iterator[None]:
    """Leaves the global random states, of PyTorch, NumPy and Python, as they were.

    seed: what they are seeded with inside; None leaves them at what they were.
    """
    plain, numpy = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng(devices=[]):
            if seed is not None:
                torch.manual_seed(seed)
                random.seed(seed)
                np.random.seed(seed % 2**32)
            yield
    finally:
        random.setstate(plain)
        np.random.set_state(numpy)


def _random_state() -> tuple:
    numpy = np.random.get_state()
    return torch.get_rng_state().numpy().tobytes(), random.getstate(), numpy[1].tobytes(), numpy[2:]


def _moves_random_state(network: nn.Module, name: str, images: Tensor) -> bool:
    before = _random_state()
    _forward(network, name, images)
    return _random_state() != before


def _drawing(network: nn.Module, images: Tensor) -> str:
    """The innermost module whose forward pass first draws random numbers; '' where that is the whole network."""
    before: dict[nn.Module, tuple] = {}
    found: list[nn.Module] = []

    def enter(module: nn.Module, _) -> None:
        before[module] = _random_state()

    def leave(module: nn.Module, *_) -> None:
        if not found and before.get(module) != _random_state():
            found.append(module)

    modules = dict(network.named_modules())
    handles = [each.register_forward_pre_hook(enter) for each in modules.values()]
    handles += [each.register_forward_hook(leave) for each in modules.values()]
    network(images)
    for handle in handles:
        handle.remove()
    return next((key for key, module in modules.items() if found and module is found[0]), "")


def _listed(names: list[str]) -> str:
    return ", ".join(names[:3] + ["…"] * (len(names) > 3))
