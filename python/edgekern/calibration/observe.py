"""What calibration data say about each layer's inputs, gathered by forward hooks while the model runs.

A layer's statistics are one vector (norms) or one matrix (Hessian) per group of channels, however much data there is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._pytree import tree_leaves

from edgekern.calibration.errors import DataError
from edgekern.nn.fused import FusedConv2d

Observe = Callable[[Tensor], None]
Arguments = tuple[tuple[Any, ...], dict[str, Any]]


class _Watcher:
    """Adds up statistics of one layer's inputs in ``total``: [groups, ...], one group but for grouped convolutions."""

    def __init__(self, module: nn.Module) -> None:
        self._module = module
        self.total = torch.empty(0)

    def __call__(self, x: Tensor) -> None:
        with torch.autocast(x.device.type, enabled=False):  # sums stay float32 where the model computes in less
            for rows in input_rows(self._module, x):
                part = self.statistic(rows)
                self.total = self.total.add_(part) if self.total.numel() else part

    def statistic(self, rows: Tensor) -> Tensor:
        """What [groups, samples, in] adds to the total."""
        raise NotImplementedError

    def seen(self, name: str) -> bool:
        """Whether there was any input.

        Raises:
            DataError: it held NaN or infinity, or its squares overflow.
        """
        if not self.total.isfinite().all():
            raise DataError(f"the calibration data give {name!r} inputs with NaN or infinity")
        return self.total.numel() > 0


class Norms(_Watcher):
    """Of each input feature: [groups, in] float32."""

    def statistic(self, rows: Tensor) -> Tensor:
        return rows.square().sum(1)

    def norms(self) -> Tensor:
        """The L2 norm of each feature over all samples."""
        return self.total.sqrt()


class Hessian(_Watcher):
    """X^T X: [groups, in, in] float32."""

    def statistic(self, rows: Tensor) -> Tensor:
        return rows.transpose(1, 2) @ rows


class Moments(Hessian):
    """X^T X, and the mean of the inputs: what rounding a linear layer needs."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self._sum, self._samples = torch.empty(0), 0

    def statistic(self, rows: Tensor) -> Tensor:
        part = rows.sum(1)
        self._sum = self._sum.add_(part) if self._samples else part
        self._samples += rows.shape[1]
        return super().statistic(rows)

    def mean(self) -> Tensor:
        """Of each input feature: [groups, in] float32."""
        return self._sum / max(1, self._samples)


class Inputs(_Watcher):
    """How large each input feature is, and some of the inputs themselves, drawn evenly from all there are."""

    ROWS = 512
    """Inputs that are kept. The error of a layer's outputs over them is that over all to within a tenth or so."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self._samples = 0
        self._generator = torch.Generator().manual_seed(0)
        self._keys = torch.empty(0)
        self.largest = torch.empty(0)
        """max|x| of each feature: [in] float32."""
        self.rows = torch.empty(0)
        """Some inputs: [samples, in] float32."""

    def statistic(self, rows: Tensor) -> Tensor:
        flat = rows[0]
        if not len(flat):
            return torch.zeros(1, flat.shape[1])
        largest = flat.abs().amax(0)
        first = not self._samples
        self.largest = largest if first else torch.maximum(self.largest, largest)
        self._samples += len(flat)
        # Those with the smallest of random keys: of any number of inputs, each stays with the same probability.
        keys = torch.cat([self._keys, torch.rand(len(flat), generator=self._generator)])
        kept = keys.argsort()[: self.ROWS]
        pool = flat if first else torch.cat([self.rows, flat])
        self._keys, self.rows = keys[kept], pool[kept]
        return flat.abs().sum(0)[None]

    def mean_size(self) -> Tensor:
        """mean|x| of each feature: [in] float32."""
        return self.total[0] / max(1, self._samples)


def input_rows(module: nn.Module, x: Tensor) -> Iterator[Tensor]:
    """The vectors that meet the rows of the layer's matrix: float32 [groups, samples, in], in pieces.

    A convolution's are its patches, in the order of ``to_matrix``, one image at a time: they take kh * kw times the
    memory of the image.
    """
    if isinstance(module, nn.Conv2d):
        for image in x.unsqueeze(0) if x.ndim == 3 else x:
            yield _patches(module, image[None].float())
    else:
        yield x.reshape(1, -1, x.shape[-1]).float()


def _patches(module: nn.Conv2d, image: Tensor) -> Tensor:
    mode = "constant" if module.padding_mode == "zeros" else module.padding_mode
    pads = tuple(module._reversed_padding_repeated_twice)  # what "same" means, settled
    if isinstance(module, FusedConv2d):
        pads = module.pads_for(image.shape[-2], image.shape[-1])
    padded = F.pad(image, pads, mode)
    columns = F.unfold(padded, module.kernel_size, module.dilation, stride=module.stride)  # [1, in * kh * kw, L]
    grouped = columns.view(module.groups, module.in_channels // module.groups, -1, columns.shape[-1])
    return grouped.permute(0, 3, 2, 1).flatten(2)


@contextmanager
def observing(observers: Mapping[nn.Module, Observe]) -> Iterator[None]:
    """Inside, every call of one of the modules hands its input to the module's observer first."""

    def hook(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        observers[module](args[0] if args else kwargs["input"])

    with ExitStack() as stack:
        for module in observers:
            # Hooks run in the order of registration, so ours sees what earlier ones made of the input.
            stack.callback(module.register_forward_pre_hook(hook, with_kwargs=True).remove)
        yield


@contextmanager
def inference(model: nn.Module) -> Iterator[None]:
    """Inside, the model is in eval mode and without autograd; each module's own mode is put back."""
    # The flags alone: some models do more in train() and eval(), such as merging weights.
    modes = {module: module.training for module in model.modules()}
    try:
        for module in modes:
            module.training = False
        with torch.no_grad():
            yield
    finally:
        for module, training in modes.items():
            module.training = training


def arguments(batch: object) -> Arguments:
    """What to call a model with: a mapping holds keyword arguments, a tuple or list positional ones, else it is one."""
    if isinstance(batch, Mapping):
        return (), dict(batch)
    return tuple(batch) if isinstance(batch, tuple | list) else (batch,), {}


def version_of(x: Tensor) -> int:
    """Another number once ``x`` was changed in place; those of inference mode have none."""
    return 0 if x.is_inference() else x._version


def tensors_in(result: object) -> list[Tensor]:
    """The tensors among what a module was given, or has given."""
    return [leaf for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]


def check_data(data: object) -> None:
    """TypeError unless it is None or can be iterated over for batches."""
    if data is not None and (isinstance(data, Tensor | Mapping | str) or not isinstance(data, Iterable)):
        raise TypeError(f"data: expected an iterable of batches, got {type(data).__name__}; one batch is [batch]")


def gather(
    model: nn.Module, observers: Mapping[nn.Module, Observe], batches: Iterable[object], *, once: bool = False
) -> None:
    """Runs the model over all batches, the observers watching.

    Args:
        model, batches: what to run, and what on.
        observers: what each module's input is handed to.
        once: that no batch reaches a module twice, so that the model need not go on once each was reached.

    Raises:
        DataError: there is no batch.
    """
    count = watch(model, observers, map(arguments, batches), once=once)
    if not count:
        raise DataError("data: there is not one batch in it")


def watch(
    module: nn.Module,
    observers: Mapping[nn.Module, Observe],
    calls: Iterable[Arguments],
    *,
    once: bool = False,
    then: Callable[[object], None] | None = None,
) -> int:
    """Calls ``module`` with each of the arguments, the observers watching; ``once`` as for :func:`gather`.

    ``then`` is given each result. Returns how many calls there were.
    """
    waiting: set[nn.Module] = set()

    def seen(layer: nn.Module, x: Tensor) -> None:
        observers[layer](x)
        waiting.discard(layer)
        if once and not waiting:
            raise Enough

    count = 0
    with inference(module), observing({layer: partial(seen, layer) for layer in observers}):
        for args, kwargs in calls:
            waiting.update(observers)
            with suppress(Enough):
                result = module(*args, **kwargs)
                if then is not None:
                    then(result)
            count += 1
    return count


class Enough(BaseException):
    """Unwinds a forward whose rest nobody needs; no Exception, lest the model's own code catches it."""
