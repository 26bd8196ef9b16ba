"""``nn.MultiheadAttention`` with fewer heads than its width has room for."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class NarrowAttention(nn.MultiheadAttention):
    """Self-attention whose heads together are narrower than ``embed_dim``, which PyTorch's own code rules out.

    ``shrink_`` makes it out of a plain ``nn.MultiheadAttention`` and nothing else does: ``head_dim`` stays,
    ``num_heads`` falls, ``in_proj_weight`` is [3 * num_heads * head_dim, embed_dim], and ``out_proj`` has
    num_heads * head_dim inputs.
    """

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """As of ``nn.MultiheadAttention``; query, key and value must be the same tensor.

        Raises:
            ValueError: they are not.
        """
        if key is not query or value is not query:
            raise ValueError("NarrowAttention: query, key and value must be one tensor, as when it was shrunk")
        x = query if query.ndim == 3 else query[None]
        if query.ndim == 3 and not self.batch_first:
            x = x.transpose(0, 1)
        q, k, v = (
            part.unflatten(-1, (self.num_heads, self.head_dim)).transpose(1, 2)  # [N, heads, L, head_dim]
            for part in F.linear(x, cast(Tensor, self.in_proj_weight), self.in_proj_bias).chunk(3, dim=-1)
        )
        mask = self._bias(x, key_padding_mask, attn_mask)
        drop = self.dropout if self.training else 0.0
        weights = None
        if need_weights:
            scores = q @ k.mT * self.head_dim**-0.5
            weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)
            mixed = F.dropout(weights, drop) @ v
            weights = weights.mean(1) if average_attn_weights else weights
        else:
            mixed = F.scaled_dot_product_attention(q, k, v, mask, drop)
        out = F.linear(mixed.transpose(1, 2).flatten(2), self.out_proj.weight, self.out_proj.bias)
        if query.ndim == 2:
            return out[0], None if weights is None else weights[0]
        return (out if self.batch_first else out.transpose(0, 1)), weights

    def _bias(self, x: Tensor, padding: Tensor | None, mask: Tensor | None) -> Tensor | None:
        """Both masks as one that is added to the scores, [N or 1, heads or 1, L, L]."""
        parts = []
        if mask is not None:
            added = _added(mask, x.dtype)
            parts.append(added if mask.ndim == 2 else added.unflatten(0, (-1, self.num_heads)))
        if padding is not None:
            rows = padding if padding.ndim == 2 else padding[None]
            parts.append(_added(rows, x.dtype)[:, None, None])
        return sum(parts[1:], parts[0]) if parts else None


def _added(mask: Tensor, dtype: torch.dtype) -> Tensor:
    if mask.dtype != torch.bool:
        return mask.to(dtype)
    return torch.zeros_like(mask, dtype=dtype).masked_fill_(mask, float("-inf"))
