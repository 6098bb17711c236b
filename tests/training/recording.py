"""What one training step really does, operation by operation: floating-point work, bytes, calls, memory held."""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

PRODUCTS = {
    torch.ops.aten.mm.default: 0,
    torch.ops.aten.bmm.default: 0,
    torch.ops.aten.addmm.default: 1,
    torch.ops.aten.baddbmm.default: 1,
}


@dataclass
class Recorded:
    """Sums over everything that was dispatched. Views move nothing and are left out."""

    flops: int = 0
    """Of matrix products: two for each multiplication and addition."""
    pass_bytes: int = 0
    """Read and written by all other operations."""
    calls: int = 0
    """Operations, matrix products among them."""
    peak_bytes: int = 0
    """The most that tensors made meanwhile held at one time."""
    products: list[tuple[int, ...]] = field(default_factory=list)


class StepRecorder(TorchDispatchMode):
    """Records while it is on, forward and backward."""

    def __init__(self) -> None:
        super().__init__()
        self.found = Recorded()
        self._held: dict[int, int] = {}
        self._known: weakref.WeakSet[Any] = weakref.WeakSet()
        self._bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        made = func(*args, **kwargs)
        returns = func._schema.returns
        if returns and all(one.alias_info is not None and not one.alias_info.is_write for one in returns):
            return made
        given = list(_tensors((args, {name: value for name, value in kwargs.items() if name != "out"})))
        outputs = list(_tensors(made))
        self.found.calls += 1
        if func in PRODUCTS:
            first, second = args[PRODUCTS[func] : PRODUCTS[func] + 2]
            self.found.products.append((*first.shape, second.shape[-1]))
            self.found.flops += 2 * first.numel() * second.shape[-1]
        else:
            self.found.pass_bytes += sum(map(_bytes, [*given, *outputs]))
            if not returns:  # the optimizer's step: its arguments are what it writes
                pairs = zip(func._schema.arguments, args, strict=False)
                written = [one for argument, one in pairs if argument.alias_info and argument.alias_info.is_write]
                self.found.pass_bytes += sum(map(_bytes, _tensors(written)))
        known = {_storage(tensor) for tensor in given}
        for tensor in outputs:
            if _storage(tensor) not in known and _storage(tensor) not in self._held:
                self._hold(tensor)
        return made

    def _hold(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        self._held[key] = size
        self._bytes += size
        self.found.peak_bytes = max(self.found.peak_bytes, self._bytes)
        weakref.finalize(storage, self._drop, key)

    def _drop(self, key: int) -> None:
        self._bytes -= self._held.pop(key, 0)


def _tensors(tree: Any) -> Iterator[Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor))


def _bytes(tensor: Tensor) -> int:
    """An expanded tensor is read from what it was expanded from."""
    return min(tensor.numel() * tensor.itemsize, tensor.untyped_storage().nbytes())


def _storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata
