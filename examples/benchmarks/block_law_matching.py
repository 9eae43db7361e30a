"""Six tokens in one call, with a noise input: how near block law matching comes to a causal model.

python examples/benchmarks/block_law_matching.py [--steps 1200] [--rows 192] [--noise-dim 4]

The law is that of the standard exact problem (2 x 3 patches of digits, 64 sequences); a small Llama
learns it to a total variation of .001 and is the teacher, its conversion the student. One block of
six tokens, one call: tokens that are drawn independently stay .4465 away, whatever is trained.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time

import torch
from benchmark_files import rows_file
from transformers import LlamaConfig, LlamaForCausalLM

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer, as_denoiser
from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.laboratory.problems import PROBLEMS

BOS, MASK = 2, 3


def language_model(tokens: torch.Tensor, law: torch.Tensor) -> LlamaForCausalLM:
    """Behind a block of start tokens it writes sequences by the law."""
    sizes = {"hidden_size": 48, "intermediate_size": 96, "num_hidden_layers": 2}
    ends = {"bos_token_id": BOS, "eos_token_id": None, "pad_token_id": None}
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=4, num_attention_heads=4, max_position_embeddings=32, **sizes, **ends
        )
    )
    optimizer = torch.optim.Adam(lm.parameters(), 2e-3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 1500)
    for _ in range(1500):
        loss = -(law * law_of_lm(lm, tokens).log()).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return lm.eval()


def law_of_lm(lm: LlamaForCausalLM, tokens: torch.Tensor) -> torch.Tensor:
    half = tokens.shape[1] // 2
    log_p = lm(tokens).logits.double().log_softmax(-1)[:, half - 1 : -1]
    return log_p.gather(-1, tokens[:, half:, None])[..., 0].sum(1).exp()


@torch.no_grad()
def law_of_student(student: torch.nn.Module, sequences: torch.Tensor, draws: int) -> torch.Tensor:
    """The mean over draws of the noise of what independent tokens give."""
    length, generator = sequences.shape[1], torch.Generator().manual_seed(5)
    x_t = torch.full((draws, 2 * length), BOS)
    x_t[:, length:] = MASK
    denoiser = as_denoiser(student)
    noise = denoiser.fresh_noise(x_t, generator)
    log_p = denoiser(x_t, 1.0, **noise).log_conditional[:, length:].double()
    index = sequences[None, :, :, None].expand(draws, -1, -1, 1)
    return (
        log_p[:, None]
        .expand(-1, len(sequences), -1, -1)
        .gather(-1, index)[..., 0]
        .sum(-1)
        .exp()
        .mean(0)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=1200)
    parser.add_argument("--rows", type=int, default=192)
    parser.add_argument("--noise-dim", type=int, default=4)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--draws", type=int, default=8192, help="of the noise, for the exact law")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=rows_file)
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    problem = PROBLEMS["digits"]()
    sequences, law = problem.sequences, problem.law.double()
    length = sequences.shape[1]
    tokens = torch.cat([torch.full_like(sequences, BOS), sequences], 1)
    lm = language_model(tokens, law)
    with torch.no_grad():
        p = law_of_lm(lm, tokens)
    student, _ = to_block_diffusion(
        lm, mask_token_id=MASK, block_size=length, noise_dim=args.noise_dim
    )
    if args.noise_dim:
        torch.nn.init.normal_(student.noise_proj.weight, std=0.3 * args.noise_dim**-0.5)
    drawn = torch.multinomial(law, 4096, True, generator=torch.Generator().manual_seed(1))
    rows = []

    def add(name: str, seconds: float) -> None:
        q = law_of_student(student.eval(), sequences, args.draws)
        tv, kl = (p - q).abs().sum() / 2, (p * (p / q).log()).sum()
        rows.append({"student": name, "tv": float(tv), "kl": float(kl), "seconds": seconds})
        print(rows[-1], flush=True)

    add("converted", 0.0)
    started = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        trainer = DiscreteDistillationTrainer(
            model=student,
            teacher=lm,
            objective="block_law_matching",
            args=DiscreteDistillationConfig(
                folder,
                max_steps=args.steps,
                per_device_train_batch_size=args.rows,
                learning_rate=args.learning_rate,
                auxiliary_learning_rate=2 * args.learning_rate,
                lr_scheduler_type="cosine",
                warmup_steps=20,
                ema_decay=0.99,
                prompt_length=length,
                logging_steps=max(args.steps // 5, 1),
                save_strategy="no",
                disable_tqdm=True,
                use_cpu=True,
            ),
            train_dataset=[{"input_ids": row} for row in tokens[drawn].tolist()],
        )
        trainer.train()
        with trainer.averaged_weights():
            add("block_law_matching", time.monotonic() - started)
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
