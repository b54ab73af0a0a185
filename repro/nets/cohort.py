"""R networks of one architecture advanced together, by one of several engines behind one interface.

``fused`` builds the R networks side by side (grouped convolutions, batch norm over R*C channels, a batched head);
``sparse`` is the same with convolutions that skip pruned weights, for narrow networks on a CPU (`repro.nets.kernels`);
``serial`` keeps R ordinary modules and takes them one after the other at each step. ``graph`` is serial and
``fused-graph`` is fused, but with steps that a GPU replays from static buffers without the host
(`repro.train.stepper`). All hold the numbers of the cohort in the same flat buffers, so the masks and the checkpoints
are the same code, and what one replica computes does not depend on who sits beside it.
"""

import sys
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from repro.errors import UsageError
from repro.nets.build import Layout, create, fusible, layout_of
from repro.nets.update import direction

ENGINES = ("auto", "graph", "fused-graph", "fused", "sparse", "serial")
EAGER = {"graph": "serial", "fused-graph": "fused"}
"""What the engines with static steps are compared with, and what they fall back to."""
CUDA_ENGINE = "graph"  # the choice of ``auto`` on a GPU: expected to be the fastest, not measured yet
# Widths up to which an engine was the fastest on one CPU core at every density and image size tried (README,
# performance). At width 8 the sparse engine is slower than serial only for dense networks on 32x32 images.
SPARSE_WIDTH = 4
FUSED_WIDTH = 8


def choose_engine(engine: str, network: str, *, replicas: int, device: torch.device, precision: str = "fp32") -> str:
    """The engine for ``engine``, which may be 'auto'.

    Raises UsageError for an engine that this network, device or precision cannot have.
    """
    if engine in ("fused", "fused-graph", "sparse") and not fusible(network):
        other = "graph" if engine == "fused-graph" else "serial"
        raise UsageError(f"network {network!r} cannot be {engine} (only cifar_resnet… can): use --engine {other}")
    if engine == "sparse" and (device.type != "cpu" or precision == "bf16"):
        raise UsageError(f"--engine sparse needs a CPU and fp32, not {device.type} and {precision}: use --engine auto")
    if engine != "auto":
        return engine
    if device.type == "cuda":
        return CUDA_ENGINE
    if not fusible(network):
        return "serial"
    width = create(network, num_classes=2, in_chans=1).conv.out_channels
    if width <= SPARSE_WIDTH and precision != "bf16":
        return "sparse"
    return "fused" if width <= FUSED_WIDTH and replicas > 1 else "serial"


class Cohort:
    """R networks in stacked flat buffers, with masked SGD.

    Arguments:
        network: name for `repro.nets.create`.
        replicas: R.
        engine: 'graph', 'fused-graph', 'fused', 'sparse' or 'serial'.
        precision: 'fp32', 'bf16' (autocast; weights stay float32) or 'fp64' (tests).

    ``used`` holds the engines it was trained with, and ``too_large`` says that it did not fit into the memory.
    """

    def __init__(self, network: str, *, replicas: int, num_classes: int, in_chans: int, engine: str,
                 device: torch.device, precision: str = "fp32"):  # fmt: skip
        self.replicas, self.engine, self.device, self.precision = replicas, engine, device, precision
        self.dtype = torch.float64 if precision == "fp64" else torch.float32
        self.network, self.num_classes = network, num_classes
        self._build = dict(num_classes=num_classes, in_chans=in_chans)
        self.used: set[str] = set()
        self.too_large = False
        build = self._build
        single = create(network, **build)
        self.layout: Layout = layout_of(single)
        self.weights = torch.zeros(replicas * self.layout.num_parameters, dtype=self.dtype, device=device)
        self.gradients = torch.zeros_like(self.weights)
        self.momentum = torch.zeros_like(self.weights)
        self.buffers = torch.zeros(
            replicas * (self.layout.size - self.layout.num_parameters), dtype=self.dtype, device=device
        )
        self.mask: Tensor | None = None  # over the prunable weights, stacked as they are; None is dense
        if self.static:
            self.mask = torch.ones_like(self._prunable())
        self.together = engine in ("fused", "fused-graph", "sparse")
        if self.together:
            self.modules = [create(network, **build, replicas=replicas, batch_innermost=engine == "sparse")]
        else:
            self.modules = [single] + [create(network, **build) for _ in range(replicas - 1)]
        for module in self.modules:
            module.to(device=device, dtype=self.dtype)
            for part in module.modules():
                if isinstance(part, _BatchNorm) and part.momentum is not None:
                    part.num_batches_tracked = None  # nobody reads it, and counting is a kernel for each norm and step
        self._attach()
        self._programs: dict = {}
        self.stepper = None  # of the engines with static steps: `repro.train.stepper.stepper_of`

    @property
    def static(self) -> bool:
        """Whether it is trained by static steps (`repro.train.stepper`) rather than by `step`."""
        return self.engine in EAGER

    def twin(self) -> "Cohort":
        """A cohort with the same numbers, trained one network at a time, to compare with. Draws no random number."""
        with torch.random.fork_rng(devices=[]):  # modules initialise themselves, from the global generator
            twin = Cohort(self.network, replicas=self.replicas, **self._build, engine="serial", device=self.device,
                          precision=self.precision)  # fmt: skip
        for name in ("weights", "momentum", "buffers"):
            getattr(twin, name).copy_(getattr(self, name))
        twin.mask = None if self.mask is None else self.mask.clone()
        twin.train()
        return twin

    def fall_back(self, reason: str) -> None:
        """Give static steps up, with a warning, and go on from the same numbers with the engine they stand for."""
        print(f"warning: {reason}: training goes on with engine {EAGER[self.engine]} instead of {self.engine}",
              file=sys.stderr)  # fmt: skip
        self.engine, self.stepper = EAGER[self.engine], None

    def release(self) -> None:
        """Let go of the memory that training takes, because it was too much."""
        self.too_large, self.stepper, self.logits = True, None, None
        self._programs.clear()

    # --- numbers in and out -------------------------------------------------------------------------------------

    def _blocks(self, flat: Tensor, *, buffers: bool = False) -> Iterable[tuple[str, Tensor]]:
        """(name, view [R, n]) of every tensor in one of the flat buffers."""
        start = self.layout.num_parameters if buffers else 0
        for entry in self.layout.buffers if buffers else self.layout.parameters:
            begin = self.replicas * (entry.offset - start)
            yield entry, flat[begin : begin + self.replicas * entry.size].view(self.replicas, entry.size)

    def _attach(self) -> None:
        """Make every parameter, gradient and float buffer of the modules a view of the flat buffers."""
        stacked = {entry.name: (entry, block, None) for entry, block in self._blocks(self.buffers, buffers=True)}
        for (entry, block), (_, gradient) in zip(self._blocks(self.weights), self._blocks(self.gradients)):
            stacked[entry.name] = (entry, block, gradient)
        for position, module in enumerate(self.modules):
            for name, tensor in [*module.named_parameters(), *module.named_buffers()]:
                if name not in stacked:
                    continue  # integer buffers (the batch counter) carry no state we use
                entry, block, gradient = stacked[name]
                view = block if self.together else block[position]
                tensor.data = view.view(tensor.shape)
                if gradient is not None:
                    tensor.grad = (gradient if self.together else gradient[position]).view(tensor.shape)

    def load(self, vectors: Tensor) -> None:
        """Set all networks from ``vectors`` [R, layout.size] (parameters, then float buffers)."""
        self._scatter(self.weights, vectors[:, : self.layout.num_parameters])
        self._scatter(self.buffers, vectors[:, self.layout.num_parameters :], buffers=True)

    def vectors(self) -> Tensor:
        """A copy of all networks' numbers, [R, layout.size]."""
        return torch.cat([self.by_replica(self.weights), self.by_replica(self.buffers, buffers=True)], 1)

    def load_momentum(self, vectors: Tensor) -> None:
        """Set the momentum from [R, layout.num_parameters]."""
        self._scatter(self.momentum, vectors)

    def momentum_vectors(self) -> Tensor:
        """A copy of the momentum, [R, layout.num_parameters]."""
        return self.by_replica(self.momentum)

    def load_masks(self, masks: Tensor | None) -> None:
        """Set the masks from bool [R, layout.num_prunable] and apply them; None is dense."""
        if masks is None or bool(masks.all()):
            self.mask = self.mask.fill_(1) if self.static else None
            return
        full = torch.ones_like(self.weights)
        padding = masks.new_ones(self.replicas, self.layout.num_parameters - self.layout.num_prunable)
        self._scatter(full, torch.cat([masks, padding], 1))
        mask = full[: self.replicas * self.layout.num_prunable]
        self.mask = self.mask.copy_(mask) if self.static else mask.clone()  # a CUDA graph reads from one place
        self._prunable().mul_(self.mask)

    def _prunable(self) -> Tensor:
        return self.weights[: self.replicas * self.layout.num_prunable]

    def _scatter(self, flat: Tensor, vectors: Tensor, *, buffers: bool = False) -> None:
        start = self.layout.num_parameters if buffers else 0
        for entry, block in self._blocks(flat, buffers=buffers):
            block.copy_(vectors[:, entry.offset - start : entry.offset - start + entry.size])

    def by_replica(self, flat: Tensor, *, buffers: bool = False) -> Tensor:
        """A copy of numbers laid out like ``weights`` (or like ``buffers``) with a row for each replica, [R, …]."""
        blocks = [block for _, block in self._blocks(flat, buffers=buffers)]
        return torch.cat(blocks, 1) if blocks else flat.new_zeros(self.replicas, 0)

    # --- forward, step ------------------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> None:
        """Batch norm by batch statistics (True) or by running statistics (False)."""
        for module in self.modules:
            module.train(mode)

    def forward(self, images: Tensor) -> Tensor:
        """Logits [R, B, K] of normalised images [R, B, H, W, C]; each replica sees its own images."""
        with self._autocast():
            if self.together:
                r, b, h, w, c = images.shape
                if self.engine == "sparse":
                    side_by_side = images.permute(0, 4, 2, 3, 1).reshape(1, r * c, h, w * b)
                else:
                    side_by_side = images.permute(1, 2, 3, 0, 4).reshape(b, h, w, r * c).permute(0, 3, 1, 2)
                return self.modules[0](side_by_side).view(b, r, -1).transpose(0, 1)
        return torch.stack([self.forward_one(module, x) for module, x in zip(self.modules, images)])

    def forward_one(self, module: nn.Module, images: Tensor) -> Tensor:
        """Logits [B, K] of one replica's images [B, H, W, C]."""
        with self._autocast():
            return module(images.permute(0, 3, 1, 2))

    def _autocast(self) -> torch.autocast:
        # weights that were cast outside a CUDA graph would be stale inside: static steps cannot have autocast's cache
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.precision == "bf16",
                              cache_enabled=not self.static)  # fmt: skip

    def backward(self, images: Tensor, labels: Tensor) -> Tensor:
        """Add every replica's gradients, keep ``logits`` [R, B, K]; returns the mean cross-entropy of each, [R], detached."""
        if not self.together:  # one graph at a time: only one network's activations are kept
            parts, seen = [], []
            for module, x, y in zip(self.modules, images, labels):
                logits = self.forward_one(module, x)
                loss = F.cross_entropy(logits.to(self.dtype), y)
                loss.backward()
                parts.append(loss.detach())
                seen.append(logits.detach())
            self.logits = torch.stack(seen)
            return torch.stack(parts)
        if self.engine == "sparse":
            losses, self.logits = self._program(images.shape[1], images.shape[2]).step(images, labels)
            return losses
        logits = self.forward(images)
        self.logits = logits.detach()
        each = F.cross_entropy(logits.flatten(0, 1).to(self.dtype), labels.flatten(), reduction="none")
        losses = each.view(labels.shape).mean(1)
        losses.sum().backward()
        return losses.detach()

    def _program(self, batch: int, side: int):
        """The sparse engine's training step for batches of this size; its buffers are made once."""
        if (batch, side) not in self._programs:
            from repro.nets.program import Program

            self._programs[batch, side] = Program(self.modules[0], batch, side)
        return self._programs[batch, side]

    def step(self, images: Tensor, labels: Tensor, learning_rates: list[float], *, momentum: float,
             weight_decay: float, nesterov: bool = False) -> Tensor:  # fmt: skip
        """One masked SGD step of every replica; returns its losses [R], detached.

        Weight decay is coupled and covers all parameters, dampening is 0 (protocol section 1). Pruned weights are set
        back to zero after the update, so neither momentum nor weight decay can revive them.
        """
        self.gradients.zero_()
        losses = self.backward(images, labels)
        with torch.no_grad():
            update = direction(self.weights, self.gradients, self.momentum, factor=momentum,
                               weight_decay=weight_decay, nesterov=nesterov)  # fmt: skip
            if len(set(learning_rates)) == 1:
                self.weights.add_(update, alpha=-learning_rates[0])
            else:
                rates = torch.tensor(learning_rates, dtype=self.dtype, device=self.device).neg_().unsqueeze(1)
                for (_, block), (_, change) in zip(self._blocks(self.weights), self._blocks(update)):
                    block.addcmul_(change, rates)
            if self.mask is not None:
                self._prunable().mul_(self.mask)
        return losses
