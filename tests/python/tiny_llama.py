"""Small random language models of real architectures, and folders with them."""

from __future__ import annotations

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = [f"w{number}" for number in range(94)]


def tiny(tied=True, kind="Llama", seed=0, **options):
    torch.manual_seed(seed)
    sizes = {
        "vocab_size": 96,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "tie_word_embeddings": tied,
        **options,
    }
    model = getattr(transformers, f"{kind}ForCausalLM")(getattr(transformers, f"{kind}Config")(**sizes)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)  # biases are made zero, norms one
    return model


def folder_of(model, folder, **options):
    """The folder, with the model in several files."""
    model.save_pretrained(folder, **{"max_shard_size": "20KB", **options})
    assert len(list(folder.glob("model-*.safetensors"))) > 2
    return folder


def add_tokenizer(folder):
    """Every word a token."""
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate([*WORDS, "<unk>", "</s>"])}, "<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = transformers.PreTrainedTokenizerFast(tokenizer_object=tokenizer, unk_token="<unk>", eos_token="</s>")
    fast.save_pretrained(folder)
    return folder


def greedy(model, count=20):
    prompt = torch.arange(1, 8)[None]
    options = {"max_new_tokens": count, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        return model.generate(prompt, **options)[0].tolist()


def logits(model):
    with torch.inference_mode():
        return model(torch.arange(24)[None] * 3 % 96).logits
