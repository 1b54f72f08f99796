"""Memory of a training step, from the step itself taken on shapes: no weight is read, no product computed.

Weights become torch's fake tensors, which have a shape and no values; what the batch holds stays real, so that models
may ask where pictures stand and how long samples are. Every tensor that forward pass, backward pass and optimiser make
is counted while it lives, as an allocator would. So what is found is what the code of any model, connector, adapter or
loss does, and no table of formulas. Choices that hang on values (which expert a token meets) are taken in turn.
"""

from __future__ import annotations

import logging
import weakref
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

from mmtrain.components import module_aliases

ATEN = torch.ops.aten
LARGE = 1 << 16
"""Values of a buffer from which on it is a shape alone too; smaller ones (frequencies, position numbers) are read."""
LOSS = "head"
"""The part of what no module of another makes: the loss and its logits."""
CASTS = "casts"
"""The part of weights' copies in another type, which autocast makes and keeps."""
CHOOSING = {ATEN.topk: 1, ATEN.sort: 1, ATEN.max: 1, ATEN.argsort: 0, ATEN.multinomial: 0}
"""Operations that answer places, and which of their results these are. Each place is taken in turn; the largest value
of all (argmax) is the second, so that of a table of pairs it is no pair of a thing and itself."""
BY_MASK = (ATEN.index, ATEN.index_put, ATEN.index_put_, ATEN._index_put_impl_, ATEN._unsafe_index)


@dataclass(slots=True)
class Ledger:
    """Bytes that live, by the part that made them, and what they were when they were the most."""

    live: dict[str, int] = field(default_factory=dict)
    total: int = 0
    peak: int = 0

    def add(self, part: str, size: int) -> None:
        self.live[part] = self.live.get(part, 0) + size
        self.total += size
        self.peak = max(self.peak, self.total)


@dataclass(frozen=True, slots=True, kw_only=True)
class StepMemory:
    """Bytes beside weights, of one forward and backward pass and one move of the optimiser."""

    kept: Mapping[str, int]
    """What lives between forward and backward pass, by the part whose modules made it."""
    peak: int
    """The most that lives at once in the two, gradients among it as they come."""
    state: int
    """What the optimiser keeps from step to step."""
    moving: int
    """What it takes besides while it moves the weights."""


class Shapes(TorchDispatchMode):
    """Operations on fake tensors stay fake, all others are done; the results of both are counted."""

    def __init__(self) -> None:
        super().__init__()
        self.fake = FakeTensorMode(allow_non_fake_inputs=True)
        self.ledger = Ledger()
        self.parts: list[str] = [LOSS]
        self.weights: set[int] = set()
        self._known: dict[int, Any] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.namespace == "prim":  # asks for a tensor's device, which it does more often than for anything else
            return func(*args, **kwargs)
        given = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        if any(isinstance(x, FakeTensor) for x in given):
            result = self._on_shapes(func, args, kwargs)
        else:
            result = func(*args, **kwargs)
        cast = func.overloadpacket == ATEN._to_copy and _storage(given[0]) in self.weights
        for x in tree_leaves(result):
            if isinstance(x, torch.Tensor):
                self._count(x, CASTS if cast else self.parts[-1])
        if func.overloadpacket == ATEN.convolution_backward:  # the one kernel whose own memory shows: weights in blocks
            size = given[2].untyped_storage().nbytes()
            self.ledger.add(self.parts[-1], size)
            self.ledger.add(self.parts[-1], -size)
        return result

    def leave_out(self, x: torch.Tensor, *, weight: bool = False) -> None:
        """Do not count a tensor, which was there before."""
        self._known[_storage(x)] = x
        if weight:
            self.weights.add(_storage(x))

    def _count(self, x: torch.Tensor, part: str) -> None:
        key, storage = _storage(x), x.untyped_storage()
        if key in self._known:
            return
        size = storage.nbytes()
        self._known[key] = None
        self.ledger.add(part, size)

        def gone() -> None:
            self._known.pop(key, None)
            self.ledger.add(part, -size)

        weakref.finalize(storage, gone)

    def _on_shapes(self, func: Any, args: Any, kwargs: Any) -> Any:
        packet = func.overloadpacket
        if packet in BY_MASK and not any(isinstance(at, FakeTensor) for at in args[1]):
            args = (args[0], _numbered(args[1]), *args[2:])  # how many places a mask names is known: it is real
        elif packet == ATEN.masked_select and not isinstance(args[1], FakeTensor):
            return args[0].new_empty(int(args[1].expand(args[0].shape).sum()))
        elif packet == ATEN.repeat_interleave and not isinstance(args[-1], FakeTensor):
            kwargs = {**kwargs, "output_size": int(args[-1].sum())}
        elif packet == ATEN._grouped_mm:  # its own rule of shapes refuses float32, which it takes
            ends = kwargs.get("offs", args[2] if len(args) > 2 else None)
            return args[0].new_empty(_grouped(args[0], args[1], ends))
        elif packet == ATEN.ne and not isinstance(args[1], torch.Tensor):
            return torch.ones(args[0].shape, dtype=torch.bool)  # nothing is just 0
        changed = args[0] if func._schema.is_mutable and args and isinstance(args[0], torch.Tensor) else None
        args, kwargs = tree_map_only(torch.Tensor, self._faked, (args, kwargs))
        result = func(*args, **kwargs)
        if changed is not None and not isinstance(changed, FakeTensor) and isinstance(result, torch.Tensor):
            return changed  # a real tensor that is written to stays real, and what it is
        if packet == ATEN.argmax:
            return torch.ones(result.shape, dtype=torch.long)
        if packet in CHOOSING and not func._schema.is_mutable:
            return _chosen(result, CHOOSING[packet], args)
        return result

    def _faked(self, x: torch.Tensor) -> torch.Tensor:
        return x if isinstance(x, FakeTensor) else self.fake.from_tensor(x)


def _storage(x: torch.Tensor) -> int:
    return int(x.untyped_storage()._cdata)


def _numbered(indices: Any) -> list[Any]:
    """Places by number instead of by mask."""
    found: list[Any] = []
    for at in indices:
        masks = at is not None and at.dtype in (torch.bool, torch.uint8)
        found.extend(torch.nonzero(at, as_tuple=True) if masks else [at])
    return found


def _grouped(a: torch.Tensor, b: torch.Tensor, ends: torch.Tensor | None) -> tuple[int, ...]:
    """The shape of torch's `_grouped_mm`."""
    if a.ndim == 2 and b.ndim == 2:
        assert ends is not None
        return (len(ends), a.shape[0], b.shape[1])
    if a.ndim == 3 and b.ndim == 3:
        return (*a.shape[:2], b.shape[2])
    return (a.shape[-2], b.shape[-1])


def _chosen(result: Any, number: int, args: Any) -> Any:
    """Real places in a fake result: each in turn."""
    places = result if isinstance(result, torch.Tensor) else result[number]
    if places.dtype != torch.long:  # the largest value of a whole tensor
        return result
    sizes = args[0].shape
    dims = [each for each in args[1:] if isinstance(each, int) and not isinstance(each, bool)]
    most = sizes[dims[-1]] if dims and -len(sizes) <= dims[-1] < len(sizes) and len(dims) > 1 else sizes[-1]
    turns = (torch.arange(places.numel()) % max(1, most)).view(places.shape)
    return turns if isinstance(result, torch.Tensor) else (*result[:number], turns, *result[number + 1 :])


@contextmanager
def without_values(model: torch.nn.Module, shapes: Shapes) -> Iterator[None]:
    """Inside, the parameters of a model and its large buffers are fake; afterwards they are its own again."""
    made: dict[int, Any] = {}
    own: list[tuple[dict[str, Any], str, Any]] = []
    for module in model.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is None or (held is module._buffers and tensor.numel() < LARGE):
                    continue
                own.append((held, name, tensor))
                if id(tensor) not in made:
                    made[id(tensor)] = shapes.fake.from_tensor(tensor)
                    shapes.leave_out(made[id(tensor)], weight=held is module._parameters)
                held[name] = made[id(tensor)]
    try:
        yield
    finally:
        for held, name, tensor in own:
            held[name] = tensor


@contextmanager
def told_apart(model: torch.nn.Module, shapes: Shapes) -> Iterator[None]:
    """Inside, what a module makes is counted to its part (vision, audio, connector, fusion, language, head)."""
    handles = []
    aliases = {"": LOSS, **module_aliases(model)}
    for name, module in model.named_modules():
        part = aliases[name].split(".")[
            0
        ]  # of the innermost, for parts call each other: layers of a fusion, from within

        def enter(*_: Any, part: str = part) -> None:
            shapes.parts.append(part)

        def leave(*_: Any) -> None:
            shapes.parts.pop()

        handles += [module.register_forward_pre_hook(enter), module.register_forward_hook(leave, always_call=True)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def measure(
    model: torch.nn.Module,
    batch: Mapping[str, Any],
    loss: Callable[[], torch.Tensor],
    optimizer: Callable[[], Any] | None = None,
    *,
    passes: int = 1,
) -> StepMemory:
    """What a step takes in which `loss` is computed of `batch` and differentiated, `passes` times, before `optimizer`
    (which makes one over the model's parameters; None leaves it out) moves the weights.

    With several passes the peak is that of a later one, beside whole gradients, which are not in it. The model is left
    as it was. Raises what torch raises for a step that hangs on values that are not there.
    """
    shapes = Shapes()
    for tensor in batch.values():
        if isinstance(tensor, torch.Tensor):
            shapes.leave_out(tensor)
    quiet = logging.getLogger("torch._subclasses.fake_tensor")
    level = quiet.level
    quiet.setLevel(logging.CRITICAL)
    try:
        with without_values(model, shapes), told_apart(model, shapes):
            weights = [parameter for parameter in model.parameters() if parameter.requires_grad]
            if passes > 1:
                for weight in weights:
                    weight.grad = torch.empty_like(weight)
                    shapes.leave_out(weight.grad)
            with shapes:
                value = loss()
                kept = {part: size for part, size in shapes.ledger.live.items() if size}
                value.backward()
                del value
                peak = shapes.ledger.peak
                state, moving = (0, 0) if optimizer is None else _moved(shapes.ledger, optimizer())
            for weight in weights:
                weight.grad = None
    finally:
        quiet.setLevel(level)
    return StepMemory(kept=kept, peak=peak, state=state, moving=moving)


def _moved(ledger: Ledger, optimizer: Any) -> tuple[int, int]:
    """What an optimiser keeps after its first move, and takes besides in its second."""
    before = ledger.total
    optimizer.step()
    after = ledger.peak = ledger.total
    optimizer.step()
    return after - before, ledger.peak - after
