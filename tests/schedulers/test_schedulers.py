"""Every scheduler against exact posteriors of a small joint law; its settings, errors and files.

The oracle knows p(x_0) over two positions and gives the exact marginals of p(x_0 | x_t), so that
the law of the samples must tend to p(x_0) as the steps get shorter. About 25 s.
"""

from __future__ import annotations

import itertools
import json

import pytest
import torch
from scheduler_cases import SAMPLERS, SCHEDULERS, made, schedulers, seeded
from slow_cases import mostly_slow

from hf_ddistill.denoisers import NetworkDenoiser
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.parameterizations import Conditional, Subs
from hf_ddistill.processes import Absorbing, Hybrid, Ordinal, Uniform
from hf_ddistill.samplers import Canvas
from hf_ddistill.schedulers import (
    AncestralScheduler,
    CTMCEulerScheduler,
    sharpened,
)
from hf_ddistill.schedules import Cosine, LogLinear

PROCESSES = [Absorbing(4), Uniform(3), Hybrid(4, uniform=0.2), Ordinal(3)]
LAW = torch.tensor([[0.30, 0.02, 0.08], [0.02, 0.25, 0.03], [0.05, 0.05, 0.20]]).double()


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Tensors this small only lose time to a second thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


processes = pytest.mark.parametrize("process", PROCESSES, ids=lambda p: p.id)


def oracle(diffusion):
    """(x_t (B, 2), t (B,)) -> log of the exact p(x_0^l | x_t), -1e6 for 0."""
    law = torch.zeros(diffusion.vocab_size, diffusion.vocab_size, dtype=torch.float64)
    law[:3, :3] = LAW

    def network(x_t, t):
        kernel = diffusion.kernel(0.0, t[0]).dense()
        joint = law * kernel.T[x_t[:, 0]][:, :, None] * kernel.T[x_t[:, 1]][:, None, :]
        marginals = torch.stack([joint.sum(2), joint.sum(1)], 1)
        return (marginals / marginals.sum(-1, keepdim=True)).log().clamp_min(-1e6)

    return network


def drawn(scheduler, rows, steps, generator):
    diffusion = scheduler.diffusion
    network, x = oracle(diffusion), diffusion.prior((rows, 2), generator)
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        x = scheduler.step(network(x, t.expand(rows)), t, x, generator=generator).prev_sample
    return x


def total_variation(x):
    """Distance of the law of samples (N, 2) of three tokens from LAW."""
    assert int(x.max()) < 3, "a token that the data never hold is left"
    counts = torch.bincount(x[:, 0] * 3 + x[:, 1], minlength=9).double()
    return float((counts / len(x) - LAW.flatten()).abs().sum() / 2)


#: Every scheduler under two processes, and one under all.
pairs = pytest.mark.parametrize(
    ("scheduler_class", "process"),
    mostly_slow(
        itertools.product(SCHEDULERS, PROCESSES),
        lambda cls, process: cls is AncestralScheduler or process in PROCESSES[:2],
    ),
    ids=lambda value: getattr(value, "id", None) or value.__name__,
)


@pairs
def test_with_an_oracle_the_law_tends_to_the_data_and_no_mask_is_left(scheduler_class, process):
    scheduler = made(scheduler_class, process, Cosine())
    few = total_variation(drawn(scheduler, 4000, 2, seeded()))
    many = total_variation(drawn(scheduler, 4000, 24, seeded()))
    assert few > 0.15, "two steps are never this good: is the test able to fail?"
    assert many < 0.08  # a hundredth and a half of it is chance


@schedulers
@processes
@pytest.mark.parametrize("steps", mostly_slow([1, 2, 5], lambda steps: steps == 2))
def test_a_scheduler_is_its_sampler_of_the_core(scheduler_class, process, steps):
    scheduler = made(scheduler_class, process)
    parameterization = Subs() if process.id == "absorbing" else Conditional()
    denoiser = NetworkDenoiser(oracle(scheduler.diffusion), scheduler.diffusion, parameterization)
    sampler = SAMPLERS[scheduler_class]
    expected = sampler.sample(denoiser, Canvas.empty((200, 2)), steps, seeded(3))
    assert torch.equal(drawn(scheduler, 200, steps, seeded(3)), expected)


@pairs
def test_a_row_does_not_depend_on_its_batch(scheduler_class, process):
    scheduler = made(scheduler_class, process)
    together = drawn(scheduler, 6, 3, [seeded(i) for i in range(6)])
    for row in (0, 4):
        assert torch.equal(drawn(scheduler, 1, 3, [seeded(row)])[0], together[row])
    assert len({tuple(row) for row in together.tolist()}) > 1


@schedulers
@processes
def test_temperature_0_is_argmax_and_never_a_noise_token(scheduler_class, process):
    scheduler = made(scheduler_class, process, temperature=0.0)
    logits = torch.randn(50, 7, process.vocab_size, generator=seeded())
    logits[..., list(process.noise_tokens)] = 9.0
    data = [k for k in range(process.vocab_size) if k not in process.noise_tokens]
    scheduler.set_timesteps(1)
    x = scheduler.diffusion.prior((50, 7), seeded())
    step = scheduler.step(logits, 1.0, x, generator=seeded())
    assert torch.equal(step.prev_sample, logits[..., data].argmax(-1))
    assert torch.equal(step.pred_original_sample, step.prev_sample)
    assert torch.allclose(step.sampled_probs, torch.ones(50, 7).double())


@processes
def test_top_k_and_top_p_remove_tokens(process):
    logits = torch.tensor([0.6, 0.3, 0.1]).log().expand(2_000, 1, 3)
    logits = torch.nn.functional.pad(logits, (0, process.vocab_size - 3))
    x = Diffusion(process).prior((2_000, 1), seeded())
    support = {
        (None, 1.0): {0, 1, 2},
        (0, 1.0): {0, 1, 2},
        (2, 1.0): {0, 1},
        (1, 1.0): {0},
        (None, 0.59): {0},
        (None, 0.61): {0, 1},
        (None, 0.95): {0, 1, 2},
        (2, 0.5): {0},
    }
    for (top_k, top_p), expected in support.items():
        scheduler = made(AncestralScheduler, process, LogLinear(1e-12), top_k=top_k, top_p=top_p)
        scheduler.set_timesteps(1)
        tokens = scheduler.step(logits, 1.0, x, generator=seeded()).prev_sample
        assert set(tokens.flatten().tolist()) == expected, (top_k, top_p)


def test_temperature_is_a_power_of_the_law_and_does_not_revive_the_impossible():
    p = torch.tensor([0.7, 0.2, 0.1, 0.0], dtype=torch.float64)
    log_p = p.log().clamp_min(-1e6)
    for temperature in (0.5, 1.0, 3.0):
        power = p ** (1 / temperature)
        assert torch.allclose(sharpened(log_p, temperature).exp(), power / power.sum())
    assert sharpened(log_p, 1e7).exp()[3] == 0


def test_a_revealed_token_stays_whatever_the_model_says_of_it():
    scheduler = made(CTMCEulerScheduler, Absorbing(4))
    x = torch.tensor([[0, 3, 2]])
    logits = torch.full((1, 3, 4), -torch.inf)
    logits[..., 1] = 0.0
    scheduler.set_timesteps(1)
    step = scheduler.step(logits, 1.0, x, generator=seeded())
    assert step.prev_sample.tolist() == [[0, 1, 2]]
    assert step.pred_original_sample.tolist() == [[0, 1, 2]]


def test_an_x_0_that_cannot_have_become_x_t_is_not_chosen():
    # At t = 1 / 64 the far ends of 16 levels are further apart than float64 can tell from 0.
    scheduler = made(AncestralScheduler, Ordinal(16), temperature=0.0)
    logits = torch.zeros(1, 1, 16)
    logits[..., 15] = 5.0
    t = scheduler.timesteps[-1]
    kernel = scheduler.diffusion.kernel(0.0, t).columns(torch.zeros(1, 1, dtype=torch.int64))
    token = int(scheduler.step(logits, t, torch.zeros(1, 1, dtype=torch.int64)).prev_sample)
    assert kernel[0, 0, token] > 0


def test_timesteps_are_there_from_the_start_and_decrease_from_1():
    scheduler = made(AncestralScheduler, Uniform(3), num_inference_steps=4)
    assert scheduler.timesteps.tolist() == [1.0, 0.75, 0.5, 0.25]
    scheduler.set_timesteps(3, device="cpu")
    assert scheduler.timesteps.tolist() == [1.0, 1 - 1 / 3, 1 - 2 / 3]
    assert scheduler.order == 1 and scheduler.num_inference_steps == 3


def test_a_time_of_lower_precision_is_still_on_the_grid():
    scheduler = made(AncestralScheduler, Uniform(3), num_inference_steps=3)
    x, logits = torch.zeros(4, 2, dtype=torch.int64), torch.zeros(4, 2, 3)
    exact = scheduler.step(logits, scheduler.timesteps[1], x, generator=seeded())
    rounded = scheduler.step(logits, scheduler.timesteps[1].float(), x, generator=seeded())
    assert torch.equal(exact.prev_sample, rounded.prev_sample)


def test_float32_sampling_is_allowed_and_tokens_still_follow_the_law():
    scheduler = made(AncestralScheduler, Uniform(3), sampling_dtype="float32")
    step = scheduler.step(torch.zeros(1, 2, 3), 1.0, torch.zeros(1, 2, dtype=torch.int64))
    assert step.sampled_probs.dtype == torch.float32
    scheduler = made(AncestralScheduler, Absorbing(4), Cosine(), sampling_dtype="float32")
    assert total_variation(drawn(scheduler, 5_000, 32, seeded())) < 0.06


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"temperature": -1.0}, "temperature"),
        ({"top_k": -1}, "top_k"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.5}, "top_p"),
        ({"sampling_dtype": "float16"}, "float64, float32"),
        ({"num_inference_steps": 0}, "must be an integer > 0"),
    ],
)
def test_a_setting_out_of_range_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        made(AncestralScheduler, Uniform(3), **settings)


def test_wrong_input_of_a_step_is_refused_with_its_cause():
    scheduler = made(AncestralScheduler, Absorbing(4), num_inference_steps=4)
    x, logits = torch.full((2, 3), 3), torch.zeros(2, 3, 4)
    with pytest.raises(ValueError, match="`timestep`=0.3 is not one of"):
        scheduler.step(logits, 0.3, x)
    with pytest.raises(ValueError, match="vocabulary of 5 tokens.*vocab_size=4"):
        scheduler.step(torch.zeros(2, 3, 5), 1.0, x)
    with pytest.raises(ValueError, match="`sample` must be"):
        scheduler.step(torch.zeros(2, 2, 4), 1.0, x)
    with pytest.raises(ValueError, match=r"\[0, 4\)"):
        scheduler.step(logits, 1.0, x + 1)
    with pytest.raises(ValueError, match="NaN at 1 of 6 positions"):
        scheduler.step(logits.index_put((torch.tensor(0),) * 3, torch.tensor(torch.nan)), 1.0, x)
    with pytest.raises(ValueError, match="no distribution at 6 of 6"):
        scheduler.step(torch.full_like(logits, -torch.inf), 1.0, x)
    with pytest.raises(ValueError, match="3 generators for 2 rows"):
        scheduler.step(logits, 1.0, x, generator=[seeded()] * 3)


def test_the_tuple_has_the_order_of_the_output():
    scheduler = made(AncestralScheduler, Absorbing(4))
    arguments = torch.zeros(2, 3, 4), 1.0, torch.full((2, 3), 3)
    output = scheduler.step(*arguments, generator=seeded())
    plain = scheduler.step(*arguments, generator=seeded(), return_dict=False)
    assert list(output.keys()) == ["prev_sample", "pred_original_sample", "sampled_probs"]
    assert all(map(torch.equal, plain, output.to_tuple()))


@processes
def test_add_noise_is_the_forward_process(process):
    scheduler = made(CTMCEulerScheduler, process)
    x_0 = torch.randint(3, (500, 4), generator=seeded())
    t = torch.linspace(0, 1, 500, dtype=torch.float64)
    noised = scheduler.add_noise(x_0, seeded(1), t)
    assert torch.equal(noised, scheduler.diffusion.corrupt(x_0, t, seeded(1)))
    assert torch.equal(scheduler.add_noise(x_0, None, torch.tensor(0.0)), x_0)
    assert not torch.equal(noised, x_0)
    with pytest.raises(ValueError, match=r"a tensor of shape \(500, 4\).*torch.Generator"):
        scheduler.add_noise(x_0, torch.randn(500, 4), t)


@pairs
def test_saved_and_loaded_a_scheduler_is_the_same(scheduler_class, process, tmp_path):
    scheduler = made(scheduler_class, process, Cosine(power=2), temperature=0.7, top_k=2)
    scheduler.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "scheduler_config.json").read_text())
    assert saved["_class_name"] == scheduler_class.__name__
    loaded = scheduler_class.from_pretrained(tmp_path)
    assert loaded.diffusion == scheduler.diffusion
    assert dict(loaded.config) == dict(scheduler.config)
    assert torch.equal(drawn(loaded, 30, 4, seeded()), drawn(scheduler, 30, 4, seeded()))
    assert scheduler_class.from_pretrained(tmp_path, top_k=1).config.top_k == 1


def test_one_scheduler_becomes_another_and_no_setting_is_lost():
    # Positional arguments: diffusers takes them for defaults, which it does not pass on.
    process, schedule = Hybrid(4).to_config(), Cosine().to_config()
    first = AncestralScheduler(process, schedule, 0.5, 3, 0.9, num_inference_steps=8)
    second = CTMCEulerScheduler.from_config(first.config, temperature=0.8)
    assert second.diffusion == first.diffusion and len(second.timesteps) == 8
    settings = {"temperature": 0.8, "top_k": 3, "top_p": 0.9}
    assert {key: second.config[key] for key in settings} == settings
