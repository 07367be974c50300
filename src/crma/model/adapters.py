"""One LoRA a domain on a shared base (the only module that imports peft).

LoRA: Hu et al., 2021 (arXiv 2106.09685). A target's write becomes W x + (α/r) B A x, A [r, i], B [d, r], B = 0 first.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Literal

import numpy as np
import torch
from peft import LoraConfig, TaskType
from peft.functional import delete_adapter, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from crma.errors import ConfigError, UnknownDomainError
from crma.model.architecture import linear_shape, lora_targets

__all__ = ["AdapterConfig", "Adapters", "Weights", "from_file", "peft_config", "rank_of", "to_file"]

# {target: (A [r, i], B [d, r])}, float32, the scaling not yet in B.
Weights = dict[str, tuple[np.ndarray, np.ndarray]]

_PREFIX = "base_model.model."  # what PEFT puts before a module's name in a file
_MODULE = "crma_"  # before a LoRA's name in the model: PEFT keeps them in a ModuleDict, which refuses "values" or "pop"


class AdapterConfig(BaseModel):
    """The shape of a domain's LoRA."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: int = Field(default=8, ge=1)  # of what is folded or blended it is a sum, so it has no limit here
    alpha: float = Field(default=16.0, gt=0)
    dropout: float = Field(default=0.0, ge=0, lt=1)
    reads: Literal["orthonormal", "uniform"] = Field(
        default="orthonormal",
        description="how A begins: orthonormal rows, or PEFT's, whose rows are 0.58 long (Kaiming's with a = √5)",
    )

    @property
    def scaling(self) -> float:
        return self.alpha / self.rank

    def of_rank(self, rank: int) -> AdapterConfig:
        """The same scaling at another rank."""
        return self if rank == self.rank else self.model_copy(update={"rank": rank, "alpha": self.scaling * rank})


class Adapters:
    """The LoRAs that are in a model at this moment. The model itself stays the Hugging Face model it was."""

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self.targets = lora_targets(model)
        self._shapes = {target: linear_shape(model.get_submodule(target)) or (0, 0) for target in self.targets}
        self.configs: dict[str, AdapterConfig] = {}
        self._active: str | None = None

    def add(self, name: str, config: AdapterConfig, *, seed: int = 0) -> None:
        """A fresh LoRA: A drawn from `seed`, B zero, so the model's outputs do not change."""
        if name in self.configs:
            raise ConfigError("an adapter of this name is in the model already", got=name)
        lora = LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,  # pyright: ignore[reportArgumentType]  (a float is what it becomes)
            lora_dropout=config.dropout,
            target_modules=list(self.targets),
            task_type=TaskType.CAUSAL_LM,
        )
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            with _several_adapters():
                inject_adapter_in_model(lora, self.model, adapter_name=_MODULE + name)
            for layer in self._layers():
                for part in (layer.lora_A, layer.lora_B):
                    part[_MODULE + name].to(torch.float32)  # what is trained is float32, whatever the base is held in
                layer.train(self.model.training)  # PEFT's new parts train, and would drop out in what is served
                if config.reads == "orthonormal":
                    _orthonormal_rows_(layer.lora_A[_MODULE + name].weight)
        self.configs[name] = config
        self.activate(self._active)

    def activate(self, name: str | None) -> None:
        """Answer under `name`; None is the base without any LoRA. No parameter becomes trainable by this."""
        if name is not None and name not in self.configs:
            raise UnknownDomainError(f"no adapter '{name}' in the model", expected=sorted(self.configs), got=name)
        for layer in self._layers():
            layer.enable_adapters(name is not None)
            if name is not None:
                layer.set_adapter(_MODULE + name)
            for part in (layer.lora_A, layer.lora_B):
                part.requires_grad_(False)
        self._active = name

    @property
    def active(self) -> str | None:
        return self._active

    @contextmanager
    def using(self, name: str | None) -> Iterator[None]:
        before = self._active
        self.activate(name)
        try:
            yield
        finally:
            self.activate(before if before in self.configs else None)

    def remove(self, name: str) -> None:
        if name in self.configs:
            if self._active == name:
                self.activate(None)
            if len(self.configs) > 1:
                with _several_adapters():
                    delete_adapter(self.model, _MODULE + name, prefix="lora_", layer_cls=LoraLayer)
            else:
                self._unwrap()
            del self.configs[name]
            self.activate(self._active)  # PEFT chose another adapter and switched its gradients on

    def parameters(self, name: str) -> dict[str, nn.Parameter]:
        """Trained parameters by "<target>.lora_A" and "<target>.lora_B"."""
        found = {}
        for target, layer in self._named_layers():
            if _MODULE + name in layer.lora_A:
                found[f"{target}.lora_A"] = layer.lora_A[_MODULE + name].weight
                found[f"{target}.lora_B"] = layer.lora_B[_MODULE + name].weight
        return found

    def weights(self, name: str) -> Weights:
        parameters = {key: _array(value) for key, value in self.parameters(name).items()}
        targets = [key.removesuffix(".lora_A") for key in parameters if key.endswith(".lora_A")]
        return {t: (parameters[f"{t}.lora_A"], parameters[f"{t}.lora_B"]) for t in targets}

    @torch.no_grad()
    def load(self, name: str, config: AdapterConfig, weights: Mapping[str, tuple[np.ndarray, np.ndarray]]) -> None:
        """Put a stored LoRA into the model under `name`, replacing what stands there.

        Raises:
            ConfigError: its targets or shapes are not this base's.
        """
        expected = {t: ((config.rank, d_in), (d_out, config.rank)) for t, (d_in, d_out) in self._shapes.items()}
        got = {t: (a.shape, b.shape) for t, (a, b) in weights.items()}
        if expected != got:  # before the model is touched: what stands there under this name goes on standing
            wrong = sorted(t for t in {*expected, *got} if expected.get(t) != got.get(t))
            raise ConfigError(
                f"the adapter '{name}' does not fit this base model",
                where=", ".join(wrong[:4]),
                expected=[expected.get(t) for t in wrong[:4]],
                got=[got.get(t) for t in wrong[:4]],
            )
        if self.configs.get(name) != config:
            self.remove(name)
            self.add(name, config)
        own = self.parameters(name)
        for target, pair in weights.items():
            for part, array in zip("AB", pair, strict=True):
                parameter = own[f"{target}.lora_{part}"]
                parameter.copy_(torch.from_numpy(np.array(array)).to(parameter))

    def _named_layers(self) -> Iterator[tuple[str, LoraLayer]]:
        for name, module in self.model.named_modules():
            if isinstance(module, LoraLayer):
                yield name, module

    def _layers(self) -> Iterator[Any]:
        return (layer for _, layer in self._named_layers())

    def _unwrap(self) -> None:
        """Put the base's own modules back: PEFT cannot delete a layer's last adapter and go on."""
        for name, layer in list(self._named_layers()):
            parent, _, child = name.rpartition(".")
            setattr(self.model.get_submodule(parent), child, layer.get_base_layer())
        del self.model.peft_config


def rank_of(weights: Weights) -> int:
    return next(iter(weights.values()))[0].shape[0]


def to_file(weights: Weights) -> dict[str, np.ndarray]:
    """The tensors of `adapter_model.safetensors` in PEFT's names."""
    return {
        f"{_PREFIX}{target}.lora_{part}.weight": array
        for target, pair in weights.items()
        for part, array in zip("AB", pair, strict=True)
    }


def from_file(tensors: Mapping[str, np.ndarray]) -> Weights:
    """The inverse of `to_file`."""
    targets = [k.removeprefix(_PREFIX).removesuffix(".lora_A.weight") for k in tensors if k.endswith(".lora_A.weight")]
    return {t: (tensors[f"{_PREFIX}{t}.lora_A.weight"], tensors[f"{_PREFIX}{t}.lora_B.weight"]) for t in targets}


def peft_config(*, rank: int, alpha: float, targets: tuple[str, ...], base_name: str) -> dict[str, Any]:
    """`adapter_config.json` as PEFT, vLLM and llama.cpp read it: one rank, one alpha, no patterns, no bias.

    Targets are named by their last part where that is unambiguous (the form engines expect).
    """
    config = LoraConfig(
        r=rank,
        lora_alpha=alpha,  # pyright: ignore[reportArgumentType]
        target_modules=sorted({t.rsplit(".", 1)[-1] for t in targets}),
        task_type=TaskType.CAUSAL_LM,
        base_model_name_or_path=base_name,
        inference_mode=True,
    )
    plain = {key: sorted(v) if isinstance(v, set) else v for key, v in config.to_dict().items()}
    return json.loads(json.dumps(plain, default=str))


@contextmanager
def _several_adapters() -> Iterator[None]:
    """PEFT warns of a second adapter and of a deleted one, which are the point here, and of GPT-2's transposed weights,
    which it then handles."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Already found a `peft_config`")
        warnings.filterwarnings("ignore", message="Adapter .* was active which is now deleted")
        warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False but the target module is `Conv1D`")
        yield


@torch.no_grad()
def _orthonormal_rows_(a: Tensor) -> None:
    """A [r, i] drawn anew, its rows orthonormal, or of length 1 where there are more of them than columns."""
    drawn = torch.randn(a.shape[1], a.shape[0])
    a.copy_(torch.linalg.qr(drawn).Q.mT if a.shape[0] <= a.shape[1] else (drawn / drawn.norm(dim=0)).mT)


def _array(value: Any) -> np.ndarray:
    data = value.detach()
    whole: Tensor = data.full_tensor() if hasattr(data, "full_tensor") else data  # sharded by FSDP 2
    return whole.float().cpu().numpy().copy()
