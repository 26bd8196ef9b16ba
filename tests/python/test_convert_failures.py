"""convert_ does all or nothing: whatever goes wrong, the model is as it was."""

import signal
import threading

import pytest
import torch
from small_models import BLOCK_LAYERS, LanguageModel, OwnForward, assert_untouched, native_names, snapshot
from torch import nn

from edgekern import ConvertError, Int8, PerLayer, convert, convert_, dense_
from edgekern.nn import Int8Linear


def spoiled(value):
    model = LanguageModel(tied=False)
    with torch.no_grad():
        model.blocks[1].down.weight[3, 5] = value
    return model


@pytest.mark.parametrize(("value", "text"), [(float("nan"), "NaN"), (float("inf"), "inf"), (-float("inf"), "inf")])
def test_a_weight_that_is_not_finite_stops_everything(value, text):
    model = spoiled(value)
    before = snapshot(model)
    with pytest.raises(ConvertError, match=f"the weight of 'blocks.1.down' holds {text}.*PerLayer"):
        convert_(model, Int8())
    assert_untouched(model, before)
    convert_(model, PerLayer({"blocks.1.down": None, "_default": Int8()}))
    assert len(native_names(model)) == 3


def fail(*args):
    raise RuntimeError("on purpose")


def fail_late(module, name):
    return True if name != "lm_head" else fail()


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ((Int8,), TypeError, r"write Int8\(\.\.\.\)"),
        (({"_default": Int8()},), TypeError, "wrap it: PerLayer"),
        ((Int8(), "lm_head"), TypeError, "filter_fn: expected a function"),
        ((Int8(), fail_late), RuntimeError, "on purpose"),
        ((PerLayer({"lm_hed": None}),), ConvertError, "config: no layer is called 'lm_hed'; close to it: 'lm_head'"),
        ((PerLayer({"re:decoder.*": None}),), ConvertError, "config: 're:decoder.*' matches no layer"),
        ((PerLayer({"blocks.0": None}),), ConvertError, "not a layer but holds 2"),
        ((PerLayer({"lm_head": Int8()}), lambda m, n: False), ConvertError, "nothing to convert"),
    ],
)
def test_wrong_arguments_change_nothing(arguments, error, message):
    model = LanguageModel(tied=False).train()
    before = snapshot(model)
    with pytest.raises(error, match=message):
        convert_(model, *arguments)
    assert_untouched(model, before)


def test_running_out_of_memory_changes_nothing(monkeypatch):
    model = LanguageModel()
    before, reserve, count = snapshot(model), convert._reserve, []

    def limited(*args):
        count.append(args)
        return reserve(*args) if len(count) < 4 else fail()

    monkeypatch.setattr(convert, "_reserve", limited)
    with pytest.raises(RuntimeError, match="on purpose"):
        convert_(model, Int8())
    assert len(count) == 4
    assert_untouched(model, before)


@pytest.fixture
def python_handles_ctrl_c():
    """Also where the tests were started in the background by a shell, which has them ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield signal.default_int_handler
    signal.signal(signal.SIGINT, before)


def test_ctrl_c_waits_until_the_model_is_whole(monkeypatch, python_handles_ctrl_c):
    model, quantize = LanguageModel(), Int8Linear.take_

    def interrupted(*args):
        signal.raise_signal(signal.SIGINT)
        quantize(*args)

    monkeypatch.setattr(Int8Linear, "take_", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert_(model, Int8())
    assert native_names(model) == BLOCK_LAYERS
    assert signal.getsignal(signal.SIGINT) is python_handles_ctrl_c


def test_conversion_in_another_thread():
    model, errors = LanguageModel(), []

    def work():
        try:
            convert_(model, Int8())
        except BaseException as error:
            errors.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert errors == []
    assert native_names(model) == BLOCK_LAYERS


@pytest.mark.parametrize("call", [lambda m: convert_(m, Int8()), dense_])
def test_what_is_no_model(call):
    with pytest.raises(ConvertError, match=r"a single Linear has no parent.*torch.nn.Sequential\(layer\)"):
        call(nn.Linear(4, 4))
    with pytest.raises(ConvertError, match="a single Int8Linear has no parent"):
        call(Int8Linear(4, 4))
    with pytest.raises(TypeError, match=r"model: expected a torch.nn.Module, got list"):
        call([nn.Linear(4, 4)])


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
def test_a_script_module_is_refused():
    with pytest.raises(ConvertError, match="TorchScript"):
        convert_(torch.jit.script(nn.Sequential(nn.Linear(4, 4))), Int8())


def test_nothing_to_convert_is_an_error_with_the_reasons():
    with pytest.raises(ConvertError, match="nothing to convert: the model has no linear or 2-d convolution layers"):
        convert_(nn.Sequential(nn.ReLU()), Int8())
    model = nn.Sequential(*(OwnForward(4, 4) for _ in range(3)), nn.Conv2d(1, 1, 1).double())
    with pytest.raises(ConvertError, match="all 4 layers are left alone") as error:
        convert_(model, Int8())
    assert "'0' (3 such): OwnForward has a forward of its own" in str(error.value)
    assert "'3' (1 such): its weight is torch.float64" in str(error.value)


@pytest.mark.parametrize("rules", [{"_default": None}, {"re:.*": None, "_default": Int8()}])
def test_asking_for_nothing_is_no_error(rules):
    model = LanguageModel()
    report = convert_(model, PerLayer(rules))
    assert len(report.skipped) == 6
    assert not report.converted
