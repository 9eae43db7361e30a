"""Train a small masked-diffusion teacher of handwritten digits with a Trainer.

A check that it learns more than marginals: its bound against the entropy of independent pixels.
(The quickstart's teacher knows the class and is trained for 30 times as long.)

    python examples/03_train_a_teacher.py [OUTPUT]
"""

import sys
import tempfile

import torch
from datasets import Dataset

from hf_ddistill import (
    Absorbing,
    DDiTConfig,
    DDiTForDiscreteDiffusion,
    Diffusion,
    DiscreteDiffusionConfig,
    DiscreteDiffusionTrainer,
)
from hf_ddistill.evaluation import load_digit_tokens, split_digits

output = sys.argv[1] if len(sys.argv) > 1 else tempfile.mkdtemp()
split = split_digits(*load_digit_tokens(levels=2))
torch.manual_seed(0)
model = DDiTForDiscreteDiffusion(
    DDiTConfig(
        vocab_size=3,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        token_shape=[8, 8],
        position_embedding="rotary_learned",
        mask_token_id=2,
    )
)
trainer = DiscreteDiffusionTrainer(
    model,
    DiscreteDiffusionConfig(
        output,
        max_steps=250,
        per_device_train_batch_size=64,
        learning_rate=4e-3,
        lr_scheduler_type="cosine",
        warmup_steps=20,
        ema_decay=0.98,
        logging_steps=50,
        save_strategy="no",
        use_cpu=True,
    ),
    diffusion=Diffusion(Absorbing(3)),
    train_dataset=Dataset.from_dict({"input_ids": split.train_tokens.tolist()}),
    eval_dataset=Dataset.from_dict({"input_ids": split.held_out_tokens.tolist()}),
)
trainer.train()
bound = trainer.evaluate()["eval_loss"]
print(f"held out: {bound:.3f} nats per pixel (a bound on the likelihood)")
trainer.save_model()

# A network that knows nothing but how often each pixel is lit cannot be below this entropy.
lit = split.held_out_tokens.double().mean(0)
marginals = torch.distributions.Bernoulli(lit).entropy().mean()
print(f"entropy of the pixels' marginals: {marginals:.3f}")
assert bound < marginals

out = trainer.sample(4, num_steps=16)
for row in out.reshape(-1, 8, 8).transpose(0, 1).tolist():
    print("   ".join("".join(" #"[v] for v in line) for line in row))
print("model in", output)
