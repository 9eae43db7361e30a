"""Train a small masked-diffusion teacher of handwritten digits with a Trainer.

A check that it learns more than marginals: its loss on masked pixels against a logistic regression
of each pixel on all the others. (The quickstart's teacher is trained for much longer.)

    python examples/03_train_a_teacher.py [OUTPUT]
"""

import sys
import tempfile

import torch
from datasets import Dataset
from sklearn.linear_model import LogisticRegression

from hf_ddistill import (
    Absorbing,
    DDiTConfig,
    DDiTForDiscreteDiffusion,
    Diffusion,
    DiscreteDiffusionConfig,
    DiscreteDiffusionTrainer,
    as_denoiser,
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
print("held out:", trainer.evaluate()["eval_loss"], "nats per pixel (bound)")
trainer.save_model()

# One masked pixel at a time, on held-out images: the network against a regression per pixel.
denoiser = as_denoiser(model.eval())
pixels = range(10, 64, 9)
network, regression = [], []
for i in pixels:
    x = split.held_out_tokens.clone()
    truth = x[:, i].clone()
    x[:, i] = 2
    with torch.no_grad():
        log_p = denoiser(x, 1 / 64).log_conditional[:, i]
    network.append(-log_p.gather(1, truth[:, None]).mean())
    others = [j for j in range(64) if j != i]
    fitted = LogisticRegression(C=0.1, max_iter=500)
    fitted.fit(split.train_tokens[:, others], split.train_tokens[:, i])
    p = torch.from_numpy(fitted.predict_log_proba(split.held_out_tokens[:, others]))
    regression.append(-p.gather(1, truth[:, None]).mean())
print(
    f"one masked pixel, nats: network {torch.stack(network).mean():.3f}, "
    f"logistic regression {torch.stack(regression).mean():.3f}"
)
print("model in", output)
