"""Configurations as TOML files."""

from __future__ import annotations

import sys

import pytest

from edgekern.config import AWQ, GPTQ, Float32, Int4, Int8, PerLayer, Prune, SmoothQuant, read_config, write_config

pytestmark = pytest.mark.skipif(sys.version_info < (3, 11), reason="Python 3.10 cannot read TOML")


def read(tmp_path, text):
    path = tmp_path / "config.toml"
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return read_config(path)


@pytest.mark.parametrize(
    ("text", "config"),
    [
        ('format = "int8"', Int8()),
        ('format = "int8"\nrows = [1, 128]\npackings = 2', Int8(rows=(1, 128), packings=2)),
        ('format = "f32"\nchannels = 4', Float32(channels=4)),
        ('format = "per_layer"\n[rules]\n_default = "int8"', PerLayer({"_default": Int8()})),
        (
            'format = "per_layer"\n[rules]\nlm_head = "dense"\n"re:.*mlp.*" = { format = "int8", rows = 8 }',
            PerLayer({"lm_head": None, "re:.*mlp.*": Int8(rows=8)}),
        ),
        (
            'format = "awq"\nsteps = 10\n[to]\nformat = "gptq"\n[to.to]\nformat = "int4"\nclip = "hqq"',
            AWQ(GPTQ(Int4(clip="hqq")), steps=10),
        ),
        ('format = "per_layer"\n[rules.head]\nformat = "dense"', PerLayer({"head": None})),
    ],
)
def test_what_files_mean(tmp_path, text, config):
    assert read(tmp_path, text) == config


@pytest.mark.parametrize(
    "config",
    [
        Int8(),
        Int8(rows=(1, 7), form="blocks_4"),
        Prune(0.5, pattern="4x4", method="sparsegpt", joint=Int8()),
        SmoothQuant(GPTQ(Int8()), alpha=0.75),
        PerLayer({"re:z.*": None, "re:a.*": Int8(rows=3), "b": Float32(), "re:y.*": None, "_default": Int8()}),
    ],
)
def test_written_and_read_again(tmp_path, config):
    pytest.importorskip("tomli_w")
    write_config(config, tmp_path / "config.toml")
    read = read_config(tmp_path / "config.toml")
    assert read == config
    if isinstance(config, PerLayer):
        assert list(read.rules) == list(config.rules)  # patterns are tried in their order


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("format = ", "Invalid value"),
        (b"\xff", "can't decode"),
        ("", "unknown format None; this version knows awq, f16, f32"),
        ('format = "int9"', "unknown format 'int9'; this version knows awq, f16, f32"),
        ('format = "int8"\nbits = 3', "format 'int8' has no option 'bits'; it has form, rows, packings"),
        ('format = "int8"\nrows = "many"', "rows must be numbers of rows"),
        ('format = "per_layer"', "takes 'rules', a mapping"),
        ('format = "per_layer"\n[rules]\nhead = 3', "the rule for 'head' must be a format's name or a table"),
        ('format = "per_layer"\n[rules]\nhead = "os.system"', "unknown format 'os.system'"),
        ('format = "per_layer"\n[rules]\n"re:(" = "int8"', "is no regular expression"),
    ],
)
def test_mistakes_name_the_file(tmp_path, text, message):
    with pytest.raises(ValueError, match=rf"config\.toml: .*{message}"):
        read(tmp_path, text)
