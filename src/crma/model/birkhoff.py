"""The projection onto the Birkhoff polytope, and its certificate.

Shape legend: m = side of the mixing matrix; `...` = any batch dimensions.

Source: Sinkhorn and Knopp (1967) for the scaling; Altschuler, Weed and Rigollet (NeurIPS 2017, algorithm 2) for the
exact rounding; ‖M‖₂ ≤ sqrt(‖M‖₁ ‖M‖_∞) is Hölder's inequality for operator norms.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Certificate", "project_to_birkhoff", "spectral_certificate"]

_LARGEST_LOGIT = 1e38  # under half of float32's largest number


def project_to_birkhoff(logits: Tensor, *, sweeps: int = 5) -> Tensor:
    """Return the doubly stochastic matrices of `logits`, differentiably.

    Args:
        logits: [..., m, m], any finite numbers.
        sweeps: Sinkhorn sweeps (rows, then columns), at least 1. More come nearer to the entropic projection; the bound
            does not depend on them, because the rounding that follows is exact.

    Returns:
        [..., m, m], entries ≥ 0, rows and columns summing to 1, so ‖M‖₂ ≤ 1 (float32: within 2⁻²⁴ of it). float32, or
        float64 for float64 logits; autocast never reaches it.

    Raises:
        ValueError: the last two dimensions differ, or no sweep is asked for.
    """
    if logits.ndim < 2 or logits.shape[-1] != logits.shape[-2]:
        raise ValueError(f"project_to_birkhoff expects [..., m, m], got {list(logits.shape)}")
    if sweeps < 1:
        raise ValueError(f"project_to_birkhoff expects sweeps ≥ 1, got {sweeps}")
    result_dtype = torch.float64 if logits.dtype == torch.float64 else torch.float32
    # The rounding runs in float64 where the device has it: then the only float32 error left in an entry is the last
    # cast, at most 2⁻²⁴ of it, and a row sum is off by at most 2⁻²⁴. MPS has no float64.
    rounding_dtype = torch.float32 if logits.device.type == "mps" else torch.float64
    with torch.autocast(logits.device.type, enabled=False):
        # A difference of two logits must not overflow: a whole column at −∞ would become NaN.
        log_m = logits.to(result_dtype).clamp(-_LARGEST_LOGIT, _LARGEST_LOGIT)
        for _ in range(sweeps):
            log_m = log_m - torch.logsumexp(log_m, dim=-1, keepdim=True)
            log_m = log_m - torch.logsumexp(log_m, dim=-2, keepdim=True)
        return _round(log_m.to(rounding_dtype).exp()).to(result_dtype)


def _round(m: Tensor) -> Tensor:
    """Round a non-negative matrix onto the polytope: shrink what is over 1, then add a rank-one of what is missing."""
    m = m / m.sum(dim=-1, keepdim=True).clamp(min=1.0)
    m = m / m.sum(dim=-2, keepdim=True).clamp(min=1.0)
    missing_row = (1.0 - m.sum(dim=-1, keepdim=True)).clamp(min=0.0)
    missing_col = (1.0 - m.sum(dim=-2, keepdim=True)).clamp(min=0.0)
    # The two totals are equal in exact arithmetic. Dividing by the larger keeps every sum at or under 1 in floating
    # point too, and the floor guards 0/0 when nothing is missing.
    total = torch.maximum(missing_row.sum(dim=-2, keepdim=True), missing_col.sum(dim=-1, keepdim=True))
    return m + missing_row * (missing_col / total.clamp(min=torch.finfo(m.dtype).tiny))


@dataclass(frozen=True, kw_only=True, slots=True)
class Certificate:
    """What is known of a batch of mixing matrices without trusting how they were made; each the worst of the batch."""

    norm_bound: float  # sqrt(max row sum · max column sum) ≥ ‖M‖₂, in float64
    row_error: float  # max |row sum − 1|
    column_error: float  # max |column sum − 1|
    smallest_entry: float
    sigma2: float  # the largest second singular value: ‖M‖₂ is 1 for every such M, σ₂ says how much it mixes

    TOLERANCE = 1.2e-7

    @property
    def holds(self) -> bool:
        return self.smallest_entry >= 0.0 and self.norm_bound - 1.0 <= self.TOLERANCE


def spectral_certificate(m: Tensor) -> Certificate:
    """Certify ‖M‖₂ ≤ 1 for `m` [..., m, m] in float64, without an SVD for the bound itself.

    Raises:
        ValueError: an entry is not finite, or the shape is not square.
    """
    if m.ndim < 2 or m.shape[-1] != m.shape[-2]:
        raise ValueError(f"spectral_certificate expects [..., m, m], got {list(m.shape)}")
    m = m.detach().cpu().double().reshape(-1, *m.shape[-2:])
    if not torch.isfinite(m).all():
        raise ValueError("spectral_certificate: an entry of M is not finite")
    rows, columns = m.abs().sum(dim=-1), m.abs().sum(dim=-2)
    bound = (rows.amax(dim=-1) * columns.amax(dim=-1)).sqrt()
    sigma = torch.linalg.svdvals(m)
    return Certificate(
        norm_bound=bound.max().item(),
        row_error=(rows - 1.0).abs().max().item(),
        column_error=(columns - 1.0).abs().max().item(),
        smallest_entry=m.min().item(),
        sigma2=sigma[:, 1].max().item() if m.shape[-1] > 1 else 0.0,
    )
