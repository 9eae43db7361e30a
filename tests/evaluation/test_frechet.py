"""The Fréchet distance against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from hf_ddistill.evaluation import (
    FrechetDistance,
    frechet_distance,
)


def random_generator(seed=0):
    return torch.Generator().manual_seed(seed)


def with_moments(mean, covariance, num_samples=200, seed=0):
    """Samples whose sample mean and unbiased sample covariance are exactly the given ones."""
    noise = torch.randn(
        num_samples, len(mean), dtype=torch.float64, generator=random_generator(seed)
    )
    noise = noise - noise.mean(0)
    white = torch.linalg.solve_triangular(
        torch.linalg.cholesky(torch.cov(noise.T)), noise.T, upper=False
    )
    return (torch.linalg.cholesky(covariance) @ white).T + mean


def random_covariance(size, seed):
    root = torch.randn(size, size, dtype=torch.float64, generator=random_generator(seed))
    return root @ root.T + 0.1 * torch.eye(size, dtype=torch.float64)


def test_frechet_distance_of_gaussians_is_the_closed_form():
    eye = torch.eye(3, dtype=torch.float64)
    mean_a, mean_b = eye[0] * 2, eye[1]
    scales = torch.tensor([0.25, 4.0, 9.0], dtype=torch.float64)
    a = with_moments(mean_a, eye, seed=1)
    b = with_moments(mean_b, torch.diag(scales), num_samples=150, seed=2)
    # |m_a - m_b|^2 = 5, and (1 - .5)^2 + (1 - 2)^2 + (1 - 3)^2 = 5.25
    assert frechet_distance(a, b) == pytest.approx(10.25, abs=1e-10)


def test_frechet_distance_of_covariances_that_do_not_commute():
    zero = torch.zeros(5, dtype=torch.float64)
    cov_a, cov_b = random_covariance(5, 1), random_covariance(5, 2)
    assert (cov_a @ cov_b - cov_b @ cov_a).abs().max() > 0.1
    eigenvalues = np.linalg.eigvals((cov_a @ cov_b).numpy())
    expected = float(cov_a.trace() + cov_b.trace()) - 2 * np.sqrt(eigenvalues.real).sum()
    a, b = with_moments(zero, cov_a, seed=3), with_moments(zero, cov_b, seed=4)
    assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("num_samples", [6, 500])
def test_frechet_distance_is_zero_on_itself_and_symmetric_also_when_singular(num_samples):
    a = torch.randn(num_samples, 20, generator=random_generator(0))
    b = torch.randn(num_samples, 20, generator=random_generator(1)) * 2 + 1
    assert 0 <= frechet_distance(a, a) < 1e-6
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert frechet_distance(a, b) > 10


def test_frechet_metric_agrees_with_the_function(tmp_path):
    a, b = torch.randn(30, 4), torch.randn(30, 4) + 1
    metric = FrechetDistance(cache_dir=str(tmp_path))
    expected = pytest.approx(frechet_distance(a, b), rel=1e-12)
    assert metric.compute(predictions=a.tolist(), references=b.tolist())["fd"] == expected
    for rows_a, rows_b in zip(a.split(10), b.split(10), strict=True):
        metric.add_batch(predictions=rows_a.numpy(), references=rows_b.numpy())
    assert metric.compute()["fd"] == expected


def test_frechet_distance_refuses_what_has_no_covariance(tmp_path):
    good = torch.randn(5, 3)
    with pytest.raises(ValueError, match="at least 2 samples"):
        frechet_distance(good[:1], good)
    with pytest.raises(ValueError, match="features_b with NaN"):
        frechet_distance(good, good.clone().fill_(math.nan))
    with pytest.raises(ValueError, match="3 features in features_a and 2 in features_b"):
        frechet_distance(good, good[:, :2])
    metric = FrechetDistance(cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match="Mismatch in the number"):
        metric.compute(predictions=good.tolist(), references=good[:4].tolist())
    metric = FrechetDistance(cache_dir=str(tmp_path))
    with pytest.raises(ValueError, match=r"lengths \[1, 2\]"):
        metric.compute(predictions=[[1.0, 2.0], [1.0]], references=[[1.0, 2.0], [1.0]])
