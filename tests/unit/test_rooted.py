"""Jobs that name the same files in every folder."""

from __future__ import annotations

from pathlib import Path

from ltx2_core.pipeline.batch.rooted import rooted


def test_the_paths_of_a_job_are_joined_to_a_folder_and_its_names_stay():
    job = {
        "prompt": "a.png",
        "input": "a.png",
        "image": ["b.png@1s:0.5", "/c.png"],
        "model": "TOY",
        "lora": ["d.safetensors:0.5", "pixel-upscaler:1"],
        "control": "off",
        "transformer": "e/../f.gguf",
        "enhancer": "~/g",
        "attention": "maps/{slug}.mp4",
        "steps": 3,
    }
    assert rooted(job, Path("/h")) == job | {
        "input": "/h/a.png",
        "image": ["/h/b.png@1s:0.5", "/c.png"],
        "lora": ["/h/d.safetensors:0.5", "pixel-upscaler:1"],
        "transformer": "/h/e/../f.gguf",
    }
