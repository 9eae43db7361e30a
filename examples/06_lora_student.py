"""A LoRA student whose frozen base, adapters off, is the teacher: one copy of the weights.

python examples/06_lora_student.py
"""

import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer, as_denoiser
from hf_ddistill.cli.quickstart import shipped_teacher
from hf_ddistill.evaluation import load_digit_tokens, split_digits

split = split_digits(*load_digit_tokens(levels=2))
data = {"input_ids": split.train_tokens.tolist(), "class_labels": split.train_labels.tolist()}
base = shipped_teacher()
x_t = torch.where(torch.rand(4, 64) < 0.5, 2, split.train_tokens[:4])
before = as_denoiser(base.eval())(x_t, 0.5).log_conditional.detach()

with tempfile.TemporaryDirectory() as folder:
    trainer = DiscreteDistillationTrainer(
        model=base,
        peft_config=LoraConfig(r=8, target_modules="all-linear"),
        objective="ecd",
        args=DiscreteDistillationConfig(
            folder,
            student_steps=4,
            max_steps=10,
            per_device_train_batch_size=32,
            learning_rate=1e-3,
            logging_steps=5,
            save_strategy="no",
            use_cpu=True,
        ),
        train_dataset=Dataset.from_dict(data),
    )
    trainer.model.print_trainable_parameters()
    trainer.train()
    teacher = trainer.teacher(x_t, 0.5).log_conditional
    print("teacher is the base, bit for bit:", torch.equal(teacher, before))
    trainer.save_model()
    again = PeftModel.from_pretrained(shipped_teacher(), folder).eval()
    moved = (as_denoiser(again)(x_t, 0.5).log_conditional - before).abs().max()
    print(f"the adapters move the log-probabilities by up to {moved:.3f}")
    assert torch.equal(teacher, before) and moved > 0
