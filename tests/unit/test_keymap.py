"""The rename tables, on every name of the released 2.0 model."""

import gzip
import json

import pytest

from ltx2_core import keymap
from ltx2_core.hub.published import TENSORS

PREFIX = "model.diffusion_model."


def names_of(manifest: str) -> list[str]:
    """Every official name of a component, without the prefix of the denoiser's file."""
    content = json.loads(gzip.decompress((TENSORS / f"{manifest}.json.gz").read_bytes()))
    content = content.get("connectors", content)
    return [name.removeprefix(PREFIX) for name in content["tensors"]]


TABLES = {"transformer-2.0": keymap.TRANSFORMER, "text-2.0": keymap.CONNECTOR, "vocoder-2.0": ()}


@pytest.mark.parametrize("manifest", TABLES)
def test_every_official_name_comes_back_from_its_name_here(manifest: str):
    rows, names = TABLES[manifest], names_of(manifest)
    assert names
    assert [keymap.to_official(keymap.from_official(name, rows), rows) for name in names] == names


@pytest.mark.parametrize("manifest", TABLES)
def test_no_two_official_names_meet_in_one_name_here(manifest: str):
    names = names_of(manifest)
    assert len({keymap.from_official(name, TABLES[manifest]) for name in names}) == len(names)


@pytest.mark.parametrize("table", [keymap.TRANSFORMER, keymap.CONNECTOR], ids=["transformer", "connector"])
def test_a_table_reads_in_both_directions(table: keymap.Rows):
    official, ours = zip(*table, strict=True)
    assert len(set(official)) == len(set(ours)) == len(table)


def test_a_row_replaces_whole_segments_only():
    rows = (("ff", "mlp"), ("to_out.0", "to_out"))
    assert keymap.from_official("audio_ff.ff.to_out.0.weight", rows) == "audio_ff.mlp.to_out.weight"
    assert keymap.from_official("to_out.01.weight", rows) == "to_out.01.weight"
