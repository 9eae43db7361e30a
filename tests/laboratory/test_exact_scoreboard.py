"""The laboratory's bench: what trainings share, what they cost, and what the rows say."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch

from hf_ddistill.diffusion import Diffusion
from hf_ddistill.laboratory import ExactProblem, terminal_law, total_variation
from hf_ddistill.laboratory.network import ExactNetwork, network_denoiser
from hf_ddistill.laboratory.problems import (
    LETTERS,
    PROBLEMS,
    count_trigrams,
    digits,
    exact_law,
    parity,
    trigrams,
)
from hf_ddistill.laboratory.scoreboard import Bench
from hf_ddistill.laboratory.students import BenchSettings, fit_start, train_student
from hf_ddistill.objectives import ECD, NELBO, Frozen, LawMatching, Objective, ReinforceDMD
from hf_ddistill.processes import Absorbing, Ordinal, Uniform
from hf_ddistill.samplers import step_grid
from hf_ddistill.schedules import LogLinear

STRAIGHT = LogLinear(1e-9)
TINY = BenchSettings(calls=8, rows=16, width=16, start_steps=4)


def problem_of(process):
    law = digits()
    return ExactProblem(law.law, law.sequences, Diffusion(process, STRAIGHT))


@pytest.fixture(scope="module")
def fitted():
    """A bench of small networks on the standard problem, and a start that knows the teacher."""
    settings = BenchSettings(calls=200, rows=256, width=96, start_steps=300)
    bench = Bench("digits", problem_of(Absorbing(3)), settings, draws=2**14)
    return bench, fit_start(bench.problem, settings)


def test_the_start_is_the_teacher_as_a_network(fitted):
    bench, start = fitted
    (row,) = bench.start_rows(start, [2])
    assert row["tv"] == pytest.approx(0.2216, abs=0.02)
    assert row["method"] == "start" and row["process"] == "absorbing"


def bench_of_parity(**settings):
    """Four bits, and what their start takes to learn."""
    law = parity(4)
    problem = ExactProblem(law.law, law.sequences, Diffusion(Absorbing(3), STRAIGHT))
    small = {"rows": 256, "width": 96, "start_steps": 400, **settings}
    return Bench("parity:4", problem, BenchSettings(**small), draws=2**14)


@pytest.mark.parametrize(("scale", "known"), [(1.0, False), (3.0, True)])
def test_a_start_learns_parity_from_wide_weights_alone(scale, known):
    bench = bench_of_parity(start_scale=scale)
    start, teacher = bench.start_rows(bench.fit_start(), [2, 4]), bench.teacher_rows([2, 4])
    for one, other in zip(start, teacher, strict=True):
        assert (one["tv"] < other["tv"] + 0.02) == known
        assert known or one["tv"] == pytest.approx(0.5, abs=0.01)


@pytest.mark.slow
def test_law_matching_is_past_the_teacher_on_parity_where_its_start_knows_it():
    """Two calls: the exact teacher is at .375, and nobody without the parity is below .5."""
    rates = {"learning_rate": 2e-3, "auxiliary_learning_rate": 4e-3}
    bench = bench_of_parity(start_scale=3.0, calls=600, **rates)
    (row,) = bench.student_rows(LawMatching(), bench.fit_start(), [2], 0)
    assert row["tv"] < 0.3


@pytest.mark.slow
def test_ecd_stays_where_the_teacher_is(fitted):
    bench, start = fitted
    (row,) = bench.student_rows(ECD(), start, [2], 0)
    assert row["tv"] == pytest.approx(0.2216, abs=0.03)
    assert row["student_calls"] == 200 and row["network_calls"] == 400


@pytest.mark.slow
def test_law_matching_goes_where_no_masked_student_without_noise_can(fitted):
    """One call, 200 updates: the product of the marginals, the best without noise, is at 0.4465."""
    bench, start = fitted
    (row,) = bench.student_rows(LawMatching(), start, [1], 0)
    assert row["tv"] < 0.3 and row["noise_dim"] == 4
    assert 0 < row["tv_error"] < 0.02
    assert row["student_calls"] == 200 and 600 <= row["network_calls"] < 700


def test_what_a_discriminator_is_shown_costs_nothing():
    """A step shows one batch to student and teacher, and five to the discriminator: the data and
    four draws of each prediction."""
    problem, start = problem_of(Absorbing(3)), ExactNetwork(3, 6, 16)
    trained = train_student(problem, ReinforceDMD(group=4), 1, start, TINY)
    assert trained.network_calls == 7 * trained.updates


def test_every_objective_gets_the_same_number_of_student_calls():
    problem, start = problem_of(Absorbing(3)), ExactNetwork(3, 6, 16)
    policy = LawMatching(gradient="policy", horizon="rollout", steps="only")
    for objective in (NELBO(), ECD(), policy):
        trained = train_student(problem, objective, 4, start, TINY)
        assert 8 <= trained.student_calls < 8 + 4, objective.id
        assert trained.updates == (2 if objective.id == "law_matching" else 8)


def test_minutes_end_a_training():
    settings = BenchSettings(calls=None, minutes=0.01, rows=16, width=16)
    trained = train_student(problem_of(Uniform(2)), ECD(), 2, ExactNetwork(2, 6, 16), settings)
    assert 0.6 <= trained.seconds and trained.updates > 0


def test_a_seed_repeats_a_training_and_the_start_is_left_as_it_was():
    problem, start = problem_of(Absorbing(3)), ExactNetwork(3, 6, 16)
    before = [weight.clone() for weight in start.parameters()]

    def weights(seed):
        trained = train_student(problem, LawMatching(), 2, start, TINY, seed=seed)
        return torch.cat([p.flatten() for p in trained.denoiser.network.model.parameters()])

    assert torch.equal(weights(0), weights(0)) and not torch.equal(weights(0), weights(1))
    assert all(torch.equal(a, b) for a, b in zip(before, start.parameters(), strict=True))


def test_the_noise_input_leaves_the_rest_of_the_network_as_it_was():
    start = ExactNetwork(3, 6, 16)
    noisy = start.with_noise(2, 1.0, seed=0)
    x_t, t = torch.randint(3, (5, 6)), torch.rand(5).double()
    same = noisy(x_t, t, noise=torch.zeros(5, 6, 2))
    assert torch.equal(same, start(x_t, t))
    noise = torch.randn(1000, 6, 2)
    added = float(noisy.noise(noise.flatten(1)).detach().std())
    assert added == pytest.approx(1, abs=0.3), "each unit is moved by about noise_std"


def test_noise_of_a_sequence_is_one_vector_for_all_positions():
    noisy = ExactNetwork(3, 6, 16).with_noise(2, 1.0, 0, "sequence")
    student = network_denoiser(noisy, problem_of(Absorbing(3)), 2, "sequence")
    noise = student.fresh_noise(torch.full((5, 6), 2))["noise"]
    assert noise.shape == (5, 2) and noisy.noise.in_features == 2
    assert student(torch.full((5, 6), 2), 1.0, noise=noise).log_conditional.shape == (5, 6, 3)


def test_noise_is_given_where_the_process_has_none():
    for process, objective, expected in (
        (Absorbing(3), LawMatching(), 4),
        (Uniform(2), LawMatching(), 0),
        (Absorbing(3), ECD(), 0),
    ):
        assert BenchSettings().noise_of(problem_of(process), objective) == expected
    settings = BenchSettings(noise_dim=2)
    assert settings.noise_of(problem_of(Uniform(2)), LawMatching()) == 2


def test_one_student_is_trained_once_and_measured_at_every_number_of_calls():
    bench, shares = Bench("digits", problem_of(Absorbing(3)), TINY, draws=64), []
    start = ExactNetwork(3, 6, 16)
    rows = list(
        bench.student_rows(
            LawMatching(), start, [1, 2, 4], 0, one_student=True, notify=shares.append
        )
    )
    assert [row["nfe"] for row in rows] == [1, 2, 4] and shares.count(1.0) == 1
    assert len({row["updates"] for row in rows}) == 1 and len({row["tv"] for row in rows}) == 3


@pytest.mark.slow
def test_a_sampler_has_as_many_steps_as_its_calls_allow():
    bench = Bench("digits", problem_of(Absorbing(3)), TINY)
    rows = list(bench.teacher_rows([2, 4], ["theta_trapezoidal", "theta_rk2"]))
    assert [row["steps"] for row in rows] == [1, 2, 1, 2]
    assert [row["sampler"] for row in rows] == ["theta_trapezoidal"] * 2 + ["theta_rk2"] * 2
    assert rows[1]["tv"] < 0.085 < rows[3]["tv"]
    with pytest.raises(ValueError, match="'theta_trapezoidal' takes 2 network calls, and 1 are"):
        list(bench.teacher_rows([1], ["theta_trapezoidal"]))


def test_an_objective_that_needs_another_network_is_refused():
    @dataclass(frozen=True)
    class _Referred(Objective):
        networks = {"teacher": Frozen(), "reference": Frozen()}

        def __call__(self, step):
            raise AssertionError("it was called")

    with pytest.raises(ValueError, match="needs the network 'reference'; the lab"):
        train_student(problem_of(Uniform(2)), _Referred(), 1, ExactNetwork(2, 6), TINY)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"minutes": 1.0}, "either a number of calls or minutes"),
        ({"calls": None}, "either a number of calls or minutes"),
        ({"rows": 1}, "rows must be at least 2"),
        ({"noise_dim": -1}, "noise_dim must be at least 0"),
        ({"learning_rate": float("nan")}, "learning_rate must be above 0"),
        ({"ema": 1.0}, "ema must lie"),
        ({"start_scale": 0.0}, "start_scale must be above 0"),
    ],
)
def test_impossible_settings_are_refused(settings, words):
    with pytest.raises(ValueError, match=words):
        BenchSettings(**settings)


def test_trigrams_are_english():
    law = trigrams()
    assert law.sequences.shape == (26**3, 3) and law.law.min() > 0
    text = ["".join(LETTERS[i] for i in row) for row in law.sequences[law.law.topk(6).indices]]
    assert text[:3] == [" th", "the", "he "] and {" of", "of "} < set(text)
    assert float(law.law.sum()) == pytest.approx(1)


def test_trigrams_are_counted_as_described():
    counts = count_trigrams("Già\n the  THE, j!")
    found = {
        "".join(LETTERS[i] for i in row): int(n)
        for row, n in zip(trigrams().sequences.tolist(), counts, strict=True)
        if n
    }
    assert sum(found.values()) == len("gia the the i") - 2
    assert found["gia"] == 1 and found["the"] == 2 and found["e i"] == 1 and found[" th"] == 2
    with pytest.raises(ValueError, match="2 letters has no trigram"):
        count_trigrams("oh!")


def test_the_largest_problem_fits_in_memory_and_seconds():
    law = trigrams()
    problem = ExactProblem(law.law, law.sequences, Diffusion(Absorbing(27), STRAIGHT))
    assert len(problem.states) == 19_683
    found = terminal_law(problem.denoiser(), problem, 3, step_grid(2))
    assert total_variation(problem.law, found) == pytest.approx(0.3966, abs=5e-5)


@pytest.mark.parametrize("name", PROBLEMS)
def test_every_problem_makes_a_law_of_all_its_sequences(name):
    law = exact_law(name)
    tokens = int(law.sequences.max()) + 1
    process = Ordinal(tokens) if name == "levels" else Uniform(tokens)
    assert ExactProblem(law.law, law.sequences, Diffusion(process)).total_correlation > 0.3


def test_calls_of_a_network_are_counted_in_sequences():
    problem = problem_of(Uniform(2))
    denoiser = network_denoiser(ExactNetwork(2, 6, 8), problem)
    terminal_law(denoiser, problem, 6, step_grid(3))
    assert denoiser.network.sequences == 3 * 64
