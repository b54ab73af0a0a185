"""A network's layers read from its own code: `torch.fx` traces a forward pass, and each node becomes a layer."""

import torch
from torch import fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from repro.engines.sparse.layers import MAX, MEAN, Convolution, Join, Layers, Pool, Term

POOLING = "kernel_size stride padding ceil_mode return_indices dilation count_include_pad divisor_override"
"""Options of a pool, as a function, that are understood."""


class Unsupported(Exception):
    """The network holds something that is no layer here; the message is a phrase that names it."""


class _Tracer(fx.Tracer):
    """Goes into modules down to PyTorch's own layers, and to what is made from one of them."""

    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        containers = (nn.Module, nn.Sequential, nn.ModuleList, nn.ModuleDict)
        return any(c.__module__.startswith("torch.nn.modules") and c not in containers for c in type(module).__mro__)


def trace(network: nn.Module, image_size: int, in_chans: int) -> fx.Graph:
    """The graph of a forward pass in training mode over square images; `shape` tells each result's.

    The network is left in training mode. Raises Unsupported for code that does not always do the same.
    """
    try:
        graph = _Tracer().trace(network.train())
    except Exception as error:  # a forward may do anything with a tensor that has no numbers
        raise Unsupported(f"a forward pass that depends on its images ({brief(error)})") from error
    parameter = next(network.parameters())
    images = torch.zeros(2, in_chans, image_size, image_size, dtype=parameter.dtype, device=parameter.device)
    with torch.no_grad():  # in evaluation mode, because running statistics must not move
        ShapeProp(fx.GraphModule(network.eval(), graph)).propagate(images)
    network.train()
    return graph


def shape(node: fx.Node) -> tuple[int, ...]:
    """The shape of a node's result, batch first."""
    return tuple(node.meta["tensor_meta"].shape)


def brief(error: Exception) -> str:
    """The beginning of a message, in one line."""
    return " ".join(str(error).split())[:120]


def read(network: nn.Module, image_size: int, in_chans: int) -> Layers:
    """The layers of a network for square images. Raises Unsupported, with a phrase that names the first obstacle."""
    was_training = network.training
    try:
        return _Reader(network, trace(network, image_size, in_chans)).layers
    except Unsupported:
        raise
    except Exception as error:  # a network may call anything in any way: what is not understood is not trained here
        raise Unsupported(f"code that is not understood ({brief(error)})") from error
    finally:
        network.train(was_training)


def _pair(value) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class _Reader:
    """Goes through the graph once. A node stands for an activation's number or, not made yet, for a list of terms."""

    def __init__(self, network: nn.Module, graph: fx.Graph):
        self.network = network
        self.modules = dict(network.named_modules())
        self.names = {id(p): name for name, p in network.named_parameters(remove_duplicate=False)}
        self.used: set[int] = set()
        self.layers = Layers()
        self.found: dict[fx.Node, int | list[Term]] = {}
        for node in graph.nodes:
            self._node(node)

    # --- nodes ----------------------------------------------------------------------------------------------

    def _node(self, node: fx.Node) -> None:
        if node.op == "placeholder":
            if self.layers.all:
                raise Unsupported(f"a second input ({node.target!r})")
            self.layers.all.append(Join(shape(node)[1:], [], False))
            self.found[node] = 0
            return
        if node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise Unsupported("more than one output")
            self.layers.output = self._activation(node.args[0])
            if self.layers.output == 0:
                raise Unsupported("no layer at all")
            return
        if node.op == "call_module":
            module = self.modules[node.target]
            name = type(module).__name__
            phrase = f"{'an' if name[0] in 'AEIOU' else 'a'} {name} ({node.target!r})"
            if not node.users:  # it may change something in place
                raise Unsupported(f"{phrase}, whose result nobody reads")
            if module._forward_hooks or module._forward_pre_hooks:
                raise Unsupported(f"{phrase} with hooks")
            result = self._module(node, module, phrase)
        elif node.op in ("call_function", "call_method"):
            name = node.target if isinstance(node.target, str) else node.target.__name__
            if name in ("size", "getattr") or (name == "getitem" and node.args[0] not in self.found):
                return  # shapes: what is made with them is checked by its own shape
            if not node.users:
                raise Unsupported(f"the function {name}, whose result nobody reads")
            result = self._function(node, name, f"the function {name}")
        else:
            raise Unsupported(f"a tensor of its own ({node.target!r})")
        if isinstance(result, list) and len(node.users) > 1:
            result = self._join(result, node, rectified=False)
        self.found[node] = result

    def _module(self, node: fx.Node, module: nn.Module, phrase: str) -> int | list[Term]:
        kind = type(module)  # a subclass may do anything
        if kind in (nn.Identity, nn.Flatten, nn.Dropout, nn.Dropout2d):
            if getattr(module, "p", 0.0):
                raise Unsupported(phrase)
            if kind is nn.Flatten:
                self._require_flat(node, phrase)
            return self.found[node.args[0]]
        if kind in (nn.Conv2d, nn.Linear):
            return self._convolution(node, module, phrase)
        if kind is nn.BatchNorm2d:
            return self._norm(node, module, phrase)
        if kind is nn.ReLU:
            return self._rectify(node, module.inplace, phrase)
        if kind is nn.MaxPool2d:
            if module.dilation not in (1, (1, 1)) or module.return_indices:
                raise Unsupported(phrase)
            return self._pool(node, MAX, module.kernel_size, module.stride, module.padding, phrase)
        if kind is nn.AvgPool2d:
            if module.divisor_override or (_pair(module.padding) != (0, 0) and not module.count_include_pad):
                raise Unsupported(phrase)
            return self._pool(node, MEAN, module.kernel_size, module.stride, module.padding, phrase)
        if kind is nn.AdaptiveAvgPool2d:
            return self._adaptive(node, phrase)
        raise Unsupported(phrase)

    def _function(self, node: fx.Node, name: str, phrase: str) -> int | list[Term]:
        source, arguments, options = node.args[0], node.args[1:], dict(node.kwargs)
        if name in ("relu", "relu_"):
            return self._rectify(node, name == "relu_" or bool(options.get("inplace") or arguments), phrase)
        if name in ("add", "add_", "iadd"):
            if options or not all(isinstance(a, fx.Node) for a in node.args):
                raise Unsupported(f"{phrase} with {options or 'a number'}")
            if name != "add":
                self._require_own(source, phrase)
            return self._sum(node, phrase)
        if name == "dropout" and not (options.get("p", arguments[0] if arguments else 0.5)):
            return self.found[source]
        if name in ("flatten", "view", "reshape"):
            self._require_flat(node, phrase)
            return self.found[source]
        if name == "mean" and set(_pair(options.get("dim", arguments[0] if arguments else ()))) in ({2, 3}, {-1, -2}):
            return self._adaptive(node, phrase)
        if name == "adaptive_avg_pool2d":
            return self._adaptive(node, phrase)
        if name in ("max_pool2d", "avg_pool2d") and options.keys() <= set(POOLING.split()):
            given = dict(zip(("kernel_size", "stride", "padding"), arguments)) | options
            if len(arguments) > 3 or given.get("dilation", 1) != 1 or given.get("divisor_override"):
                raise Unsupported(phrase)
            kernel, padding = given["kernel_size"], given.get("padding", 0)
            if name == "avg_pool2d" and _pair(padding) != (0, 0) and not given.get("count_include_pad", True):
                raise Unsupported(phrase)
            kind = MAX if name == "max_pool2d" else MEAN
            return self._pool(node, kind, kernel, given.get("stride") or kernel, padding, phrase)
        if name == "getitem":
            return self._subsampled(node, phrase)
        if name == "pad":
            return self._more_channels(node, phrase)
        raise Unsupported(phrase)

    # --- layers ---------------------------------------------------------------------------------------------

    def _add(self, layer) -> int:
        self.layers.all.append(layer)
        return len(self.layers.all) - 1

    def _activation(self, node: fx.Node) -> int:
        found = self.found[node]
        if isinstance(found, list):
            found = self.found[node] = self._join(found, node, rectified=False)
        return found

    def _join(self, terms: list[Term], node: fx.Node, *, rectified: bool) -> int:
        return self._add(Join(self.layers.all[terms[0].layer].shape, terms, rectified))

    def _terms(self, node: fx.Node) -> list[Term]:
        found = self.found[node]
        return found if isinstance(found, list) else [Term(found, False)]

    def _own(self, parameter: nn.Parameter | None, phrase: str) -> str:
        """The name of a parameter that no other layer has."""
        if parameter is None:
            return ""
        if id(parameter) in self.used or id(parameter) not in self.names:
            raise Unsupported(f"{phrase}, whose weights are used twice or made by other code")
        self.used.add(id(parameter))
        return self.names[id(parameter)]

    def _convolution(self, node: fx.Node, module: nn.Conv2d | nn.Linear, phrase: str) -> list[Term]:
        source = self._activation(node.args[0])
        height, width = self.layers.all[source].shape[1:]
        if isinstance(module, nn.Linear):
            if len(shape(node.args[0])) != 2:
                raise Unsupported(f"{phrase} that is applied to images")
            kernel, stride, padding = (height, width), (1, 1), (0, 0)
        else:
            if module.groups != 1 or module.padding_mode != "zeros" or _pair(module.dilation) != (1, 1):
                raise Unsupported(f"{phrase} with groups, dilation or another padding")
            if isinstance(module.padding, str):
                raise Unsupported(f"{phrase} with padding={module.padding!r}")
            kernel, stride, padding = module.kernel_size, module.stride, _pair(module.padding)
        channels, *size = shape(node)[1:]
        made = channels, *(size or (1, 1))
        names = self._own(module.weight, phrase), self._own(module.bias, phrase)
        layer = Convolution(node.target, source, made, kernel, stride, padding, *names)
        return [Term(self._add(layer), True)]

    def _norm(self, node: fx.Node, module: nn.BatchNorm2d, phrase: str) -> list[Term]:
        terms = self.found[node.args[0]]
        if not isinstance(terms, list) or len(terms) > 1 or self.layers.all[terms[0].layer].norm:
            raise Unsupported(f"{phrase} that does not follow a convolution")
        if not module.training:
            raise Unsupported(f"{phrase} that stays in evaluation mode")
        if not module.track_running_stats or module.momentum is None:
            raise Unsupported(f"{phrase} without running statistics of a fixed momentum")
        layer = self.layers.all[terms[0].layer]
        layer.norm = f"{node.target}."
        layer.gamma, layer.beta = self._own(module.weight, phrase), self._own(module.bias, phrase)
        layer.eps, layer.momentum = module.eps, module.momentum
        return terms

    def _rectify(self, node: fx.Node, inplace: bool, phrase: str) -> int:
        if inplace:
            self._require_own(node.args[0], phrase)
        return self._join(self._terms(node.args[0]), node, rectified=True)

    def _sum(self, node: fx.Node, phrase: str) -> list[Term]:
        sides = []
        for side in node.args:
            terms = self._terms(side)
            if len(terms) > 1:
                terms = [Term(self._activation(side), False)]
            sides += terms
        shapes = {self.layers.all[term.layer].shape for term in sides}
        if len(shapes) > 1 or len(sides) > 2:
            raise Unsupported(f"{phrase} of tensors of different shapes")
        if sides[0] == sides[1]:
            raise Unsupported(f"{phrase} of a tensor and itself")
        return sorted(sides, key=lambda term: not term.convolution)  # an X first

    def _pool(self, node: fx.Node, kind: int, kernel, stride, padding, phrase: str) -> int:
        source = self._activation(node.args[0])
        kernel, stride, padding = _pair(kernel), _pair(stride if stride else kernel), _pair(padding)
        made = shape(node)[1:]
        for size, out, k, s, p in zip(self.layers.all[source].shape[1:], made[1:], kernel, stride, padding):
            if (out - 1) * s + k > size + 2 * p:
                raise Unsupported(f"{phrase} whose last window leaves the image")
        return self._add(Pool(source, made, kind, kernel, stride, padding))

    def _adaptive(self, node: fx.Node, phrase: str) -> int:
        source = self._activation(node.args[0])
        channels, *size = self.layers.all[source].shape
        out = shape(node)[2:] or (1, 1)
        if any(n % k for n, k in zip(size, out)):
            raise Unsupported(f"{phrase} with windows of different sizes")
        kernel = tuple(n // k for n, k in zip(size, out))
        return self._add(Pool(source, (channels, *out), MEAN, kernel, kernel))

    def _subsampled(self, node: fx.Node, phrase: str) -> int:
        """x[:, :, ::2, ::2], the parameter-free shortcut's first half: windows of one pixel."""
        source, slices = self._activation(node.args[0]), node.args[1]
        whole = slice(None)
        if not isinstance(slices, tuple) or len(slices) != 4 or slices[:2] != (whole, whole):
            raise Unsupported(phrase)
        if any(not isinstance(s, slice) or s.start not in (None, 0) or s.stop is not None for s in slices):
            raise Unsupported(phrase)
        return self._add(Pool(source, shape(node)[1:], MEAN, stride=tuple(s.step or 1 for s in slices[2:])))

    def _more_channels(self, node: fx.Node, phrase: str) -> int:
        """Channels of zeros around those of an activation, the parameter-free shortcut's second half."""
        given = dict(zip(("input", "pad", "mode", "value"), node.args)) | node.kwargs
        pad = tuple(given["pad"])
        if len(pad) != 6 or any(pad[:4]) or min(pad) < 0 or given.get("mode", "constant") != "constant":
            raise Unsupported(phrase)
        if given.get("value"):
            raise Unsupported(phrase)
        return self._add(Pool(self._activation(node.args[0]), shape(node)[1:], MEAN, lead=pad[4]))

    def _require_flat(self, node: fx.Node, phrase: str) -> None:
        images, *sizes = shape(node.args[0])
        if shape(node) != (images, torch.Size(sizes).numel()):
            raise Unsupported(f"{phrase} to {len(shape(node))} dimensions")

    def _require_own(self, node: fx.Node, phrase: str) -> None:
        """Raises Unsupported for a change in place of a tensor that another node reads."""
        if len(node.users) > 1 or node.op == "placeholder":
            raise Unsupported(f"{phrase} that changes a tensor which is read elsewhere")
