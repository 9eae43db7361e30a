"""`hf-ddistill diagnose` on models and bare processes, and warm against random starts."""

from __future__ import annotations

import copy
import json
import re

import pytest
import torch
from torch import nn

from hf_ddistill.cli import diagnose as command
from hf_ddistill.cli import main
from hf_ddistill.cli.parser import parsed
from hf_ddistill.diagnosis.condition_number import condition_row
from hf_ddistill.diagnosis.conditioning import (
    Noised,
    euler_rows,
    noised_by_model,
    recovery_rows,
    warm_against_random,
)
from hf_ddistill.diffusion import Diffusion
from hf_ddistill.models import DDiTConfig, DDiTForDiscreteDiffusion, as_denoiser
from hf_ddistill.models.made_tokenizers import made_tokenizer
from hf_ddistill.parameterizations import Prediction
from hf_ddistill.processes import (
    Absorbing,
    Ordinal,
    Uniform,
)
from hf_ddistill.samplers import GivenTimes

K = 6


def _parsed(*argv):
    return parsed(["diagnose", *map(str, argv)])[1]


def _tiny(process, folder=None, **settings):
    torch.manual_seed(0)
    settings = {"max_position_embeddings": 8, "time_conditioning": True, **settings}
    config = DDiTConfig(
        vocab_size=process.vocab_size,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        mask_token_id=process.mask_token_id,
        **settings,
    )
    model = DDiTForDiscreteDiffusion(config).eval()
    as_denoiser(model, Diffusion(process))  # enters the process in the configuration
    if folder is not None:
        model.save_pretrained(folder)
    return model


# -- models -------------------------------------------------------------------------------------


def test_a_models_own_predictions_are_the_truth():
    model = _tiny(Uniform(7))
    denoiser = as_denoiser(model)
    x_0 = torch.randint(0, 7, (4, 8))
    noised = noised_by_model(denoiser, x_0, 0.4, 1000, torch.Generator().manual_seed(0))
    assert noised.x_t.shape == (32, 1)
    assert noised.truth.log_conditional.dtype == torch.float64
    x_t = denoiser.diffusion.corrupt(x_0, 0.4, torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = denoiser(x_t, 0.4).log_conditional.flatten(0, 1)
    # The positions come in a random order, each with its own token.
    distance = torch.cdist(noised.truth.log_conditional[:, 0], expected.double())
    nearest = distance.min(1)
    assert float(nearest.values.max()) < 1e-4
    assert torch.equal(x_t.flatten()[nearest.indices], noised.x_t[:, 0])


def test_ratios_of_a_network_that_no_kernel_inverts_are_reported():
    # The fastest of 33 levels' modes is gone at the end: its eigenvalue is 0 in float64.
    denoiser = as_denoiser(_tiny(Ordinal(33)), parameterization="score")
    x_0 = torch.randint(0, 33, (2, 8))
    generator = torch.Generator().manual_seed(0)
    early, late = (noised_by_model(denoiser, x_0, t, 10, generator) for t in (0.002, 1.0))
    assert early.truth is not None and late.truth is None
    rows = recovery_rows(denoiser.diffusion, late, generator)
    assert len(rows) == 3 and all(row["tv"] is None for row in rows)
    assert euler_rows(denoiser.diffusion, late, (0.1,)) == []
    assert condition_row(denoiser.diffusion, 1.0)["condition"] is None


def test_no_open_position_gives_rows_without_figures():
    diffusion = Diffusion(Absorbing(K))
    empty = Noised(
        0.1, torch.zeros(0, 1, dtype=torch.int64), Prediction(torch.zeros(0, 1, K).double())
    )
    rows = recovery_rows(diffusion, empty, torch.Generator())
    assert [row["positions"] for row in rows] == [0, 0, 0]
    assert all(row["tv"] is None for row in rows) and euler_rows(diffusion, empty, (0.1,)) == []


def test_a_random_start_is_fresh_and_neither_start_touches_the_model():
    model = _tiny(Absorbing(7))
    before = copy.deepcopy(model.state_dict())
    seen = []

    def run(student: nn.Module) -> list[float]:
        seen.append((copy.deepcopy(student.state_dict()), torch.rand(3)))
        optimizer = torch.optim.SGD(student.parameters(), lr=0.1)
        losses = []
        for _ in range(3):
            logits = student(torch.full((2, 8), 6), torch.ones(2)).logits
            loss = nn.functional.cross_entropy(logits.flatten(0, 1), torch.zeros(16).long())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(float(loss.detach()))
        return losses

    state = torch.random.get_rng_state()
    rows = warm_against_random(run, model, seed=3)
    assert torch.equal(state, torch.random.get_rng_state())
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    (warm, warm_noise), (fresh, fresh_noise) = seen
    assert all(torch.equal(value, before[key]) for key, value in warm.items())
    assert not torch.equal(fresh["lm_head.weight"], before["lm_head.weight"])
    assert torch.equal(warm_noise, fresh_noise)  # the trainings differ by the start alone
    assert [(row["start"], row["step"]) for row in rows] == [
        (start, step) for start in ("warm", "random") for step in range(3)
    ]
    assert rows == warm_against_random(run, model, seed=3)


# -- the command --------------------------------------------------------------------------------


def test_a_model_folder_goes_end_to_end(tmp_path, capsys):
    _tiny(Absorbing(7), tmp_path / "model")
    files = tmp_path / "out.json", tmp_path / "out.png"
    status = command.run(
        _parsed(tmp_path / "model", "--json", files[0], "--plot", files[1], "--positions", 32)
    )
    assert status == 0
    rows = json.loads(files[0].read_text())["rows"]
    assert {row["section"] for row in rows} == {"condition", "recovery", "euler", "commutation"}
    assert all(not isinstance(value, (dict, list)) for row in rows for value in row.values())
    exact = [row for row in rows if row["section"] == "recovery" and row["ratios"] == "float64"]
    assert exact and all(row["max_error"] < 1e-10 for row in exact if row["positions"])
    assert files[1].read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    assert "Condition number" in capsys.readouterr().out


@pytest.mark.slow
def test_the_best_times_of_a_model_are_a_sampler_s(tmp_path, capsys):
    _tiny(Absorbing(7), tmp_path / "model")
    file = tmp_path / "out.json"
    arguments = ("--times", 0.5, "--steps", 0.1, "--best-times", 4, 5, "--json", file)
    assert command.run(_parsed(tmp_path / "model", *arguments)) == 0
    rows = [r for r in json.loads(file.read_text())["rows"] if r["section"] == "times"]
    for row, n in zip(rows, (4, 5), strict=True):
        times = GivenTimes(times=[float(time) for time in row["times"].split()]).times
        assert len(times) == n + 1 and row["steps"] == n
    assert 0 <= rows[1]["lost"] <= rows[0]["lost"] + 1e-9 and rows[1]["even"] is None
    assert rows[0]["lost"] <= rows[0]["even"] + 1e-9
    assert "Times at which N steps lose the least" in capsys.readouterr().out


def test_given_data_are_used(tmp_path):
    _tiny(Uniform(7), tmp_path / "model")
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"input_ids": [i % 7] * 5}) + "\n" for i in range(20)))
    file = tmp_path / "out.json"
    arguments = ("--data", data, "--sequences", 3, "--times", 0.5, "--json", file)
    assert command.run(_parsed(tmp_path / "model", *arguments)) == 0
    rows = json.loads(file.read_text())["rows"]
    assert {row["positions"] for row in rows if "positions" in row} == {15}


def test_texts_are_diagnosed_without_the_tokens_that_training_puts_between_them(
    tmp_path, monkeypatch
):
    _tiny(Uniform(258), tmp_path / "model")
    made_tokenizer("bytes", list).save_pretrained(tmp_path / "model")
    (tmp_path / "a.txt").write_text("ab\ncd\n")
    seen = []
    predicted = command._predicted
    monkeypatch.setattr(
        command, "_predicted", lambda d, x_0, *rest: seen.append(x_0) or predicted(d, x_0, *rest)
    )
    given = ("--data", tmp_path / "a.txt", "--length", 3, "--times", 0.5)
    command.run(_parsed(tmp_path / "model", *given))
    tokenizer = made_tokenizer("bytes", list)
    rows = [[*tokenizer(line)["input_ids"], tokenizer.eos_token_id] for line in ("ab", "cd")]
    assert seen[0].tolist() == rows


def test_a_bare_process_needs_no_model_and_is_reproducible(tmp_path):
    files = tmp_path / "a.json", tmp_path / "b.json"
    for file in files:
        command.run(
            _parsed(
                "--process", "ordinal", "--vocab-size", 17, "--json", file, "--times", 0.02, 0.98
            )
        )
    assert files[0].read_text() == files[1].read_text()
    text = files[0].read_text()
    assert "NaN" not in text and "Infinity" not in text


def test_a_process_can_be_given_as_json(capsys):
    q = [[-1.0, 0.5, 0.5], [0.2, -0.4, 0.2], [1.0, 0.0, -1.0]]
    config = json.dumps({"type": "general", "matrix": q})
    assert command.run(_parsed("--process", config, "--times", 0.5)) == 0
    assert "general, K = 3" in capsys.readouterr().out


def test_curves_of_both_starts_are_plotted_and_printed(tmp_path, capsys):
    diffusion = Diffusion(Uniform(K))
    rows = [condition_row(diffusion, 0.5)]
    rows += [
        {"section": "start", "t": None, "start": start, "step": i, "loss": 1.0 / (i + 1)}
        for start in ("warm", "random")
        for i in range(3)
    ]
    command.print_sections(rows)
    assert "random" in capsys.readouterr().out
    command.save_diagnosis(tmp_path / "new" / "start.png", rows, "starts")
    assert (tmp_path / "new" / "start.png").stat().st_size > 1000


@pytest.mark.parametrize("classes", [pytest.param(0, marks=pytest.mark.slow), 10])
def test_ecd_is_trained_from_both_starts_on_real_digits(classes, tmp_path, capsys):
    model = _tiny(Absorbing(3), max_position_embeddings=64, num_classes=classes)
    with torch.no_grad():
        model.lm_head.weight.mul_(30)  # sure of itself, as no fresh model is
    model.save_pretrained(tmp_path / "model")
    files = tmp_path / "out.json", tmp_path / "out.png"
    arguments = ("--data", "digits", "--start-steps", 3, "--times", 0.5, "--seed", 5)
    status = command.run(
        _parsed(tmp_path / "model", *arguments, "--json", files[0], "--plot", files[1])
    )
    assert status == 0 and files[1].stat().st_size > 1000
    rows = [row for row in json.loads(files[0].read_text())["rows"] if row["section"] == "start"]
    warm, fresh = ([row["loss"] for row in rows if row["start"] == s] for s in ("warm", "random"))
    assert len(warm) == len(fresh) == 3
    assert max(warm) < 0.7 * min(fresh), (warm, fresh)
    printed = capsys.readouterr().out
    assert "from fresh ones" in printed and "{" not in printed


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "either a model or --process"),
        (["model", "--process", "uniform"], "either a model or --process"),
        (["--process", "uniform"], "--vocab-size"),
        (["--process", "uniform", "--vocab-size", 1], "at least 2"),
        (["--process", "unifrom", "--vocab-size", 9], "uniform"),
        (["--process", '{"type": "low_rank", "vocab_size": 4}'], "assign"),
        (["--process", "uniform", "--vocab-size", 9, "--times", 0], r"\(0, 1\]"),
        (["--process", "uniform", "--vocab-size", 9, "--steps", 1.5], r"\(0, 1\]"),
        (["--process", "uniform", "--vocab-size", 9, "--data", "x.txt"], "a model"),
        (["--process", "uniform", "--vocab-size", 9, "--plot", "x.pdf"], ".png"),
        (["model", "--schedule", "linear"], "--process"),
        (["model", "--start-steps", 3], "needs a model and --data"),
        (["--process", "uniform", "--vocab-size", 9, "--start-steps", 3], "a model and --data"),
        (["--process", "uniform", "--vocab-size", 9, "--best-times", 4], "goes with a model"),
        (["model", "--best-times", 49], "at most 48"),
        (["model", "--best-times", 4, 5, "--output", "x"], "times of one number"),
    ],
)
def test_a_wrong_argument_is_one_sentence(argv, says, capsys):
    try:
        code = main(["diagnose", *map(str, argv)])
    except SystemExit as stop:
        code = stop.code
    said = capsys.readouterr().err.strip()
    assert code == 2 and re.search(says, said) and "\n" not in said


def test_a_missing_model_is_a_wrong_argument(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="no model"):
        command.run(_parsed(tmp_path / "empty"))


def test_data_outside_the_vocabulary_are_refused(tmp_path):
    _tiny(Uniform(7), tmp_path / "model")
    data = tmp_path / "data.jsonl"
    data.write_text(json.dumps({"input_ids": [9, 1]}) + "\n")
    with pytest.raises(ValueError, match=r"\[0, 7\)"):
        command.run(_parsed(tmp_path / "model", "--data", data))
