"""Converted models in EleutherAI's lm-evaluation-harness, as its model ``edgekern``.

The harness looks for no plug-ins, so its own command does not know the name. This module does, with all its options::

    python -m edgekern.integrations.lm_eval --model edgekern --model_args pretrained=FOLDER --tasks arc_easy

In a program, import this module before ``lm_eval.simple_evaluate(model="edgekern", ...)``. Needs the extra [lm-eval].
"""

from __future__ import annotations

from typing import Any

from lm_eval.api.registry import register_model
from lm_eval.models.huggingface import HFLM

from edgekern.config import scheme_from_dict
from edgekern.integrations.transformers import load_model, load_tokenizer


@register_model("edgekern")
class EdgekernLM(HFLM):
    """The harness's own adapter of transformers, on a model of a local folder. Runs on the CPU.

    Args:
        pretrained: folder of a model that was saved converted, by edgekern or as compressed-tensors does, or of a float
            one; with its tokenizer.
        scheme: what to convert a float model to while it is read, as ``"int8"``.
        dtype: of what is not converted, ``"auto"`` for the stored one.
        device: of no effect, as there is the CPU alone; the harness's command asks for a GPU where nobody does.
        options: for ``lm_eval.models.huggingface.HFLM``: ``batch_size``, ``max_length`` and the like.

    Raises:
        OSError: no model that transformers knows in the folder, or no tokenizer.
        ValueError: an unknown scheme, or a model that cannot be converted.
    """

    def __init__(
        self,
        pretrained: str,
        scheme: str | None = None,
        dtype: str = "auto",
        device: str | None = "cpu",
        **options: Any,
    ) -> None:
        tokenizer = load_tokenizer(pretrained)
        if tokenizer is None:
            raise FileNotFoundError(f"pretrained: {pretrained} holds no tokenizer; text needs one, as tokenizer.json")
        config = None if scheme is None else scheme_from_dict({"format": scheme})
        model = load_model(pretrained, config, dtype)
        super().__init__(pretrained=model, tokenizer=tokenizer, **options)


if __name__ == "__main__":
    from lm_eval.__main__ import cli_evaluate

    cli_evaluate()
