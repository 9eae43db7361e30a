"""Students that share a task are one folder, which opens, samples and is shared as any other."""

from __future__ import annotations

import json

import pytest
import torch
from bert_folders import BERT
from cli_runs import bert, refused, words
from training_runs import differing, distilling, tiny, weights
from transformers import AutoModelForMaskedLM, BertConfig, BertForMaskedLM

from hf_ddistill import DiscreteDiffusionPipeline
from hf_ddistill.cli import main
from hf_ddistill.denoisers import Classes, Intervals, Parted
from hf_ddistill.hub import load_model
from hf_ddistill.models import NoisedMaskedLM, PartedLM, as_denoiser, enter_sampler
from hf_ddistill.models.tokenizers import load_tokenizer
from hf_ddistill.samplers import Ancestral, Canvas, ScaledEuler

BY_TIME = Intervals((0.4,))


def student(seed, **settings):
    model = tiny(seed, **settings).eval()
    as_denoiser(model)
    return model


def states():
    x_t = torch.randint(3, (4, 64), generator=torch.Generator().manual_seed(0))
    return x_t, torch.tensor([0.9, 0.4, 0.41, 0.1])


def opened(folder, students, owners):
    PartedLM.of(students, owners).save_pretrained(folder)
    return load_model(str(folder)).eval()


def test_a_saved_model_is_another_one_than_its_students(tmp_path):
    low = student(0, time_conditioning=True, time_input="sigma", tie_word_embeddings=True)
    high = student(1, num_hidden_layers=2)
    model = opened(tmp_path, (low, high), BY_TIME)
    assert type(model) is PartedLM and not (tmp_path / "model_index.json").exists()
    one = as_denoiser(model)
    other = Parted((as_denoiser(low), as_denoiser(high)), BY_TIME)
    (x_t, t), where = states(), states()[0] == 2
    torch.testing.assert_close(
        one(x_t, t).log_conditional.exp(), other(x_t, t).log_conditional.exp()
    )
    torch.testing.assert_close(
        one.at(x_t, t, where).log_conditional.exp(), other.at(x_t, t, where).log_conditional.exp()
    )
    with pytest.raises(ValueError, match="reads the time"):
        one(x_t)


def test_pipelines_sample_them_as_their_denoiser_is_sampled(tmp_path):
    parts = (student(0), student(1))
    model = opened(tmp_path / "model", parts, BY_TIME)
    pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path / "model")
    pipe.save_pretrained(tmp_path / "pipe")
    denoiser = Parted(tuple(map(as_denoiser, parts)), BY_TIME)
    assert AutoModelForMaskedLM.from_pretrained(tmp_path / "pipe").num_parameters() == (
        model.num_parameters()
    )

    def noise():
        return torch.Generator().manual_seed(3)

    canvas = Canvas.empty((2, 64))
    expected = Ancestral().sample(denoiser, canvas, 4, noise())
    for name in ("model", "pipe"):
        pipe = DiscreteDiffusionPipeline.from_pretrained(tmp_path / name)
        pipe.set_progress_bar_config(disable=True)
        found = pipe(batch_size=2, num_inference_steps=4, generator=noise())
        assert torch.equal(found.sequences, expected)


def test_classes_are_owned(tmp_path):
    parts = (student(0, num_classes=3), student(1, num_classes=3))
    model = opened(tmp_path, parts, Classes(((0, 2), (1,))))
    denoiser, (x_t, t) = as_denoiser(model), states()
    found = denoiser(x_t, t, class_labels=torch.tensor([0, 1, 2, 1])).log_conditional.exp()
    for row, (owner, label) in enumerate([(0, 0), (1, 1), (0, 2), (1, 1)]):
        own = as_denoiser(parts[owner])
        label = torch.tensor([label])
        alone = own(x_t[[row]], t[[row]], class_labels=label).log_conditional.exp()
        torch.testing.assert_close(found[[row]], alone)
    pipe = DiscreteDiffusionPipeline.from_model(model)
    pipe.set_progress_bar_config(disable=True)
    assert pipe(class_labels=[0, 1], num_inference_steps=2).sequences.shape == (2, 64)


def test_a_noise_input_of_all_is_that_of_the_whole(tmp_path):
    parts = (student(0, noise_dim=4), student(1, noise_dim=4))
    denoiser, (x_t, t) = as_denoiser(opened(tmp_path, parts, BY_TIME)), states()
    noise = denoiser.fresh_noise(x_t)
    assert noise["noise"].shape == (4, 64, 4)
    expected = as_denoiser(parts[1])(x_t[:1], t[:1], noise=noise["noise"][:1]).log_conditional.exp()
    torch.testing.assert_close(denoiser(x_t, t, **noise).log_conditional.exp()[:1], expected)


def test_it_is_a_teacher_like_any_other(tmp_path):
    teacher = opened(tmp_path / "teacher", (student(0), student(1)), BY_TIME)
    trainer = distilling(tmp_path, teacher, model=tiny(2), max_steps=1)
    trainer.train()


@pytest.mark.parametrize(
    ("students", "said"),
    [
        (lambda: [student(0)], "from two on"),
        (lambda: [student(0), student(1, vocab_size=4, mask_token_id=3)], "share one vocabulary"),
        (lambda: [student(0), student(1, noise_dim=2)], "the same noise"),
        (lambda: [student(0)] * 3, "3 students and 2 owners"),
    ],
)
def test_students_that_do_not_go_together_are_put_together(students, said):
    with pytest.raises(ValueError, match=said):
        PartedLM.of(students(), BY_TIME)


def test_the_command_makes_one_of_a_folder_of_students(tmp_path, capsys):
    parts = [student(0), student(1)]
    for name, each in zip(("a_late", "b_early"), parts, strict=True):
        each.save_pretrained(tmp_path / "students" / name)
    out = str(tmp_path / "out")
    assert main(["convert", str(tmp_path / "students"), out, "--bounds", "[0.4]"]) == 0
    assert "a folder of students that share a task: a_late, b_early" in capsys.readouterr().out
    assert json.loads((tmp_path / "out" / "config.json").read_text())["bounds"] == [0.4]
    model, (x_t, t) = load_model(out).eval(), states()
    expected = PartedLM.of(parts, BY_TIME)
    torch.testing.assert_close(
        as_denoiser(model)(x_t, t).log_conditional.exp(),
        as_denoiser(expected)(x_t, t).log_conditional.exp(),
    )
    assert main(["sample", out, "--count", "2", "--steps", "2"]) == 0
    assert "bounds" in refused(
        capsys, "convert", tmp_path / "students", tmp_path / "no", "--bounds", "[0.9,0.2]"
    )
    assert not (tmp_path / "no").exists()


MANY = Intervals(tuple(k / 11 for k in range(1, 11)))


@pytest.mark.parametrize("owners", [Intervals((0.3,)), Classes(((0, 2), (1,))), MANY])
def test_what_each_student_owns_is_lost_in_an_export(tmp_path, owners):
    parts = [student(seed, num_classes=3) for seed in range(11 if owners is MANY else 2)]
    PartedLM.of(parts, owners).save_pretrained(tmp_path / "one")

    def run(*words):
        assert main([str(word) for word in words]) == 0

    for _ in range(2):
        run("export", tmp_path / "one", tmp_path / "parts", "--to", "students", "--overwrite")
    run("convert", tmp_path / "parts", tmp_path / "again")
    one, again = (load_model(str(tmp_path / name)) for name in ("one", "again"))
    assert (again.config.bounds, again.config.groups) == (one.config.bounds, one.config.groups)
    assert not differing(weights(one), weights(again))
    if len(parts) == 2:
        run("convert", tmp_path / "parts", tmp_path / "other", "--bounds", "[0.7]")
        assert load_model(str(tmp_path / "other")).config.bounds == [0.7]


def test_a_masked_language_model_with_noise_is_a_part_like_any_other(tmp_path):
    parts = []
    for seed in (0, 1):
        torch.manual_seed(seed)
        bert = BertForMaskedLM(BertConfig(**BERT))
        bert.config.mask_token_id = 4
        as_denoiser(bert)
        parts.append(NoisedMaskedLM.of(bert, 3).eval())
    model = as_denoiser(opened(tmp_path, parts, BY_TIME))
    x_t, t = states()[0][:, :8] + 4, states()[1]
    noise = model.fresh_noise(x_t)
    other = Parted(tuple(map(as_denoiser, parts)), BY_TIME)
    torch.testing.assert_close(
        model(x_t, t, **noise).log_conditional.exp(), other(x_t, t, **noise).log_conditional.exp()
    )


OWNED = {
    "[[0], [1]]": "students whose classes are no classes: knows 0",
    '[["x"], [2]]': "groups must be lists of classes",
    "[[0.5], [2]]": "groups must be lists of classes",
    "[0, 2]": "groups must be lists of classes",
    "[[0, 1], []]": "groups must be lists of classes",
    "[[0, 1], [-1]]": "groups must be lists of classes",
    "[[0, 1], [7]]": "own the classes [7] knows 3",
}


@pytest.mark.parametrize(("groups", "said"), OWNED.items())
def test_classes_that_no_student_can_own_are_given_away(tmp_path, capsys, groups, said):
    count = 0 if said.endswith("knows 0") else 3
    for name in "ab":
        student(0, num_classes=count).save_pretrained(tmp_path / "students" / name)
    argv = ("convert", tmp_path / "students", tmp_path / "no", "--groups", groups)
    assert said.rpartition(": ")[2] in refused(capsys, *argv)
    assert not (tmp_path / "no").exists()


@pytest.mark.parametrize("bounds", [("a",), "a", (float("nan"),), (True,), (0.5, 0.5), 0.5])
def test_bounds_that_are_no_times_are_taken(bounds):
    with pytest.raises(ValueError, match="bounds must ascend between 0 and 1, got"):
        Intervals(bounds)


def test_what_another_student_is_sampled_with_is_lost():
    one, other = student(0), student(1)
    enter_sampler(other, ScaledEuler((0.9, 1.0), (1.0, 0.4, 0.0)), 2)
    with pytest.raises(ValueError, match="sampled by one sampler, .* 'ancestral'.* 'scaled_euler'"):
        PartedLM.of((one, other), BY_TIME)


def test_students_of_classes_that_read_no_time_ask_for_one(tmp_path):
    parts = (student(0, num_classes=3), student(1, num_classes=3))
    denoiser, (x_t, t) = as_denoiser(opened(tmp_path, parts, Classes([[0, 2], [1]]))), states()
    labels = torch.tensor([0, 1, 2, 1])
    assert not denoiser.needs_time
    torch.testing.assert_close(
        denoiser(x_t, class_labels=labels).log_conditional,
        denoiser(x_t, t, class_labels=labels).log_conditional,
    )
    parts = (student(0, num_classes=3), student(1, num_classes=3, time_conditioning=True))
    assert as_denoiser(PartedLM.of(parts, Classes(((0, 2), (1,))))).needs_time


def test_a_tokenizer_is_lost_on_the_way_to_a_folder_of_students_and_back(tmp_path):
    for name in "ab":
        bert(tmp_path / "students" / name, words(), mask_token_id=2)
    both, apart, again = (str(tmp_path / name) for name in ("both", "apart", "again"))
    assert main(["convert", str(tmp_path / "students"), both]) == 0
    assert main(["export", both, apart, "--to", "students"]) == 0
    assert main(["convert", apart, again]) == 0
    assert load_tokenizer(again).get_vocab() == load_tokenizer(both).get_vocab()
