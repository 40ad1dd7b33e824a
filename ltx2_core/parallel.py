"""Several processes that render one clip together: guidance passes and video tokens are distributed.

The denoiser is not changed: each rank runs it with its passes and with its rows of the video. Where these attend to all
other rows, or other tokens to them, attention is computed for all rows and a part of the heads instead ("Ulysses").
Audio and text are the same on each rank.
Source: docs/ranks.md, "How the work is shared".
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

import torch
import torch.distributed as dist
from einops import rearrange
from torch import Tensor, nn

from .machine import RankLayout
from .models.attention import PLAIN, Kernel, KeysValues, attention
from .types import Streams

FIRST = 0  # the rank that writes the file and reports events
WAIT = timedelta(days=7)  # timeout for the next task, while the first rank works alone


class PeerLostError(Exception):
    """Another rank has ended, or has not answered in time."""


@contextmanager
def _talking() -> Iterator[None]:
    """Raises: PeerLostError for any error of a collective."""
    try:
        yield
    except torch.OutOfMemoryError:
        raise
    except (RuntimeError, ValueError) as error:
        raise PeerLostError(str(error).partition("\n")[0]) from error


@dataclass
class Ranks:
    """All ranks, from the view of one of them.

    Args: number: its own, from 0. count: of all. device: its own. first: the device of the first rank. control: the
    group of all for sending objects, through the CPU.
    """

    number: int
    count: int
    device: torch.device
    first: torch.device
    control: Any
    _teams: dict[int, Any] = field(default_factory=dict)

    @classmethod
    def meet(cls, number: int, devices: Sequence[str], meeting: Path, timeout_s: float) -> Self:
        """Connect to the other ranks.

        Args: devices: of all ranks. meeting: a file that does not exist yet. timeout_s: after which a silent rank
        counts as lost.
        """
        count, device = len(devices), torch.device(devices[number])
        on_card = device.type == "cuda"
        if on_card:
            torch.cuda.set_device(device)
        with _talking():
            dist.init_process_group(
                "nccl" if on_card else "gloo",
                store=dist.FileStore(str(meeting), count),  # pyright: ignore[reportPrivateImportUsage]
                rank=number,
                world_size=count,
                timeout=timedelta(seconds=timeout_s),
                device_id=device if on_card else None,
            )
            control = dist.new_group(backend="gloo", timeout=WAIT)
        return cls(number, count, device, torch.device(devices[FIRST]), control)

    def part(self) -> None:
        """Disconnect."""
        dist.destroy_process_group()

    @property
    def is_first(self) -> bool:
        return self.number == FIRST

    def from_first(self, value: Any = None) -> Any:
        """An object of the first rank; tensors on its device there are on this rank's device here."""
        packed: list[Any] = [None]
        if self.is_first:
            buffer = io.BytesIO()
            torch.save(value, buffer)
            packed = [buffer.getvalue()]
        with _talking():
            dist.broadcast_object_list(packed, src=FIRST, group=self.control)
        if self.is_first:
            return value
        # It comes from a process of this program, so unpickling it is safe.
        places = {str(self.first): str(self.device)}
        return torch.load(io.BytesIO(packed[0]), map_location=places, weights_only=False)

    def agree(self, answer: bool) -> bool:
        """The answer of the first rank, on all ranks."""
        said = torch.tensor([answer], dtype=torch.uint8, device="cpu")
        with _talking():
            dist.broadcast(said, src=FIRST, group=self.control)
        return bool(said)

    def shared(self, tensor: Tensor, source: int) -> Tensor:
        """A tensor of one rank, on all. tensor: that of the source; for the others only its shape and dtype matter."""
        tensor = tensor.contiguous() if self.number == source else torch.empty_like(tensor, memory_format=CONTIGUOUS)
        with _talking():
            dist.broadcast(_bytes(tensor), src=source)
        return tensor

    def team(self, size: int) -> Any:
        """The group of so many neighbours that this rank is in; all ranks call this together."""
        if size not in self._teams:
            with _talking():
                self._teams[size], _ = dist.new_subgroups(group_size=size)
        return self._teams[size]

    def send(self, tensor: Tensor) -> None:
        """Send a tensor to the first rank."""
        with _talking():
            dist.send(_bytes(tensor.contiguous()), dst=FIRST)

    def receive(self, tensor: Tensor, source: int) -> Tensor:
        """Receive a tensor from a rank."""
        with _talking():
            dist.recv(_bytes(tensor), src=source)
        return tensor


CONTIGUOUS = torch.contiguous_format


def _bytes(tensor: Tensor) -> Tensor:
    """The memory of a contiguous tensor, so that backends need not know its dtype."""
    return tensor.view(-1).view(torch.uint8)


@dataclass
class Split:
    """How the ranks share the work of one stage.

    Args: layout: the number of groups that share the passes, and of ranks in each group that share the rows of the
    video. team: the process group of the latter. tokens: of the current video.
    """

    ranks: Ranks
    layout: RankLayout
    team: Any = None
    tokens: int = 0

    @classmethod
    def of(cls, ranks: Ranks, layout: RankLayout) -> Self:
        """The split of a layout; all ranks call this together."""
        return cls(ranks, layout, ranks.team(layout.width) if layout.width > 1 else None)

    @property
    def part(self) -> int:
        """The group of this rank: which passes it computes."""
        return self.ranks.number // self.layout.width

    @property
    def seat(self) -> int:
        """The place of this rank in its group: which rows of the video it has."""
        return self.ranks.number % self.layout.width

    @property
    def rows(self) -> int:
        """How many rows each rank has. Where they do not divide evenly, the last ranks repeat rows of others."""
        return -(-self.tokens // self.layout.width)

    def first_row(self, seat: int) -> int:
        return min(seat * self.rows, self.tokens - self.rows)

    def own_rows(self, tokens: int) -> slice:
        """The rows of this rank, of so many tokens of the video, which become the current ones."""
        self.tokens = tokens
        start = self.first_row(self.seat)
        return slice(start, start + self.rows)

    def fresh(self, seat: int) -> slice:
        """The rows of a rank, from 0, that no rank before it has."""
        start, stop = (min(place * self.rows, self.tokens) for place in (seat, seat + 1))
        first = self.first_row(seat)
        return slice(start - first, stop - first)

    @contextmanager
    def over(self, model: nn.Module) -> Iterator[None]:
        """Make the attention of a denoiser that reads rows of the video read those of all ranks of the group."""
        if self.layout.width == 1:
            yield
            return
        blocks: Any = model.get_submodule("blocks").children()  # this does not load streamed blocks
        kernels: list[tuple[Any, Kernel]] = []
        for block in blocks:
            kernels.append((block.video.self_attn, VideoToVideo(self)))
            if block.exchange is not None:
                kernels.append((block.exchange.video_to_audio, VideoToAudio(self)))
        try:
            for module, kernel in kernels:
                module.kernel = kernel
            yield
        finally:
            for module, _ in kernels:
                module.kernel = PLAIN

    def gathered(
        self, made: Sequence[Streams[Tensor]], shares: Sequence[Sequence[int]], like: Streams[Tensor]
    ) -> list[Streams[Tensor]]:
        """The results of all passes, the same bits on each rank.

        Args: made: by the passes of this rank, (b m c) of its rows of the video and (b n c) of the audio. shares: the
        indices of the passes of each group. like: tensors of the whole streams, (b n c).
        """
        found: dict[int, Streams[Tensor]] = {}
        dtype = next(x for x in made[0] if x is not None).dtype
        for part, places in enumerate(shares):
            for turn, place in enumerate(places):
                own = made[turn] if part == self.part else Streams()
                found[place] = Streams(
                    None if like.video is None else self._video(own.video, part, like.video, dtype),
                    None if like.audio is None else self._audio(own.audio, part, like.audio, dtype),
                )
        return [found[place] for place in sorted(found)]

    def _video(self, own: Tensor | None, part: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        pieces: list[Tensor] = []
        for seat in range(self.layout.width):
            source = part * self.layout.width + seat
            rows = like.new_empty((like.shape[0], self.rows, like.shape[-1]), dtype=dtype)
            mine = own if own is not None and source == self.ranks.number else rows
            pieces.append(self.ranks.shared(mine, source)[:, self.fresh(seat)])
        return torch.cat(pieces, dim=1)

    def _audio(self, own: Tensor | None, part: int, like: Tensor, dtype: torch.dtype) -> Tensor:
        blank = torch.empty_like(like, dtype=dtype) if own is None else own
        return self.ranks.shared(blank, part * self.layout.width)

    def to_heads(self, x: Tensor) -> Tensor:
        """From all heads of own rows (b h m d) to the own part of the heads of all ranks' rows, (u b h m d)."""
        given = rearrange(x, "b (u h) m d -> u b h m d", u=self.layout.width).contiguous()
        return self._exchanged(given)

    def to_rows(self, x: Tensor) -> Tensor:
        """The inverse, from (b h (u m) d) to (b h m d)."""
        given = rearrange(x, "b h (u m) d -> u b h m d", u=self.layout.width).contiguous()
        return rearrange(self._exchanged(given), "u b h m d -> b (u h) m d")

    def _exchanged(self, given: Tensor) -> Tensor:
        taken = torch.empty_like(given)
        with _talking():
            dist.all_to_all_single(_bytes(taken), _bytes(given), group=self.team)
        return taken

    def collected(self, x: Tensor) -> Tensor:
        """A tensor of each rank of the group, along a new first axis."""
        taken = x.new_empty((self.layout.width, *x.shape))
        with _talking():
            dist.all_gather([_bytes(part) for part in taken], _bytes(x.contiguous()), group=self.team)
        return taken


@dataclass(frozen=True)
class OverRanks(Kernel):
    """Attention to the rows of the video of all ranks, with a part of the heads on each. Rows have no mask."""

    split: Split

    def memory(self, made: KeysValues) -> KeysValues:
        """Keys and values of all rows for the heads of this rank, from those of its own rows for all heads."""
        split = self.split
        parts = split.to_heads(torch.cat(made))  # everything in one exchange
        seats = [part[:, :, split.fresh(seat)] for seat, part in enumerate(parts)]
        return KeysValues(*torch.cat(seats, dim=2).chunk(2))


class VideoToVideo(OverRanks):
    """Rows of the video attend to all rows of the video."""

    def __call__(self, q: Tensor, memory: KeysValues, bias: Tensor | None) -> Tensor:
        """The attention output for own rows (b h m d). bias: that of own rows."""
        rows = rearrange(self.split.to_heads(q), "u b h m d -> b h (u m) d")
        if bias is not None and bias.shape[-2] > 1:
            bias = rearrange(self.split.collected(bias), "u b h m n -> b h (u m) n")
        return self.split.to_rows(attention(rows, memory.keys, memory.values, bias))


class VideoToAudio(OverRanks):
    """Audio, which is complete on each rank, attends to all rows of the video."""

    def __call__(self, q: Tensor, memory: KeysValues, bias: Tensor | None) -> Tensor:
        """The attention output for the audio (b h n d)."""
        split = self.split
        own = q.chunk(split.layout.width, dim=1)[split.seat]
        mixed = attention(own, memory.keys, memory.values, bias)
        return rearrange(split.collected(mixed), "u b h n d -> b (u h) n d")


@dataclass
class Dealt:
    """Tiles that ranks compute in turn, for the first one: each sends its tiles.

    Args: make: computes a tile, from any arguments. blank: memory for a tile with the same arguments.
    """

    ranks: Ranks
    make: Callable[..., Tensor]
    blank: Callable[..., Tensor]
    turn: int = 0

    def __call__(self, *place: Any) -> Tensor:
        """The next tile, on the first rank."""
        source, self.turn = self.turn, (self.turn + 1) % self.ranks.count
        return self.make(*place) if source == FIRST else self.ranks.receive(self.blank(*place), source)

    def serve(self, places: Iterator[tuple[Any, ...]]) -> None:
        """Compute the tiles of another rank, given all tiles in their order."""
        for number, place in enumerate(places):
            if number % self.ranks.count == self.ranks.number:
                self.ranks.send(self.make(*place))
