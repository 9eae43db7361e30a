"""Law matching where its error can be counted: 2 x 3 patches of handwritten digits.

A patch is one of 64 images, so that a set of samples has 64 frequencies. In few network calls the
teacher draws the right pixels and loses how they hang together; its student keeps that. Printed is
the total variation between the frequencies of samples and of data: 0 is perfect, 1 the worst.

python examples/04_distil.py
"""

import tempfile

import torch
from datasets import Dataset
from sklearn.datasets import load_digits
from transformers import AutoModelForMaskedLM

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
)

pixels = torch.tensor(load_digits().images > 7)
patches = pixels.unfold(1, 2, 1).unfold(2, 3, 1).reshape(-1, 6).long()
data = Dataset.from_dict({"input_ids": patches.tolist()})
folder = tempfile.mkdtemp()
common = {
    "max_steps": 300,
    "per_device_train_batch_size": 256,
    "learning_rate": 4e-3,
    "lr_scheduler_type": "cosine",
    "ema_decay": 0.98,
    "logging_steps": 100,
    "save_strategy": "no",
    "use_cpu": True,
    "disable_tqdm": True,
}

torch.manual_seed(0)
shape = {"token_shape": [2, 3], "position_embedding": "rotary_learned", "mask_token_id": 2}
sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
network = DDiTForDiscreteDiffusion(DDiTConfig(vocab_size=3, **shape, **sizes))
args = DiscreteDiffusionConfig(f"{folder}/teacher", **common)
masks = Diffusion(Absorbing(3))
first = DiscreteDiffusionTrainer(network, args, diffusion=masks, train_dataset=data)
first.train()
first.save_model()

# Two calls, and one; the noise input is what the tokens of one call have in common.
noise = {"noise_dim": 4, "auxiliary_learning_rate": 8e-3}
args = DiscreteDistillationConfig(f"{folder}/student", student_steps=2, **noise, **common)
second = DiscreteDistillationTrainer(teacher=f"{folder}/teacher", args=args, train_dataset=data)
second.train()  # objective="law_matching", the default
second.save_model()


def frequencies(tokens: torch.Tensor) -> torch.Tensor:
    """The share of each of the 64 images."""
    numbers = (tokens * 2 ** torch.arange(6)).sum(-1)
    return torch.bincount(numbers, minlength=64).double() / len(tokens)


for name in ("teacher", "student"):
    model = AutoModelForMaskedLM.from_pretrained(f"{folder}/{name}")
    pipe = DiscreteDiffusionPipeline.from_model(model)
    pipe.set_progress_bar_config(disable=True)
    for calls in (1, 2):
        out = pipe(batch_size=20_000, num_inference_steps=calls, output_type="tokens")
        distance = (frequencies(out.sequences) - frequencies(patches)).abs().sum() / 2
        print(f"{name}, {calls} network calls: total variation {distance:.3f}")
