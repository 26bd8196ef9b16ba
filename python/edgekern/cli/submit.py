"""`edgekern bench --submit`: one file that says how fast the layers are on a board, and what board that is."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from ..machine import describe_machine
from ..report.board import board_model, read_sensors
from .bench import linear_case, measure, show

SCHEMA = 1
# The same for everybody, or files could not be compared: (m, k, n) of a text encoder's layers, for one token, a short
# and a long text, small enough for a board with 1 GB.
LAYERS = tuple((m, k, n) for k, n in ((384, 1536), (768, 3072)) for m in (1, 16, 128))


def submit(path: Path, dtype: str, rounds: int) -> None:
    """Times every one of LAYERS, prints each, and writes everything to `path` as JSON lines.

    Lines are written as they come: "header", a "layer" for each, "end". A file without its end was cut short.

    Raises:
        OSError: `path` exists or cannot be written; found out before anything is timed.
    """
    if path.exists():
        raise FileExistsError(f"{path} exists already: remove it, or give --submit another name")
    with path.open("x", encoding="utf-8") as file:
        for record in _records(dtype, rounds):
            file.write(json.dumps(record, allow_nan=False) + "\n")
            file.flush()
    print(f"Wrote {path}. How to send it: benchmarks/README.md, 'Send what a board measured'.")


def _records(dtype: str, rounds: int) -> Iterator[dict[str, Any]]:
    start = time.monotonic()
    yield {
        "kind": "header",
        "schema": SCHEMA,
        "benchmark": "board",
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "board": board_model(),
        **describe_machine(),
        "dtype": dtype,
        "rounds": rounds,
        "sensors": read_sensors(),
    }
    for index, (m, k, n) in enumerate(LAYERS, 1):
        timed = measure(linear_case(m, k, n, dtype), rounds)
        show(timed, "table", note=index == len(LAYERS))
        of_layer = {"load": timed["machine"]["load"], "sensors": read_sensors(), "energy": timed["energy"]}
        yield {"kind": "layer", "m": m, "k": k, "n": n, **of_layer, "rows": timed["rows"]}
    yield {"kind": "end", "seconds": round(time.monotonic() - start, 1)}
