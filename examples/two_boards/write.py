"""A language model on two boards: each holds half of its layers, and both write one text. Started on both by launch.sh.

    torchrun --nproc-per-node=2 write.py FOLDER            both ranks on this machine

FOLDER has `model`, written by `edgekern.save`, and `config.json` of the model; `make_model.py` makes one.
"""

import argparse
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from edgekern import parallel


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--tokens", type=int, default=20)
    arguments = parser.parse_args()

    parallel.pin()  # to the big cores, and each rank of a board to its own
    config = AutoConfig.from_pretrained(arguments.folder, local_files_only=True)
    with torch.device("meta"):  # no values yet: each rank reads those of its own layers
        model = AutoModelForCausalLM.from_config(config).eval()
    checkpoint = arguments.folder / "model"
    prompt = torch.arange(1, 33)[None]

    with parallel.join() as group:
        plan = parallel.plan(model, group, prompt, checkpoint=checkpoint, cache_tokens=32 + arguments.tokens)
        if group.rank == 0:
            print(plan)
        pipeline = parallel.CausalPipeline(model, plan, group, checkpoint)
        ids = pipeline.generate(prompt if group.rank == 0 else None, arguments.tokens)
        if group.rank == 0:
            print("written:", *ids[0, prompt.shape[1] :].tolist())


if __name__ == "__main__":
    main()
