"""Models whose channels go together in the ways that common networks have, and what taking some out must leave."""

import torch
from torch import nn
from torch.nn import functional as F


class Basic(nn.Module):
    """ResNet's basic block."""

    def __init__(self, width, out, stride=1):
        super().__init__()
        self.conv1 = nn.Conv2d(width, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.down = nn.Identity()
        if stride != 1 or width != out:
            self.down = nn.Sequential(nn.Conv2d(width, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.down(x))


class ResNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.blocks = nn.Sequential(Basic(8, 8), Basic(8, 16, stride=2))
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.blocks(F.max_pool2d(self.stem(x), 2))
        return self.head(F.adaptive_avg_pool2d(x, 1).flatten(1))


class Inverted(nn.Module):
    """MobileNet's inverted residual, and a flatten over what is left of the image."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3, padding=1)
        self.expand = nn.Conv2d(8, 32, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(32)
        self.depth = nn.Conv2d(32, 32, 3, padding=1, groups=32)
        self.bn2 = nn.BatchNorm2d(32)
        self.project = nn.Conv2d(32, 8, 1)
        self.head = nn.Linear(8 * 16, 5)

    def forward(self, x):
        x = self.stem(x)
        y = F.relu6(self.bn1(self.expand(x)))
        y = self.project(F.relu6(self.bn2(self.depth(y))))
        return self.head((x + y).flatten(1))


class Concat(nn.Module):
    def __init__(self):
        super().__init__()
        self.join = nn.Conv2d(24, 4, 1)  # first, to be read before those it reads are known
        self.left = nn.Conv2d(3, 8, 3, padding=1)
        self.right = nn.Conv2d(3, 16, 1)
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.join(torch.cat([F.relu(self.left(x)), self.right(x).sigmoid()], 1)).mean((2, 3)))


class FusedAttention(nn.Module):
    """One projection, its heads counted in an attribute, norms and biases of each head."""

    def __init__(self, width=16, heads=4):
        super().__init__()
        self.num_heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.scale = nn.Parameter(torch.rand(width // heads))  # the same for all heads
        self.bias = nn.Parameter(torch.randn(heads, 1, 1))

    def forward(self, x):
        n, length, _ = x.shape
        q, k, v = self.qkv(x).reshape(n, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4).unbind(0)
        q = q * (q.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.scale
        weights = ((q @ k.transpose(-2, -1) * q.shape[-1] ** -0.5 + self.bias) / self.bias.exp()).softmax(-1)
        return x + self.proj((weights @ v).transpose(1, 2).flatten(2))


def bert():
    transformers = _transformers()
    config = transformers.BertConfig(
        vocab_size=20, hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=64
    )
    return transformers.BertModel(config)


def llama(tied=False):
    transformers = _transformers()
    config = transformers.LlamaConfig(
        vocab_size=20,
        hidden_size=32,
        num_hidden_layers=1,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=64,
        tie_word_embeddings=tied,
    )
    return transformers.LlamaForCausalLM(config)


def _transformers():
    import pytest

    return pytest.importorskip("transformers")


def gpt2():
    transformers = _transformers()
    config = transformers.GPT2Config(
        vocab_size=20, n_embd=32, n_layer=1, n_head=4, bos_token_id=None, eos_token_id=None, n_positions=16
    )
    return transformers.GPT2LMHeadModel(config)


def image():
    return torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def tokens():
    return {"input_ids": torch.arange(12).view(2, 6)}


def sequence():
    return torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(1))


def made(build):
    """A model in eval mode whose norms are as if trained."""
    torch.manual_seed(0)
    model = build().eval()
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if "running_var" in name:
                tensor.uniform_(0.5, 2)
            elif tensor.is_floating_point() and tensor.ndim == 1:
                tensor.normal_(1 if name.endswith("weight") else 0, 0.3)
    return model


def output(model, batch):
    with torch.no_grad():
        found = model(**batch) if isinstance(batch, dict) else model(batch)
    return found if isinstance(found, torch.Tensor) else found[0]


def runs(units, width, offset=0, times=1, stride=0):
    """Entries of units that are ``width`` wide, in as many places as ``times``, each ``stride`` after the last."""
    return [
        offset + place * stride + unit * width + i for place in range(times) for unit in units for i in range(width)
    ]


def plant(model, entries):
    """Zeroes entries {name: (dim, indices)} or lists of such pairs, so that they contribute nothing."""
    state = model.state_dict()
    for name, (dim, indices) in entries.items():
        state[name].index_fill_(dim, torch.tensor(indices), 0)


def without(state, entries):
    """A state dict with those entries taken out."""
    left = {name: tensor.clone() for name, tensor in state.items()}
    for name, (dim, indices) in entries.items():
        stay = [index for index in range(left[name].shape[dim]) if index not in set(indices)]
        left[name] = left[name].index_select(dim, torch.tensor(stay))
    return left
