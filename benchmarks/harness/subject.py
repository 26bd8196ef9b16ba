"""What every measured program looks like to the harness, and the list of them."""

from __future__ import annotations

import importlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

# What edgekern packs an int8 weight into.
FORMS = ("dense", "blocks_1", "blocks_2", "blocks_4", "blocks_8", "csr", "bitmap", "bitmap_4")
# An int4 weight.
INT4_FORMS = ("dense", "bitmap", "bitmap_2")
# And a float32 or float16 weight: kept blocks of so many output features.
FLOAT_CHANNELS = (1, 4)
# A convolution and a network of them: how ranges of images are found, if not for each anew, and the order of images.
CONV_KINDS = ("nhwc", "nchw", "static-nhwc", "static-nchw")
# What a network's ONNX graph computes in.
GRAPH_KINDS = ("fp32", "int8-static")
# A language model: its layers, and with "-head" the output head too.
LM_KINDS = ("int8", "int8-head", "int4", "int4-head")

# name -> "module:class" or "module:class:argument", of which there may be several.
# Modules are imported in the subject's own process only: each brings its own thread pool.
SUBJECTS: dict[str, str] = {
    "edgekern": "rivals.linear_edgekern:EdgekernLinear:Int8",
    "edgekern-int4": "rivals.linear_edgekern:EdgekernLinear:Int4",
    "edgekern-float": "rivals.linear_edgekern:EdgekernLinear:Int8:float",
    "edgekern-int4-float": "rivals.linear_edgekern:EdgekernLinear:Int4:float",
    **{f"edgekern-{form}": f"rivals.sparse_edgekern:EdgekernForm:{form}" for form in FORMS},
    **{f"edgekern-int4-{form}": f"rivals.sparse_edgekern:EdgekernInt4:{form}" for form in INT4_FORMS},
    **{f"edgekern-f32-{count}": f"rivals.sparse_edgekern:EdgekernF32:{count}" for count in FLOAT_CHANNELS},
    **{f"edgekern-f16-{count}": f"rivals.sparse_edgekern:EdgekernF16:{count}" for count in FLOAT_CHANNELS},
    "torch-fp32": "rivals.linear_torch:TorchFloat32",
    "torch-bf16": "rivals.linear_torch:TorchBfloat16",
    "torch-int8-x86": "rivals.linear_torch:TorchDynamicX86",
    "torch-int8-onednn": "rivals.linear_torch:TorchDynamicOneDnn",
    "onnxruntime-int8": "rivals.linear_onnxruntime:OnnxRuntimeDynamic",
    "onnxruntime-int4": "rivals.linear_onnxruntime:OnnxRuntimeInt4",
    "openvino-int8": "rivals.linear_openvino:OpenVinoInt8Weights",
    "openvino-int4": "rivals.linear_openvino:OpenVinoInt4Weights",
    "torch-csr": "rivals.sparse_torch:TorchCsr",
    "torch-qnnpack-1x4": "rivals.sparse_torch:TorchQnnpack1x4",
    "deepsparse-fp32": "rivals.sparse_deepsparse:DeepSparseFloat32",
    "deepsparse-int8": "rivals.sparse_deepsparse:DeepSparseInt8",
    "deepsparse-int8-fast": "rivals.sparse_deepsparse:DeepSparseInt8Fast",
    "peak-int8": "harness.roofline:PeakInt8",
    "read-bandwidth": "harness.roofline:ReadBandwidth",
    "minilm-edgekern": "rivals.minilm:EdgekernModel",
    "minilm-stub": "rivals.minilm:StubModel",
    "minilm-torch-fp32": "rivals.minilm:TorchModel",
    "minilm-torch-int8-x86": "rivals.minilm:TorchDynamicModel",
    "minilm-onnxruntime-int8": "rivals.minilm:OnnxRuntimeModel",
    "minilm-openvino-fp32": "rivals.minilm:OpenVinoModel",
    **{f"lm-edgekern-{kind}": f"rivals.lm_transformers:EdgekernModel:{kind}" for kind in LM_KINDS},
    "lm-stub": "rivals.lm_transformers:StubModel:float32",
    "lm-torch-fp32": "rivals.lm_transformers:TransformersModel:float32",
    "lm-torch-bf16": "rivals.lm_transformers:TransformersModel:bfloat16",
    "lm-torch-int8-x86": "rivals.lm_transformers:TorchDynamicModel:x86",
    **{f"conv-edgekern-{kind}": f"rivals.conv_torch:EdgekernConv:{kind}" for kind in CONV_KINDS},
    "conv-edgekern-pruned": "rivals.conv_torch:EdgekernPrunedConv:static-nhwc",
    "conv-torch-fp32": "rivals.conv_torch:TorchConv",
    "conv-onnxruntime-int8-static": "rivals.conv_onnx:OnnxRuntimeConv",
    "conv-openvino-int8-static": "rivals.conv_onnx:OpenVinoConv",
    **{f"cnn-edgekern-{kind}": f"rivals.cnn_torch:EdgekernCnn:{kind}" for kind in CONV_KINDS},
    "cnn-edgekern-frozen": "rivals.cnn_torch:EdgekernFrozenCnn:static-nhwc",
    "cnn-edgekern-frozen-uint8": "rivals.cnn_torch:EdgekernFrozenUint8Cnn:static-nhwc",
    "cnn-torch-fp32": "rivals.cnn_torch:TorchCnn",
    "cnn-torch-compile": "rivals.cnn_torch:TorchCompiledCnn",
    **{f"cnn-onnxruntime-{kind}": f"rivals.cnn_onnx:OnnxRuntimeCnn:{kind}" for kind in GRAPH_KINDS},
    **{f"cnn-openvino-{kind}": f"rivals.cnn_onnx:OpenVinoCnn:{kind}" for kind in GRAPH_KINDS},
    "llama-q8_0": "rivals.lm_llama:LlamaModel:q8_0",
    "llama-q4_0": "rivals.lm_llama:LlamaModel:q4_0",
}


class Subject(ABC):
    """One program under test. It lives in its own process and is asked to prepare a task, then to run it.

    `prepare` sets `calls`: the timed actions, run in rotation (one for a warm measurement, many for a cold one).
    """

    packages: ClassVar[tuple[str, ...]] = ()  # distributions whose versions belong in the results

    def __init__(self, threads: int) -> None:
        self.threads = threads
        self.calls: list[Callable[[], Any]] = []

    @abstractmethod
    def prepare(self, **task: Any) -> dict[str, Any]:
        """Get ready for `task`, check the answer, set `calls`; return facts for the results."""

    def session(self) -> AbstractContextManager[Any]:
        """What everything runs inside, e.g. torch.inference_mode()."""
        return nullcontext()

    def profile(self) -> dict[str, float]:
        """Seconds a call spends in each part; subjects that cannot tell return nothing."""
        return {}


def load_subject(name: str, threads: int) -> Subject:
    """Import and build the subject called `name` (a key of SUBJECTS) with a pool of `threads` threads."""
    module, attribute, *arguments = SUBJECTS[name].split(":")
    return getattr(importlib.import_module(module), attribute)(threads, *arguments)
