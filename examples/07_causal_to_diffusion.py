"""A small causal language model becomes a parallel decoder, in a few minutes on a CPU: train it on
the characters of Python's own documentation, convert it, train it to fill the masks of a
block (BD3LM), and compare at 4, 2 and 1 tokens per network call. One a call it is as likely as the
causal model's own text; several at once take longer training, or `objective="opdlm"`, on rollouts.

python examples/07_causal_to_diffusion.py
"""

import tempfile
from pydoc_data.topics import topics

import torch
from transformers import LlamaConfig, LlamaForCausalLM

from hf_ddistill import DiscreteDiffusionConfig, DiscreteDiffusionTrainer
from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.evaluation import token_entropy, token_nll

torch.manual_seed(0)
text = " ".join(" ".join(topics.values()).lower().split())
symbols = sorted(set("abcdefghijklmnopqrstuvwxyz .,'()=_"))
index = {symbol: i for i, symbol in enumerate(symbols)}
tokens = torch.tensor([index[symbol] for symbol in text if symbol in index])
train, held_out = tokens[:-20_000], tokens[-20_000:]
MASK = len(symbols)  # a row of the embeddings that no token uses


def passages(source: torch.Tensor, count: int, length: int) -> torch.Tensor:
    return source[torch.randint(len(source) - length, (count, 1)) + torch.arange(length)]


shape = dict(hidden_size=96, intermediate_size=256, num_hidden_layers=3, num_attention_heads=4)
config = LlamaConfig(vocab_size=MASK + 1, **shape, bos_token_id=None, eos_token_id=None)
lm = LlamaForCausalLM(config)
optimizer = torch.optim.AdamW(lm.parameters(), 3e-3)
for _ in range(400):
    batch = passages(train, 32, 96)
    loss = lm(input_ids=batch, labels=batch).loss
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
print(f"causal model: {loss.item():.2f} nats per character")
lm.eval()
student, _ = to_block_diffusion(lm, mask_token_id=MASK, block_size=4, shift_logits=True)


def compare(name: str) -> None:
    """Nats per character of the continuations under the causal model, by tokens per call."""
    prompts = held_out[:1024].view(32, 32)
    for calls in (1, 2, 4):
        how = dict(unmasking="static", steps_per_block=calls)
        generator = torch.Generator().manual_seed(0)
        x = student.generate(prompts, max_new_tokens=64, generator=generator, **how)
        nll = token_nll(lm, x, torch.ones_like(x))[:, 31:].mean()
        told = f"nll {nll:.2f}, entropy {token_entropy(x[:, 32:]):.2f}"
        print(f"{name}: {4 // calls} tokens per call, {told}")
    print(repr("".join(symbols[i] for i in x[0, 32:])))


compare("converted")
with tempfile.TemporaryDirectory() as folder:
    trainer = DiscreteDiffusionTrainer(
        model=student,
        objective="bd3lm",
        args=DiscreteDiffusionConfig(
            output_dir=folder,
            max_steps=150,
            per_device_train_batch_size=32,
            learning_rate=1e-3,
            ema_decay=0.0,
            save_strategy="no",
            use_cpu=True,
        ),
        train_dataset=[{"input_ids": row} for row in passages(train, 2000, 64).tolist()],
    )
    trainer.train()
student.eval()
compare("trained")
