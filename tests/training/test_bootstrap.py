"""Data that the teacher draws: the same whatever the batch, with its classes, and trained on."""

from __future__ import annotations

import json

import pytest
import torch
from cli_runs import SHORT, ddit, refused, run
from training_runs import distilling, tiny

from hf_ddistill.denoisers import Guided, NetworkDenoiser
from hf_ddistill.models import as_denoiser
from hf_ddistill.training.bootstrap import bootstrapped


def test_rows_of_a_teacher_are_no_data_for_its_student(tmp_path):
    teacher = tiny(num_classes=3)
    data = bootstrapped(Guided(as_denoiser(teacher), 0.5), 7, 2, batch_size=4)
    assert data["class_labels"] == [0, 1, 2, 0, 1, 2, 0]
    tokens = torch.tensor(data["input_ids"])
    assert tokens.shape == (7, 64) and set(tokens.flatten().tolist()) == {0, 1}
    again = bootstrapped(Guided(as_denoiser(teacher), 0.5), 7, 2, batch_size=4)
    other = bootstrapped(Guided(as_denoiser(teacher), 0.5), 7, 2, seed=1)
    assert again["input_ids"] == data["input_ids"] != other["input_ids"]
    distilling(tmp_path, teacher, data).train()
    for count, source in (
        (0, teacher),
        (2, NetworkDenoiser(lambda x, t: x, as_denoiser(teacher).diffusion)),
    ):
        with pytest.raises(
            ValueError, match=f"Rows are drawn by a model, at least one, got {count}"
        ):
            bootstrapped(source, count, 2)


def test_samples_written_as_data_cannot_be_trained_on(tmp_path, capsys):
    teacher, file = ddit(tmp_path / "teacher"), tmp_path / "own.jsonl"
    assert run("sample", teacher, "--count", 6, "--steps", 2, "--as-data", file) == 0
    drawn = [json.loads(line) for line in file.read_text().splitlines()]
    assert len(drawn) == 6 and all(len(row["input_ids"]) == 8 for row in drawn)
    given = ["--teacher", teacher, "--objective", "ecd", *SHORT, "--output", tmp_path / "out"]
    assert run("distill", "--data", file, *given) == 0
    # What is there stays.
    again = ["sample", teacher, "--steps", 2, "--as-data"]
    assert "--as-data" in refused(capsys, *again, file)
    assert "writes a .jsonl file" in refused(capsys, *again, tmp_path / "own.txt")
