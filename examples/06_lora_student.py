"""A LoRA student whose frozen base, adapters off, is the teacher: one copy of the weights.

Law matching as in lesson 04, on 2 x 3 patches of handwritten digits. Without a noise input the plan
of a sample is in which pixels are revealed first, so that the student is trained for two calls.

python examples/06_lora_student.py
"""

import tempfile

import torch
from datasets import Dataset
from peft import LoraConfig, PeftModel
from sklearn.datasets import load_digits
from transformers import AutoModelForMaskedLM, PreTrainedModel

from hf_ddistill import (
    Absorbing,
    DDiTConfig,
    DDiTForDiscreteDiffusion,
    Diffusion,
    DiscreteDiffusionConfig,
    DiscreteDiffusionPipeline,
    DiscreteDiffusionTrainer,
    DiscreteDistillationConfig,
    DiscreteDistillationTrainer,
    as_denoiser,
)

pixels = torch.tensor(load_digits().images > 7)
patches = pixels.unfold(1, 2, 1).unfold(2, 3, 1).reshape(-1, 6).long()
data = Dataset.from_dict({"input_ids": patches.tolist()})
folder = tempfile.mkdtemp()
common = {"max_steps": 300, "per_device_train_batch_size": 256, "lr_scheduler_type": "cosine"}
common |= {"ema_decay": 0.98, "logging_steps": 100, "save_strategy": "no", "use_cpu": True}
common |= {"disable_tqdm": True}

torch.manual_seed(0)
shape = {"token_shape": [2, 3], "position_embedding": "rotary_learned", "mask_token_id": 2}
sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
network = DDiTForDiscreteDiffusion(DDiTConfig(vocab_size=3, **shape, **sizes))
args = DiscreteDiffusionConfig(f"{folder}/base", learning_rate=4e-3, **common)
masks = Diffusion(Absorbing(3))
first = DiscreteDiffusionTrainer(network, args, diffusion=masks, train_dataset=data)
first.train()
first.save_model()

base = AutoModelForMaskedLM.from_pretrained(f"{folder}/base")
x_t = torch.where(torch.rand(4, 6) < 0.5, 2, patches[:4])
before = as_denoiser(base.eval())(x_t, 0.5).log_conditional.detach()
rates = {"learning_rate": 8e-3, "auxiliary_learning_rate": 8e-3}
second = DiscreteDistillationTrainer(
    model=base,  # and no teacher
    peft_config=LoraConfig(r=8, target_modules="all-linear"),
    objective={"type": "law_matching", "steps": "only"},  # two calls, and no other number
    args=DiscreteDistillationConfig(f"{folder}/lora", student_steps=2, **rates, **common),
    train_dataset=data,
)
second.model.print_trainable_parameters()
second.train()
second.save_model()
same = torch.equal(second.teacher(x_t, 0.5).log_conditional, before)
print("the teacher is the base, bit for bit:", same)


def total_variation(model: PreTrainedModel) -> float:
    """Between 20,000 samples of two calls and the data, over the 64 images that there are."""
    pipe = DiscreteDiffusionPipeline.from_model(model)
    tokens = pipe(batch_size=20_000, num_inference_steps=2, output_type="tokens").sequences
    counts = [(x * 2 ** torch.arange(6)).sum(-1).bincount(minlength=64) for x in (tokens, patches)]
    return float((counts[0] / len(tokens) - counts[1] / len(patches)).abs().sum()) / 2


teacher = AutoModelForMaskedLM.from_pretrained(f"{folder}/base")
print(f"teacher, 2 network calls: total variation {total_variation(teacher):.3f}")
student = PeftModel.from_pretrained(teacher, f"{folder}/lora").eval()
print(f"student, 2 network calls: total variation {total_variation(student):.3f}")
