"""Which libraries of FFmpeg are installed, and whether they have the encoders that results need."""

from __future__ import annotations

from collections.abc import Mapping

from .clip import VIDEO_CODECS

AUDIO_ENCODERS = ("aac", "alac", "flac")
SHOWN = ("libavcodec", "libavformat", "libswscale")


def library_versions() -> Mapping[str, str]:
    """The versions of PyAV, of its FFmpeg, and of the most important libraries. Raises: ImportError."""
    import av

    libraries = {name: ".".join(map(str, av.library_versions[name])) for name in SHOWN if name in av.library_versions}
    return {"PyAV": av.__version__, "FFmpeg": av.ffmpeg_version_info, **libraries}


def encoders() -> Mapping[str, bool]:
    """The codecs by the names of their options, and whether there is an encoder for each. Raises: ImportError."""
    from av.codec.codec import Codec, UnknownCodecError

    def is_there(name: str) -> bool:
        try:
            return Codec(name, "w").is_encoder
        except UnknownCodecError:
            return False

    names = {name: codec.encoder for name, codec in VIDEO_CODECS.items()} | {name: name for name in AUDIO_ENCODERS}
    return {name: is_there(encoder) for name, encoder in names.items()}
