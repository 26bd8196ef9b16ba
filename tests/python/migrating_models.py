"""Blocks whose input channels can, or cannot, be scaled against what produces them."""

from __future__ import annotations

import copy

import torch
from torch import nn
from torch.nn import functional as F

from edgekern import convert_, quantize_
from edgekern.quantize import apply

WIDTH = 32


class RMSNorm(nn.Module):
    """As in Llama; ``offset`` 1 as in Gemma, whose weight is not what the output is multiplied by."""

    def __init__(self, offset=0.0):
        super().__init__()
        self.weight, self.offset = nn.Parameter(torch.ones(WIDTH)), offset

    def forward(self, x):
        return x * x.square().mean(-1, keepdim=True).add(1e-6).rsqrt() * (self.weight + self.offset)


class Attention(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(WIDTH, WIDTH, bias=bias) for bias in (True, False, True, True))

    def forward(self, x):
        q, k, v = (part(x).unflatten(-1, (4, -1)).transpose(1, 2) for part in (self.q, self.k, self.v))
        return self.o(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))


class Gated(nn.Module):
    """The second half of a Llama block."""

    def __init__(self, act=F.silu):
        super().__init__()
        self.gate, self.up = (nn.Linear(WIDTH, 3 * WIDTH, bias=False) for _ in range(2))
        self.down, self.act = nn.Linear(3 * WIDTH, WIDTH, bias=False), act

    def forward(self, x):
        return self.down(self.act(self.gate(x)) * self.up(x))


class Plain(nn.Module):
    """The second half of a block of GPT-2, or OPT's with relu."""

    def __init__(self, act=F.relu):
        super().__init__()
        self.fc1, self.fc2, self.act = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(3 * WIDTH, WIDTH), act

    def forward(self, x):
        return self.fc2(self.act(self.fc1(x)))


class PreNorm(nn.Module):
    def __init__(self, mlp=Gated, norm=RMSNorm):
        super().__init__()
        self.attention, self.mlp, self.norm1, self.norm2 = Attention(), mlp(), norm(), norm()

    def forward(self, x):
        x = x + self.attention(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class Parallel(nn.Module):
    """One norm feeds both halves, as in GPT-J."""

    def __init__(self):
        super().__init__()
        self.norm, self.attention, self.mlp = nn.LayerNorm(WIDTH), Attention(), Plain()

    def forward(self, x):
        normed = self.norm(x)
        return x + self.attention(normed) + self.mlp(normed)


class PostNorm(nn.Module):
    """As in BERT: what the norm gives goes past the layers too."""

    def __init__(self):
        super().__init__()
        self.attention, self.mlp = Attention(), Plain(F.gelu)
        self.norm1, self.norm2 = nn.LayerNorm(WIDTH), nn.LayerNorm(WIDTH)

    def forward(self, x):
        x = self.norm1(x + self.attention(x))
        return self.norm2(x + self.mlp(x))


def model_of(block, depth=2, outliers=0.0, seed=0):
    """Blocks between an embedding and a head; with ``outliers``, norms make two channels that much larger."""
    torch.manual_seed(seed)
    model = nn.Sequential(nn.Embedding(40, WIDTH), *(block() for _ in range(depth)), nn.Linear(WIDTH, 8))
    for name, module in model.named_modules():
        if isinstance(module, nn.LayerNorm | RMSNorm):
            nn.init.normal_(module.weight, 1.0, 0.1)
            if outliers and name:
                module.weight.data[[3, 17]] *= outliers
    return model.eval()


def tokens(count=3):
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(40, (8, 12 + i), generator=generator) for i in range(count)]


def quantized(model, scheme, data=None):
    model = copy.deepcopy(model)
    return model, quantize_(model, scheme, tokens() if data is None else data, progress=False)


def migrated(model, scheme, data, monkeypatch):
    """The model with its channels scaled and nothing rounded, and the report."""
    monkeypatch.setattr(apply, "_round", lambda job, watcher, replace: setattr(job, "reason", ""))
    found = quantized(model, scheme, data)
    monkeypatch.undo()
    return found


def outputs(model, data):
    with torch.no_grad():
        return [model(batch) for batch in data]


def error(model, like, data):
    pairs = list(zip(outputs(model, data), outputs(like, data), strict=True))
    return float(sum((a - b).square().sum() for a, b in pairs) / sum(b.square().sum() for _, b in pairs))


def converted(model, config):
    model = copy.deepcopy(model)
    convert_(model, config)
    return model
