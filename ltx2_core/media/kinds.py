"""The kind of a file by its first bytes.

Source: docs/cli.md, "Inputs".
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from ..errors import MediaError
from ..paths import in_shell
from .inputs import refusal

LONGEST = 12
HEIC_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")


class Kind(NamedTuple):
    """A kind of file. start, offset: its signature, and the position of that. copy: the name of a file to convert it
    to.
    """

    name: str
    start: bytes
    offset: int = 0
    copy: str = ""


READ = (
    Kind("MP4 or MOV", b"ftyp", 4),
    Kind("MOV", b"moov", 4),
    Kind("MOV", b"mdat", 4),
    Kind("MOV", b"wide", 4),
    Kind("Matroska or WebM", b"\x1a\x45\xdf\xa3"),
    Kind("AVI", b"AVI ", 8),
    Kind("WAV", b"WAVE", 8),
    Kind("Wave64", b"riff\x2e\x91\xcf\x11"),
    Kind("MPEG-TS", b"\x47\x40"),
    Kind("FLAC", b"fLaC"),
    Kind("Ogg", b"OggS"),
    Kind("MP3", b"ID3"),
    Kind("MP3", b"\xff\xfb"),
    Kind("AC-3 or E-AC-3", b"\x0b\x77"),
    Kind("AIFF", b"AIF", 8),
    Kind("CAF", b"caff"),
)
OTHERS = (
    Kind("an MPEG program stream (MPG, VOB)", b"\x00\x00\x01\xba", copy="copy.mp4"),
    Kind("a bare MPEG video", b"\x00\x00\x01\xb3", copy="copy.mp4"),
    Kind("a Flash video (FLV)", b"FLV", copy="copy.mp4"),
    Kind("Windows Media (WMV, WMA, ASF)", bytes.fromhex("3026b2758e66cf11"), copy="copy.mp4"),
    Kind("RealMedia", b".RMF", copy="copy.mp4"),
    Kind("MXF", bytes.fromhex("060e2b34"), copy="copy.mp4"),
    Kind("IVF", b"DKIF", copy="copy.mp4"),
    Kind("uncompressed video (Y4M)", b"YUV4MPEG2", copy="copy.mp4"),
    Kind("a GIF", b"GIF8", copy="copy.mp4"),
    Kind("AMR", b"#!AMR", copy="copy.wav"),
    Kind("WavPack", b"wvpk", copy="copy.wav"),
    Kind("Monkey's Audio", b"MAC ", copy="copy.wav"),
    Kind("Sun audio (AU)", b".snd", copy="copy.wav"),
)


IMAGES = (
    Kind("PNG", b"\x89PNG"),
    Kind("JPEG", b"\xff\xd8\xff"),
    Kind("WEBP", b"WEBP", 8),
    Kind("GIF", b"GIF8"),
    Kind("BMP", b"BM"),
    Kind("TIFF", b"II*\0"),
    Kind("TIFF", b"MM\0*"),
    Kind("AVIF", b"ftypavif", 4),
    Kind("AVIF", b"ftypavis", 4),
    *(Kind("HEIC", b"ftyp" + brand, 4) for brand in HEIC_BRANDS),
)


def kind_of(start: bytes, kinds: Iterable[Kind]) -> Kind | None:
    """The first of some kinds whose signature matches the beginning of a file."""
    return next((kind for kind in kinds if start[kind.offset :].startswith(kind.start)), None)


def cannot_be_opened(path: Path) -> MediaError:
    """The error for a file with video or audio that cannot be opened: it is damaged, an image, or its format is not
    supported.
    """
    with path.open("rb") as file:
        start = file.read(LONGEST)
    if kind := kind_of(start, OTHERS):
        return refusal(path, f"it is {kind.name}, which is not supported", f"ffmpeg -i {in_shell(path)} {kind.copy}")
    if kind := kind_of(start, IMAGES):
        return refusal(path, f"it is an image ({kind.name})", "ltx2 i2v IMAGE makes a video of it")
    if kind := kind_of(start, READ):
        return refusal(path, f"it begins like {kind.name}, but is damaged", "download or copy it again")
    return refusal(path, "its format is not supported")
