"""Tiny text encoders in their official layouts, with a tokenizer that is trained on a few words.

Gemma 3 is a folder with its config, one shard and its tokenizer; Gemma 4 is one file that contains all of these, and
also the text projection.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, normalizers, processors, trainers
from torch import Tensor
from transformers import Gemma3TextConfig, Gemma3TextModel

from ltx2_core.text.released import RELEASED

SPECIAL_TOKENS = ("<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "<start_of_turn>", "<end_of_turn>")
SPECIAL_TOKENS += ("<start_of_image>", "<end_of_image>", "<image_soft_token>")
TOKENIZER_CONFIG = {f"{name}_token": f"<{name}>" for name in ("bos", "eos", "pad", "unk")} | {"padding_side": "left"}
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n"
    "{% if m['content'] is string %}{{ m['content'] }}"
    "{% else %}{% for p in m['content'] %}{{ p['text'] }}{% endfor %}{% endif %}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
WORDS = (
    "a an and are as at background ball bell big bird birds black blue bouncing bright bursts camera car cat "
    "chirping city close cloud cold dark day dog door drone drops fast fire flies floor forest from glass gold "
    "green grey hard heard high hits hums in into is kettle lamp large left light loud low man metal mist misty "
    "moon morning mountain mountains moves music night of off on over people rain red river road room rustle "
    "sea shot sky slams slow small snow soft song sound speaks starts steel stone street sun the thud to train "
    "tree turns under voice wall water wave waves whistle white wide wind window with woman wood yellow"
)

WIDTH = 32
LAYERS = {"gemma3": 7, "gemma4": 6}
SIZES = {
    "hidden_size": WIDTH,
    "intermediate_size": 2 * WIDTH,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
GEMMA_4: dict[str, Any] = {  # settings other than sizes; every sixth layer attends to the whole prompt
    "model_type": "gemma4_unified_text",
    "num_global_key_value_heads": 1,
    "global_head_dim": 16,
    "attention_k_eq_v": True,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 262144,
    "sliding_window": 1024,
    "final_logit_softcapping": 30.0,
    "use_bidirectional_attention": "vision",
    "num_kv_shared_layers": 0,
    "hidden_size_per_layer_input": 0,
    "layer_types": [*["sliding_attention"] * 5, "full_attention"],
    "rope_parameters": {
        "full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
    },
}


def gemma_3_folder(folder: Path, generator: torch.Generator) -> None:
    """A Gemma 3 folder as published: config, one shard with Google's file name, and a tokenizer with its settings."""
    folder.mkdir(exist_ok=True)
    tokenizer = make_tokenizer(WORDS.split(), 700)
    tokenizer.save(str(folder / "tokenizer.json"))
    sizes = SIZES | {"num_hidden_layers": LAYERS["gemma3"], "vocab_size": tokenizer.get_vocab_size()}
    text_config = {**RELEASED, **sizes, "query_pre_attn_scalar": 8}
    config = {"architectures": ["Gemma3ForConditionalGeneration"], "model_type": "gemma3", "text_config": text_config}
    write_json(folder / "config.json", config | {"eos_token_id": [1, 6]})
    write_json(folder / "tokenizer_config.json", TOKENIZER_CONFIG)
    (folder / "chat_template.jinja").write_text(CHAT_TEMPLATE)
    with torch.device("meta"):
        model = Gemma3TextModel(Gemma3TextConfig(**text_config))
    tensors = {
        f"language_model.model.{name}": random_gemma(name, t.shape, generator) for name, t in model.state_dict().items()
    }
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})


def gemma_4_file(path: Path, projection: Mapping[str, Tensor], version: str, generator: torch.Generator) -> None:
    """A Gemma 4 file as published for LTX-2.5, which contains config, tokenizer, tokenizer settings and the text
    projection.

    Args: projection: its tensors by official name. version: the version that a transformer names as the encoder it was
    trained with.
    """
    from transformers import Gemma4UnifiedTextConfig, Gemma4UnifiedTextModel  # older versions of transformers lack it

    tokenizer = bare_tokenizer()
    sizes = SIZES | {"num_hidden_layers": LAYERS["gemma4"], "vocab_size": len(tokenizer["model"]["vocab"])}
    text_config = {**GEMMA_4, **sizes}
    with torch.device("meta"):
        model = Gemma4UnifiedTextModel(Gemma4UnifiedTextConfig(**text_config))
    tensors = {
        f"model.{name}": random_gemma(name, t.shape, generator, mean=1.0) for name, t in model.state_dict().items()
    }
    assets = {"tokenizer_json": tokenizer, "hf_asset__tokenizer_config.json": TOKENIZER_CONFIG}
    tensors |= {
        name: torch.tensor(list(json.dumps(asset).encode()), dtype=torch.uint8) for name, asset in assets.items()
    }
    config = {
        "architectures": ["Gemma4UnifiedForConditionalGeneration"],
        "model_type": "gemma4_unified",
        "gemma_version": version,
        "text_config": text_config,
    }
    save_file({**tensors, **projection}, path, {"format": "pt", "gemma_config": json.dumps(config)})


def random_gemma(name: str, shape: torch.Size, generator: torch.Generator, mean: float = 0.0) -> Tensor:
    """Random weights of a Gemma. Embeddings are multiplied by the square root of their width on look-up. mean: mean of
    the norm weights, as Gemma 3 itself adds 1 to them.
    """
    values = torch.randn(shape, generator=generator)
    if len(shape) == 1:
        return (mean + 0.1 * values).bfloat16()
    return (values * shape[-1] ** -0.5).bfloat16()


def make_tokenizer(words: Sequence[str], size: int) -> Tokenizer:
    """A byte-pair tokenizer like Gemma's: spaces become ▁, unknown characters become bytes, and BOS is put in front.

    Args: words: the training text. size: largest number of tokens.
    """
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=[*SPECIAL_TOKENS, *(f"<0x{i:02X}>" for i in range(256))],
        initial_alphabet=["▁", *map(chr, range(33, 127))],
        show_progress=False,
    )
    tokenizer.train_from_iterator([word for plain in words for word in (plain, f" {plain}")], trainer)
    bos = SPECIAL_TOKENS.index("<bos>")
    tokenizer.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", bos)])
    state = json.loads(tokenizer.to_str())  # bytes were special tokens only for the trainer
    state["added_tokens"] = [token for token in state["added_tokens"] if token["content"] in SPECIAL_TOKENS]
    return Tokenizer.from_str(json.dumps(state))


def bare_tokenizer() -> dict[str, Any]:
    """The tokenizer in the form of Gemma 4, as JSON: it does not put BOS in front, the caller does."""
    return json.loads(make_tokenizer(WORDS.split(), 700).to_str()) | {"post_processor": None}


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(content, indent=1) + "\n")
