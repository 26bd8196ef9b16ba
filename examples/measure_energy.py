"""Joules of a model in floats and in int8, and the cheapest and the fastest way to run it on this machine.

On a machine without sensors it says so, and what helps; times are there nevertheless.
"""

import copy

import torch
from torch import nn

import edgekern as ek


def joules(name: str, model: nn.Module, x: torch.Tensor, seconds: float) -> None:
    """Runs the model for a while, and says what a call took."""
    calls = max(1, round(1000 * seconds / ek.bench(model, x, warmup_seconds=0.1, max_seconds=0.2).p50))
    with ek.EnergyMeter() as meter, torch.inference_mode():
        for _ in range(calls):
            model(x)
    print(f"{name}: {calls} calls in {meter.seconds:.2f} s", end="")
    print(f", {meter.joules / calls:.3g} J each ({meter.result.source})" if meter.joules is not None else "")
    for problem in meter.problems:
        print(f"  {problem}")


def main() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(512, 2048), nn.GELU(), nn.Linear(2048, 512)).eval()
    x = torch.randn(32, 512)
    int8 = copy.deepcopy(model)
    ek.convert_(int8, ek.Int8())

    meter = ek.EnergyMeter()
    print(meter.why_none or f"measured by {meter.source}, {meter.scope}")
    # A battery's figures change every few seconds, others' many times a second.
    seconds = max(0.5, meter.least_seconds)
    joules("float32", model, x, seconds)
    joules("int8", int8, x, seconds)

    # All numbers of threads, and all governors that this user may set; seconds=2 or more for figures to rely on.
    plan = ek.power_plan(model, x, formats=["float", "int8"], seconds=0.3, progress=False)
    print(plan)


if __name__ == "__main__":
    main()
