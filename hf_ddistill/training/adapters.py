"""What is saved of a student of adapters, so that it opens again: its base, and what that was."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from huggingface_hub import try_to_load_from_cache
from peft import PeftConfig, PeftModel
from safetensors import safe_open
from torch import Tensor, nn
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR

from hf_ddistill.models import unwrapped
from hf_ddistill.models.adapters import name_base
from hf_ddistill.models.noise_input import NOISE_INPUT, without_noise_input
from hf_ddistill.models.opening import BASE_CONFIG

_WEIGHTS, _INDEX = "model.safetensors", "model.safetensors.index.json"


@dataclass(frozen=True)
class SavedBase:
    """Where the frozen base of adapters will be found again.

    Args:
        name: a folder or Hub id that holds the same weights; None for a base that exists in memory
            alone, and is saved beside the adapters.
        revision: of the Hub.
    """

    name: str | None = None
    revision: str | None = None

    @classmethod
    def of(cls, model: nn.Module) -> SavedBase | None:
        """That of a model with adapters; None for a model without.

        A name that the base was loaded by counts only if the weights there are those in memory:
        a base that was trained on, resized or converted since is another one.

        Raises:
            ValueError: if the adapters have no name under which they would be found again.
        """
        if not isinstance(model, PeftModel):
            return None
        if list(model.peft_config) != ["default"]:
            raise ValueError(
                "Adapters are saved and opened under the name 'default', and these are called "
                f"{', '.join(map(repr, model.peft_config))}; give peft_config= and the base, or "
                "a PeftModel with one adapter of that name."
            )
        base = unwrapped(model)
        name = without_noise_input(base).config.name_or_path
        if not name:
            _base_state(model)
            return cls()
        files, is_folder = _files(name), Path(name).is_dir()
        quantized = getattr(base, "hf_quantizer", None) is not None
        state = {} if quantized else _base_state(model)
        if NOISE_INPUT in (getattr(model.active_peft_config, "modules_to_save", None) or ()):
            # It is saved with the adapters, and the base may have had none.
            start = "lm." if without_noise_input(base) is not base else ""
            own = {n: v for n, v in state.items() if not n.endswith(f"{NOISE_INPUT}.weight")}
            state = {name.removeprefix(start): value for name, value in own.items()}
        if not quantized and not _same_weights(files, state):
            return cls()
        if is_folder:
            # An absolute path is found from anywhere.
            return cls(str(Path(name).resolve()))
        # Downloads lie in a folder that is called as their commit.
        return cls(name, files[0].parent.name if files else None)

    def save(
        self, folder: str | Path, model: nn.Module, state: Mapping[str, Tensor] | None
    ) -> None:
        """Add to a folder of adapters what opens them again; a checkpoint, which is resumed with
        the base in memory, gets no copy of it.

        Args:
            folder: with what `PeftModel.save_pretrained` wrote.
            model: base and adapters.
            state: all weights, where those of the model are sharded.

        Raises:
            ValueError: if the base's weights are not among these.
        """
        folder, base = Path(folder), unwrapped(model)
        base.config.to_json_file(folder / BASE_CONFIG)
        name_base(folder, self.name, self.revision)
        if self.name is not None or folder.name.startswith(PREFIX_CHECKPOINT_DIR):
            return
        base.save_pretrained(folder, state_dict=_base_state(model, state))


def with_noise_saved(settings: PeftConfig) -> PeftConfig:
    """Settings of adapters with a noise input among what is trained whole, and saved, with them."""
    settings = copy.deepcopy(settings)
    settings.modules_to_save = [*(settings.modules_to_save or ()), NOISE_INPUT]
    return settings


def described(model: nn.Module) -> str | None:
    """The adapters of a model in words, for its card."""
    if not isinstance(model, PeftModel):
        return None
    settings = model.active_peft_config
    rank = getattr(settings, "r", None)
    return str(settings.peft_type.value) + (f" of rank {rank}" if rank else "")


def _base_state(model: PeftModel, state: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The weights of the base, under the names that they have without adapters.

    Raises:
        ValueError: if some are not there.
    """
    found: dict[str, Tensor] = {}
    for name, tensor in (model.state_dict() if state is None else state).items():
        if ".modules_to_save." not in name:
            for wrapper in (".base_layer.", ".original_module.", ".token_adapter."):
                name = name.replace(wrapper, ".")
            found.setdefault(name.removeprefix("base_model.model."), tensor)
    base = unwrapped(model)
    with torch.device("meta"):
        names = list(type(base)(copy.deepcopy(base.config)).state_dict())
    if missing := [name for name in names if name not in found]:
        raise ValueError(
            f"The base of the adapters has to be saved with them, and {len(missing)} of its "
            f"weights are not there under their names ({missing[0]}, ...); save it, and load it by "
            "its name."
        )
    return {name: found[name] for name in names}


def _files(name: str) -> list[Path]:
    """The files with the weights of a folder, or of a repository as it was downloaded."""
    folder = Path(name)
    if folder.is_dir():
        return sorted(folder.glob("model*.safetensors"))
    whole = try_to_load_from_cache(name, _WEIGHTS)
    if isinstance(whole, str):
        return [Path(whole)]
    index = try_to_load_from_cache(name, _INDEX)
    if not isinstance(index, str):
        return []
    parts = set(json.loads(Path(index).read_text())["weight_map"].values())
    return [Path(index).with_name(part) for part in sorted(parts)]


def _tensors(files: list[Path]) -> Iterator[tuple[str, Tensor]]:
    for path in files:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118 (it is no mapping)
                # Names of old checkpoints, which transformers reads as the new ones.
                new = name.removesuffix("gamma") + "weight" if name.endswith(".gamma") else name
                new = new.removesuffix("beta") + "bias" if new.endswith(".beta") else new
                yield new, file.get_tensor(name)


def _same_weights(files: list[Path], state: Mapping[str, Tensor]) -> bool:
    """Whether files hold the weights of a base as they are in memory, tied ones once."""
    found = set()
    for name, tensor in _tensors(files):
        own = state.get(name)
        if own is None:
            continue
        if own.shape != tensor.shape or not torch.equal(tensor.to(own.dtype), own.detach().cpu()):
            return False
        found.add(own.data_ptr())
    return all(own.data_ptr() in found for own in state.values())
