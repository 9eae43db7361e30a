"""Distil the shipped digits teacher to four network calls with ECD, and compare.

python examples/04_distil.py
"""

import tempfile

import torch
from datasets import Dataset
from transformers import AutoModelForMaskedLM

from hf_ddistill import (
    DiscreteDiffusionPipeline,
    DiscreteDistillationConfig,
    DiscreteDistillationTrainer,
)
from hf_ddistill.cli.quickstart import shipped_teacher
from hf_ddistill.evaluation import DigitsJudge, load_digit_tokens, split_digits

split = split_digits(*load_digit_tokens(levels=2))
data = {"input_ids": split.train_tokens.tolist(), "class_labels": split.train_labels.tolist()}
judge = DigitsJudge(levels=2)
teacher = shipped_teacher()
with tempfile.TemporaryDirectory() as folder:
    trainer = DiscreteDistillationTrainer(
        teacher=teacher,  # no model: the student starts as a copy
        objective={"type": "ecd", "coupling": "student", "times": "grid_times"},
        args=DiscreteDistillationConfig(
            folder,
            student_steps=4,
            max_steps=20,
            per_device_train_batch_size=32,
            learning_rate=2e-4,
            ema_decay=0.9,
            logging_steps=5,
            save_strategy="no",
            use_cpu=True,
        ),
        train_dataset=Dataset.from_dict(data),
    )
    trainer.train()
    trainer.save_model()
    student = AutoModelForMaskedLM.from_pretrained(folder)

for name, model in (("teacher", teacher), ("ecd", student)):
    pipe = DiscreteDiffusionPipeline.from_model(model)
    pipe.set_progress_bar_config(disable=True)
    labels = torch.arange(200) % 10
    samples = pipe(class_labels=labels, num_inference_steps=4, output_type="tokens").sequences
    figures = judge(samples)
    print(name, {key: round(value, 3) for key, value in figures.items()})
