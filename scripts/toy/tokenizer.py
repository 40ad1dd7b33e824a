"""The toy model's tokenizer: `python scripts/toy/tokenizer.py [--folder DIR]` writes it next to the language model.

Every word of the prompts is one token; other words are split into pieces and single characters, and capitals are
lowercased. The language model was trained with these ids, so the tokenizer must only be changed together with a new
training.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))  # so that it runs from anywhere

from tokenizers import Tokenizer, normalizers

from scripts.tiny_text import TOKENIZER_CONFIG, make_tokenizer, write_json
from scripts.toy.model import HOME, TEXT_ENCODER, VOCABULARY
from scripts.toy.prompts import WORDS


def toy_tokenizer() -> Tokenizer:
    """A byte-pair tokenizer like Gemma's for the words of the world."""
    tokenizer = make_tokenizer(WORDS, VOCABULARY)
    tokenizer.normalizer = normalizers.Sequence([normalizers.Lowercase(), tokenizer.normalizer])
    return tokenizer


def save_tokenizer(folder: Path = HOME) -> None:
    """Write the tokenizer and its settings into the folder of the language model."""
    target = folder / TEXT_ENCODER
    target.mkdir(parents=True, exist_ok=True)
    toy_tokenizer().save(str(target / "tokenizer.json"))
    write_json(target / "tokenizer_config.json", TOKENIZER_CONFIG)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, default=HOME, help="folder of the model")
    save_tokenizer(parser.parse_args().folder)
