"""One int8 linear layer with NumPy alone: nothing here imports torch."""

import numpy as np

from edgekern import kernels


def main() -> None:
    rng = np.random.default_rng(0)
    weight = rng.standard_normal((1536, 384), dtype=np.float32)  # [N, K]
    bias = rng.standard_normal(1536, dtype=np.float32)
    x = rng.standard_normal((8, 384), dtype=np.float32)  # [M, K]

    q, scale = kernels.int8_quantize(weight)
    packed = kernels.int8_pack(q, scale, bias)
    y = kernels.int8_linear(x, packed, activation="relu")

    exact = np.maximum(x @ weight.T + bias, 0)
    error = np.linalg.norm(y - exact) / np.linalg.norm(exact)
    print(f"kernels: {kernels.default_isa()} on {kernels.cpu()['name']}")
    print(f"weight:  {weight.nbytes:,} bytes as float32, {packed.nbytes:,} packed as int8")
    print(f"relative error against float32: {error:.4f}")


if __name__ == "__main__":
    main()
