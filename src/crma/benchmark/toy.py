"""A random two-layer Llama with a byte-level tokenizer: what the smoke recipe learns with in seconds, no download."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

from crma.model.base import cache_root

__all__ = ["toy_base"]

_SPECIALS = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")


def toy_base() -> Path:
    """A folder that `load_base` opens, made once in the cache."""
    folder = cache_root() / "bases" / "toy-llama-1"
    if not (folder / "config.json").is_file():
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        partial.mkdir(parents=True)
        _model().save_pretrained(partial)
        _tokenizer().save_pretrained(partial)
        try:
            os.replace(partial, folder)
        except OSError:  # another process was first
            shutil.rmtree(partial)
    return folder


def _model() -> PreTrainedModel:
    config = AutoConfig.for_model(
        "llama",
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=len(_SPECIALS) + 256,
        max_position_embeddings=512,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)


def _tokenizer() -> PreTrainedTokenizerFast:
    tokens = [*_SPECIALS, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    tokenizer = Tokenizer(models.BPE(vocab={token: i for i, token in enumerate(tokens)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(_SPECIALS))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<|im_end|>"
    )
