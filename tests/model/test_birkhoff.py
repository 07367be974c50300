"""The projection gives a doubly stochastic matrix for any logits, and the certificate says so without trusting it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from crma.model.birkhoff import Certificate, project_to_birkhoff, spectral_certificate

TOLERANCE = 1.2e-7


def worst_norm(m: Tensor) -> float:
    """The largest spectral norm of a batch, from NumPy's SVD in float64."""
    stacked = m.detach().numpy().astype(np.float64).reshape(-1, *m.shape[-2:])
    return max(float(np.linalg.norm(one, 2)) for one in stacked)


def assert_doubly_stochastic(m: Tensor) -> None:
    assert torch.isfinite(m).all()
    assert m.min() >= 0
    assert worst_norm(m) - 1 <= TOLERANCE
    for dim in (-1, -2):
        assert (m.double().sum(dim) - 1).abs().max() <= TOLERANCE


def logits_of(kind: str, m: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randn(3, m, m, generator=generator)
    match kind:
        case "random":
            return drawn
        case "peaked":
            return 20 * drawn + 4 * torch.eye(m)
        case "huge":
            return 1e4 * drawn
        case "sparse":  # most entries all but forbidden, whole rows among them
            return torch.where(torch.rand(3, m, m, generator=generator) < 0.9, -1e4, drawn)
        case "tied":
            return torch.full((3, m, m), 1e4)
        case "one column":  # every row wants the same column
            return 1e4 * torch.eye(m)[0].expand(3, m, m)
        case "nearly tied":
            return 1e-4 * drawn
        case "largest":  # no row wants the first column, by differences that float32 cannot hold
            wanted = torch.full((3, m, m), torch.finfo(torch.float32).max)
            wanted[..., 0] *= -1
            return wanted
    raise AssertionError(kind)


KINDS = ("random", "peaked", "huge", "sparse", "tied", "one column", "nearly tied", "largest")


@pytest.mark.parametrize("m", [1, 2, 3, 8, 32, 128])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("sweeps", [1, 5])
def test_any_logits_give_a_doubly_stochastic_matrix_and_finite_gradients(kind: str, m: int, sweeps: int):
    logits = logits_of(kind, m).requires_grad_()
    mixed = project_to_birkhoff(logits, sweeps=sweeps)
    assert_doubly_stochastic(mixed)
    direction = torch.randn(mixed.shape, generator=torch.Generator().manual_seed(1))
    (gradient,) = torch.autograd.grad((mixed * direction).sum(), logits)
    assert torch.isfinite(gradient).all()


@settings(max_examples=60, deadline=None)
@given(
    m=st.integers(2, 24),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 5.0, 20.0, 1e2, 1e4, 1e9]),
    sweeps=st.integers(1, 30),
    shift=st.floats(-1e4, 1e4),
    seed=st.integers(0, 2**16),
)
def test_the_bound_does_not_depend_on_scale_shift_or_sweeps(m: int, scale: float, sweeps: int, shift: float, seed: int):
    logits = scale * torch.randn(m, m, generator=torch.Generator().manual_seed(seed)) + shift
    logits.requires_grad_()
    mixed = project_to_birkhoff(logits, sweeps=sweeps)
    assert_doubly_stochastic(mixed)
    assert spectral_certificate(mixed).holds
    (gradient,) = torch.autograd.grad(mixed.square().sum(), logits)
    assert torch.isfinite(gradient).all()


@settings(max_examples=30, deadline=None)
@given(
    entries=st.lists(
        st.floats(allow_nan=False, allow_infinity=False, width=32) | st.sampled_from([0.0, 1e4, -1e4]),
        min_size=16,
        max_size=16,
    )
)
def test_the_bound_holds_for_every_finite_float32(entries: list[float]):
    assert_doubly_stochastic(project_to_birkhoff(torch.tensor(entries).reshape(4, 4), sweeps=3))


def test_plain_sinkhorn_breaks_the_bound_which_is_why_the_rounding_exists():
    logits = 20 * torch.randn(60, 16, 16, generator=torch.Generator().manual_seed(0)) + 4 * torch.eye(16)
    log_m = logits
    for _ in range(20):
        log_m = log_m - torch.logsumexp(log_m, dim=-1, keepdim=True)
        log_m = log_m - torch.logsumexp(log_m, dim=-2, keepdim=True)
    assert worst_norm(log_m.exp()) > 1.1
    assert not spectral_certificate(log_m.exp()).holds
    assert worst_norm(project_to_birkhoff(logits, sweeps=20)) - 1 <= TOLERANCE


def test_rounding_leaves_what_sinkhorn_has_finished_where_it_is():
    logits = torch.randn(8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    log_m = logits
    for _ in range(200):
        log_m = log_m - torch.logsumexp(log_m, dim=-1, keepdim=True)
        log_m = log_m - torch.logsumexp(log_m, dim=-2, keepdim=True)
    torch.testing.assert_close(project_to_birkhoff(logits, sweeps=200), log_m.exp(), rtol=0, atol=1e-14)


@pytest.mark.parametrize("m", [2, 3, 5])
@pytest.mark.parametrize("sweeps", [1, 2, 5])
@pytest.mark.parametrize("scale", [1.0, 3.0])
def test_gradients_equal_finite_differences(m: int, sweeps: int, scale: float):
    generator = torch.Generator().manual_seed(m)
    logits = (scale * torch.randn(2, m, m, dtype=torch.float64, generator=generator)).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: project_to_birkhoff(x, sweeps=sweeps), (logits,), eps=1e-6, atol=1e-5)


def test_a_batch_is_projected_matrix_by_matrix():
    logits = torch.randn(2, 3, 6, 6, generator=torch.Generator().manual_seed(0))
    together = project_to_birkhoff(logits)
    assert together.shape == logits.shape
    for i in range(2):
        for j in range(3):
            torch.testing.assert_close(together[i, j], project_to_birkhoff(logits[i, j]), rtol=0, atol=1e-7)


def test_permuting_the_logits_permutes_the_matrix():
    generator = torch.Generator().manual_seed(0)
    logits = 5 * torch.randn(9, 9, generator=generator)
    rows, columns = torch.randperm(9, generator=generator), torch.randperm(9, generator=generator)
    permuted = project_to_birkhoff(logits[rows][:, columns])
    torch.testing.assert_close(permuted, project_to_birkhoff(logits)[rows][:, columns], rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("given", "returned"),
    [
        (torch.float64, torch.float64),
        (torch.float32, torch.float32),
        (torch.bfloat16, torch.float32),
        (torch.float16, torch.float32),
    ],
)
def test_only_float64_logits_leave_float32(given: torch.dtype, returned: torch.dtype):
    assert project_to_birkhoff(torch.eye(4, dtype=given)).dtype == returned


def test_float64_is_exact_to_float64():
    logits = 30 * torch.randn(5, 16, 16, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    assert (project_to_birkhoff(logits).sum(-1) - 1).abs().max() < 1e-14


def test_autocast_does_not_reach_it():
    logits = torch.randn(3, 8, 8, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        mixed = project_to_birkhoff(logits)
    assert mixed.dtype == torch.float32
    assert torch.equal(mixed, project_to_birkhoff(logits))


@pytest.mark.parametrize("shape", [(4,), (3, 4), (2, 4, 5)])
def test_a_shape_that_is_not_square_is_refused(shape: tuple[int, ...]):
    for refuses in (project_to_birkhoff, spectral_certificate):
        with pytest.raises(ValueError, match=r"expects \[\.\.\., m, m\]"):
            refuses(torch.zeros(shape))


def test_at_least_one_sweep_is_needed():
    with pytest.raises(ValueError, match="sweeps ≥ 1"):
        project_to_birkhoff(torch.eye(3), sweeps=0)


# --- the certificate ---------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(m=st.integers(1, 20), seed=st.integers(0, 2**16), signed=st.booleans())
def test_the_certified_bound_is_never_below_the_norm(m: int, seed: int, signed: bool):
    matrices = torch.randn(3, m, m, generator=torch.Generator().manual_seed(seed))
    matrices = matrices if signed else matrices.abs()
    certificate = spectral_certificate(matrices)
    assert certificate.norm_bound >= worst_norm(matrices) * (1 - 1e-12)


def test_the_certificate_reports_what_a_dense_reference_finds():
    m = project_to_birkhoff(3 * torch.randn(5, 8, 8, generator=torch.Generator().manual_seed(0)))
    found = spectral_certificate(m)
    dense = m.numpy().astype(np.float64)
    assert found.row_error == pytest.approx(np.abs(dense.sum(-1) - 1).max(), abs=1e-15)
    assert found.column_error == pytest.approx(np.abs(dense.sum(-2) - 1).max(), abs=1e-15)
    assert found.smallest_entry == dense.min()
    assert found.sigma2 == pytest.approx(np.linalg.svd(dense, compute_uv=False)[:, 1].max(), abs=1e-12)
    assert found.holds


@pytest.mark.parametrize(
    "violating",
    [
        torch.tensor([[1.0, 0.0], [1.0, 0.0]]),  # rows sum to 1, a column to 2: ‖M‖₂ = √2
        torch.tensor([[1.5, -0.5], [-0.5, 1.5]]),  # all sums are 1, entries are not: ‖M‖₂ = 2
        torch.eye(2) * (1 + 1e-6),
    ],
)
def test_a_matrix_that_violates_the_bound_is_not_certified(violating: Tensor):
    assert worst_norm(violating) > 1 + TOLERANCE
    batch = torch.stack([torch.eye(2), violating])
    assert not spectral_certificate(batch).holds


def test_signs_are_not_certified_even_where_the_norm_is_small():
    assert not spectral_certificate(-torch.eye(3)).holds


def test_the_tolerance_is_no_field_that_a_caller_could_set():
    with pytest.raises(TypeError):
        Certificate(norm_bound=2, row_error=0, column_error=0, smallest_entry=0, sigma2=0, TOLERANCE=9)  # pyright: ignore


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_not_certified(bad: float):
    m = torch.eye(3)
    m[1, 2] = bad
    with pytest.raises(ValueError, match="not finite"):
        spectral_certificate(m)
