"""Embedding tables as PyTorch programs meet them: the ops, and the layers over them."""

from __future__ import annotations

import copy
import pickle

import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

import edgekern as ek  # noqa: E402
from edgekern import ops  # noqa: E402
from edgekern.nn import Int4Embedding, Int4Linear, Int8Embedding, Int8Linear  # noqa: E402

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

N, K = 50, 70
OPS = {
    "int8": (torch.ops.edgekern.int8_embedding.default, Int8Embedding, ek.Int8()),
    "int4": (torch.ops.edgekern.int4_embedding.default, Int4Embedding, ek.Int4(group_size=32)),
    "int4 symmetric": (torch.ops.edgekern.int4_embedding.default, Int4Embedding, ek.Int4(symmetric=True)),
}
SHAPES = [(), (1,), (7,), (2, 3), (0,), (2, 0, 3)]


@pytest.fixture(scope="module", params=OPS)
def table(request):
    """(op, dense nn.Embedding, the native one)."""
    op, kind, scheme = OPS[request.param]
    torch.manual_seed(0)
    dense = nn.Embedding(N, K, padding_idx=3)
    return op, dense, kind.from_embedding(dense, scheme)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("index", [torch.int64, torch.int32])
def test_the_op_reads_rows(table, dtype, shape, index):
    op, _, native = table
    indices = torch.randint(0, N, shape, dtype=index)
    y = op(indices, native.table.packed, K, ops.FLOATS[dtype])
    assert (y.dtype, y.shape, y.is_contiguous()) == (DTYPES[dtype], (*shape, K), True)
    assert torch.equal(y, nn.functional.embedding(indices, native.weight.to(DTYPES[dtype])))


def test_memory_layout_does_not_matter(table):
    op, _, native = table
    indices = torch.randint(0, N, (6, 8))
    for view in (indices.t(), indices[:, ::2], indices[2:, 3:], torch.tensor([[4]]).expand(3, 5)):
        assert torch.equal(op(view, native.table.packed, K, 0), op(view.contiguous(), native.table.packed, K, 0))


def test_opcheck(table):
    op, _, native = table
    for indices in (torch.randint(0, N, (3, 4)), torch.tensor(2, dtype=torch.int32)):
        torch.library.opcheck(op, (indices, native.table.packed, K, ops.FLOATS["bfloat16"]))


def test_many_rows_on_many_threads(table):
    op, _, native = table
    indices = torch.randint(0, N, (4, 500))
    assert torch.equal(op(indices, native.table.packed, K, 0), native.weight[indices])


@pytest.mark.parametrize("bad", [N, -1, 1 << 40])
def test_an_index_out_of_range(table, bad):
    _, dense, native = table
    indices = torch.tensor([[0, 1], [2, bad]])
    for module in (dense, native):  # as torch says it
        with pytest.raises(IndexError, match="index out of range in self"):
            module(indices)
    with pytest.raises(IndexError, match=rf"{bad} of a table of {N} rows"):
        native(indices)


def test_what_the_op_refuses(table):
    op, _, native = table
    packed, one = native.table.packed, torch.tensor([1])
    for args, message in [
        ((torch.tensor([1.0]), packed, K, 0), "indices must be int64 or int32"),
        ((one, packed, K + 1, 0), f"embedding_dim must be {K} as in packed"),
        ((one, packed, K, 3), "dtype must be a code of edgekern.ops.FLOATS"),
        ((one, torch.empty(0, dtype=torch.uint8), K, 0), "packed is empty: the layer has no weights yet"),
        ((one, torch.zeros(640, dtype=torch.uint8), K, 0), "holds no packed int"),
        ((one.to("meta"), packed.to("meta"), K, 0), "must be on the CPU"),
    ]:
        with pytest.raises(ValueError, match=message):
            op(*args)


# ---------------------------------------------------------------------------------------------------- layers


@pytest.mark.parametrize("dtype", DTYPES.values())
@pytest.mark.parametrize("kind", OPS)
def test_the_layer_is_the_dense_one_with_rounded_weights(kind, dtype):
    _, cls, scheme = OPS[kind]
    torch.manual_seed(1)
    dense = nn.Embedding(N, K, padding_idx=-1, dtype=dtype)
    native = cls.from_embedding(dense, scheme)
    back = native.dense()
    assert (back.padding_idx, back.weight.dtype) == (N - 1, dtype)
    ids = torch.randint(0, N, (3, 5))
    assert torch.equal(native(ids), back(ids))
    linear = (Int8Linear if cls is Int8Embedding else Int4Linear).from_linear(as_linear(dense), scheme)
    assert torch.equal(native.weight, linear.weight)  # the same rounding
    assert native.packed_bytes == linear.packed_bytes
    again = cls.from_embedding(back, scheme)
    assert torch.equal(again.weight, native.weight) or kind == "int8"  # int8's scale comes from rounded weights then


def as_linear(embedding):
    linear = nn.Linear(K, N, bias=False, dtype=embedding.weight.dtype)
    linear.weight = embedding.weight
    return linear


@pytest.mark.parametrize("kind", OPS)
@pytest.mark.parametrize("copied", [copy.deepcopy, lambda module: pickle.loads(pickle.dumps(module))])
def test_copies_and_state_dicts(kind, copied):
    _, cls, scheme = OPS[kind]
    native = cls.from_embedding(nn.Embedding(N, K, padding_idx=2), scheme)
    ids = torch.randint(0, N, (9,))
    twin = copied(native)
    assert torch.equal(twin(ids), native(ids))
    assert twin.table is not native.table
    empty = cls(N, K, 2, scheme=scheme)
    with pytest.raises(ValueError, match="the layer has no weights yet"):
        empty(ids)
    empty.load_state_dict(native.state_dict())
    assert torch.equal(empty(ids), native(ids))
    assert repr(native) == f"{cls.__name__}({N}, {K}, padding_idx=2)"
    with pytest.raises(RuntimeError, match="size mismatch"):
        cls(N + 1, K, scheme=scheme).load_state_dict(native.state_dict())
    assert not list(native.parameters())
    assert [name for name, _ in native.named_modules()] == [""]


def test_a_tied_layer_has_no_weights_of_its_own():
    head = Int8Linear.from_linear(nn.Linear(K, N), ek.Int8(form="dense"))
    tied = Int8Embedding(N, K, tied_to=head)
    assert torch.equal(tied(torch.arange(N)), head.weight)
    assert (tied.packed_bytes, tied.state_dict()) == (0, {})
    assert "tied=True" in repr(tied)
    with pytest.raises(ValueError, match=rf"tied_to must have a weight of \[{N}, 3\], got \[{N}, {K}\]"):
        Int8Embedding(N, 3, tied_to=head)
    with pytest.raises(TypeError, match="tied_to must be an Int4Linear, got Int8Linear"):
        Int4Embedding(N, K, tied_to=head)
    with pytest.raises(ValueError, match="tied_to must have a scheme of the dense form"):
        Int8Embedding(N, K, tied_to=Int8Linear(K, N))
    with pytest.raises(ValueError, match="rows of a table are read from the dense form alone, not 'bitmap'"):
        Int8Embedding(N, K, scheme=ek.Int8(form="bitmap"))
    with pytest.raises(RuntimeError, match="Int8Embedding runs on the CPU, not on meta"):
        tied.to("meta")
