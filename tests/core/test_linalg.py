"""Every operator is the matrix that it stands for, in its products, rows, columns and draws.

`RATES` gives each class one rate matrix (rows sum to 0); a class that is missing fails a test.
"""

from __future__ import annotations

import pytest
import torch

from hf_ddistill.linalg import (
    Dense,
    KroneckerProduct,
    KroneckerSum,
    LinearOperator,
    ScalarPlusLowRank,
    Spectral,
    Tridiagonal,
    bernoulli,
    categorical,
    uniform_noise,
)

K = 6
SIGMA = torch.tensor([0.0, 0.2, 1.1], dtype=torch.float64)


def random_rate(size, seed=0):
    q = torch.rand(size, size, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return q - torch.diag(q.sum(-1))


def low_rank(size, rank):
    generator = torch.Generator().manual_seed(rank)
    left, right = torch.rand(2, size, rank, generator=generator, dtype=torch.float64)
    left, right = left / left.sum(-1, keepdim=True), right / right.sum(0)
    eye = torch.eye(rank, dtype=torch.float64)
    return ScalarPlusLowRank(torch.tensor(-1.0, dtype=torch.float64), left, eye, right)


def spectral(size):
    eigenvalues, basis = torch.linalg.eig(random_rate(size))
    return Spectral(basis, torch.linalg.inv(basis), eigenvalues)


def tridiagonal(size):
    rates = torch.rand(2, size - 1, generator=torch.Generator().manual_seed(1)).double() + 0.2
    return Tridiagonal(rates[0], rates[1])


def kronecker():
    return KroneckerSum((Dense(random_rate(2)), low_rank(3, 2)))


RATES = {
    Dense: lambda: Dense(random_rate(K)),
    KroneckerSum: kronecker,
    ScalarPlusLowRank: lambda: low_rank(K, 2),
    Spectral: lambda: spectral(K),
    Tridiagonal: lambda: tridiagonal(K),
}
#: Every operator: the rates, and their exponentials at one and at three total noises.
OPERATORS = {
    **{f"{cls.__name__}-rate": make for cls, make in RATES.items()},
    **{f"{c.__name__}-kernel": lambda m=m: m().exp(SIGMA[1]) for c, m in RATES.items()},
    **{f"{c.__name__}-kernels": lambda m=m: m().exp(SIGMA) for c, m in RATES.items()},
}
KERNELS = [name for name in OPERATORS if not name.endswith("rate")]


def batch_of(operator, length=4):
    """Tokens (3, length) and the dense matrix of each of the three rows."""
    x = torch.randint(operator.size, (3, length))
    return x, operator.dense().expand(3, operator.size, operator.size)


def test_every_operator_is_under_test():
    tested = {type(make()) for make in OPERATORS.values()}
    missing = set(LinearOperator.__subclasses__()) - tested
    assert not missing, f"give {missing} an entry in RATES"


@pytest.mark.parametrize("cls", RATES, ids=lambda cls: cls.__name__)
def test_exponential_is_the_matrix_exponential(cls):
    operator = RATES[cls]()
    expected = torch.matrix_exp(SIGMA[:, None, None] * operator.dense())
    torch.testing.assert_close(operator.exp(SIGMA).dense(), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(operator.exp(SIGMA[2]).dense(), expected[2], rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_vecmat_is_the_product_with_the_dense_matrix(name):
    operator = OPERATORS[name]()
    v = torch.randn(3, 4, K, dtype=torch.float64)
    expected = v @ operator.dense().expand(3, K, K)
    torch.testing.assert_close(operator.vecmat(v), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_rows_and_columns_are_those_of_the_dense_matrix(name):
    operator = OPERATORS[name]()
    x, dense = batch_of(operator)
    at = x[..., None].expand(-1, -1, K)
    torch.testing.assert_close(operator.rows(x), dense.gather(1, at), rtol=0, atol=1e-12)
    torch.testing.assert_close(operator.columns(x), dense.mT.gather(1, at), rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", OPERATORS)
def test_dtype_of_what_meets_an_operator_is_kept(name):
    operator = OPERATORS[name]()
    x, _ = batch_of(operator)
    assert operator.vecmat(torch.rand(3, 4, K)).dtype == torch.float32
    assert operator.rows(x).dtype == operator.columns(x).dtype == torch.float64
    assert operator.rows(x, torch.float32).dtype == torch.float32
    assert operator.columns(x, torch.float32).dtype == torch.float32
    torch.testing.assert_close(operator.rows(x, torch.float32).double(), operator.rows(x))


@pytest.mark.parametrize("name", KERNELS)
def test_inverse_is_the_inverse_matrix(name):
    operator = OPERATORS[name]()
    product = operator.inverse().dense() @ operator.dense()
    eye = torch.eye(K, dtype=torch.float64).expand_as(product)
    torch.testing.assert_close(product, eye, rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", OPERATORS)
def test_magnitude_bounds_every_entry_and_is_no_more_than_the_terms_that_cancel(name):
    operator = OPERATORS[name]()
    size, dense = operator.magnitude().dense(), operator.dense()
    assert (size >= dense.abs() - 1e-12).all()
    assert size.max() <= 40 * dense.abs().max()


@pytest.mark.parametrize("cls", RATES, ids=lambda cls: cls.__name__)
def test_product_of_operators_is_the_product_of_matrices(cls):
    operator = RATES[cls]()
    one, other = operator.exp(SIGMA), operator.exp(SIGMA[1])
    torch.testing.assert_close((one @ other).dense(), one.dense() @ other.dense())


def test_product_of_operators_of_two_structures_is_refused():
    for make in RATES.values():
        stranger = Dense(random_rate(K)) if make is not RATES[Dense] else low_rank(K, 2)
        with pytest.raises(ValueError, match="product|multiplied"):
            make().exp(SIGMA[1]) @ stranger
    with pytest.raises(ValueError, match="one basis"):
        low_rank(K, 2) @ low_rank(K, 2)


def test_what_has_no_inverse_or_exponential_says_so():
    for rate in (tridiagonal(K), kronecker()):
        with pytest.raises(ValueError, match="no inverse"):
            rate.inverse()
    with pytest.raises(ValueError, match="kernel, not a rate"):
        kronecker().exp(SIGMA[0]).exp(SIGMA[0])
    with pytest.raises(ValueError, match="exponentials"):
        kronecker() @ kronecker()


@pytest.mark.parametrize("name", KERNELS)
def test_draws_follow_the_rows(name):
    operator, draws = OPERATORS[name](), 20_000
    rows = operator.rows(torch.arange(K).expand(3, K)).clamp_min(0)
    x = torch.arange(K).repeat_interleave(draws).expand(3, -1)
    drawn = operator.draw(x, torch.Generator().manual_seed(1)).view(3, K, draws)
    counts = torch.nn.functional.one_hot(drawn, K).sum(2).double()
    assert (counts[rows < 1e-14] == 0).all()
    spread = (draws * rows * (1 - rows).clamp_min(0)).sqrt()
    assert ((counts - draws * rows).abs() <= 4.5 * spread + 1e-6).all()


@pytest.mark.parametrize("name", [name for name in KERNELS if name.endswith("kernel")])
def test_a_row_with_its_own_generator_does_not_depend_on_its_batch(name):
    operator = OPERATORS[name]()
    x, _ = batch_of(operator, length=50)
    together = operator.draw(x, [torch.Generator().manual_seed(i) for i in range(3)])
    alone = [operator.draw(x[i : i + 1], [torch.Generator().manual_seed(i)]) for i in range(3)]
    assert torch.equal(together, torch.cat(alone))


def test_kronecker_tokens_have_the_last_factor_fastest():
    flip = Dense(torch.tensor([[0.0, 1.0], [1.0, 0.0]], dtype=torch.float64))
    stay = Dense(torch.eye(3, dtype=torch.float64))
    x = torch.arange(6)[None]
    assert KroneckerProduct((flip, stay)).draw(x).tolist() == [[3, 4, 5, 0, 1, 2]]
    assert KroneckerProduct((stay, flip)).draw(x).tolist() == [[1, 0, 3, 2, 5, 4]]


def test_categorical_never_draws_a_token_without_mass():
    probs = torch.tensor([0.0, 0.3, 0.0, 0.7, 0.0])
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    assert categorical(probs.expand(2, 5), noise=ends).tolist() == [1, 3]


def test_categorical_takes_weights_that_are_not_normalised():
    noise = torch.rand(1000, dtype=torch.float64)
    probs = torch.rand(1000, 7)
    normalised = categorical(probs.double(), noise=noise)
    assert torch.equal(categorical(8 * probs, noise=noise), normalised)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 0.0])
def test_categorical_refuses_a_distribution_without_finite_mass(bad):
    probs = torch.stack([torch.ones(3), torch.full((3,), bad)])
    with pytest.raises(ValueError, match="1 of 2 positions"):
        categorical(probs)


def test_small_probabilities_are_not_lost_to_float32():
    # A draw in float32 resolves 2^-24: it could not tell these two from the mass before them.
    probs = torch.tensor([1.0, 1e-9, 1e-9], dtype=torch.float64)
    noise = torch.tensor([1 - 1.5e-9, 1 - 0.5e-9], dtype=torch.float64)
    assert categorical(probs.expand(2, 3), noise=noise).tolist() == [1, 2]


def test_generators_must_be_as_many_as_rows():
    with pytest.raises(ValueError, match="2 generators for 3 rows"):
        uniform_noise((3, 4), [torch.Generator(), torch.Generator()])


def test_a_coin_lands_as_often_as_its_probability_and_by_its_row_alone():
    prob = torch.tensor([[0.0, 0.25], [1.0, 0.75]]).repeat(1, 4000)
    heads = bernoulli(prob, [torch.Generator().manual_seed(seed) for seed in (1, 2)])
    assert heads[:, ::2].float().mean(1).tolist() == [0, 1]
    assert heads[:, 1::2].float().mean(1) == pytest.approx(torch.tensor([0.25, 0.75]), abs=0.03)
    assert torch.equal(heads[1:], bernoulli(prob[1:], [torch.Generator().manual_seed(2)]))


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan")])
def test_a_coin_of_no_probability_is_refused(wrong):
    with pytest.raises(ValueError, match=r"in \[0, 1\]"):
        bernoulli(torch.tensor([0.5, wrong]))
