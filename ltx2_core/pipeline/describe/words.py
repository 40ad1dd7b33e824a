"""Facts as text, the same for every kind of thing."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from ...errors import CheckpointError, LTX2Error, MediaError
from ...headers import Header, precision, quantised_weights, require_downloaded
from ..made import Made
from ..request import Request
from ..resolve.machine import choose_device, products_of
from ..values import OFF

Facts = Iterator[tuple[str, str]]  # name of a fact, and its text or, for a record, JSON

MOST_ROWS = 20  # rows with one name
SMALLEST_SHARE = 0.001
UNTOLD = "its tensor names do not tell"


def as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def numbered(name: str, texts: Iterable[str]) -> Facts:
    """Several facts with one name: `audio stream`, `audio stream 2` and so on; the last one says how many are
    left out.
    """
    texts = list(texts)
    shown = texts[:MOST_ROWS]
    if len(texts) > MOST_ROWS:
        shown[-1] = f"and {len(texts) - MOST_ROWS + 1:,} more"
    for number, text in enumerate(shown, 1):
        yield (name if number == 1 else f"{name} {number}"), text


def counts(of: Mapping[str, int]) -> str:
    """`int8 12, nvfp4 3`, the most frequent first."""
    return ", ".join(f"{name} {count:,}" for name, count in Counter(of).most_common())


def _dtype_shares(header: Header) -> str:
    """The share of each dtype in the bytes of a file: `BF16 98.7 %, F32 1.3 %`."""
    sizes: Counter[str] = Counter()
    for info in header.tensors.values():
        sizes[info.dtype] += info.nbytes
    return ", ".join(f"{dtype} {_share(size, header.nbytes)}" for dtype, size in sizes.most_common()) or "none"


def _share(part: int, whole: int) -> str:
    share = part / whole if whole else 0.0
    return f"{share:.1%}".replace("%", " %") if share >= SMALLEST_SHARE else "below 0.1 %"


def stored_facts(header: Header) -> Facts:
    """How the tensors of a file, or of several together, are stored."""
    quantised: Mapping[str, str] = {}
    try:
        said, quantised = precision(header), quantised_weights(header, header.tensors)
    except CheckpointError as error:
        said = f"it cannot be told: {error.why}"
    yield "precision", said
    yield "dtypes", _dtype_shares(header)
    if quantised:
        yield "quantised", f"layers by format: {counts(Counter(quantised.values()))}"
        yield "on this machine", _multiplied(header)
    yield "tensors", f"{len(header.tensors):,}"
    yield "bytes", f"{header.nbytes:,}"


def _multiplied(header: Header) -> str:
    """Which quantised layers the first GPU multiplies as they are stored, and which it decodes."""
    device = choose_device("auto")
    products = products_of(device)
    titles = {layer.title: layer.format in products for layer in header.stored.layers.values()}
    ways = {
        "multiplied as stored": [title for title, is_product in titles.items() if is_product],
        "decoded to bf16 for each product": [title for title, is_product in titles.items() if not is_product],
    }
    card = device.name if device.card is None else device.card.name
    return f"{card}: " + "; ".join(f"{', '.join(names)} {way}" for way, names in ways.items() if names)


def request_facts(request: Request) -> Facts:
    """The request, a fact for each setting that has a value."""
    for name, value in request.model_dump(mode="json").items():
        if value not in ("", None, [], {}):
            yield name, as_text(value)


def recipe_facts(made: Made) -> Facts:
    """A recipe: how a file was made, from which files, and on which hardware."""
    told = made.model_dump(mode="json")
    yield "made with", ", ".join(f"{name} {version}" for name, version in made.made_with.items())
    if made.hardware:
        yield "made on", made.hardware
    yield "model", made.model.name
    yield "files", as_text({role: file.name for role, file in made.model.files.items()})
    yield from request_facts(made.request)
    yield "machine", as_text(told["machine"])
    if made.output is not None:
        yield "output", as_text(told["output"])
        if made.output.loudness != OFF:
            yield "loudness", f"{made.output.loudness:g} LUFS"


def require_content(path: Path) -> None:
    """Raises: MediaError if a clip or an image is missing, empty, or a placeholder."""
    try:
        require_downloaded(path)
    except LTX2Error as error:
        raise MediaError(f"{path} cannot be read", error.why or "it is empty", error.hint) from error
