"""The CRMA backbone: one bounded linear map a site, shared by all domains.

Shape legend: S = sites, n = directions, m = 2n (the antipodal lift), i = d_in, d = d_out, B = batch, L = length.

Contraction (default):    z' = W x + ρ ‖W‖₂ · B K A x,     A [n, i] orthonormal rows, ‖B‖₂ ≤ 1, B [d, n] = 0 at first
Learnt frames (gated):    z' = W x + g ρ ‖W‖₂ · B K A x,   A as above, B of orthonormal columns, g = 0 at first
Fixed frames (light):     z' = (I + g U (K − I) Uᵀ) W x,   U [d, n] the top left singular vectors of W
Controls, not bounded:    frames "lora": z' = W x + 2 B A x with plain A, B; mixing "row-stochastic", "free" (any K).
And mixing "none": M = I, so K = I, bounded.
with K = ½ (M₁₁ − M₁₂ − M₂₁ + M₂₂) of a doubly stochastic M [2n, 2n] (the paper, arXiv 2606.00382, fixes M; the lift,
the frames and the gate are ours). ‖K‖₂ = ½ ‖[I, −I] M [I; −I]‖₂ ≤ ½ · √2 · ‖M‖₂ · √2 = ‖M‖₂ = 1, hence ‖B K A‖₂ ≤ 1
and ‖ΔW‖₂ ≤ ρ ‖W‖₂ (times |g|) for any parameters whatever; in the light form ‖I + g U (K − I) Uᵀ‖₂ ≤ 1.

Why B may shrink: with both frames orthonormal a zero start needs a gate, and while it is near zero the frames learn
next to nothing, in random directions. From B = 0 the first step is already along the loss's gradient, as LoRA's is.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Self

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn

from crma.errors import BaseModelError, ConfigError, TrainingDivergedError
from crma.model.architecture import Site, Where, backbone_sites, decoder_of
from crma.model.birkhoff import Certificate, project_to_birkhoff, spectral_certificate

__all__ = [
    "Backbone",
    "BackboneConfig",
    "SiteReport",
    "State",
    "attach_backbone",
    "dense_weight",
    "distance",
    "interpolate",
]

State = dict[str, np.ndarray]  # a backbone's numbers, as a snapshot file holds them

_LORA_SCALE = 2.0  # α / r, as the domains' LoRAs have it
_PLAIN = (torch.float64, torch.float32, torch.bfloat16, torch.float16)


class BackboneConfig(BaseModel):
    """The shape of a backbone. One stack has one: snapshots of different shapes cannot be compared."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    frames: Literal["contraction", "learnt", "light", "lora"] = "contraction"
    where: Where = Field(
        default="lora-targets", description="the projections that are its sites: all a LoRA is on, or the two writes"
    )
    directions: int = Field(default=10, ge=1, le=512, description="n, the directions a site reads, mixes and writes")
    strength: float = Field(default=0.5, gt=0, le=4, description="ρ: ‖ΔW‖₂ ≤ ρ ‖W‖₂ (not of the light form)")
    mixing: Literal["doubly-stochastic", "row-stochastic", "free", "none"] = "doubly-stochastic"
    diagonal: float = Field(default=3.0, ge=0.1, le=80, description="c: the logits start at c·I")
    sweeps: int = Field(default=5, ge=1, le=50, description="Sinkhorn sweeps before the exact rounding")
    seed: int = 0

    @classmethod
    def stored(cls, settings: Mapping[str, Any]) -> Self:
        """As a stack or a receipt holds it. Those of before `where` had their sites at the residual writes."""
        return cls(**{"where": "residual-writes", **settings})

    @property
    def bounded(self) -> bool:
        """False for what exists to be compared with: the other mixings, and an ordinary shared LoRA for frames."""
        return self.frames != "lora" and self.mixing in ("doubly-stochastic", "none")


class _Operators(NamedTuple):
    """What the sites apply: delta = (source @ rightᵀ) @ leftᵀ."""

    left: list[Tensor]  # [d, n] a site
    right: list[Tensor]  # [n, i] a site (learnt: reads x), or [n, d] (light: reads W x)


@dataclass(frozen=True, kw_only=True, slots=True)
class SiteReport:
    """One site's state: what `metrics.jsonl` shows of it."""

    name: str
    layer: int
    gate: float  # g in [-1, 1], or where there is none ‖ΔW‖₂ / (ρ ‖W‖₂): how far open the site is
    sigma2: float  # σ₂(M)
    mixing: float  # ‖K − I‖₂
    relative_change: float  # ‖ΔW‖₂ / ‖W‖₂ (light: ‖C − I‖₂)


class Backbone(nn.Module):
    """The parameters of all sites, batched, so that one projection serves a whole forward.

    Trained: `frames_in.<i>` [S_i, i, n], `frames_out.<d>` [S_d, d, n] (sites of one width together), `logits`
    [S, 2n, 2n], `gate` [S]. Not trained: `norms` [S] = ‖W‖₂ of the base, and in the light form the frames.
    The first dimension is always sites, so FSDP 2 shards whole sites and `retract_` stays local to a rank.
    """

    frames_in: nn.ParameterDict
    frames_out: nn.ParameterDict
    norms: Tensor

    def __init__(self, sites: tuple[Site, ...], config: BackboneConfig) -> None:
        super().__init__()
        self.sites, self.config = sites, config
        n = config.directions
        written = config.frames in ("learnt", "light")  # frames that are orthonormal on the side of the output too
        narrowest = min(min(s.d_in, s.d_out) if written else s.d_in for s in sites)
        if n > narrowest:
            raise ConfigError(
                "more directions than the narrowest site is wide",
                expected=f"≤ {narrowest}",
                got=n,
                next_step="ask for fewer directions",
            )
        self._bypassed = False
        self._operators: _Operators | None = None
        self._cached: tuple[Any, _Operators] | None = None
        self._in_groups = _group(s.d_in for s in sites)
        self._out_groups = _group(s.d_out for s in sites)
        generator = torch.Generator().manual_seed(config.seed)
        learnt = config.frames != "light"

        def frames(groups: Mapping[int, list[int]], *, zero: bool = False) -> nn.ParameterDict:
            made = nn.ParameterDict()
            for width, members in groups.items():
                drawn = torch.randn(len(members), width, n, generator=generator)
                value = torch.zeros_like(drawn) if zero else _orthonormal(drawn).contiguous()
                made[str(width)] = nn.Parameter(value, learnt)
            return made

        self.frames_in = frames(self._in_groups) if learnt else nn.ParameterDict()
        # A contraction begins as LoRA does: one side zero.
        self.frames_out = frames(self._out_groups, zero=config.frames in ("contraction", "lora"))
        noise = 0.01 * torch.randn(len(sites), 2 * n, 2 * n, generator=generator)
        mixes = config.mixing != "none" and config.frames != "lora"
        self.logits = nn.Parameter(config.diagonal * torch.eye(2 * n) + noise, mixes)
        self.gate = nn.Parameter(torch.zeros(len(sites)), self._gated)
        self.register_buffer("norms", torch.ones(len(sites)))
        self.applied = torch.float32  # what the factors are rounded to where they are applied: the base's own precision

    # --- the map -----------------------------------------------------------------------------------------------

    def mixing(self) -> Tensor:
        """M [S, 2n, 2n], doubly stochastic (of a control: what stands in its place)."""
        logits = _whole(self.logits).float()
        if self.config.mixing == "none":
            return torch.eye(logits.shape[-1], device=logits.device).expand_as(logits)
        if self.config.mixing == "row-stochastic":
            return logits.softmax(dim=-1)
        if self.config.mixing == "free":
            return logits * (self._first_mixing / self.config.diagonal)  # begins where the doubly stochastic one does
        return project_to_birkhoff(logits, sweeps=self.config.sweeps)

    @property
    def _first_mixing(self) -> float:
        """K's diagonal for logits c·I: K = (e^c − 1) / (e^c + 2n − 1) · I."""
        diagonal = math.exp(self.config.diagonal)
        return (diagonal - 1.0) / (diagonal + 2 * self.config.directions - 1.0)

    @property
    def _write_scale(self) -> float:
        return _LORA_SCALE if self.config.mixing == "none" else _LORA_SCALE / self._first_mixing

    def effective_gate(self) -> Tensor:
        """g [S]; 1 in the forms without one. In [−1, 1] with learnt frames: with a gate that starts at 0 and may not
        turn negative, the half of the sites whose first gradient points down would never move (A, B and P get no
        gradient while g = 0). The sign is a flip of B's columns, so the bound is the same. In [0, 1] in the light form,
        where the bound needs it."""
        gate = _whole(self.gate).float()
        return gate.clamp(self._gate_floor, 1.0) if self._gated else torch.ones_like(gate)

    @property
    def _headroom(self) -> float:
        """1 / (1 + u √n)², u the unit roundoff: rounding moves a factor of rank n by at most u ‖·‖_F ≤ u √n ‖·‖₂, and
        there are two. 1 in float32, where it is below what is told apart (`OPERATOR_TOLERANCE`)."""
        if self.applied.itemsize >= 4:
            return 1.0
        return (1.0 + torch.finfo(self.applied).eps / 2 * math.sqrt(self.config.directions)) ** -2

    @property
    def _gated(self) -> bool:
        return self.config.frames in ("learnt", "light")

    @property
    def _gate_floor(self) -> float:
        return -1.0 if self.config.frames == "learnt" else 0.0

    def allowed(self) -> Tensor:
        """|g| ρ ‖W‖₂ [S]: what ‖ΔW‖₂ cannot be above, whatever the other parameters are (not of the light form)."""
        return self.effective_gate().abs() * self.config.strength * self.norms

    def forward(self) -> _Operators:
        """The factors of every site's map, float32. A module call, so that ZeRO-3 gathers the parameters for it."""
        with torch.autocast(self.logits.device.type, enabled=False):
            if self.config.frames == "lora":
                writes = self._by_site(self.frames_out, self._out_groups, orthonormalise=False)
                reads = self._by_site(self.frames_in, self._in_groups, orthonormalise=False)
                return _Operators([_LORA_SCALE * b for b in writes], [a.mT for a in reads])
            k = _antipodal(self.mixing())
            if self.config.frames == "contraction":
                writes = self._contractions()
                reads = self._by_site(self.frames_in, self._in_groups, orthonormalise=True)
                return _Operators([b @ k_s for b, k_s in zip(writes, k.unbind(), strict=True)], [a.mT for a in reads])
            gate = self.effective_gate()
            out = self._by_site(self.frames_out, self._out_groups, orthonormalise=self.config.frames == "learnt")
            if self.config.frames == "learnt":
                scale = (gate * self.config.strength * self.norms).unbind()
                left = [b @ k_s * c for b, k_s, c in zip(out, k.unbind(), scale, strict=True)]
                reads = self._by_site(self.frames_in, self._in_groups, orthonormalise=True)
                return _Operators(left, [a.mT for a in reads])
            change = gate[:, None, None] * (k - torch.eye(k.shape[-1], device=k.device))
            return _Operators([u @ c for u, c in zip(out, change.unbind(), strict=True)], [u.mT for u in out])

    def _contractions(self) -> list[Tensor]:
        """ρ ‖W‖₂ · B [d, n] a site: what was learnt, in the units in which a LoRA learns, cut down to ‖B‖₂ ≤ 1.

        A little less in a base of 16 bits, so that what they round to keeps the bound as well. The factor that cuts
        counts as a constant in the gradient, which therefore never vanishes.
        """
        limits = (self.allowed() * self._headroom).unbind()
        writes = [self._write_scale * b for b in self._by_site(self.frames_out, self._out_groups, orthonormalise=False)]
        return [
            b * torch.where(norm > limit, limit / norm, 1.0)
            for b, norm, limit in zip(writes, _norms(writes).unbind(), limits, strict=True)
        ]

    def _by_site(
        self, frames: nn.ParameterDict, groups: Mapping[int, list[int]], *, orthonormalise: bool
    ) -> list[Tensor]:
        by_site: dict[int, Tensor] = {}
        for width, members in groups.items():
            stacked = _whole(frames[str(width)]).float()
            stacked = _orthonormal(stacked) if orthonormalise else stacked
            by_site.update(zip(members, stacked.unbind(), strict=True))
        return [by_site[s] for s in range(len(self.sites))]

    # --- in the model ------------------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Compute the operators for the forward that begins; without gradients they are kept until a number changes."""
        if self._bypassed:
            return
        if torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters()):
            self._cached, self._operators = None, self()
            return
        # `_version` counts in-place writes to a tensor: a step, a loaded snapshot and a hostile edit all raise it (a
        # write through `.data` does not). What inference mode makes may not take part in training later.
        key = (torch.is_inference_mode_enabled(), *((p.data_ptr(), p._version) for p in self.parameters()))
        if self._cached is None or self._cached[0] != key:
            with torch.no_grad():
                self._cached = (key, self())
        self._operators = self._cached[1]

    def write(self, site: int, module: nn.Module, x: Tensor, z: Tensor) -> Tensor | None:
        """z + delta for `site`, in z's dtype; None leaves z alone (the bypass is bit-exact)."""
        if self._bypassed:
            return None
        if self._operators is None:
            raise RuntimeError("the decoder's forward makes the backbone's operators: call the model, not a block")
        left, right = self._operators.left[site], self._operators.right[site]
        if self.config.frames == "light":
            bias = getattr(module, "bias", None)
            x = z if bias is None else z - bias  # C acts on W x: a bias could not be folded into a LoRA
        return z + ((x @ right.to(x.dtype).mT) @ left.to(x.dtype).mT).to(z.dtype)

    @contextmanager
    def bypass(self) -> Iterator[None]:
        """The base model's own writes, bit for bit, while the context is open."""
        before, self._bypassed = self._bypassed, True
        try:
            yield
        finally:
            self._bypassed = before

    def trained(self) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
        """(frames, mixing): the two kinds of parameters, which want different learning rates."""
        named = dict(self.named_parameters())
        frames = {k: v for k, v in named.items() if k.startswith("frames") and self.config.frames != "light"}
        names = (*(("logits",) if self.config.mixing != "none" else ()), *(("gate",) if self._gated else ()))
        return frames, {} if self.config.frames == "lora" else {name: named[name] for name in names}

    def layers(self) -> dict[str, list[int]]:
        """For each parameter the layer of every site along its first dimension."""
        of = [s.layer for s in self.sites]
        found = {"logits": of, "gate": of}
        for kind, groups in (("frames_in", self._in_groups), ("frames_out", self._out_groups)):
            found.update({f"{kind}.{width}": [of[s] for s in members] for width, members in groups.items()})
        return found

    # --- numbers in and out ------------------------------------------------------------------------------------

    @torch.no_grad()
    def retract_(self) -> None:
        """Put every parameter back on its manifold after a step, without changing the map: frames orthonormal, gate in
        its interval. QR's gradient needs R well conditioned, which this keeps; a gate outside would get none. (A
        contraction's write needs none of it: see `_contractions`.)

        Raises:
            TrainingDivergedError: a parameter is not finite.
        """
        for name, parameter in self.named_parameters():
            local = _local(parameter)
            if not torch.isfinite(local).all():
                raise TrainingDivergedError(
                    "the backbone is no longer finite",
                    where=name,
                    next_step="lower lr_backbone, or clip harder",
                )
        if self.config.frames in ("contraction", "learnt"):
            writes = self.frames_out.values() if self.config.frames == "learnt" else ()
            for frames in [*self.frames_in.values(), *writes]:
                local = _local(frames)
                if local.numel():
                    local.copy_(_orthonormal(local))
        _local(self.gate).clamp_(self._gate_floor, 1.0)

    @torch.no_grad()
    def cut_(self) -> None:
        """Write into a contraction's numbers what every forward cuts off, without changing the map: between two states
        lies then what their maps are, and a later step starts at the limit. For a backbone that is not sharded."""
        if self.config.frames == "contraction":
            applied = [b / self._write_scale for b in self._contractions()]
            for width, members in self._out_groups.items():
                self.frames_out[str(width)].copy_(torch.stack([applied[s] for s in members]))

    def state(self) -> State:
        """All numbers as float32 arrays, copied."""
        return {name: _whole(value.detach()).float().cpu().numpy().copy() for name, value in self.state_dict().items()}

    @torch.no_grad()
    def load(self, state: Mapping[str, np.ndarray]) -> None:
        """Take the numbers of a snapshot.

        Raises:
            ConfigError: names or shapes differ from this backbone's.
        """
        own = self.state_dict()  # under FSDP 2 this also puts the shards back: a write to gathered copies would be lost
        expected = {name: tuple(value.shape) for name, value in own.items()}
        got = {name: tuple(value.shape) for name, value in state.items()}
        if expected != got:
            wrong = sorted(k for k in {*expected, *got} if expected.get(k) != got.get(k))
            raise ConfigError(
                "this snapshot does not fit the backbone",
                where=", ".join(wrong[:4]),
                expected=[expected.get(k) for k in wrong[:4]],
                got=[got.get(k) for k in wrong[:4]],
            )
        for name, value in own.items():
            value.copy_(_like(value, state[name]))

    # --- what is known of it -----------------------------------------------------------------------------------

    @torch.no_grad()
    def certificate(self) -> Certificate:
        """The certificate of all mixing matrices together."""
        return spectral_certificate(self.mixing())

    @torch.no_grad()
    def operator_norms(self) -> np.ndarray:
        """‖B K A‖₂ (light: ‖I + g U (K − I) Uᵀ‖₂) a site [S], in float64.

        Of a contraction from the factors as they are applied, rounded to the base's precision; of the other forms
        before that rounding, which may add up to (1 + u √n)² − 1: 2.5 % in bfloat16 with ten directions.
        """
        left, right = self._double_factors()
        if self.config.frames == "contraction":
            left, right = ([x.to(self.applied).double() for x in of] for of in (left, right))
        if self.config.frames == "lora":
            return np.array([_product_norm(le, r) for le, r in zip(left, right, strict=True)]) / self._base_norms()
        if self.config.frames == "light":
            # On the complement of U the map is the identity; on its span (1 − g) I + g K where U is orthonormal. From
            # U = Q R it is taken as it is, so that frames which are not (a snapshot from elsewhere) do not pass.
            inside = []
            for le, r in zip(left, right, strict=True):
                q, triangle = torch.linalg.qr(r.mT)
                c = torch.eye(q.shape[-1], dtype=q.dtype) + q.mT @ le @ triangle.mT
                inside.append(torch.linalg.matrix_norm(c, 2))
            return np.array([max(1.0 if s.d_out > self.config.directions else 0.0, v.item())
                             for s, v in zip(self.sites, inside, strict=True)])  # fmt: skip
        scale = self.allowed().cpu().double().numpy()
        norms = np.array([_product_norm(le, r) for le, r in zip(left, right, strict=True)])
        return np.divide(norms, scale, out=np.zeros_like(norms), where=scale > 0)

    @torch.no_grad()
    def report(self) -> tuple[SiteReport, ...]:
        """What each site does now, cheap enough for every step (small SVDs only)."""
        m = self.mixing()
        k = _antipodal(m)
        eye = torch.eye(k.shape[-1], device=k.device)
        gate = self.effective_gate()
        sigma2 = torch.linalg.svdvals(m)[:, 1]
        mixing = torch.linalg.matrix_norm(k - eye, 2)
        size = torch.linalg.matrix_norm(k, 2) * self.config.strength if self.config.frames == "learnt" else mixing
        change = gate.abs() * size
        if self.config.frames == "lora":
            change = torch.from_numpy(self.operator_norms()).to(change)
        if self.config.frames == "contraction":  # A's rows are orthonormal: ‖B K A‖₂ = ‖B K‖₂
            change = (_norms(self().left) / self.norms).nan_to_num(0.0)
        if not self._gated:
            gate = change / self.config.strength  # how much of what it may add it does add
        columns = torch.stack([gate, sigma2, mixing, change], dim=-1).tolist()
        return tuple(
            SiteReport(name=s.name, layer=s.layer, gate=g, sigma2=s2, mixing=mix, relative_change=change)
            for s, (g, s2, mix, change) in zip(self.sites, columns, strict=True)
        )

    def _base_norms(self) -> np.ndarray:
        return self.norms.cpu().double().numpy()

    def _double_factors(self) -> tuple[list[Tensor], list[Tensor]]:
        operators = self()
        return [x.cpu().double() for x in operators.left], [x.cpu().double() for x in operators.right]


def attach_backbone(model: nn.Module, config: BackboneConfig) -> Backbone:
    """Put a backbone on a causal LM: its parameters as submodule `crma_backbone`, its writes as forward hooks.

    Hooks, not a subclass of nn.Linear: the same code then serves quantised projections, the base's tensors and key
    names stay as they are, and a LoRA put outside wraps the projection together with its hook.

    Raises:
        BaseModelError: no site was found, one is attached already, or a LoRA is in the model.
    """
    if getattr(model, "crma_backbone", None) is not None:
        raise BaseModelError("this model has a backbone already", next_step="load the base anew")
    sites = backbone_sites(model, config.where)
    modules = dict(model.named_modules())
    if any(f"{site.name}.base_layer" in modules for site in sites):
        raise BaseModelError(
            "a LoRA is in the model already: the backbone would act on its output too, and would not fold",
            next_step="attach the backbone first, then add adapters",
        )
    backbone = Backbone(sites, config)
    backbone.applied = getattr(model, "dtype", torch.float32)
    device = next(model.parameters()).device
    backbone.norms.copy_(torch.tensor([_spectral_norm(modules[s.name], s) for s in sites]))
    if config.frames == "light":
        for width, members in backbone._out_groups.items():
            singular = [_left_singular(modules[sites[s].name], sites[s], config.directions) for s in members]
            backbone.frames_out[str(width)].data.copy_(torch.stack(singular))
    backbone.to(device)
    model.add_module("crma_backbone", backbone)
    decoder_of(model).register_forward_pre_hook(lambda _module, _args: backbone.prepare())
    for index, site in enumerate(sites):
        modules[site.name].register_forward_hook(_write_hook(backbone, index))
    return backbone


def _write_hook(backbone: Backbone, site: int) -> Callable[[nn.Module, tuple[Any, ...], Any], Tensor | None]:
    def write(module: nn.Module, args: tuple[Any, ...], z: Any) -> Tensor | None:
        return backbone.write(site, module, args[0], z)

    return write


def interpolate(old: State, new: State, share: float) -> State:
    """The state `share` of the way from `old` to `new`: 0 is `old` and 1 is `new`, exactly. A backbone that loads it
    must `retract_` it: between two frames the straight line leaves the manifold."""
    if share in (0.0, 1.0):
        return dict(new if share else old)
    return {name: (old[name] + np.float32(share) * (new[name] - old[name])).astype(np.float32) for name in old}


@torch.no_grad()
def distance(backbone: Backbone, a: State, b: State) -> np.ndarray:
    """δ_s = ‖ΔW_a − ΔW_b‖₂ / ‖W‖₂ a site [S] (light: ‖C_a − C_b‖₂), free of data and without forming ΔW.

    It bounds how far site s can move any write: ‖z_a − z_b‖ ≤ δ_s ‖W‖₂ ‖x‖.
    """
    kept = backbone.state()
    try:
        backbone.load(a)
        left_a, right_a = backbone._double_factors()
        backbone.load(b)
        left_b, right_b = backbone._double_factors()
    finally:
        backbone.load(kept)
    norms = np.ones(len(left_a)) if backbone.config.frames == "light" else backbone._base_norms()
    moved = [
        _product_norm(torch.cat([la, -lb], dim=1), torch.cat([ra, rb], dim=0))
        for la, lb, ra, rb in zip(left_a, left_b, right_a, right_b, strict=True)
    ]
    return np.divide(moved, norms, out=np.zeros_like(norms), where=norms > 0)


def _antipodal(m: Tensor) -> Tensor:
    """K [..., n, n] = ½ [I, −I] M [I; −I] of M [..., 2n, 2n]: a mixing of ±1..±n, so signs are free."""
    n = m.shape[-1] // 2
    return 0.5 * (m[..., :n, :n] - m[..., :n, n:] - m[..., n:, :n] + m[..., n:, n:])


def _orthonormal(x: Tensor) -> Tensor:
    """Q [..., d, n] of x's QR with R's diagonal made positive, so that an orthonormal x comes back as itself."""
    q, r = torch.linalg.qr(x)
    diagonal = torch.diagonal(r, dim1=-2, dim2=-1)
    return q * torch.where(diagonal < 0, -1.0, 1.0).to(q).unsqueeze(-2)


@torch.no_grad()
def _norms(tall: list[Tensor]) -> Tensor:
    """‖X‖₂ [S] of each [d, n] with small n, in one batched call: the root of XᵀX's largest eigenvalue."""
    largest = torch.stack([x.abs().amax() for x in tall])
    safe = torch.where(largest > 0, largest, 1.0)  # squares of numbers near 1 neither overflow nor vanish
    scaled = [x / s for x, s in zip(tall, safe.unbind(), strict=True)]
    grams = torch.stack([x.mT @ x for x in scaled])
    return torch.linalg.eigvalsh(grams)[:, -1].clamp(min=0).sqrt() * safe


def _product_norm(left: Tensor, right: Tensor) -> float:
    """‖left @ right‖₂ for left [d, k], right [k, i] with small k, from their triangular factors."""
    r_left = torch.linalg.qr(left, mode="r").R
    r_right = torch.linalg.qr(right.mT, mode="r").R
    return torch.linalg.matrix_norm(r_left @ r_right.mT, 2).item()


def _group(widths: Iterator[int]) -> dict[int, list[int]]:
    groups: dict[int, list[int]] = defaultdict(list)
    for site, width in enumerate(widths):
        groups[width].append(site)
    return dict(groups)


def dense_weight(module: nn.Module, site: Site) -> Tensor:
    """W [d, i] in float32 of any linear layer, quantised ones too: those by their outputs for the unit vectors."""
    weight = getattr(module, "weight", None)
    if isinstance(weight, Tensor) and weight.dtype in _PLAIN:
        if hasattr(module, "nf"):  # GPT-2's Conv1D holds Wᵀ, also where it is square
            return weight.detach().float().mT
        if tuple(weight.shape) == (site.d_out, site.d_in):
            return weight.detach().float()
    parameter = next(module.parameters())
    # bitsandbytes takes the dtype of its first input for its own: give it the one it has.
    dtype = getattr(module, "compute_dtype", None) or (parameter.dtype if parameter.dtype in _PLAIN else torch.float32)
    bias = getattr(module, "bias", None)
    with torch.no_grad():
        # `forward`, not a call: a call runs the backbone's hook, and W' would be taken for W.
        columns = module.forward(torch.eye(site.d_in, dtype=dtype, device=parameter.device)).float()
        return (columns if bias is None else columns - bias.float()).mT


@torch.no_grad()
def _spectral_norm(module: nn.Module, site: Site, iterations: int = 60) -> float:
    """‖W‖₂ by power iteration. It comes from below, so the bound ‖ΔW‖₂ ≤ ρ ‖W‖₂ is kept on the safe side."""
    w = dense_weight(module, site)
    v = torch.randn(site.d_in, generator=torch.Generator().manual_seed(0)).to(w)
    for _ in range(iterations):
        u = w @ v
        v = w.mT @ (u / u.norm().clamp(min=1e-30))
        v = v / v.norm().clamp(min=1e-30)
    return (w @ v).norm().item()


def _left_singular(module: nn.Module, site: Site, n: int) -> Tensor:
    u = torch.linalg.svd(dense_weight(module, site), full_matrices=False).U[:, :n]
    return _orthonormal(u.cpu().double()).float()  # float32 SVD alone leaves ‖C‖₂ up to 3e-6 over 1 (n = 64)


def _local(value: Any) -> Tensor:
    """This rank's part of a sharded tensor (FSDP 2), or the tensor; without its gradient, sharing its memory."""
    data = value.detach()
    return data.to_local() if hasattr(data, "to_local") else data


def _whole(value: Any) -> Tensor:
    """A sharded tensor gathered from all ranks, or the tensor; its gradient flows back."""
    return value.full_tensor() if hasattr(value, "full_tensor") else value


def _like(value: Any, array: np.ndarray) -> Tensor:
    """`array` with the dtype, device and sharding of `value`."""
    tensor = torch.from_numpy(np.array(array)).to(value.dtype).to(value.device)
    if hasattr(value, "full_tensor"):
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor, value.device_mesh, value.placements)
    return tensor
