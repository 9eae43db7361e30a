"""The quickstart: what it writes, that it goes on after an interruption, and its teacher."""

import json
from dataclasses import asdict

import pytest
import torch
from PIL import Image
from sklearn.linear_model import LogisticRegression
from slow_cases import mostly_slow
from transformers import TrainerCallback

from hf_ddistill import DiscreteDiffusionPipeline, as_denoiser
from hf_ddistill.cli import quickstart as module
from hf_ddistill.cli.quickstart import (
    Setup,
    by_class,
    quickstart,
    shipped_student,
    shipped_teacher,
)
from hf_ddistill.cli.quickstart_figures import Measure
from hf_ddistill.cli.quickstart_folder import begin
from hf_ddistill.evaluation import (
    DigitsClassifier,
    DigitsJudge,
    judge_real,
    judge_samples,
    load_digit_tokens,
    nearest_distance,
    split_digits,
)
from hf_ddistill.samplers import Ancestral, Canvas

TINY = Setup(
    steps=4,
    batch_size=8,
    samples=20,
    draws=2,
    student_steps=2,
    teacher_nfes=(2, 64),
    student_nfes=(2,),
)


@pytest.fixture(scope="module")
def split():
    return split_digits(*load_digit_tokens(2))


@pytest.fixture(scope="module")
def teacher():
    return as_denoiser(shipped_teacher().eval())


def labels(count):
    return {"class_labels": torch.arange(count) % 10}


@pytest.mark.slow
def test_it_writes_pictures_figures_and_a_student_that_loads_afresh(tmp_path):
    quickstart(tmp_path, TINY)
    written = json.loads((tmp_path / "metrics.json").read_text())
    keys = {"model", "nfe", "fd", "confidence", "class_entropy", "novelty", "auc"}
    assert all(keys <= set(row) for row in written["rows"])
    models = [(row["model"], row["nfe"]) for row in written["rows"]]
    assert models == [("real", 0), ("teacher", 2), ("teacher", 64)] + [
        ("law_matching", 2),
        ("law_matching_shipped", 2),
    ]
    made = {"metrics.json", "samples.png", "frontier.png", "students", "distillation"}
    assert {path.name for path in tmp_path.iterdir()} == made | {".hf_ddistill.json"}
    assert all("fd_spread" in row for row in written["rows"][1:])
    for name in ("samples.png", "frontier.png"):
        with Image.open(tmp_path / name) as picture:
            assert min(picture.size) > 200
    cited = {"law_matching": "Law matching"}
    for name, work in cited.items():
        card = (tmp_path / "students" / name / "README.md").read_text()
        assert work in card and f"| {name} | 2 |" in card and "absorbing" in card
        pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path / "students" / name)
        pipe.set_progress_bar_config(disable=True)
        out = pipe(batch_size=3, class_labels=7, output_type="tokens")
        assert out.num_network_calls == TINY.student_steps and out.sequences.max() <= 1
    with pytest.raises(ValueError, match="is not empty"):
        quickstart(tmp_path, TINY)
    (tmp_path / "samples.png").write_bytes(b"drawn over")
    with pytest.raises(ValueError, match="samples.png in .* was changed since"):
        quickstart(tmp_path, TINY, overwrite=True)


class Stop(TrainerCallback):
    """Ctrl-C in the middle of the distillation."""

    def on_step_end(self, args, state, control, **kwargs):
        if state.global_step == 3:
            raise KeyboardInterrupt


@pytest.mark.parametrize("name", mostly_slow(module.RECIPES, lambda name: name == "ecd"))
def test_an_interrupted_run_goes_on_and_ends_where_an_uninterrupted_one_does(
    tmp_path, monkeypatch, split, name
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    teacher = shipped_teacher()
    expected = module.train_student(whole, TINY, name, teacher, split)
    trainer = module.DiscreteDistillationTrainer
    with monkeypatch.context() as patch:
        stopping = lambda **kwargs: trainer(callbacks=[Stop()], **kwargs)  # noqa: E731
        patch.setattr(module, "DiscreteDistillationTrainer", stopping)
        with pytest.raises(KeyboardInterrupt):
            module.train_student(broken, TINY, name, shipped_teacher(), split)
    # A checkpoint that was cut off while it was written is passed over.
    (broken / "distillation" / name / "checkpoint-9").mkdir()
    with pytest.warns(UserWarning, match="checkpoint-9 .whole.json is missing"):
        again = module.train_student(broken, TINY, name, shipped_teacher(), split)
    for a, b in zip(expected.parameters(), again.parameters(), strict=True):
        assert torch.equal(a, b)


def test_an_unfinished_run_goes_on_with_its_own_settings_alone(tmp_path):
    folder = tmp_path / "out"
    begin(folder, asdict(TINY), False)
    (folder / "notes.txt").write_text("mine")
    begin(folder, asdict(TINY), False)
    with pytest.raises(ValueError, match="is not empty: it holds .*notes.txt"):
        begin(folder, asdict(Setup()), False)
    begin(folder, asdict(Setup()), True)
    assert (folder / "notes.txt").read_text() == "mine"


def test_work_of_another_hand_is_not_overwritten(tmp_path):
    begin(tmp_path, asdict(TINY), False)
    (tmp_path / "distillation").mkdir()
    (tmp_path / "distillation" / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="distillation/thesis.txt in .* was not written by"):
        begin(tmp_path, asdict(Setup()), True)
    assert (tmp_path / "distillation" / "thesis.txt").read_text() == "mine"


@pytest.mark.slow
def test_the_teacher_beats_a_logistic_regression_on_masked_pixels(teacher, split):
    """A network that has learnt the marginals alone does not."""
    network, regression = [], []
    for i in range(2, 64, 6):
        x, truth = split.held_out_tokens.clone(), split.held_out_tokens[:, i]
        if len(split.train_tokens[:, i].unique()) < 2:
            continue
        x[:, i] = 2
        with torch.no_grad():
            log_p = teacher(x, 1 / 64, class_labels=split.held_out_labels).log_conditional[:, i]
        network.append(-log_p.gather(1, truth[:, None]).mean())
        others = [j for j in range(64) if j != i]
        # The label, too, as the network has it.
        known, asked = (
            torch.cat([x[:, others], torch.nn.functional.one_hot(y, 10)], 1)
            for x, y in (
                (split.train_tokens, split.train_labels),
                (split.held_out_tokens, split.held_out_labels),
            )
        )
        fitted = LogisticRegression(C=0.3, max_iter=300).fit(known, split.train_tokens[:, i])
        p = torch.from_numpy(fitted.predict_log_proba(asked))
        regression.append(-p.gather(1, truth[:, None]).mean())
    assert torch.stack(network).mean() < 0.97 * torch.stack(regression).mean()


@pytest.mark.slow
def test_the_teacher_improves_with_network_calls_and_is_not_a_copyist(teacher, split):
    judge, generator = DigitsClassifier.fit(2), torch.Generator().manual_seed(1)
    figures = {}
    for nfe in (1, 4, 16):
        drawn = Ancestral().sample(teacher, Canvas.empty((200, 64)), nfe, generator, **labels(200))
        figures[nfe] = judge_samples(judge, drawn, split.train_tokens)
    # A curve that is flat in the number of calls is that of a model of the marginals.
    assert figures[1]["fd"] > 1.5 * figures[4]["fd"]
    assert figures[1]["novelty"] - 1 > figures[4]["novelty"] > figures[16]["novelty"] + 0.2
    assert figures[1]["confidence"] < figures[4]["confidence"]
    held_out = nearest_distance(split.held_out_tokens, split.train_tokens).double().mean()
    assert figures[16]["novelty"] >= float(held_out)


@pytest.mark.slow
def test_the_teacher_at_64_calls_is_near_real_digits(teacher, split):
    judge, generator = DigitsClassifier.fit(2), torch.Generator().manual_seed(2)
    drawn = Ancestral().sample(teacher, Canvas.empty((500, 64)), 64, generator, **labels(500))
    found = judge_samples(judge, drawn, split.train_tokens)
    real = judge_real(judge, split.train_tokens, generator=generator)
    assert found["fd"] <= 3 * real["fd"]
    assert found["confidence"] >= real["confidence"] - 0.05
    assert found["class_entropy"] >= real["class_entropy"] - 0.05 and found["unique"] > 0.95


@pytest.mark.slow
def test_the_shipped_student_is_ahead_of_its_teacher_at_the_same_calls(split):
    """In every figure of the quickstart, nearer to real digits where that is what is better."""
    measure = Measure(DigitsJudge(2), samples=1000, draws=1, seed=5)
    measure.model("teacher", shipped_teacher(), (1, 2, 4))
    measure.model("student", shipped_student(), (1, 2, 4))
    rows = {(row["model"], row["nfe"]): row for row in measure.rows}
    for nfe in (1, 2, 4):
        teacher, student = rows["teacher", nfe], rows["student", nfe]
        assert student["fd"] < teacher["fd"] and student["auc"] < teacher["auc"]
        assert student["confidence"] > teacher["confidence"]
        assert student["class_entropy"] > teacher["class_entropy"]
        real = rows["real", 0]["novelty"]
        assert abs(student["novelty"] - real) < abs(teacher["novelty"] - real)


def test_a_picture_of_real_digits_is_in_the_order_of_the_samples(split):
    ordered = by_class(split.train_tokens, split.train_labels)
    one = (ordered[11][None] == split.train_tokens).all(-1)
    assert set(split.train_labels[one].tolist()) == {1}


def test_the_shipped_student_is_small_and_computes_in_float32():
    with module.resources.as_file(
        module.resources.files("hf_ddistill") / "assets" / "digits_student"
    ) as folder:
        assert (folder / "model.safetensors").stat().st_size < 2e6
    assert all(weight.dtype == torch.float32 for weight in shipped_student().parameters())
