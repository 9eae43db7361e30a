"""Configuration of an SDAR model, for those who load its folder with `trust_remote_code`.

Written by hf_ddistill. Every field is an attribute under the name that it has in config.json, with
any version of transformers: engines read `rope_theta`, which newer configurations of Qwen3 lack.
"""

from transformers import PretrainedConfig


class SDARConfig(PretrainedConfig):
    """The fields of a Qwen3 model, the length of its blocks and its mask token."""

    model_type = "sdar"
    keys_to_ignore_at_inference = ["past_key_values"]
    # An attribute of its own, where newer versions of transformers have another name for
    # `rope_parameters`.
    rope_scaling = None

    def __init__(self, rope_theta=1000000.0, rope_scaling=None, **kwargs):  # noqa: ANN001, ANN003, ANN204
        kwargs.pop("rope_parameters", None)
        super().__init__(**kwargs)
        self.rope_theta = rope_theta
        self.rope_scaling = rope_scaling
        scaling = rope_scaling or {"rope_type": "default"}
        self.rope_parameters = {**scaling, "rope_theta": rope_theta}


class SDARMoeConfig(SDARConfig):
    """The same, with the fields of experts."""

    model_type = "sdar_moe"
