"""The contract of refusals: the answers to command lines that cannot be carried out."""

from __future__ import annotations

import json
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ltx2_cli.app import app
from ltx2_cli.display import visible
from tests.commands import run_in_process

ROOT = Path(__file__).parents[2]
CHECKPOINT = "ltx-2-tiny-dev.safetensors"


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """A refused command line. words: after `ltx2`. says: fragments of the message, in order. {tiny} is a folder with a
    model.

    files: the files in the working folder, by name. is_light: whether nothing else is printed and torch is not imported
    before the refusal.
    """

    words: str
    code: int = 2
    says: tuple[str, ...]
    files: Mapping[str, str] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    is_light: bool = True


REFUSALS = {
    # invalid options
    "unknown option": Refusal(words="t2v x --stpes 3", says=("no such option: --stpes", "did you mean --steps")),
    "option like no other": Refusal(words="t2v x --wrong 3", says=("no such option: --wrong", "hint: ltx2 t2v --help")),
    "unknown command": Refusal(words="tv2 x", says=("no such command 'tv2'", "did you mean", "'t2v'")),
    "no prompt": Refusal(words="t2v", says=("missing argument 'PROMPT'", "hint: ltx2 t2v --help")),
    "prompt without quotes": Refusal(words="t2v a bell rings", says=("unexpected", "needs quotes")),
    "two files for one": Refusal(words="sync a.mp4 b.mp4", says=("extra argument (b.mp4)", "hint: ltx2 sync --help")),
    "option without its value": Refusal(words="t2v x --steps", says=("'--steps' requires", "hint: ltx2 t2v --help")),
    "option of a plan without its value": Refusal(words="plan t2v --vram", says=("hint: ltx2 plan t2v --help",)),
    "value of a plan": Refusal(words="plan t2v x --model toy --crf 99", says=("hint: ltx2 plan t2v --help",)),
    "preset like no other": Refusal(words="t2v x --preset qqq", says=("unknown preset", "hint: ltx2 presets lists")),
    "LoRA like no other": Refusal(words="t2v x --model toy --lora qqq", says=("hint: ltx2 models lists the names",)),
    "no output": Refusal(words="convert x --to int8", says=("-o is missing", "hint: -o FILE says where")),
    "render of a finished file": Refusal(words="resume a.mp4", files={"a.mp4": "x"}, says=("hint: ltx2 rerun a.mp4 ",)),
    "batch of a folder": Refusal(words="batch .", says=("it is a folder", "must end in .txt")),
    "batch of a file that is not there": Refusal(words="batch jobs", says=("there is no such file", ".txt")),
    "option that is set": Refusal(words="rerun a.mp4 --steps 3", says=("--steps", "hint: --set steps=VALUE")),
    "option that is no setting": Refusal(words="rerun a.mp4 --enhance-only", says=("hint: --enhance-only belongs to",)),
    "option of other commands": Refusal(
        words="t2v x --start 2s", says=("no such option: --start", "hint: --start belongs to v2v, a2v, v2a")
    ),
    "option of a render": Refusal(words="resume . --steps 3", says=("--steps", "--steps belongs to t2v, i2v, v2v")),
    # values
    "empty prompt": Refusal(words="t2v ' '", says=("the prompt is empty", "hint: ltx2 t2v")),
    "prompt that is no text": Refusal(words="t2v a\udcff", says=("the prompt cannot be read", "not text", "UTF-8")),
    "width between two": Refusal(
        words="t2v x --model {tiny} --res 500x96",
        says=("width 500", "a multiple of 32", "hint: --res 480x96 or --res 512x96"),
    ),
    "height of two stages": Refusal(
        words="t2v x --model {tiny} --preset two-stage --res 128x96",
        says=("height 96", "multiple of 64 from 128", "128x128"),
    ),
    "unknown size": Refusal(words="t2v x --model {tiny} --res 72op", says=("--res 72op", "did you mean 720p")),
    "frames that are not 8k+1": Refusal(
        words="t2v x --model {tiny} --frames 50", says=("--frames 50", "multiple of 8", "--frames 49 or --frames 57")
    ),
    "frames and duration": Refusal(
        words="t2v x --frames 9 --duration 1s", says=("--duration and --frames set the same", "hint: give one")
    ),
    "endless duration": Refusal(words="t2v x --duration inf", says=("--duration inf", "no", "such as 5s")),
    "no frames per second": Refusal(words="t2v x --fps 0", says=("--fps 0", "between 1 and 240")),
    "scale that is not a number": Refusal(words="t2v x --video-st nan", says=("--video-st nan", "finite")),
    "endless scale": Refusal(words="t2v x --audio-sm=-inf", says=("--audio-sm -inf", "finite")),
    "absurd scale": Refusal(words="t2v x --video-stg 1e9", says=("--video-stg 1e9", "100")),
    "steps in words": Refusal(
        words="t2v x --steps many", says=("--steps many", "a whole number", "hint: ltx2 t2v --help")
    ),
    "negative prompt that no scale reads": Refusal(
        words="t2v x --model {tiny} --preset one-stage --negative fog --video-st 1 --audio-st 1",
        says=("--negative cannot be used here", "only if --video-st or --audio-st is not 1", "leave it out"),
    ),
    "negative prompt beside audio that is off": Refusal(
        words="t2v x --model {tiny} --preset one-stage --negative fog --video-st 1 --sound off",
        says=("--negative cannot be used here", "only if --video-st is not 1"),
    ),
    "rescaling of what is not guided": Refusal(
        words="t2v x --model {tiny} --preset one-stage --video-rescale 1 --video-st 1 --video-sm 1 --video-stg 0",
        says=("--video-rescale cannot be used here", "no guidance of the video is switched on"),
    ),
    "negative seed": Refusal(words="t2v x --seed -1", says=("--seed -1", "0")),
    "unknown codec": Refusal(words="t2v x --codec h256", says=("--codec h256", "h264, h265 or av1")),
    "quality that no codec has": Refusal(words="t2v x --crf 64", says=("--crf 64", "63")),
    "quality that this codec does not have": Refusal(
        words="t2v x --model {tiny} --crf 52", says=("--crf 52", "h264 takes 0 (best) to 51")
    ),
    "unknown device": Refusal(words="t2v x --device gpu", says=("--device gpu", "auto, cpu, mps, cuda")),
    "device that is not there": Refusal(
        words="t2v x --model {tiny} --preset smoke --device cuda:99",
        says=("--device cuda:99", "build for the CPU only", "--device"),
        is_light=False,
    ),
    "block that the model lacks": Refusal(
        words="t2v x --model {tiny} --stg-blocks 1,29", says=("--stg-blocks 29", "blocks 0 to 3")
    ),
    "nothing to render": Refusal(
        words="t2v x --model {tiny} --video off --sound off", says=("--video off and --sound off", "nothing")
    ),
    "codec of no picture": Refusal(
        words="t2v x --model {tiny} --video off --codec av1", says=("--codec cannot be used here", "only audio")
    ),
    "sampler of a preset that has its own": Refusal(
        words="t2v x --model {tiny} --preset hq --res 128x128 --sampler euler",
        says=("--sampler cannot be used here", "hq has a sampler of its own", "hint: leave it out"),
    ),
    "unknown sampler": Refusal(
        words="t2v x --sampler heun", says=("--sampler heun", "euler, gradient, ancestral or res2s")
    ),
    "noise levels that rise": Refusal(words="t2v x --sigmas 1,0.5,0.6,0", says=("--sigmas 1,0.5,0.6,0", "less than")),
    "noise levels that leave noise": Refusal(words="t2v x --sigmas 1,0.5", says=("--sigmas 1,0.5", "the last 0")),
    "noise level of no number": Refusal(words="t2v x --sigmas 1,nan,0", says=("--sigmas 1,nan,0", "finite")),
    "noise above all noise": Refusal(words="t2v x --sigmas 2,1,0", says=("--sigmas 2,1,0", "at most 1")),
    "one noise level": Refusal(words="t2v x --sigmas 0", says=("--sigmas 0", "at least 2")),
    "noise that begins below noise": Refusal(
        words="t2v x --model {tiny} --sigmas 0.9,0", says=("--sigmas 0.9,…", "starts at noise level 1", "hint: ")
    ),
    "steps and noise levels": Refusal(
        words="t2v x --steps 3 --sigmas 1,0", says=("--sigmas and --steps set the same",)
    ),
    "steps of a preset that has its own": Refusal(
        words="t2v x --model {tiny} --preset distilled --res 128x128 --steps 9",
        says=("--steps cannot be used here", "distilled has steps of its own", "hint: leave it out"),
    ),
    "more and less at once": Refusal(words="t2v x -q -v", says=("-q and -v cannot be used together",)),
    "replace and leave alone": Refusal(
        words="t2v x --overwrite --skip-existing", says=("--overwrite and --skip-existing cannot be used together",)
    ),
    "uncut size that is not cut": Refusal(
        words="t2v x --model {tiny} --res 480p --preset one-stage --no-crop", says=("--no-crop cannot", "leave it out")
    ),
    "uncut size in numbers": Refusal(
        words="t2v x --model {tiny} --res 128x96 --no-crop", says=("--no-crop cannot be used here", "size by name")
    ),
    "part of no LoRA": Refusal(
        words="t2v x --model {tiny} --allow-partial-lora", says=("--allow-partial-lora", "no LoRA is given")
    ),
    "blocks of no guidance": Refusal(
        words="t2v x --model {tiny} --stg-blocks 1 --video-stg 0 --audio-stg 0",
        says=("--stg-blocks cannot be used here", "--video-stg and --audio-stg are 0"),
    ),
    "prompt in a file that is not there": Refusal(
        words="t2v @lost.txt", says=("the prompt @lost.txt", "no such file", "hint: ")
    ),
    "prompt in a folder": Refusal(words="t2v @.", says=("the prompt @.", "it is a folder")),
    "prompt in an empty file": Refusal(words="t2v @a.txt", files={"a.txt": "\n"}, says=("the prompt is empty",)),
    # edits of a clip
    "no clip": Refusal(words="v2v", says=("missing argument 'VIDEO'", "hint: ltx2 v2v --help")),
    "clip that is not there": Refusal(
        words="v2v lost.mp4 x --model {tiny}",
        code=3,
        says=("lost.mp4 cannot be used as a video", "no such file", "check the path"),
    ),
    "two things at once": Refusal(
        words="v2v a.mp4 x --extend 4s --retake 1s-2s",
        says=("--extend and --retake cannot be used together", "one edit at a time", "hint: give one"),
    ),
    "restyling and following": Refusal(
        words="v2v a.mp4 x --strength 0.5 --control a.safetensors",
        says=("--strength and --control", "one edit at a time"),
    ),
    "span that ends before it begins": Refusal(
        words="v2v a.mp4 x --retake 4.5s-2s", says=("--retake 4.5s-2s", "end after it begins", "hint: ")
    ),
    "span that is a place": Refusal(words="v2v a.mp4 x --retake 2s", says=("--retake 2s", "such as 2.0s-4.5s")),
    "strength of nothing": Refusal(words="v2v a.mp4 x --strength 0", says=("--strength 0 ", "above 0", "hint: ")),
    "strength of too much": Refusal(words="v2v a.mp4 x --strength 1.5", says=("--strength 1.5", "at most 1")),
    "strength that is not a number": Refusal(words="v2v a.mp4 x --strength nan", says=("--strength nan", "finite")),
    "extension by nothing": Refusal(words="v2v a.mp4 x --extend 0s", says=("--extend 0s", "above 0")),
    "old sound of a longer clip": Refusal(
        words="v2v a.mp4 x --extend 4s --sound keep", says=("--sound keep", "extended", "the old audio ends")
    ),
    "old sound of a text": Refusal(words="t2v x --sound keep", says=("--sound keep", "none in the input to keep")),
    "old picture of a restyled clip": Refusal(
        words="v2v a.mp4 x --video keep", says=("--video keep", "only --retake", "hint: ltx2 v2a")
    ),
    "nothing new in a clip": Refusal(
        words="v2v a.mp4 x --video keep --sound keep --retake 1s-2s", says=("--video keep and --sound keep", "nothing")
    ),
    "preset that makes a clip": Refusal(
        words="v2v a.mp4 x --model {tiny} --preset two-stage",
        says=("preset two-stage", "does not restyle a clip", "--preset restyle or --preset restyle-guided"),
    ),
    "preset that needs a clip": Refusal(
        words="t2v x --model {tiny} --preset retake", says=("preset retake", "made for ltx2 v2v", "one-stage")
    ),
    "control by a file that is not there": Refusal(
        words="v2v a.mp4 x --model {tiny} --control lost.safetensors", code=7, says=("--control lost.safetensors",)
    ),
    "control by a LoRA that looks at nothing": Refusal(
        words="v2v a.mp4 x --model {tiny} --control {tiny}/ltx-2-tiny-lora-style.safetensors",
        says=("lora-style.safetensors cannot be used", "in-context", "hint: --lora "),
    ),
    "codec of a picture that is copied": Refusal(
        words="v2a a.mp4 --model {tiny} --codec av1", says=("--codec cannot be used here", "stays as it is", "hint: ")
    ),
    "guidance of a sound that is given": Refusal(
        words="a2v a.wav x --model {tiny} --audio-st 2", says=("--audio-st cannot be used here", "stays as it is")
    ),
    "beginning in words": Refusal(words="a2v a.wav --start soon", says=("--start soon", "such as 5s")),
    "sound that is not there": Refusal(
        words="a2v a.wav --model {tiny}", code=3, says=("a.wav cannot be used as audio", "no such file", "hint: ")
    ),
    "picture for a sound that is not there": Refusal(
        words="v2a a.mp4 --model {tiny}", code=3, says=("a.mp4 cannot be used as a video", "no such file", "hint: ")
    ),
    "sound that is empty": Refusal(
        words="a2v a.wav --model {tiny}", files={"a.wav": ""}, code=3, says=("a.wav cannot be used", "it is empty")
    ),
    # names
    "unknown preset": Refusal(words="t2v x --preset smok", says=("unknown preset smok", "did you mean smoke?")),
    "unknown model": Refusal(words="t2v x --model ltx2", says=("unknown model ltx2", "did you mean ltx-2?")),
    # files of the model
    "no weights": Refusal(
        words="t2v x",
        code=7,
        says=("ltx-2-19b-dev.safetensors and gemma-3", "looked in {home}/models,", "--model FILE|FOLDER"),
    ),
    "model that is not there": Refusal(
        words="t2v x --model lost.safetensors", code=7, says=("--model lost.safetensors is not there",)
    ),
    "pickle": Refusal(
        words="t2v x --model a.safetensors --text-encoder {tiny}/gemma",
        files={"a.safetensors": "PK\x03\x04" + "\0" * 60},
        code=7,
        says=("a.safetensors cannot be opened", "pickle", "hint: "),
    ),
    "cut file": Refusal(
        words="t2v x --model cut.safetensors --text-encoder {tiny}/gemma", code=7, says=("cut.safetensors",)
    ),
    "upsampler for a model": Refusal(
        words="t2v x --model {tiny}/ltx-2-tiny-spatial-upscaler-x2-1.0.safetensors",
        code=7,
        says=("ltx-2-tiny-spatial-upscaler-x2-1.0.safetensors cannot be used to render", "upsampler"),
    ),
    "folder without a model": Refusal(words="t2v x --model .", code=7, says=("has no checkpoint", "--model")),
    "no text encoder": Refusal(
        words="t2v x --model alone.safetensors", code=7, says=("has no text encoder", "--text-encoder FOLDER")
    ),
    "upsampler that is none": Refusal(
        words="t2v x --model {tiny} --upsampler {tiny}/ltx-2-tiny-lora-style.safetensors",
        code=7,
        says=("ltx-2-tiny-lora-style.safetensors is not an upsampler", "it is a LoRA"),
    ),
    "frames of half the rate": Refusal(
        words="t2v x --model {tiny} --preset double-rate --frames 25",
        says=("--frames 25", "multiple of 16", "--frames 17 or --frames 33"),
    ),
    "size of two thirds": Refusal(
        words="t2v x --model {tiny} --preset two-stage-1.5x --res 128x192",
        says=("width 128", "multiple of 96", "192x192"),
    ),
    # output
    "output that is there": Refusal(
        words="t2v x --model {tiny} -o a.mp4", files={"a.mp4": ""}, says=("a.mp4 already exists", "--overwrite")
    ),
    "output of another kind": Refusal(words="t2v x --model {tiny} -o a.mov", says=("-o a.mov", "ends in .mp4")),
    "sound in a video file": Refusal(
        words="t2v x --model {tiny} --video off -o a.mp4", says=("-o a.mp4", "ends in .wav or .flac")
    ),
    "unknown field in the name": Refusal(
        words="t2v x --model {tiny} -o {sede}.mp4", says=("-o {sede}.mp4", "{mode}, {slug}, {seed}")
    ),
    "folder that is not there": Refusal(words="t2v x --model {tiny} -o no/a.mp4", says=("there is no folder no",)),
    "output in a file": Refusal(
        words="t2v x --model {tiny} -o a.txt/b.mp4",
        files={"a.txt": ""},
        says=("-o a.txt/b.mp4", "a.txt is not a folder", "-o names another place"),
    ),
    # paths in any position
    "home of nobody as output": Refusal(
        words="t2v x --model {tiny} -o '~nosuchuser/x.mp4'",
        says=("-o ~nosuchuser/x.mp4", "no user nosuchuser", "hint: "),
    ),
    "home of nobody in a file": Refusal(
        words="t2v x --model {tiny}", files={"ltx2.yaml": 'output: "~nosuchuser/x.mp4"'}, says=("~nosuchuser/x.mp4",)
    ),
    "home of nobody as LTX2_HOME": Refusal(
        words="t2v x", environment={"LTX2_HOME": "~nosuchuser"}, says=("LTX2_HOME ~nosuchuser", "no user", "hint: ")
    ),
    "home of nobody as clip": Refusal(words="v2v '~nosuchuser/a.mp4' x", says=("VIDEO ~nosuchuser/a.mp4", "no user")),
    "home of nobody as model": Refusal(words="t2v x --model '~nosuchuser'", says=("--model ~nosuchuser", "no user")),
    "home of nobody as LoRA": Refusal(
        words="t2v x --model {tiny} --lora '~nosuchuser/a:0.5'", says=("--lora ~nosuchuser/a", "no user")
    ),
    "name that no disk can hold": Refusal(
        words="t2v x --model {tiny} --job-dir " + "a" * 256, says=("--job-dir aaa", "…", "longer than 255 bytes")
    ),
    "name of a job that no disk can hold": Refusal(words="resume " + "a" * 256, says=("JOB_DIR aaa", "255 bytes")),
    "settings under a name that no disk can hold": Refusal(
        words="t2v x --config " + "a" * 256, says=("--config aaa", "255 bytes")
    ),
    "image under a name that no disk can hold": Refusal(
        words="i2v " + "a" * 256 + "@last x --model {tiny}", says=("IMAGE aaa", "255 bytes")
    ),
    "output that is not UTF-8": Refusal(words="t2v x --model {tiny} -o a\udcff.mp4", says=("-o", "UTF-8", "hint: ")),
    "clip that is not UTF-8": Refusal(words="v2a a\udcff.mp4", says=("VIDEO a\\udcff.mp4", "UTF-8", "hint: ")),
    "file to inspect that is not UTF-8": Refusal(words="inspect a\udcff", says=("WHAT a\\udcff", "UTF-8", "hint: ")),
    "empty output": Refusal(words="t2v x -o ''", says=("-o '' cannot be used", "it is empty", "hint: ")),
    "empty model": Refusal(words="t2v x --model ''", says=("--model ''", "it is empty", "hint: ")),
    "empty job folder": Refusal(words="t2v x --job-dir ' '", says=("--job-dir ", "it is empty", "hint: ")),
    "empty LoRA": Refusal(words="t2v x --lora ''", says=("--lora '' cannot", "it is empty", "hint: ")),
    "empty clip": Refusal(words="v2v '' x", says=("VIDEO ''", "it is empty", "hint: ")),
    "empty file of settings": Refusal(words="t2v x --config ''", says=("--config ''", "it is empty", "hint: ")),
    "field with an index": Refusal(
        words="t2v x --model {tiny} -o '{seed[a]}.mp4'", says=("-o {seed[a]}.mp4", "known fields", "hint: ")
    ),
    "field with a width": Refusal(
        words="t2v x --model {tiny} -o '{seed:>900000000}.mp4'", says=("-o {seed:>900000000}.mp4", "known fields")
    ),
    "field with a conversion": Refusal(words="t2v x --model {tiny} -o '{seed!r}.mp4'", says=("-o {seed!r}.mp4",)),
    "brace without a partner": Refusal(words="t2v x --model {tiny} -o '{seed.mp4'", says=("-o {seed.mp4", "unmatched")),
    "folder as LoRA": Refusal(
        words="t2v x --model {tiny} --lora {tiny}",
        code=7,
        says=("cannot be used", "it is a folder", "hint: --lora PATH"),
    ),
    # settings files and environment variables
    "unknown setting in a file": Refusal(
        words="t2v x", files={"ltx2.yaml": "stpes: 3"}, says=("unknown setting stpes in ltx2.yaml", "mean steps")
    ),
    "wrong value in a file": Refusal(
        words="t2v x",
        files={"ltx2.yaml": "steps: few"},
        says=("steps few cannot be used", "(set in ltx2.yaml, line 1)", "hint: correct ltx2.yaml, line 1"),
    ),
    "file that holds a list": Refusal(words="t2v x", files={"ltx2.yaml": "- steps"}, says=("ltx2.yaml", "names")),
    "presets that are no mapping": Refusal(
        words="t2v x", files={"ltx2.yaml": "presets: [a]"}, says=("presets (ltx2.yaml, line 1)", "names")
    ),
    "preset that is no mapping": Refusal(
        words="t2v x", files={"ltx2.yaml": "presets:\n  a: 5"}, says=("preset a (ltx2.yaml, line 2)", "steps: 30")
    ),
    "preset with a number for a name": Refusal(
        words="t2v x", files={"ltx2.yaml": "presets: {a: {1: 2}}\npreset: a"}, says=("setting 1 in preset a", "line 1")
    ),
    "aliases that stand for billions of values": Refusal(
        words="t2v x",
        files={"ltx2.yaml": "a: &a [x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a]"},
        says=("ltx2.yaml cannot be read", "line 2", "aliases", "hint: correct the file"),
    ),
    "yes for true": Refusal(
        words="t2v x", files={"ltx2.yaml": "overwrite: yes"}, says=("overwrite yes", "true or false", "line 1")
    ),
    "true for a number": Refusal(words="t2v x", files={"ltx2.yaml": "seed: true"}, says=("seed True", "whole number")),
    "tiles of nothing": Refusal(
        words="t2v x", files={"ltx2.yaml": "seed: 1\ntiles: [0, 0]"}, says=("tiles [0, 0]", "at least 1", "line 2")
    ),
    "list for text": Refusal(words="t2v x", files={"ltx2.yaml": "res: [1, 2]"}, says=("res [1, 2]", "must be text")),
    "value of a thousand letters": Refusal(
        words="t2v x", files={"ltx2.yaml": "codec: " + "x" * 1000}, says=("codec xxxx", "…", "h264")
    ),
    "preset that builds on itself": Refusal(
        words="t2v x --preset a",
        files={"ltx2.yaml": "presets: {a: {preset: b}, b: {preset: a}}"},
        says=("builds on itself",),
    ),
    "unknown setting in an own preset": Refusal(
        words="t2v x --preset mine",
        files={"ltx2.yaml": "presets: {mine: {stpes: 1}}"},
        says=("unknown setting stpes in preset mine", "did you mean steps"),
    ),
    "file of --config that is not there": Refusal(
        words="t2v x --config a.yaml", says=("--config a.yaml", "no such file")
    ),
    "folder of settings": Refusal(words="t2v x --config .", says=("--config .", "it is a folder")),
    "unknown variable": Refusal(
        words="t2v x", environment={"LTX2_STPES": "3"}, says=("LTX2_STPES sets nothing", "did you mean LTX2_STEPS")
    ),
    "wrong value in a variable": Refusal(
        words="t2v x", environment={"LTX2_STEPS": "0"}, says=("LTX2_STEPS 0", "at least 2")
    ),
    # batches
    "batch of nothing": Refusal(
        words="batch a.txt", files={"a.txt": "# no job\n"}, says=("a.txt holds no jobs", "hint: write one: a lamp")
    ),
    "file of jobs that is not there": Refusal(words="batch a.yaml", says=("a.yaml cannot be read", "hint: check")),
    "file of jobs of no kind": Refusal(
        words="batch jobs.json", files={"jobs.json": "[]"}, says=("jobs.json", "must end in .txt, .yaml")
    ),
    "jobs in a wrong mapping": Refusal(
        words="batch a.yaml", files={"a.yaml": "prompt: a"}, says=("a.yaml cannot be used", "line 1: prompt", "jobs")
    ),
    "sweep that never ends": Refusal(
        words="batch a.txt --sweep video_st=4:2:1",
        files={"a.txt": "a"},
        says=("--sweep video_st=4:2:1", "never reach 2", "hint: --sweep video_st=2:4:1"),
    ),
    "sweep of no setting": Refusal(
        words="batch a.txt --sweep vido_st=1:2", files={"a.txt": "a"}, says=("--sweep vido_st", "did you mean video_st")
    ),
    "more jobs than are allowed": Refusal(
        words="batch a.txt --seeds 1-6000", files={"a.txt": "a\nb"}, says=("a.txt", "12,000 jobs", "10,000", "fewer")
    ),
    "wrong value for all jobs": Refusal(
        words="batch a.txt --steps 1", files={"a.txt": "a"}, says=("--steps 1", "at least 2")
    ),
    "folder of a batch that is a file": Refusal(
        words="batch a.txt -o a.txt/", files={"a.txt": "a"}, says=("-o a.txt/", "a.txt is not a folder")
    ),
    "shards without a seed": Refusal(
        words="batch a.txt --model {tiny} --shard 0/2", files={"a.txt": "a"}, says=("--shard needs", "hint: --seed 1")
    ),
    "lines with seeds": Refusal(words="batch - --seeds 1-2", says=("--seeds cannot be used with -", "one job")),
    # other commands
    "folder without a render": Refusal(words="resume .", says=("holds no render", "not the folder OUTPUT.job")),
    "damaged render": Refusal(
        words="resume .", files={"job.json": "{"}, code=7, says=("is damaged", "its record", "hint: ")
    ),
    "folder in the place of the record of a render": Refusal(
        words="resume {tiny}", says=("holds no render", "not the folder OUTPUT.job")
    ),
    "clip of a rerun that is a folder": Refusal(
        words="rerun .", code=3, says=(". cannot be read", "it is a folder"), is_light=False
    ),
    "decoding without a render": Refusal(words="decode .", says=("holds no render",)),
    "inspecting nothing": Refusal(words="inspect lost.safetensors", code=7, says=("lost.safetensors",)),
    "inspecting a clip that is none": Refusal(
        words="inspect a.mp4", files={"a.mp4": "text"}, code=3, says=("a.mp4 cannot be read",), is_light=False
    ),
}


def prepared(refusal: Refusal, tiny: Path, folder: Path) -> list[str]:
    """Write the files of a case into a folder. Returns its words as a list."""
    for name, content in refusal.files.items():
        (folder / name).write_text(content)
    if "cut.safetensors" in refusal.words:
        (folder / "cut.safetensors").write_bytes((tiny / CHECKPOINT).read_bytes()[:-1000])
    if "alone.safetensors" in refusal.words:
        shutil.copy(tiny / CHECKPOINT, folder / "alone.safetensors")
    return [word.replace("{tiny}", str(tiny)) for word in shlex.split(refusal.words)]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LTX2_HOME", str(tmp_path / "home"))
    return tmp_path


def run(words: list[str], refusal: Refusal) -> Result:
    return CliRunner(env=refusal.environment).invoke(app, words)


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_says_what_why_and_what_to_do(refusal: Refusal, tiny: Path, folder: Path):
    words = prepared(refusal, tiny, folder)
    before = sorted(folder.iterdir())
    result = run(words, refusal)
    assert (result.exit_code, result.stdout) == (refusal.code, ""), result.stderr
    message = result.stderr[result.stderr.index("error: ") :]
    assert not refusal.is_light or message == result.stderr
    assert len(message.splitlines()) <= 3
    assert refusal.code != 2 or message.splitlines()[-1].startswith("hint: ")
    for fragment in refusal.says:
        fragment = fragment.replace("{home}", str(folder / "home"))
        assert fragment in message
        message = message.partition(fragment)[2]
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize("refusal", REFUSALS.values(), ids=REFUSALS)
def test_a_refusal_in_json_is_an_error_and_a_summary(refusal: Refusal, tiny: Path, folder: Path):
    command, *words = prepared(refusal, tiny, folder)
    result = run([command, "--json", *words], refusal)
    *_, error, summary = [json.loads(line) for line in result.stdout.splitlines()]
    assert result.exit_code == error["code"] == summary["exit_code"] == refusal.code
    assert [error["event"], summary["event"]] == ["error", "summary"]
    assert result.stderr.startswith(f"error: {visible(error['message'])}\n")
    assert error["hint"] == "" or result.stderr.endswith(f"hint: {error['hint']}\n")


REFUSE_ALL = """
import json, os, sys
from typer.testing import CliRunner
from ltx2_cli.app import app

for folder, words, environment in json.load(sys.stdin):
    os.chdir(folder)
    result = CliRunner(env=environment).invoke(app, words)
    heavy = {"torch", "transformers", "av", "numpy"} & sys.modules.keys()
    if heavy:
        sys.exit(f"ltx2 {words} imports {sorted(heavy)}")
"""


def test_no_refusal_waits_for_torch(tiny: Path, tmp_path: Path):
    cases = [(str(tmp_path), words, {}) for words in ([], ["--help"], ["--version"], ["t2v", "--help"], ["presets"])]
    for number, refusal in enumerate(refusal for refusal in REFUSALS.values() if refusal.is_light):
        folder = tmp_path / str(number)
        folder.mkdir()
        cases.append((str(folder), prepared(refusal, tiny, folder), dict(refusal.environment)))
    done = run_in_process(REFUSE_ALL, cases, tmp_path / "home")
    assert done.returncode == 0, done.stderr
