"""Quantising one layer: what it is given goes in, and its rounded weights come out."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from edgekern.calibration.errors import UNREACHED
from edgekern.calibration.matrix import to_matrix
from edgekern.config import Calibrated
from edgekern.nn.layers import Layer
from edgekern.quantize.gptq import gptq, nearest, squared_error
from edgekern.quantize.task import QuantizeError


@dataclass
class Job:
    """One layer to quantise."""

    layer: Layer
    scheme: Calibrated
    reason: str = UNREACHED
    """Why it was left alone after all; empty when it was quantised."""
    nearest: float = 0.0
    """Error of the output when each weight goes to the nearest value, as a share of the output's square."""
    error: float = 0.0
    """Error of the output as it is now, likewise."""
    scale: Tensor | None = None
    """What its input channels were scaled by, float32 [in]."""
    shares_bias: bool = False
    """Whether another module has the same bias."""
    source: str = ""
    """The module whose output was divided by that."""
    notes: list[str] = field(default_factory=list)
    """What was asked for and could not be done."""

    @property
    def name(self) -> str:
        """The layer's first name."""
        return self.layer.name

    @property
    def weight(self) -> Tensor:
        """The layer's own weight."""
        return self.layer.linear.weight.detach()

    def solved(self, hessians: Tensor) -> Tensor:
        """The rounded matrix, float32 [out, in], as ``to_matrix`` has it.

        Args:
            hessians: float32 [groups, in, in]: of the inputs of as many runs of rows, of which a convolution has one
                for each of its groups.

        Raises:
            QuantizeError: a damped Hessian that is singular, or weights that are too large.
        """
        stored, to, how = to_matrix(self.weight), self.scheme.target, self.scheme.gptq
        matrix = stored.float().contiguous()
        try:
            apart = rounded = nearest(stored, to)
            if how is not None:
                rounded = gptq(matrix, hessians, how, self.weight.dtype)
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]  # it is there, but not exported
            assert how is not None
            raise QuantizeError(
                f"the inputs of {self.name!r} are too few or too alike for GPTQ with damping "
                f"{how.damping}; use more data or a larger damping"
            ) from None
        except ValueError as error:
            raise QuantizeError(f"{self.name!r} cannot be rounded to {to!r}: {error}") from None
        square = squared_error(matrix, torch.zeros_like(matrix), hessians)
        if square > 0:
            self.error = squared_error(matrix, rounded, hessians) / square
            self.nearest = self._error_as_it_was(matrix, apart, hessians) / square
        self.reason = ""
        return rounded

    def corrected_bias(self, rounded: Tensor, mean: Tensor) -> Tensor | None:
        """The bias without the mean error that the rounded matrix would add: float32 [out]; None when it has none.

        Args:
            rounded: [out, in].
            mean: of the inputs, float32 [groups, in].
        """
        if not self.scheme.corrects_bias:
            return None
        reason = "no bias to correct" if self.layer.linear.bias is None else self._bias_obstacle()
        if reason:
            self.notes.append(reason)
            return None
        error = to_matrix(self.weight).float() - rounded.to(self.weight.dtype).float()
        owed = torch.cat([rows @ own for rows, own in zip(error.chunk(len(mean)), mean, strict=True)])
        return self.layer.linear.bias.detach().float() + owed

    def _bias_obstacle(self) -> str:
        if self.shares_bias:
            return "bias not corrected: another module has the same"
        if self.layer.linear.bias.is_inference():
            return "bias not corrected: it was made under torch.inference_mode and cannot be changed in place; clone it"
        return ""

    def _error_as_it_was(self, matrix: Tensor, apart: Tensor, hessians: Tensor) -> float:
        """Squared error of rounding to nearest before channels were scaled."""
        if self.scale is None:
            return squared_error(matrix, apart, hessians)
        unscaled, scale = matrix / self.scale, self.scale
        return squared_error(unscaled, nearest(unscaled, self.scheme.target), hessians * scale * scale[:, None])
