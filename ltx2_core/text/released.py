"""The config of a text encoder in one file: that in its metadata, or that of Gemma 3 if its shapes prove it.

Source: docs/reference/text.md, "Text encoders in one file" and "The language model".
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..components import COMPONENTS
from ..errors import CheckpointError
from ..headers import FileKind, Header, classify
from .encoders import GEMMA_3, described, encoder_of

ENTRIES = ("text_config", "gemma_config", "config")  # entries of the metadata that may contain the config
RELEASED: Mapping[str, Any] = {
    "model_type": GEMMA_3.text_type,
    "hidden_size": 3840,
    "intermediate_size": 15360,
    "num_hidden_layers": 48,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "rms_norm_eps": 1e-6,
    "sliding_window": 1024,
    "sliding_window_pattern": 6,
    "rope_theta": 1000000,
    "rope_local_base_freq": 10000,
    "rope_scaling": {"factor": 8.0, "rope_type": "linear"},
    "max_position_embeddings": 131072,
}
# Rows and columns of the matrices in each layer of the release.
MATRICES = {
    "self_attn.q_proj": (4096, 3840),
    "self_attn.k_proj": (2048, 3840),
    "self_attn.v_proj": (2048, 3840),
    "self_attn.o_proj": (3840, 4096),
    "mlp.gate_proj": (15360, 3840),
    "mlp.up_proj": (15360, 3840),
    "mlp.down_proj": (3840, 15360),
}


def config_of(header: Header) -> dict[str, Any]:
    """The config of a text encoder in one file, in the form of a folder's config.json.

    Raises: CheckpointError if it is another model, or has no config and does not have the shapes of Gemma 3 12B.
    """
    for name in ENTRIES:
        entry = header.entry(name)
        if not isinstance(entry, dict):
            continue
        text = entry.get("text_config", entry)
        if isinstance(text, dict) and "hidden_size" in text:
            encoder = encoder_of(entry) if "model_type" in entry else GEMMA_3
            if encoder is None:
                found = f"its metadata says model_type {entry['model_type']!r}, and {described()} can be used"
                raise CheckpointError(f"{header.path.name} cannot be the text encoder", found)
            return {**entry, "model_type": encoder.model_type, "text_config": text}
    if classify(header) is FileKind.TEXT_ENCODER:
        why = "its metadata has no usable gemma_config, which says how its language model is built"
        raise CheckpointError(f"{header.path.name} cannot be the text encoder", why, "use the original file")
    return {"model_type": GEMMA_3.model_type, "text_config": {**RELEASED, "vocab_size": _vocabulary(header)}}


def _vocabulary(header: Header) -> int:
    """The rows of the embeddings of Gemma 3 12B. Raises: CheckpointError if a shape is not that of this model."""
    inside = {own: name for name, own in COMPONENTS["language_model"].names_in(header).items()}
    layers = {own.split(".")[1] for own in inside if own.startswith("layers.")}
    problems = [] if len(layers) == RELEASED["num_hidden_layers"] else [f"it has {len(layers)} layers"]
    for own, shape in {f"layers.0.{name}.weight": shape for name, shape in MATRICES.items()}.items():
        if own not in inside or not header.fits(inside[own], shape):
            problems.append(f"{own} is not {list(shape)}")
    table = inside.get("embed_tokens.weight")
    rows, *width = header.matrix_shape(table) if table else (0,)
    if width != [RELEASED["hidden_size"]]:
        problems.append(f"embed_tokens.weight is not {RELEASED['hidden_size']} wide")
    if problems:
        raise CheckpointError(
            f"{header.path.name} has no config in its metadata, and its shapes are not those of Gemma 3 12B",
            "; ".join(problems[:3]),
            "take the folder of Gemma 3 12B, or a file that was made of it",
        )
    return rows
