"""A configuration that asks for far more than its weights is refused before a network is made."""

import json
import time

import pytest
from cli_runs import refused

from hf_ddistill.convert import Converter

LAYERS = {"num_hidden_layers", "n_layers", "n_blocks"}
WIDTHS = {"vocab_size", "hidden_size", "hidden_dim", "d_model", "intermediate_size"}
WIDTHS |= {"num_attention_heads", "n_heads", "head_dim", "num_experts", "embedding_size"}


def parts(config):
    """A configuration and all that is nested in it."""
    yield config
    for value in config.values():
        if isinstance(value, dict):
            yield from parts(value)


@pytest.mark.parametrize("kind", sorted(Converter.registry))
@pytest.mark.parametrize(("names", "value"), [(LAYERS, 10**6), (WIDTHS, 10**9)])
def test_a_network_that_no_machine_holds_is_made(kind, names, value, tmp_path):
    Converter.named(kind).example(tmp_path)
    file = tmp_path / "config.json"
    if not file.is_file():
        return  # a training checkpoint
    read = json.loads(file.read_text())
    places = [(i, name) for i, part in enumerate(parts(read)) for name in sorted(names & {*part})]
    assert places
    for place, name in places:
        config = json.loads(file.read_text())
        list(parts(config))[place][name] = value
        file.write_text(json.dumps(config))
        began = time.perf_counter()
        with pytest.raises(ValueError, match=rf"gives {name}={value}, and its weights ") as caught:
            Converter.named(kind)().read(str(tmp_path))
        assert "\n" not in str(caught.value) and time.perf_counter() - began < 5
        file.write_text(json.dumps(read))


@pytest.mark.parametrize("kind", ["causal_lm", "llada2", "sdar_moe", "transformers"])
def test_weights_that_do_not_fit_are_drawn_before_they_are_compared(kind, tmp_path, capsys):
    source, out = tmp_path / "source", tmp_path / "out"
    Converter.named(kind).example(source)
    file = source / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps(config | {"num_hidden_layers": 200, "mlp_only_layers": []}))
    told = refused(
        capsys, "convert", source, out, *["--mask-token-id", "11"] * (kind == "causal_lm")
    )
    assert "numbers, and its weights are" in told and not out.exists()
