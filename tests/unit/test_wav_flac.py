"""WAV and FLAC with libsndfile: its inputs, agreement with PyAV, and that files are reproducible."""

from __future__ import annotations

import sys
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile
import torch
from numpy.typing import NDArray

from ltx2_core.errors import MediaError
from ltx2_core.media.accept import check_input
from ltx2_core.media.audio import read_audio
from ltx2_core.media.clip import Output
from ltx2_core.media.inputs import AudioSource
from ltx2_core.media.pieces import _decode, _samples
from ltx2_core.media.probe import probe
from ltx2_core.media.wav_flac import AudioHeader, read_header
from ltx2_core.media.waveform import Waveform, to_pcm16
from ltx2_core.media.writer import write_audio as write_output
from tests.synthetic_media import RATE_HZ, tone, write_sound

CODECS = {
    "u8.wav": "pcm_u8",
    "s16.wav": "pcm_s16le",
    "s24.wav": "pcm_s24le",
    "s32.wav": "pcm_s32le",
    "f32.wav": "pcm_f32le",
    "f64.wav": "pcm_f64le",
    "ms.wav": "adpcm_ms",
    "ima.wav": "adpcm_ima_wav",
    "a.flac": "flac",
}


def by_pyav(path: Path) -> NDArray:
    with av.open(str(path)) as container:
        return np.concatenate([_samples(frame) for frame in container.decode(audio=0)], -1)


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize("name", CODECS)
def test_samples_are_those_that_pyav_decodes(name: str, layout: str, tmp_path: Path) -> None:
    path = write_sound(tmp_path / name, CODECS[name], layout=layout)
    header = read_header(path)
    assert header is not None
    read = read_audio(check_input(path, AudioSource)).samples
    assert header == AudioHeader(RATE_HZ, len(read), read.shape[1])
    assert torch.equal(read, torch.from_numpy(by_pyav(path))[:, : read.shape[1]])


@pytest.mark.parametrize("nbytes", [0, 3, 4, 7])
def test_a_chunk_of_odd_length_is_followed_by_a_byte_that_counts_for_nothing(nbytes: int, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", "pcm_s16le")
    wav, header = path.read_bytes(), read_header(path)
    junk = b"junk" + nbytes.to_bytes(4, "little") + bytes(nbytes + nbytes % 2)
    size = (len(wav) + len(junk) - 8).to_bytes(4, "little")
    path.write_bytes(wav[:4] + size + wav[8:12] + junk + wav[12:])
    assert header is not None
    assert read_header(path) == header


@pytest.mark.parametrize("subtype", ["PCM_S8", "PCM_16", "PCM_24"])
def test_flac_of_every_depth_is_read_by_libsndfile(subtype: str, tmp_path: Path) -> None:
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(RATE_HZ, 2, RATE_HZ).T, RATE_HZ, subtype=subtype)
    assert read_header(path) == AudioHeader(RATE_HZ, 2, RATE_HZ)
    assert torch.equal(read_audio(check_input(path, AudioSource)).samples, torch.from_numpy(by_pyav(path)))


@pytest.mark.parametrize("layout", ["mono", "stereo"])
@pytest.mark.parametrize("codec", ["adpcm_ms", "adpcm_ima_wav"])
def test_a_part_of_adpcm_is_that_part_of_the_whole(codec: str, layout: str, tmp_path: Path) -> None:
    source = check_input(write_sound(tmp_path / "a.wav", codec, layout=layout), AudioSource)
    whole = read_audio(source).samples
    part = read_audio(source, Fraction("0.3"), Fraction("0.5")).samples
    expected = torch.from_numpy(tone(RATE_HZ, len(whole)) / 32768)
    assert (whole[:, 500:RATE_HZ] - expected[:, 500:]).abs().max() < 0.02  # ADPCM adapts its step first
    assert torch.equal(part, whole[:, 14400:38400])


@pytest.mark.parametrize("subtype", ["IMA_ADPCM", "MS_ADPCM"])
def test_adpcm_that_libsndfile_wrote_is_read_to_its_end(subtype: str, tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", tone(RATE_HZ).T, RATE_HZ, subtype=subtype)
    read = read_audio(check_input(tmp_path / "a.wav", AudioSource)).samples
    assert 0 <= read.shape[1] - RATE_HZ < 2048  # it may be padded to a block


@pytest.mark.parametrize("suffix", ["wav", "avi"])
def test_frames_without_a_time_follow_the_one_before(suffix: str, tmp_path: Path) -> None:
    source = check_input(write_sound(tmp_path / f"a.{suffix}", "adpcm_ima_wav"), AudioSource)
    pieces = [*_decode(source, Fraction(0), None)]
    assert np.array_equal(np.concatenate([piece.samples for piece in pieces], -1), by_pyav(source.path))
    ends_s = [piece.time_s + Fraction(piece.samples.shape[1], RATE_HZ) for piece in pieces]
    assert all(
        abs(piece.time_s - end_s) <= Fraction(1, 1000) for piece, end_s in zip(pieces[1:], ends_s[:-1], strict=True)
    )


@pytest.mark.parametrize(
    ("name", "codec", "layout"),
    [
        ("a.wav", "pcm_s16le", "5.1"),
        ("a.wav", "pcm_mulaw", "mono"),
        ("a.flac", "flac", "5.1"),
        ("a.ogg", "flac", "mono"),
    ],
)
def test_other_layouts_and_codecs_stay_with_pyav(name: str, codec: str, layout: str, tmp_path: Path) -> None:
    path = write_sound(tmp_path / name, codec, layout=layout)
    assert read_header(path) is None
    assert read_audio(check_input(path, AudioSource)).samples.shape[1] == RATE_HZ


@pytest.mark.parametrize("size", [0, 0x7FFFF000, 0xFFFFFFFF])
def test_a_wav_that_was_written_to_a_pipe_has_no_length_and_is_read_to_its_end(size: int, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav")
    data = path.read_bytes()
    at = data.index(b"data") + 4
    path.write_bytes(data[:at] + size.to_bytes(4, "little") + data[at + 4 :])
    assert read_header(path) is None
    if size:
        assert read_audio(check_input(path, AudioSource)).samples.shape == (2, RATE_HZ)


@pytest.mark.parametrize("codec", ["pcm_s16le", "adpcm_ms"])
def test_a_wav_that_is_shorter_than_its_header_says_is_refused(codec: str, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", codec)
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(MediaError, match="it is cut off; its end is missing"):
        check_input(path, AudioSource)


def test_a_flac_that_is_shorter_than_its_header_says_is_refused(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.flac", "flac", samples=tone(RATE_HZ // 2))
    source = check_input(path, AudioSource)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 3 // 4])
    assert read_audio(source, Fraction(0), Fraction("0.1")).samples.shape == (2, 4800)
    with pytest.raises(MediaError, match="its data is damaged"):
        read_audio(source)


def test_a_header_that_makes_no_sense_is_not_shown_to_libsndfile(tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav")
    data = path.read_bytes()
    at = data.index(b"fmt ") + 8
    for offset, value in ((2, 3), (4, 0), (12, 6), (14, 20)):  # channels, rate, bytes per sample, bits
        odd = bytearray(data)
        odd[at + offset : at + offset + 2] = value.to_bytes(2, "little")
        odd[at + offset + 2 : at + offset + 4] = bytes(2) if offset == 4 else odd[at + offset + 2 : at + offset + 4]
        path.write_bytes(odd)
        assert read_header(path) is None
    for length in (0, 4, 12, 20, 40):
        path.write_bytes(data[:length])
        assert read_header(path) is None


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
@pytest.mark.parametrize("characters", [1, 2, 70_000, 300_000])
def test_a_comment_of_any_length_is_read_back_and_bytes_repeat(suffix: str, characters: int, tmp_path: Path) -> None:
    sound, comment = Waveform(torch.from_numpy(tone(9600, 2, 24000)) / 32768, 24000), "ü" * characters
    for name in "ab":
        write_output(Output(path=tmp_path / f"{name}{suffix}", comment=comment), sound)
    path = tmp_path / f"a{suffix}"
    assert probe(path).comment == comment
    assert path.read_bytes() == (tmp_path / f"b{suffix}").read_bytes()
    assert torch.equal((torch.from_numpy(by_pyav(path)) * 32768).to(torch.int16), to_pcm16(sound.samples))


def test_a_wav_holds_its_format_its_comment_and_16_bit_samples_alone(tmp_path: Path) -> None:
    path = tmp_path / "a.wav"
    write_output(Output(path=path, comment="{}"), Waveform(torch.zeros(2, 100).add(0.1), 24000))
    data = path.read_bytes()
    names, at = [], 12
    while at < len(data):
        names.append(data[at : at + 4])
        at += 8 + int.from_bytes(data[at + 4 : at + 8], "little")
    assert names == [b"fmt ", b"LIST", b"data"]
    assert at == len(data) == 8 + int.from_bytes(data[4:8], "little")
    assert data[20:24] == bytes((1, 0, 2, 0))


@pytest.mark.parametrize("length", [18, 19, 20])
def test_adpcm_needs_the_samples_of_a_block_in_its_layout(length: int, tmp_path: Path) -> None:
    path = write_sound(tmp_path / "a.wav", "adpcm_ima_wav")
    data = path.read_bytes()
    at = data.index(b"fmt ")
    layout = data[at + 8 : at + 8 + length]
    rest = data[at + 8 + int.from_bytes(data[at + 4 : at + 8], "little") :]
    path.write_bytes(data[:at] + b"fmt " + length.to_bytes(4, "little") + layout + bytes(length % 2) + rest)
    assert (read_header(path) is None) == (length < 20)


def test_libsndfile_is_loaded_with_the_first_samples_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_sound(tmp_path / "a.wav")
    monkeypatch.delitem(sys.modules, "soundfile", raising=False)
    source = check_input(path, AudioSource)
    assert "soundfile" not in sys.modules
    read_audio(source)
    assert "soundfile" in sys.modules  # imported by this call, not earlier by a module
