"""The options that commands share: one entry each, with one help text, under the name that the setting has in core."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

import ltx2_core as core

from .panels import OTHER, Complete, either, panel, switch, value

PromptArg = Annotated[
    str,
    typer.Argument(metavar="PROMPT", help="What to see and hear, in quotes; - reads it from stdin, @FILE from a file."),
]


def path_argument(metavar: str, text: str, error: type[core.LTX2Error] = core.RequestError) -> Any:
    """An argument that is a path, parsed by core's function for paths. error: the class of its error for a URL."""
    return typer.Argument(metavar=metavar, help=text, parser=lambda path: core.input_path(path, metavar, error))


ImageArg = Annotated[Path, path_argument("IMAGE", "The image that the video begins with.", core.MediaError)]
VideoArg = Annotated[Path, path_argument("VIDEO", "The clip: MP4, MOV, MKV, WebM, AVI or TS.", core.MediaError)]
AudioArg = Annotated[Path, path_argument("AUDIO", "WAV, FLAC, MP3, M4A, OGG, or a clip with audio.", core.MediaError)]
WhatArg = Annotated[
    str,
    typer.Argument(
        metavar="WHAT", help="A weight file, a clip, an image, a folder, OUTPUT.job, a YAML file, or a model's name."
    ),
]
ReportedArg = Annotated[Path, path_argument("FILE|FOLDER", "A clip, audio, or the folder of a batch.", core.MediaError)]
ClipArg = Annotated[Path, path_argument("FILE", "A clip with video and audio.", core.MediaError)]
JobsArg = Annotated[
    Path, path_argument("JOBS", "A file of jobs: .txt, .yaml, .jsonl or .csv; - reads JSON lines from stdin.")
]
WeightsArg = Annotated[
    Path, path_argument("FILE", "A checkpoint, transformer or one-file text encoder in bf16.", core.StorageError)
]
ResultArg = Annotated[
    Path, path_argument("FILE", "A finished file with its recipe: MP4, MOV, MKV, WAV or FLAC.", core.MediaError)
]
JobArg = Annotated[Path, path_argument("JOB_DIR", "The folder OUTPUT.job of a render, or its OUTPUT.")]
TilesOpt = Annotated[
    str | None,
    typer.Option(
        "--tiles",
        metavar="off|auto|FxHxW",
        help="Decode the video in tiles of F frames, H rows and W columns, such as 40x384x384; default: as before.",
        rich_help_panel="Output",
    ),
]
MaybePromptArg = Annotated[
    str, typer.Argument(metavar="[PROMPT]", help="What happens and what is heard, in quotes; or -, or @FILE.")
]
TopicArg = Annotated[str | None, typer.Argument(metavar="[COMMAND]", help="A command, or: guidance, jobs, settings.")]


def names(kind: str) -> Complete:
    """Completes the name of a preset, size or model."""

    def complete(incomplete: str) -> list[tuple[str, str]]:
        known = core.catalogue()[kind]
        return [(name, summary) for name, summary in known.items() if name.startswith(incomplete.lower())]

    return complete


def complete_model(incomplete: str) -> list[tuple[str, str]]:
    """Completes the name of a model or a LoRA."""
    found = core.read_catalogue()
    known = {**found.models, **found.controls}
    return [(name, entry.summary) for name, entry in known.items() if name.startswith(incomplete.lower())]


def complete_lora(incomplete: str) -> list[tuple[str, str]]:
    """Completes the name of a LoRA that can be used."""
    known = core.read_catalogue().controls
    usable = {name: entry.summary for name, entry in known.items() if entry.refused is None}
    return [(name, summary) for name, summary in usable.items() if name.startswith(incomplete.lower())]


MaybeNameArg = Annotated[
    str | None,
    typer.Argument(
        metavar="[NAME]", help="A model or a LoRA, as ltx2 models lists them.", autocompletion=complete_model
    ),
]
PLAN = panel(
    "Plan",
    vram=value("GB", "Plan for a GPU that is sold with this much memory."),
    explain=switch("Tell where each setting comes from."),
)
LORA = value(
    "NAME|PATH[:STRENGTH]",
    "Apply a LoRA, by name (see ltx2 models) or by path; strength 1 by default; can be repeated.",
    complete=complete_lora,
    is_repeated=True,
)
PARTIAL_LORA = switch("Apply a LoRA even if only part of it fits the model.")
MODEL = panel(
    "Model",
    model=value(
        "NAME|FILE|FOLDER",
        "A model, by name (see ltx2 presets) or by path; default %(default)s.",
        complete=names("models"),
    ),
    transformer=value("FILE", "Use this transformer instead of the model's."),
    connectors=value("FILE", "Use these text connectors, for a transformer in a file that has none."),
    video_vae=value("FILE", "Use this video VAE instead of the model's."),
    decoder=value(
        "%(choices)s",
        "Video decoder; default %(default)s: the one that the model has; if it has both, the diffusion decoder if that "
        "fits into memory.",
    ),
    audio_vae=value("FILE", "Use this audio VAE and vocoder instead of the model's."),
    text_encoder=value("FOLDER|FILE", "Use this text encoder; default: the one beside the model."),
    upsampler=value("FILE", "Use this latent upsampler between stages; can be repeated.", is_repeated=True),
    distilled_lora=value("FILE", "Use this distilled LoRA in presets that need one."),
    duration_head=value("FILE", "Use this duration head, by which the model chooses the length."),
    lora=LORA,
    allow_partial_lora=PARTIAL_LORA,
    precision=value(
        "%(choices)s",
        "Precision of the computation; default %(default)s: bf16 on CUDA, else fp32; bf16 decodes quantised weights.",
    ),
    memory=value(
        "%(choices)s",
        "How weights are loaded; default %(default)s: the first of these that fits: resident, whole models; streamed, "
        "block by block; lean, which also needs less memory for activations, but is slower.",
    ),
    compile=either(
        "--no-compile",
        "Compile the transformer's blocks with torch.compile: the first step takes longer, the others less; the result "
        "differs in the last bits. Off unless ltx2 doctor --tune has measured that it is faster.",
    ),
    ranks=value(
        "N",
        "Render one clip on N GPUs, one process on each: guidance passes are shared out first, then video tokens; "
        "default %(default)s.",
    ),
    gpus=value("0,1", "The GPUs of --ranks; default: the first N."),
    attention_backend=value(
        "%(choices)s",
        "Attention kernel of the transformer; default %(default)s: torch's choice, or what ltx2 doctor --tune has "
        "measured to be faster. Kernels differ in the last bits of the result; int8, of the extra fast, differs more.",
    ),
    force=switch("Render even if the plan says that it does not fit."),
    device=value("auto|cuda|mps|cpu", "Where the model runs; default %(default)s; cuda:1 is the second GPU."),
    cache=switch("Do not read or write the prompt cache.", off=True),
)
SHAPE = panel(
    "Shape",
    res=value(
        "NAME|WxH",
        "480p, 720p, 1080p, 4k, or a size whose sides are multiples of 32 (of 64 with two stages); "
        "default: the largest by name that is recommended for the GPU, or the model's own.",
        complete=names("sizes"),
    ),
    aspect=value("%(choices)s", "Aspect ratio of a size by name, such as 9:16 for portrait."),
    crop=switch("Keep the rendered size; do not cut it to the size by name.", off=True),
    duration=value("5s", "Length: 5s, 1m30s or auto; the nearest 8k+1 frames are used; default: the model's own."),
    frames=value("N", "Length in frames instead, 8k+1: 9, 17, … 121 …"),
    fps=value("24", "Frames per second; 23.976 means 24000/1001; default %(default)s."),
)
PART = {
    **SHAPE,
    **panel(
        "Shape",
        start=value("2s", "Where to begin in the clip: 2s, 1m30s; default 0s."),
        duration=value("5s", "How much of the clip to use: 5s, 1m30s; default: all of it."),
        frames=value("N", "How much of the clip to use, in frames, 8k+1: 9, 17, … 121 …"),
        fps=value("24", "Frames per second; default: those of the clip."),
    ),
}
ALONG_AUDIO = {
    **SHAPE,
    **panel(
        "Shape",
        start=value("2s", "Where to begin in the audio: 2s, 1m30s; default 0s."),
        duration=value("5s", "How much of the audio to use: 5s, 1m30s; default: all, up to 20 s; --until takes more."),
        frames=value("N", "How much of the audio to use, in video frames, 8k+1: 9, 17, … 121 …"),
        image=value(
            "PATH[@TIME[:STRENGTH]]",
            "An image at 1.5s, a frame number, first or last; can be repeated.",
            is_repeated=True,
        ),
    ),
}
ALONG_VIDEO = {
    **PART,
    **panel(
        "Shape",
        res=value(
            "NAME|WxH", "Size at which the model sees the clip; default: the model's own.", complete=names("sizes")
        ),
        duration=value("5s", "How much of the clip to use, up to 20 s; default: all."),
    ),
}
LONG = panel(
    "Long clips",
    until=value("60s", "Make a clip of this length, also longer than 20 s: in windows if it does not fit into one."),
    window=value("10s", "Length of a window of --until, up to 20 s; default: the model's own."),
    overlap=value("2s", "Overlap of a window with the window before; default: the model's own."),
)
EDIT = panel(
    "Edit, one of these",
    strength=value(
        "0…1", "Restyle the clip: 0 keeps everything, 1 keeps nothing. This is the default edit, at %(default)s."
    ),
    extend=value("4s", "Continue after the end of the clip."),
    extend_before=value("2s", "Lead up to the clip; can be combined with --extend."),
    retake=value("2.0s-4.5s", "Regenerate this span and keep the rest of the clip."),
    control=value(
        "NAME|PATH[:STRENGTH]",
        "Follow the clip as a control signal, with an in-context LoRA: pose, depth, or a file; with --upscale: the "
        "LoRA to refine with, or off.",
        complete=complete_lora,
    ),
    upscale=value(
        "2|1.5",
        "Enlarge the clip and refine it, from the noise level of --strength; the audio is kept.",
    ),
    loop=switch("Regenerate the end of the clip so that it meets the beginning; --retake chooses another span."),
)
REFERENCES = panel(
    "References",
    ref=value(
        "IMAGE",
        "Use objects from this image, with an in-context LoRA that was trained for it, such as ingredients; can be "
        "repeated.",
        is_repeated=True,
    ),
    voice_ref=value("AUDIO", "Take the voice from this audio, with an in-context LoRA that was trained for it."),
)
IMAGES = panel(
    "Shape",
    image=value(
        "PATH[@TIME[:STRENGTH]]",
        "One more image at 1.5s, a frame number, first or last; can be repeated.",
        is_repeated=True,
    ),
)
KEYFRAMES = panel(
    "Shape",
    generated_keyframes=value(
        "N", "Generate N single frames together with the clip, at even distances (LTX-2.5); default %(default)s."
    ),
)
SEGMENTS = panel(
    "Prompt",
    segment=value(
        "0s-3s=TEXT",
        "A separate prompt for a span of the clip; PROMPT applies to the rest; can be repeated.",
        is_repeated=True,
    ),
)
ENHANCE = panel(
    "Prompt",
    enhance=switch("Let a language model rewrite the prompt; default: use it word for word."),
    enhancer=value(
        "FOLDER",
        "The language model for --enhance: a Gemma 3 or Gemma 4 instruct model; default: the model's own text encoder.",
    ),
)
ENHANCE_ONLY = panel("Prompt", enhance_only=switch("Print the rewritten prompt, and render nothing."))
SAMPLING = panel(
    "Sampling",
    preset=value(
        "NAME",
        "A preset (see ltx2 presets); default: the model's own, or one that suits its files and the size.",
        complete=names("presets"),
    ),
    steps=value("N", "Number of denoising steps; default: the model's own."),
    sigmas=value("1,…,0", "Noise levels of the first stage, instead of --steps."),
    sampler=value("NAME", "Sampler of the first stage: %(choices)s; default: that of the preset, or of the model."),
    draft=switch("Render a draft: the first stage alone, in few steps, with the noise of the full render."),
    seed=value("N", "Random seed; the same seed gives the same result; default: random."),
    negative=value("TEXT", "Negative prompt; default: the model's own."),
    video_st=value("X", "Text guidance for the video; 1 disables it."),
    video_sm=value("X", "Guidance of the video by the audio; 1 disables it."),
    audio_st=value("X", "Text guidance for the audio; 1 disables it."),
    audio_sm=value("X", "Guidance of the audio by the video; 1 disables it."),
    video_stg=value("X", "Spatio-temporal guidance for the video; 0 disables it."),
    audio_stg=value("X", "Spatio-temporal guidance for the audio; 0 disables it."),
    stg_blocks=value("N,N…", "Transformer blocks that stg perturbs."),
    video_rescale=value("0…1", "Guidance rescale for the video; 0 disables it."),
    audio_rescale=value("0…1", "Guidance rescale for the audio; 0 disables it."),
    skip_step=value("N", "Run the model only on every N+1st step."),
    tiles=value(
        "2x2",
        "Refine an enlarged video in tiles, across and down: more tiles need less memory; default: as many as the size "
        "or the model needs.",
    ),
    cache_steps=value(
        "0.05",
        "In guided steps, skip all blocks after the first if its output has changed by at most this fraction since the "
        "last full step; faster, but changes the result; default 0: skip none.",
    ),
)
LOOP = panel("Shape", loop=switch("Make a loop: the last frame and the end of the audio connect to the beginning."))
SOUND = panel("Streams", sound=value("generate|off", "off makes a video without audio; default generate."))
OLD_STREAMS = panel(
    "Streams",
    video=value("generate|keep", "keep: with --retake, regenerate only the audio; default generate."),
    sound=value("generate|keep|off", "keep: keep the clip's own audio; off: no audio; default generate."),
)
OLD_TRACK = panel(
    "Streams", old_sound=value("%(choices)s", "What to do with the clip's own audio; default %(default)s.")
)
STREAMS = {
    **panel("Streams", video=value("generate|off", "off makes audio alone, as .wav or .flac; default generate.")),
    **SOUND,
}
TARGET = panel(
    "Output",
    output=value("FILE", "Output file; {mode}, {slug}, {seed} and {preset} are filled in; default %(default)s.", "-o"),
    overwrite=switch("Replace the output if it exists."),
)
CONTINUED = panel(
    "Output",
    output=value("FILE", "Output file; default: that of the render.", "-o"),
    overwrite=switch("Replace the output if it exists."),
    memory=value("%(choices)s", "Continue in this memory mode; default: that of the render."),
)
RERUN = panel(
    "Rerun",
    set=value("KEY=VALUE", "Change a setting, such as seed=8 or prompt=TEXT; can be repeated.", is_repeated=True),
    input=value(
        "FILE|FOLDER", "Also look here for weights, images, clips and audio; can be repeated.", is_repeated=True
    ),
    yes=switch("Do not ask before rendering a file that was not made on this machine."),
)
RERUN_TARGET = panel(
    "Output",
    output=value(
        "FILE", "Output file; {mode}, {slug}, {seed} and {preset} are filled in; default FILE-rerun.mp4.", "-o"
    ),
    overwrite=switch("Replace the output if it exists."),
    skip_existing=switch("If the output exists, do nothing and exit 0."),
)
STILLS = panel(
    "Output",
    keyframe_stills=switch("Also write the keyframes that were generated, as OUTPUT-keyframe-1.png and so on."),
)
DECODER = panel(
    "Model",
    decoder=value(
        "%(choices)s",
        "Decode the video with this decoder, of the render's video VAE or a file beside it; default: as before.",
    ),
    video_vae=value("FILE", "Decode the video with this video VAE; default: as before."),
)
ENCODING = panel(
    "Output",
    codec=value("%(choices)s", "Video codec; default %(default)s."),
    audio_codec=value(
        "%(choices)s", "Audio codec; alac and flac are lossless; copy is for audio that is given; default %(default)s."
    ),
    crf=value("N", "Video quality, lower is better; default %(default)s."),
    loudness=value(
        "LUFS|off",
        "Normalise the audio to a loudness such as -16, with true peaks of at most -1 dBTP; default %(default)s.",
    ),
    metadata=switch("Do not store the recipe in the file.", off=True),
)
NEW_AUDIO = panel(
    "Output",
    audio_codec=value("aac|alac|flac", "Audio codec; alac and flac are lossless; default %(default)s."),
)
GIVEN_AUDIO = panel(
    "Output",
    audio_codec=value(
        "%(choices)s", "Audio codec; default: copy AAC, MP3 and ALAC as they are, and encode the rest as %(default)s."
    ),
)
OVERLAY = panel(
    "Output",
    attention=value("FILE.mp4", "Also write a clip with a heat map over each frame of where the audio attends."),
)
RENDER = {
    **OVERLAY,
    **panel(
        "Output",
        skip_existing=switch("If the output exists, do nothing and exit 0."),
        keep_latents=switch("Keep the job folder, for ltx2 decode."),
        sheet=switch("Also write a contact sheet, a PNG beside the output: frames, audio, prompt, loudness, sync."),
        report=switch("Also write a report, an HTML page beside the output: clip, audio, checks, recipe."),
        attention_blocks=value(
            "0-9,12", "Transformer blocks to average for --attention; default: the model's own, or all."
        ),
        attention_steps=value("1-8", "Denoising steps to average for --attention; default: the first third."),
        preview=value(
            "N|auto|off",
            "Write a preview image every N steps, preview.png in the job folder, and show it if the terminal can; "
            "auto: about eight per stage; default %(default)s.",
        ),
        job_dir=value("FOLDER", "Folder for intermediate latents; default: OUTPUT.job."),
        strict=switch("Treat warnings about the result as errors."),
    ),
}
REPORT = {"report": RENDER["report"]}
REPORTED = panel("Output", overwrite=switch("Replace an existing page; a batch replaces its own page anyway."))
FETCH = panel(
    "Download",
    plan=switch("Show what would be fetched, and stop."),
    yes=switch("Do not ask before fetching."),
    accept_licence=value("ID", "Accept a licence whose terms you have read; can be repeated.", is_repeated=True),
    only=value(
        "PART,PART…",
        "Fetch only these parts, such as transformer,video-vae; of a LoRA, for this generation, such as 2.3.",
    ),
    to=value("FOLDER", "Put the files here, and link to them from LTX2_HOME."),
    offline=switch("Open no connection: only find, verify and link what is there."),
)
REMOVE = panel(
    "Models",
    yes=switch("Do not ask before removing."),
    partial=switch("Remove the partial files of unfinished downloads."),
)
CONVERT = panel(
    "Convert",
    to=value("int8|fp8", "Format of the large matrices; int8, with rotation, is closer to bf16."),
    lora=LORA,
    allow_partial_lora=PARTIAL_LORA,
    output=value("FILE", "The new file, which ends in .safetensors.", "-o"),
    overwrite=switch("Replace the output if it exists."),
)


def complete_sweep(incomplete: str) -> list[tuple[str, str]]:
    """Completes the name of a setting that has a value, up to the `=`."""
    panels = (MODEL, SHAPE, KEYFRAMES, SAMPLING, STREAMS, ENCODING)
    known = {name: kind.__metadata__[0].help for options in panels for name, kind in options.items() if name != "seed"}
    spelled = {name.replace("_", "-") if "-" in incomplete else name: help for name, help in known.items()}
    return [(f"{name}=", help.partition(";")[0]) for name, help in spelled.items() if name.startswith(incomplete)]


BATCH = panel(
    "Batch",
    seeds=value("1-16", "Render each job with each of these seeds: 1-16 or 1-4,9."),
    sweep=value(
        "KEY=A:B:STEP",
        "Render each job with each of these values, such as video_st=2:4:1 or preset=distilled,hq; can be repeated.",
        complete=complete_sweep,
        is_repeated=True,
    ),
    plan=switch("List the jobs, and stop."),
    grid=switch("Also join the results, labelled by what varies, into grid.png and grid.mp4 in their folder."),
    keep_going=either(
        "--fail-fast", "Start no more jobs after one has failed, or continue with the others, which is the default."
    ),
    max_time=value("TIME", "Start no more jobs after this time: 45m, 1h30m."),
    gpus=value("0,1", "Use these GPUs, one job at a time on each; default: all."),
    shard=value(
        "I/N", "Render only part I of N, from 0; auto in a SLURM array job, auto/N in an indexed job of Kubernetes."
    ),
    engine=value("local|ray", "Where jobs are rendered: on this machine, which is the default, or on a Ray cluster."),
    address=value("HOST:PORT", "Head of the Ray cluster; auto finds the one that this machine is part of."),
    order=value(
        "models|file", "Order of the jobs: by models, so that each is loaded once, or as in the file; default models."
    ),
)
BATCH_SAMPLING = {
    **SAMPLING,
    **panel(
        "Sampling",
        seed=value("N", "Seed of the batch, from which a job without its own gets one; default: random, and kept."),
    ),
}
BATCH_TARGET = panel(
    "Output",
    output=value(
        "FOLDER",
        "Folder of the results, or FOLDER/NAME.mp4, where {index}, {slug}, {seed}, {mode}, {preset} and KEYs of sweeps "
        "are filled in; default: the name of JOBS.",
        "-o",
    ),
    overwrite=switch("Render changed jobs again, and replace their results."),
    report=switch("Also write report.html in the folder: all results side by side, to play, compare and pick."),
)
GUIDES_AUDIO = ("audio_st", "audio_sm", "audio_stg", "audio_rescale")
GUIDES_VIDEO = ("video_st", "video_sm", "video_stg", "video_rescale")
NO_VIDEO = (*GUIDES_VIDEO, "tiles", "decoder", "aspect", "crop", "fps", "codec", "crf", "upsampler", "preview")
ConfigOpt = Annotated[
    Path | None,
    typer.Option(
        "--config",
        metavar="FILE",
        help="Read settings from this YAML file; it wins over ./ltx2.yaml.",
        parser=lambda path: core.input_path(path, "--config"),
        rich_help_panel=OTHER,
    ),
]
