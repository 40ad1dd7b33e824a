"""WAV and FLAC files with one or two channels, read and written with libsndfile. Other layouts and codecs use PyAV.

libsndfile is loaded with the first such file, and opens only files whose header our own reader accepts.
"""

from __future__ import annotations

import io
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from .inputs import refusal

if TYPE_CHECKING:
    from numpy.typing import NDArray

PCM, MS_ADPCM, FLOAT, IMA_ADPCM, EXTENSIBLE = 1, 2, 3, 0x11, 0xFFFE  # format tags of WAV
SAMPLE_BITS = {PCM: (8, 16, 24, 32), FLOAT: (32, 64), MS_ADPCM: (4,), IMA_ADPCM: (4,)}
SUBFORMAT = bytes.fromhex("000000001000800000aa00389b71")  # bytes after the format tag in an extensible header
UNKNOWN_SIZE = 0x7FFF0000  # bytes; programs that write to a pipe use this value or more for an unknown size
MOST_CHUNKS = 1000
FLAC_BITS = (8, 16, 24)


class AudioHeader(NamedTuple):
    """The contents of a header. samples: per channel."""

    sample_rate_hz: int
    channels: int
    samples: int


def read_header(path: Path) -> AudioHeader | None:
    """Read the header of a WAV or FLAC file; None for any other file, and for files that only PyAV can read.

    Raises: MediaError if the header announces more than the file contains.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        kind = file.read(12)
        if kind[:4] == b"RIFF" and kind[8:] == b"WAVE":
            return _wav_header(path, file, size)
        if kind[:4] == b"fLaC":
            return _flac_header(kind[4:8] + kind[8:] + file.read(30))
    return None


def read_samples(path: Path, header: AudioHeader, start: int, count: int) -> NDArray:
    """Read a part (c s) of a file with such a header, as float32 in [-1, 1].

    Raises: MediaError if the file is damaged, or has fewer samples than its header says.
    """
    import soundfile

    try:
        with soundfile.SoundFile(path.absolute()) as file:
            file.seek(start)
            samples = file.read(min(count, header.samples - start), dtype="float32", always_2d=True)
    except soundfile.LibsndfileError as error:
        raise refusal(path, f"its data is damaged: {error.error_string}") from error
    if len(samples) < min(count, header.samples - start):
        end_s = (start + len(samples)) / header.sample_rate_hz
        raise refusal(path, f"its data is damaged: it breaks off after {end_s:.2f} s", "download or copy it again")
    return samples.T.copy()


def encode(suffix: str, samples: NDArray, sample_rate_hz: int, comment: str | None) -> bytes:
    """The complete file for samples (s c) int16; its bytes are the same in every run.

    Args: suffix: ".wav" or ".flac".
    """
    import soundfile

    data = io.BytesIO()
    kind = suffix[1:].upper()
    with soundfile.SoundFile(data, "w", sample_rate_hz, samples.shape[1], "PCM_16", format=kind) as file:
        if comment is not None and kind == "FLAC":
            file.comment = comment
        file.write(samples)
    if comment is not None and kind == "WAV":
        return _with_comment(data.getvalue(), comment)
    return data.getvalue()


def _with_comment(wav: bytes, comment: str) -> bytes:
    """The same WAV file with a comment before its samples. libsndfile drops comments of more than about 64 kB."""
    text = comment.encode() + b"\0"
    text += b"\0" * (len(text) % 2)
    item = b"ICMT" + struct.pack("<I", len(text)) + text
    chunk = b"LIST" + struct.pack("<I", 4 + len(item)) + b"INFO" + item
    file = io.BytesIO(wav)
    file.seek(12)
    at = next(begin for name, begin, _ in _chunks(file, len(wav)) if name == b"data") - 8
    return b"RIFF" + struct.pack("<I", len(wav) + len(chunk) - 8) + wav[8:at] + chunk + wav[at:]


def _chunks(file: BinaryIO, size: int) -> Iterator[tuple[bytes, int, int]]:
    """The name, the position and the length of each chunk of a WAV file; the file is at that position."""
    begin = file.tell()
    for _ in range(MOST_CHUNKS):
        file.seek(begin)
        head = file.read(8)
        if len(head) < 8:
            return
        length = int.from_bytes(head[4:], "little")
        yield head[:4], begin + 8, length
        begin += 8 + length + length % 2
        if begin >= size:
            return


def _wav_header(path: Path, file: BinaryIO, size: int) -> AudioHeader | None:
    layout, announced = b"", None
    for name, begin, length in _chunks(file, size):
        if name == b"fmt ":
            layout = file.read(min(length, 64))
        elif name == b"fact":
            announced = int.from_bytes(file.read(4), "little")
        elif name == b"data":
            if not 0 < length < UNKNOWN_SIZE:
                return None
            if begin + length > size:
                raise refusal(path, "it is cut off; its end is missing", "download or copy it again")
            return _wav_samples(layout, length, announced)
    return None


def _wav_samples(layout: bytes, length: int, announced: int | None) -> AudioHeader | None:
    """The header from the `fmt ` chunk and the length of the data, if it is consistent."""
    if len(layout) < 16:
        return None
    tag, channels, rate_hz, _, block, bits = struct.unpack("<HHIIHH", layout[:16])
    if tag == EXTENSIBLE and len(layout) >= 40 and layout[26:40] == SUBFORMAT:
        (tag,) = struct.unpack("<H", layout[24:26])
        if struct.unpack("<H", layout[18:20]) != (bits,):
            return None
    if channels not in (1, 2) or bits not in SAMPLE_BITS.get(tag, ()) or not rate_hz or not block:
        return None
    if tag in (PCM, FLOAT):
        is_whole = block == channels * bits // 8
        return AudioHeader(rate_hz, channels, length // block) if is_whole else None
    if len(layout) < 20 or length % block:
        return None
    block_samples = int.from_bytes(layout[18:20], "little")
    samples = length // block * block_samples
    if announced is None or announced <= samples - block_samples:  # libsndfile announces half of stereo IMA ADPCM
        announced = samples
    return AudioHeader(rate_hz, channels, announced) if 0 < announced <= samples else None


def _flac_header(start: bytes) -> AudioHeader | None:
    """start: the first metadata block of a FLAC file, which describes its audio."""
    if len(start) < 38 or start[0] & 0x7F or int.from_bytes(start[1:4], "big") != 34:
        return None
    packed = int.from_bytes(start[14:22], "big")
    rate_hz, channels, bits = packed >> 44, (packed >> 41 & 7) + 1, (packed >> 36 & 31) + 1
    samples = packed & (1 << 36) - 1
    is_whole = rate_hz and samples and channels <= 2 and bits in FLAC_BITS
    return AudioHeader(rate_hz, channels, samples) if is_whole else None
