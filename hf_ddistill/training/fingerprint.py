"""What a run is: the settings and the data that decide its weights, as JSON beside a checkpoint."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Self

from peft import PeftModel
from torch import Tensor, nn
from transformers import TrainingArguments

from hf_ddistill.denoisers import Denoiser
from hf_ddistill.models import unwrapped

RUN_NAME = "run.json"

#: Of `TrainingArguments`, what decides the weights; all others may change in a run that goes on.
BINDING = (
    *("per_device_train_batch_size", "gradient_accumulation_steps", "dataloader_drop_last"),
    *("learning_rate", "lr_scheduler_type", "lr_scheduler_kwargs", "max_grad_norm"),
    *("optim", "optim_args", "weight_decay", "adam_beta1", "adam_beta2", "adam_epsilon"),
    *("seed", "data_seed", "bf16", "fp16", "label_smoothing_factor", "neftune_noise_alpha"),
    *("train_sampling_strategy", "ignore_data_skip"),
)
#: They may change together, as a run becomes longer; not where rounds are parts of the whole.
LENGTH = ("max_steps", "num_train_epochs", "warmup_steps")
#: Our own settings that measure and do not train. All other ones bind.
MEASURING = {"sample_steps", "num_eval_samples"}
# PEFT fills these in by itself.
_OF_PEFT = {"peft_version", "base_model_name_or_path", "revision", "inference_mode", "auto_mapping"}

#: Rows, spread evenly over a data set, and values, over a tensor, that a digest looks at.
ROWS, ROWS_OF_A_STREAM, VALUES = 256, 8, 16


@dataclass(frozen=True)
class Fingerprint:
    """Two runs of one fingerprint end with the same weights.

    Args:
        settings: by name, as JSON knows them.
        digests: of what is too large to be written down, by what it is of.
    """

    settings: dict[str, Any]
    digests: dict[str, str | None]

    def write(self, folder: str | Path) -> None:
        """Write it into a folder, in one piece."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        text = json.dumps(dataclasses.asdict(self), indent=1, sort_keys=True)
        draft = Path(folder) / f"{RUN_NAME}.part"
        draft.write_text(text + "\n")
        draft.replace(Path(folder) / RUN_NAME)

    @classmethod
    def read(cls, folder: str | Path) -> Self | None:
        """Read what `write` wrote; None if there is nothing that could be it."""
        try:
            written = json.loads((Path(folder) / RUN_NAME).read_text())
            return cls(dict(written["settings"]), dict(written["digests"]))
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def differences(self, other: Fingerprint) -> list[str]:
        """What tells this run from another one, each as a clause; none if it is the same run.

        How long the run is may differ, where it has no rounds.
        """
        length, other_length = ({k: f.settings.get(k) for k in LENGTH} for f in (self, other))
        free = set(LENGTH) if self.settings.get("rounds", 1) == 1 else set()
        if all(length[name] == other_length[name] for name in ("max_steps", "num_train_epochs")):
            free = set()
        found = [
            f"{name} was {_shown(other.settings, name)} and is {_shown(self.settings, name)}"
            for name in sorted(self.settings.keys() | other.settings.keys())
            if name not in free and self.settings.get(name) != other.settings.get(name)
        ]
        for name in sorted(self.digests.keys() | other.digests.keys()):
            one, two = self.digests.get(name), other.digests.get(name)
            # What is not the same at two looks, such as rows that are drawn, has no digest.
            if None not in (one, two) and one != two:
                found.append(f"{name} are not the same")
        return found


def settings_of(args: TrainingArguments) -> dict[str, Any]:
    """The settings that bind, by name."""
    theirs = {field.name for field in dataclasses.fields(TrainingArguments)}
    ours = {field.name for field in dataclasses.fields(args)} - theirs - MEASURING
    names = [*BINDING, *LENGTH, *sorted(ours)]
    return _flat({name: getattr(args, name) for name in names} | {"processes": args.world_size})


def made_of(
    parts: Mapping[str, Any], model: nn.Module, teacher: Denoiser | None, data: object
) -> dict:
    """What settings do not say, as the arguments of a `Fingerprint`.

    Args:
        parts: configurations, by name.
        model: that is trained, as it was given.
        teacher: if there is one.
        data: rows to train on, or None.
    """
    weights = list(model.named_parameters())
    trained = [(name, p) for name, p in weights if p.requires_grad]
    frozen = [(name, p) for name, p in weights if not p.requires_grad]
    rows, digest = _of_data(data)
    settings: dict[str, Any] = {
        **parts,
        "model": type(unwrapped(model)).__name__,
        "parameters": sum(p.numel() for _, p in weights),
        "trained_parameters": sum(p.numel() for _, p in trained),
        "training_rows": rows,
    }
    if isinstance(model, PeftModel):
        adapters = {name: config.to_dict() for name, config in model.peft_config.items()}
        for config in adapters.values():
            for key in _OF_PEFT:
                config.pop(key, None)
        settings["adapters"] = adapters
    shapes = [(name, list(p.shape), str(p.dtype)) for name, p in weights]
    digests = {
        "the shapes of the weights": _hashed([json.dumps(shapes).encode()]),
        "the rows to train on": digest,
    }
    if frozen:
        digests["the frozen weights"] = _of_weights(frozen)
    if teacher is not None:
        settings["teacher"] = teacher.description
        networks = [each for each in teacher.networks() if unwrapped(each) is not unwrapped(model)]
        named = [
            (f"{number}.{name}", value)
            for number, network in enumerate(networks)
            for name, value in network.named_parameters()
        ]
        digests["the weights of the teacher"] = _of_weights(named)
    return {"settings": _flat(settings), "digests": digests}


def _of_weights(named: Iterable[tuple[str, Tensor]]) -> str:
    """Of some values of each tensor."""

    def parts() -> Iterator[bytes]:
        for name, weight in named:
            local = weight.to_local() if hasattr(weight, "to_local") else weight
            flat = local.detach().reshape(-1)
            some = flat[:: max(1, flat.numel() // VALUES)][:VALUES]
            yield name.encode()
            yield some.cpu().double().numpy().tobytes()

    return _hashed(parts())


def _of_data(data: Any) -> tuple[int | None, str | None]:
    """The number of rows, of a stream None, and a digest of some; None if they change by
    themselves."""
    if data is None:
        return None, None
    if not (hasattr(data, "__getitem__") and hasattr(data, "__len__")):
        digests = {_of_rows(islice(iter(data), ROWS_OF_A_STREAM)) for _ in range(2)}
        return None, digests.pop() if len(digests) == 1 else None
    count = len(data)
    chosen = sorted({i * (count - 1) // max(min(count, ROWS) - 1, 1) for i in range(ROWS)})
    chosen = [i for i in chosen if i < count]
    digests = {_of_rows(data[i] for i in chosen) for _ in range(2)}
    return count, digests.pop() if len(digests) == 1 else None


def _of_rows(rows: Iterable[Any]) -> str:
    return _hashed(json.dumps(row, sort_keys=True, default=_plain).encode() + b"\n" for row in rows)


def _hashed(parts: Iterable[bytes]) -> str:
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(part)
    return found.hexdigest()


def _flat(settings: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Settings within settings under names with dots; long ones by their digest."""
    flat: dict[str, Any] = {}
    for name, value in settings.items():
        if isinstance(value, Mapping) and value:
            flat |= _flat(value, f"{above}{name}.")
            continue
        text = json.dumps(value, sort_keys=True, default=_plain)
        short = len(text) <= 400
        flat[above + str(name)] = json.loads(text) if short else _hashed([text.encode()])
    return flat


def _plain(value: Any) -> Any:
    """What JSON has no word for; an object by its kind, as its address is of one process."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, set | frozenset):
        return sorted(value, key=str)
    return getattr(value, "value", None) or type(value).__name__


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name]) if name in settings else "not set"
