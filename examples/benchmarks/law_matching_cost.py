"""What a step of law matching costs against one of ECD, on the digits teacher.

    python examples/benchmarks/law_matching_cost.py --json examples/results/law_matching_cost.json

Both objectives in turn (A B A B), forward and backward of all networks, batches of 64; the ratio is
of medians inside one run. Calls are counted in sequences shown to each network, per sequence of
the batch; a pass with gradients costs about three without.
"""

import argparse
import copy
import json
import statistics
import time
from collections import Counter
from dataclasses import replace

import torch
from benchmark_files import rows_file

from hf_ddistill import DDiTForDiscreteDiffusion, Objective, as_denoiser
from hf_ddistill.cli.quickstart import shipped_teacher
from hf_ddistill.couplings import Memory, TrainingStep
from hf_ddistill.evaluation import load_digit_tokens


def counted(model, name, calls):
    """The model as a denoiser that counts the sequences it sees, with and without gradients."""
    denoiser = as_denoiser(model)

    def network(x_t, t, **condition):
        calls[name, torch.is_grad_enabled() and name != "teacher"] += len(x_t)
        return denoiser.network(x_t, t, **condition)

    return replace(denoiser, network=network)


def main() -> None:
    """Time both, print and write the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=12)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--json", type=rows_file)
    args = parser.parse_args()
    teacher = shipped_teacher().eval().requires_grad_(False)
    config = copy.deepcopy(teacher.config)
    config.noise_dim = 8
    noisy = DDiTForDiscreteDiffusion(config)
    noisy.load_state_dict(teacher.state_dict(), strict=False)
    students = {"ecd": copy.deepcopy(teacher).requires_grad_(True), "law_matching": noisy}
    auxiliary = copy.deepcopy(teacher).requires_grad_(True)
    tokens, labels = load_digit_tokens(2)
    x_0, condition = tokens[: args.batch], {"class_labels": labels[: args.batch]}
    generator, times, calls = torch.Generator().manual_seed(0), {}, {}
    for _ in range(args.repeats + 1):
        for name, student in students.items():
            seen = calls.setdefault(name, Counter())
            peers = {"teacher": counted(teacher, "teacher", seen)}
            if name == "law_matching":
                peers["auxiliary"] = counted(auxiliary, "auxiliary", seen)
            denoiser = counted(student, "student", seen)
            step = TrainingStep(x_0, denoiser.diffusion, denoiser, peers, 0.0, generator, 4)
            # The teacher's entropy on data is measured in a run's first steps alone.
            known = {"teacher": torch.tensor(20.0).double(), "teacher_steps": torch.tensor(20)}
            memory = Memory({f"law_matching.{name}": value for name, value in known.items()})
            step = replace(step, condition=condition, memory=memory)
            objective = Objective.from_config(name)
            started = time.process_time()
            torch.stack(list(objective(step).values())).sum().backward()
            times.setdefault(name, []).append(time.process_time() - started)
    median = {name: statistics.median(values[1:]) for name, values in times.items()}
    rows = []
    for name in students:
        shown = {
            f"{network}{' with gradients' if graph else ''}": round(
                count / args.batch / (args.repeats + 1), 2
            )
            for (network, graph), count in sorted(calls[name].items())
        }
        rows.append({"objective": name, "cpu_ratio": median[name] / median["ecd"], "calls": shown})
        print(rows[-1])
    if args.json:
        args.json.write_text(json.dumps({"rows": rows}, indent=1))


if __name__ == "__main__":
    main()
