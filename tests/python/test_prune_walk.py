"""Sequential pruning without starting over for each layer: the bits of whole passes, whatever the model is like."""

import copy

import pytest
import torch
from small_models import BLOCK_LAYERS, Block, LanguageModel, assert_untouched, snapshot
from torch import nn
from torch.nn import functional as F

from edgekern import PerLayer, Prune, prune_
from edgekern.calibration import walk
from edgekern.calibration.walk import Walk

WIDTH = 16


class Attend(nn.Module):
    """A block as decoders have it: keyword arguments, a cache that it writes into, a tuple as its result."""

    def __init__(self):
        super().__init__()
        self.query, self.key, self.out = (nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.mlp = Block(WIDTH)

    def forward(self, hidden, mask=None, cache=None):
        query, key = self.query(hidden), self.key(hidden)
        if cache is not None:
            cache.setdefault(id(self), []).append(key)
            key = torch.cat(cache[id(self)], dim=1)
        scores = query @ key.transpose(1, 2)
        if mask is not None:
            scores = scores + mask
        return self.mlp(hidden + self.out(scores.softmax(-1) @ key)), scores


class Cache:
    """As transformers': an object that is no tensor, which every block writes a part of."""

    def __init__(self):
        self.parts = {}

    def setdefault(self, key, value):
        return self.parts.setdefault(key, value)

    def __getitem__(self, key):
        return self.parts[key]


class Decoder(nn.Module):
    def __init__(self, depth=3):
        super().__init__()
        self.embed = nn.Embedding(40, WIDTH)
        self.layers = nn.ModuleList(Attend() for _ in range(depth))
        self.head = nn.Linear(WIDTH, 40, bias=False)

    def forward(self, ids):
        hidden, mask, cache = self.embed(ids), torch.zeros(ids.shape[1], ids.shape[1]), Cache()
        for layer in self.layers:
            hidden = layer(hidden, mask=mask, cache=cache)[0]
        return self.head(hidden)


class Between(Decoder):
    """Does something between the blocks that leaves no trace in which tensor is passed on."""

    def forward(self, ids):
        hidden = self.embed(ids)
        for layer in self.layers:
            hidden = layer(hidden)[0].mul_(0.5)
        return self.head(hidden)


class Rising(Decoder):
    """Gives each block another mask."""

    def forward(self, ids):
        hidden = self.embed(ids)
        for depth, layer in enumerate(self.layers):
            hidden = layer(hidden, mask=torch.full((ids.shape[1], ids.shape[1]), float(depth)).triu())[0]
        return self.head(hidden)


class Backwards(Decoder):
    def forward(self, ids):
        hidden = self.embed(ids)
        for layer in reversed(self.layers):
            hidden = layer(hidden)[0]
        return self.head(hidden)


class Twice(Decoder):
    def forward(self, ids):
        hidden = self.embed(ids)
        for layer in [*self.layers, *self.layers]:
            hidden = layer(hidden)[0]
        return self.head(hidden)


class Narrow(Decoder):
    """Runs its blocks in another precision than they would run in by themselves."""

    def forward(self, ids):
        hidden = self.embed(ids)
        with torch.autocast("cpu", torch.bfloat16):
            for layer in self.layers:
                hidden = layer(hidden)[0]
        return self.head(hidden.float())


class InPlace(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(WIDTH, WIDTH)

    def forward(self, x):
        x += self.fc(x).relu()
        return x


class Recurrent(nn.Module):
    """Calls one layer for each token; how often depends on the batch."""

    def __init__(self):
        super().__init__()
        self.embed, self.step = nn.Embedding(40, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.blocks = nn.ModuleList(Block(WIDTH) for _ in range(2))

    def forward(self, ids):
        state = torch.zeros(len(ids), WIDTH)
        for token in self.embed(ids).unbind(1):
            state = torch.tanh(self.step(state + token))
        for block in self.blocks:
            state = block(state)
        return state


class Experts(nn.Module):
    """Sends each batch to one of several layers, by what the layers before make of it."""

    def __init__(self):
        super().__init__()
        self.embed, self.first = nn.Embedding(40, WIDTH), nn.Linear(WIDTH, WIDTH)
        self.experts = nn.ModuleList(nn.Linear(WIDTH, WIDTH) for _ in range(3))
        self.last = nn.Linear(WIDTH, WIDTH)

    def forward(self, ids):
        x = self.first(self.embed(ids))
        return self.last(self.experts[int(x.sum().abs() * 10) % 3](x).relu())


def in_place():
    return nn.Sequential(nn.Embedding(40, WIDTH), *(InPlace() for _ in range(3)), nn.Linear(WIDTH, 8))


def nested():
    inner = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), nn.Linear(WIDTH, WIDTH))
    return nn.Sequential(nn.Embedding(40, WIDTH), inner, copy.deepcopy(inner), nn.Linear(WIDTH, 8))


def shared():
    """A layer that two blocks hold."""
    model = LanguageModel(tied=False)
    model.blocks[1].up = model.blocks[0].up
    return model


def hooked():
    """A block whose input a user's hook changes."""
    model = LanguageModel(tied=False)
    model.blocks[0].register_forward_pre_hook(lambda module, args: (2 * args[0],))
    return model


def uncopied():
    """Arguments that cannot be copied."""

    class Generator(Decoder):
        def forward(self, ids):
            hidden, cache = self.embed(ids), CannotCopy()
            for layer in self.layers:
                hidden = layer(hidden, cache=cache)[0]
            return self.head(hidden)

    class CannotCopy(Cache):
        def __deepcopy__(self, memo):
            raise TypeError("no copies")

    return Generator()


CHAINS = {  # how many items each chain of it has
    Decoder: [3],
    lambda: LanguageModel(tied=False): [2],
    in_place: [5],
    nested: [4, 3],  # the second `inner` is the same kind of thing, but its layers are found in the outer chain already
    Recurrent: [2],
}
NO_CHAINS = [Between, Rising, Backwards, Twice, Narrow, shared, hooked, uncopied, Experts]
MODELS = [*CHAINS, *NO_CHAINS]


def name_of(make):
    return make.__name__.strip("<>")


def made(make):
    torch.manual_seed(0)
    return make().eval()


def batches(count=3):
    """Of different lengths, the first not the longest."""
    generator = torch.Generator().manual_seed(0)
    return [torch.randint(40, (2, 5 + i), generator=generator) for i in range(count)]


def by_whole_passes(model, config, data):
    """What sequential pruning means: in the order of the first calls, layers with one input together, each lot by a
    whole pass over the data."""
    lots, inputs = [], []
    layers = {layer: name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)}

    def meet(layer, args):
        if not any(layer in lot for lot in lots):
            same = inputs and inputs[-1][0] is args[0] and inputs[-1][1] == args[0]._version
            if same:
                lots[-1].append(layer)
            else:
                lots.append([layer])
            inputs.append((args[0], args[0]._version))

    hooks = [layer.register_forward_pre_hook(meet) for layer in layers]
    with torch.no_grad():
        model(data[0])
    for hook in hooks:
        hook.remove()
    unreached = [layer for layer in layers if not any(layer in lot for lot in lots)]
    for lot in [*lots, unreached] if unreached else lots:
        rules = PerLayer({**{layers[layer]: config for layer in lot}, "_default": None})
        prune_(model, rules, data, sequential=False, progress=False)


def assert_equal(left, right):
    for (name, tensor), other in zip(left.state_dict().items(), right.state_dict().values(), strict=True):
        assert torch.equal(tensor, other), name


@pytest.mark.parametrize("method", ["wanda", "sparsegpt"])
@pytest.mark.parametrize("make", MODELS, ids=name_of)
def test_the_bits_are_those_of_whole_passes(make, method):
    model, data, config = made(make), batches(), Prune(0.5, method=method)
    expected = copy.deepcopy(model)
    by_whole_passes(expected, config, data)
    prune_(model, PerLayer({"re:.*": config}), data, progress=False)
    assert_equal(model, expected)


def homes(model):
    """Items of the chains that hold the homes of layers, and the layers that have one."""
    found = Walk(model, [layer for layer in model.modules() if isinstance(layer, nn.Linear)], batches())._homes
    return {chain: len(chain.items) for chain, _ in found.values()}.values(), found.keys()


@pytest.mark.parametrize("make", CHAINS, ids=name_of)
def test_chains_are_found(make):
    sizes, _ = homes(made(make))
    assert list(sizes) == CHAINS[make][:1]


@pytest.mark.parametrize("make", NO_CHAINS, ids=name_of)
def test_what_is_no_chain_is_not_taken_for_one(make):
    sizes, layers = homes(made(make))
    model = made(make)
    if make is shared:  # a chain, but one layer of it has two places
        assert list(sizes) == [2]
        assert len(layers) == 2
    else:
        assert not list(sizes), type(model)


class Counted(Block):
    calls = 0

    def forward(self, x):
        Counted.calls += 1
        return super().forward(x)


@pytest.mark.parametrize("depth", [4, 8])
def test_the_work_grows_with_the_depth_not_with_its_square(depth, monkeypatch):
    model = nn.Sequential(*(Counted(WIDTH) for _ in range(depth)), nn.Linear(WIDTH, 8))
    monkeypatch.setattr(Counted, "calls", 0)
    prune_(model, Prune(0.5, method="wanda"), [torch.randn(4, WIDTH)] * 2, progress=False)
    # A survey of both batches and a trial; then in each block, for both: up, down, and on to the next; the way there.
    assert Counted.calls <= depth * (2 + 1 + 2 * 3) + 2


def test_a_model_is_left_once_its_layers_were_reached(monkeypatch):
    """Where there is no chain, the blocks after the one at hand are not run."""

    class Odd(nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = nn.ModuleList(Counted(WIDTH) for _ in range(4))

        def forward(self, x):
            for block in self.blocks:
                x = block(x) + 1
            return x

    monkeypatch.setattr(Counted, "calls", 0)
    prune_(Odd(), Prune(0.5, method="wanda"), [torch.randn(4, WIDTH)], progress=False)
    assert Counted.calls == 4 + 2 * (1 + 2 + 3 + 4)


@pytest.mark.parametrize("room", [0, 2300])  # of what inputs take: all at once, or those of a wide item
def test_inputs_that_take_too_much_room_are_not_kept(room, monkeypatch):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Linear(16, 512), nn.ReLU(), nn.Linear(512, 16), nn.Linear(16, 4))
    data, config = [torch.randn(8, 16) for _ in range(2)], Prune(0.5, method="sparsegpt")
    expected = copy.deepcopy(model)
    by_whole_passes(expected, config, data)
    monkeypatch.setattr(walk, "LEAST_ROOM", room)
    monkeypatch.setattr(nn.Parameter, "nbytes", 0)
    kept = []
    advance = walk._Kept.advance
    monkeypatch.setattr(walk._Kept, "advance", lambda self, room: kept.append(advance(self, room)) or kept[-1])
    prune_(model, config, data, progress=False)
    assert_equal(model, expected)
    assert kept == ([] if room == 0 else [True, False])


def test_a_failure_on_the_way_puts_everything_back():
    class Fails(Attend):
        left = 7

        def forward(self, *args, **kwargs):
            Fails.left -= 1
            if Fails.left < 0:
                raise KeyboardInterrupt
            return super().forward(*args, **kwargs)

    model = made(Decoder)
    model.layers[2] = Fails()
    model.train()
    before = snapshot(model)
    with pytest.raises(KeyboardInterrupt):
        prune_(model, Prune(0.5, method="sparsegpt"), batches(), progress=False)
    assert_untouched(model, before)
    assert all(not module._forward_pre_hooks and not module._forward_hooks for module in model.modules())


def test_layers_outside_of_the_chain_and_those_left_out_inside():
    model, data = made(lambda: LanguageModel(tied=False)), batches()
    config = PerLayer({"blocks.1.down": Prune(0.5, method="wanda"), "lm_head": Prune(0.25, method="wanda")})
    report = prune_(model, config, data, progress=False)
    assert {row.name: row.achieved for row in report.pruned} == {"blocks.1.down": 0.5, "lm_head": 0.25}
    assert BLOCK_LAYERS[-1] == "blocks.1.down"


def test_the_data_may_come_in_another_order_each_time():
    """As from a loader that shuffles; and every batch in one and the same tensor, as from one that saves memory."""

    class Loader:
        passes = 0

        def __iter__(self):
            Loader.passes += 1
            buffer = torch.empty(2, 5, dtype=torch.long)
            found = [batch[:, :5] for batch in batches()]
            for batch in found[:: (-1) ** Loader.passes]:
                yield buffer.copy_(batch)

    model, expected = made(Decoder), made(Decoder)
    config = Prune(0.5, method="wanda")
    prune_(model, config, Loader(), progress=False)
    prune_(expected, config, [batch[:, :5] for batch in batches()], progress=False)
    x = batches()[0]
    assert torch.allclose(model(x), expected(x), atol=1e-5)  # sums in another order
    assert F.cosine_similarity(model(x).flatten(), made(Decoder)(x).flatten(), dim=0) < 0.9999
