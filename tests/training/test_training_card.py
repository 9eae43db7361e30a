"""The card that a saved model carries tells what was done and measured; no pickle comes with it."""

from __future__ import annotations

import json
import re

import pytest
from cli_runs import run
from huggingface_hub import ModelCard
from training_runs import distilling, rows, teaching, tiny

from hf_ddistill.cli.run_folder import run_folder, save_result
from hf_ddistill.models import as_denoiser
from hf_ddistill.objectives import ECD, NELBO
from hf_ddistill.training import CardFacts, write_card
from hf_ddistill.training.model_card import is_repo_id


def blocks(card):
    """The JSON blocks of a card."""
    return [json.loads(block) for block in re.findall(r"```json\n(.*?)```", card.text, re.DOTALL)]


def table_rows(card):
    """The measured rows of a card."""
    measured = card.text.split("## Measured")[1].split("##")[0]
    lines = [line for line in measured.splitlines() if line.startswith("|")]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    return [dict(zip(cells[0], row, strict=True)) for row in cells[2:]]


def test_figures_that_were_measured_later_stay_out_of_the_card(tmp_path, capsys):
    trainer = distilling(tmp_path / "student", tiny(), student_steps=2, max_steps=1)
    trainer.train()
    with run_folder(trainer, str(tmp_path / "saved"), False):
        save_result(trainer, str(tmp_path / "saved"))
    file, saved = tmp_path / "rows.json", tmp_path / "saved"
    before = (saved / "README.md").read_text()
    for rows_ in ([{"nfe": 2, "fd": 0.5}], [{"nfe": 4, "fd": 0.25}]):
        file.write_text(json.dumps({"rows": rows_}))
        assert run("card", saved, "--figures", file) == 0
    card = ModelCard.load(saved / "README.md")
    assert table_rows(card) == [{"nfe": "4", "fd": "0.25"}] and "0.25" in capsys.readouterr().out
    assert before.split("## Measured")[0] in card.content
    assert before.split("A figure without")[1] in card.content
    (saved / "README.md").write_text(mine := card.content + "My own words.")
    assert run("card", saved, "--figures", file) == 2
    assert (saved / "README.md").read_text() == mine


def test_figures_were_refused_by_a_card_that_a_trainer_saved(tmp_path):
    trainer = distilling(tmp_path / "student", tiny(), student_steps=2, max_steps=1)
    trainer.train()
    trainer.save_model()
    file, card = tmp_path / "rows.json", tmp_path / "student" / "README.md"
    card.write_text(before := card.read_text() + "My own words.")
    file.write_text(json.dumps([{"nfe": 2, "fd": 0.5}]))
    assert run("card", card.parent, "--figures", file) == 0
    loaded = ModelCard.load(card)
    assert table_rows(loaded) == [{"nfe": "2", "fd": "0.5"}]
    assert before.split("## Measured")[0] in loaded.content
    assert loaded.content.rstrip().endswith("My own words.")
    assert not [each for each in card.parent.iterdir() if each.name.startswith(".hf_ddistill-")]


def test_card_of_a_student_tells_its_whole_story(tmp_path):
    teacher = tiny()
    teacher.config.name_or_path = "someone/digits"
    trainer = distilling(
        tmp_path / "student",
        teacher,
        student_steps=2,
        eval_dataset=rows(8, held_out=True),
        num_eval_samples=4,
        sample_metrics=lambda samples: {"ink": 0.25},
        eval_strategy="steps",
        eval_steps=2,
        max_steps=4,
        gradient_accumulation_steps=2,
        learning_rate=0.003,
    )
    trainer.train()
    trainer.save_model()
    card = ModelCard.load(tmp_path / "student" / "README.md")
    assert card.data.library_name == "hf_ddistill" and card.data.base_model == "someone/digits"
    assert card.data.tags == ["discrete-diffusion", "distilled", "ecd"]
    assert "distilled from `someone/digits`, for 2 network calls per sample" in card.text
    assert ECD.citation in card.text
    objective, diffusion = blocks(card)
    assert ECD.from_config(objective) == ECD()
    assert diffusion == trainer.model.config.discrete_diffusion
    assert diffusion["process"]["type"] == "absorbing" and diffusion["num_inference_steps"] == 2
    expected = [{"step": step, "nfe": "2", "ink": "0.25"} for step in ("2", "4")]
    assert table_rows(card) == expected
    for line in ("| optimizer steps | 4 |", "| rows per step | 16 |", "| learning rate | 0.003 |"):
        assert line in card.text
    files = {file.name for file in (tmp_path / "student").iterdir() if file.is_file()}
    assert files == {"README.md", "config.json", "model.safetensors", "run.json"}


def test_card_of_a_teacher_names_none(tmp_path):
    trainer = teaching(tmp_path, sample_steps=16)
    trainer.save_model()
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.tags == ["discrete-diffusion", "trained", "nelbo"]
    assert card.data.base_model is None and "distilled" not in card.text
    assert "for 16 network calls" in card.text and NELBO.citation in card.text
    assert "Nothing has been measured yet." in card.text


def test_path_of_a_teacher_is_not_published(tmp_path):
    folder = tmp_path / "private" / "digits"
    tiny().save_pretrained(folder)
    trainer = distilling(tmp_path / "student", str(folder))
    trainer.save_model()
    card = ModelCard.load(tmp_path / "student" / "README.md")
    # The Hub refuses a card whose base_model is no id.
    assert card.data.base_model is None
    assert "private" not in card.content and "distilled from `digits`" in card.text


def test_teacher_without_a_name_is_not_called_by_the_students(tmp_path):
    student = tiny()
    student.config.name_or_path = "someone/student"
    trainer = distilling(tmp_path, as_denoiser(tiny()), model=student)
    assert trainer.facts().teacher == "a teacher in memory"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("someone/digits", True),
        ("digits", False),
        ("", False),
        ("runs/digits", False),
        ("/runs/digits", False),
        ("./digits", False),
        ("a/b/c", False),
    ],
)
def test_only_an_id_on_the_hub_is_a_base_model(tmp_path, monkeypatch, name, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "digits").mkdir(parents=True)
    assert is_repo_id(name) is expected


def test_what_a_push_is_told_goes_into_the_card(tmp_path):
    trainer = teaching(tmp_path)
    trainer.create_model_card(model_name="n", license="mit", tags="toy", dataset="digits")
    card = ModelCard.load(tmp_path / "README.md")
    assert card.data.license == "mit" and "toy" in card.data.tags
    assert "Data: digits." in card.text
    with pytest.raises(TypeError, match="licence"):
        trainer.create_model_card(licence="mit")


def test_rows_of_a_card_need_not_have_the_same_keys(tmp_path):
    rows_ = [{"model": "teacher", "nfe": 64, "fd": 0.123456}, {"model": "ecd", "tv": 1}]
    facts = CardFacts("name", {"type": "ecd"}, "Citation.", {}, 1, "teacher", rows=rows_)
    card = write_card(tmp_path, facts)
    assert table_rows(card) == [
        {"model": "teacher", "nfe": "64", "fd": "0.1235", "tv": ""},
        {"model": "ecd", "nfe": "", "fd": "", "tv": "1"},
    ]
    assert "for 1 network call per sample" in card.text
