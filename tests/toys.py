"""Toys the tests share: a random two-layer decoder with a byte-level tokenizer, saved as any Hugging Face model is."""

from __future__ import annotations

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedTokenizerFast

SPECIALS = ("<pad>", "<s>", "</s>", "<|im_start|>", "<|im_end|>")
CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

# Small configs of the families users bring; each is the family's own class, 2 layers, random weights.
FAMILIES: dict[str, dict[str, object]] = {
    "llama": {},
    "mistral": {"sliding_window": None},
    "gemma3_text": {"head_dim": 8, "sliding_window": 16},
    "phi3": {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    "qwen3": {"head_dim": 8},
}


def toy_config(family: str = "llama", *, hidden: int = 32, vocab: int = 261):
    return AutoConfig.for_model(
        family,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=vocab,
        max_position_embeddings=512,
        **FAMILIES[family],
    )


def toy_model(family: str = "llama", *, seed: int = 0, dtype: torch.dtype = torch.float32, hidden: int = 32):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForCausalLM.from_config(toy_config(family, hidden=hidden), dtype=dtype)
    model.requires_grad_(False)
    return model.eval()


def toy_tokenizer() -> PreTrainedTokenizerFast:
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {token: i for i, token in enumerate([*SPECIALS, *alphabet])}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIALS))
    wrapped = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="<|im_end|>"
    )
    wrapped.chat_template = CHATML
    return wrapped


def save_toy(folder: Path, family: str = "llama", *, seed: int = 0, hidden: int = 32) -> Path:
    toy_model(family, seed=seed, dtype=torch.bfloat16, hidden=hidden).save_pretrained(folder)
    toy_tokenizer().save_pretrained(folder)
    return folder
