"""Writes a small random Llama in int8, for write.py: what it writes means nothing, but takes no download.

python make_model.py FOLDER
"""

import sys
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaForCausalLM

import edgekern as ek


def main() -> None:
    folder = Path(sys.argv[1])
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=512, hidden_size=128, intermediate_size=256, num_hidden_layers=6, num_attention_heads=4
    )
    model = LlamaForCausalLM(config).eval()
    ek.convert_(model, ek.Int8())
    config.save_pretrained(folder)
    ek.save(model, folder / "model", overwrite=True)


if __name__ == "__main__":
    main()
