"""A tiny causal language model that has learnt to count, and short runs of its block-diffusion
students, for the tests of rollouts."""

from __future__ import annotations

from functools import cache

import torch
from rollout_settings import decoding
from transformers import LlamaConfig, LlamaForCausalLM

from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.training import DiscreteDistillationConfig, DiscreteDistillationTrainer

BOS, EOS, PAD, MASK = 0, 1, 2, 11
QUIET = {"use_cpu": True, "report_to": [], "disable_tqdm": True, "save_strategy": "no"}


def counts(number: int, length: int = 16, seed: int = 0) -> torch.Tensor:
    """Counting modulo 8 by one or by two, behind a start token: (number, 1 + length)."""
    generator = torch.Generator().manual_seed(seed)
    start = torch.randint(0, 8, (number, 1), generator=generator)
    stride = torch.randint(1, 3, (number, 1), generator=generator)
    tokens = (start + stride * torch.arange(length)) % 8 + 3
    return torch.cat([torch.full((number, 1), BOS), tokens], 1)


@cache
def counting_lm() -> LlamaForCausalLM:
    """Trained for some seconds; never to be changed."""
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=12,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        bos_token_id=BOS,
        eos_token_id=EOS,
        pad_token_id=PAD,
    )
    lm = LlamaForCausalLM(config)
    optimizer = torch.optim.AdamW(lm.parameters(), 4e-3)
    for seed in range(200):
        tokens = counts(32, seed=seed)
        loss = lm(input_ids=tokens, labels=tokens).loss
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return lm.eval().requires_grad_(False)


def converted(block_size: int = 4, **settings):
    """A student with the language model's weights."""
    student, _ = to_block_diffusion(
        counting_lm(), mask_token_id=MASK, block_size=block_size, **settings
    )
    return student.requires_grad_(True)


def prompts(number: int = 64, length: int = 3) -> list[dict[str, list[int]]]:
    """Starts of counts: enough to know how they go on."""
    return [{"input_ids": row} for row in counts(number, length - 1, seed=99).tolist()]


def distilling(
    folder, *, model="converted", teacher="lm", objective="opdlm", rollouts=None, **settings
):
    """A trainer of a block-diffusion student; `rollouts` are settings of its objective's."""
    trainer_settings = {
        key: settings.pop(key)
        for key in ("callbacks", "peft_config", "reward_function", "processing_class")
        if key in settings
    }
    data = settings.pop("data", None)
    arguments = {"max_steps": 3, "per_device_train_batch_size": 8, "ema_decay": 0.0}
    arguments["learning_rate"] = 2e-3
    return DiscreteDistillationTrainer(
        converted() if isinstance(model, str) and model == "converted" else model,
        counting_lm() if isinstance(teacher, str) and teacher == "lm" else teacher,
        decoding(objective, **{"tokens": 8} | (rollouts or {})),
        DiscreteDistillationConfig(str(folder), **QUIET | arguments | settings),
        train_dataset=prompts() if data is None else data,
        **trainer_settings,
    )


def nll(student, **decoding) -> float:
    """Nats per drawn token of the student's samples under the language model."""
    start = torch.tensor([row["input_ids"] for row in prompts(64)])
    tokens = student.generate(
        start,
        max_new_tokens=12,
        temperature=1.0,
        eos_token_id=-1,
        generator=torch.Generator().manual_seed(1),
        **decoding,
    )
    log_p = counting_lm()(tokens).logits.log_softmax(-1)[:, start.shape[1] - 1 : -1]
    return float(-log_p.gather(-1, tokens[:, start.shape[1] :, None]).mean())
