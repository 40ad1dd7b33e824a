"""Write the JSON Schemas in docs/schemas: of a job, of the events that --json prints, and of batch.json.

    python scripts/write_schemas.py

A test compares the files with this script's output, and validates the output of commands with the schemas.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ltx2_cli.batch import TAKES
from ltx2_cli.display import SCHEMA
from ltx2_core.pipeline.batch.jobs import BATCH_KEYS
from ltx2_core.pipeline.batch.record import BatchRecord
from ltx2_core.pipeline.resolve.settings import choices

FOLDER = Path(__file__).parent.parent / "docs" / "schemas"
DRAFT = "https://json-schema.org/draft/2020-12/schema"
TEXT, WHOLE, NUMBER, YES_OR_NO = ({"type": name} for name in ("string", "integer", "number", "boolean"))
MAYBE_TEXT, MAYBE_WHOLE, MAYBE_NUMBER = ({"type": [name, "null"]} for name in ("string", "integer", "number"))
TEXTS = {"type": "array", "items": TEXT}
OBJECT = {"type": "object"}
OBJECTS = {"type": "array", "items": OBJECT}
AS_WRITTEN = {  # the value of an option: as text, as on a command line, or as a JSON value
    "anyOf": [
        {"type": ["string", "number", "boolean", "null"]},
        {"type": "array", "items": {"type": ["string", "number"]}},
    ]
}


def job_schema() -> dict[str, Any]:
    """The fields of a line in a file of jobs, and of each job in the event `batch`."""
    settings = sorted({name for names in TAKES.values() for name in names})
    own = {
        "mode": {"enum": [*TAKES], "default": "t2v"},
        "prompt": {"type": ["string", "number", "null"], "description": "what to see and hear"},
        "input": {"type": ["string", "number", "null"], "description": "the file that the mode starts from"},
        "name": {"type": ["string", "number", "null"], "description": "name of its file, without the suffix"},
    }
    return {
        "$schema": DRAFT,
        "title": "a job of ltx2 batch",
        "description": f"{', '.join(BATCH_KEYS)} occur only in resolved jobs, not in files of jobs.",
        "type": "object",
        "properties": {**own, **{name: _setting(name) for name in settings}},
        "additionalProperties": False,
        "$defs": {"option": AS_WRITTEN},
    }


def _setting(name: str) -> dict[str, Any]:
    option: dict[str, Any] = {"$ref": "#/$defs/option"}
    if name == "segment":
        return {"anyOf": [option, {"type": "object", "additionalProperties": TEXT}]}
    if names := choices(name):
        option["examples"] = [*names]
    return option


FAILURE = {"code": WHOLE, "message": TEXT, "why": TEXT, "hint": TEXT}
EVENTS: dict[str, list[dict[str, Any]]] = {  # the fields of each form of an event, without `schema` and `event`
    "plan": [
        {
            **dict.fromkeys(("mode", "model", "path", "job_dir"), TEXT),
            **dict.fromkeys(("request", "machine", "output", "sources"), OBJECT),
            "preset": MAYBE_TEXT,
            **dict.fromkeys(("overridden", "notes", "advice"), TEXTS),
        },
        {
            **dict.fromkeys(("name", "folder"), TEXT),
            **dict.fromkeys(("to_fetch", "free"), WHOLE),
            "is_exact": YES_OR_NO,
            "gated": TEXTS,
            "problem": MAYBE_TEXT,
            **dict.fromkeys(("licences", "files"), OBJECTS),
        },
    ],
    "recipe": [{"path": TEXT, "is_own": YES_OR_NO, "facts": OBJECT}],
    "differences": [{"path": TEXT, "differences": OBJECT}],
    "batch": [{"folder": TEXT, "count": WHOLE, "seed": WHOLE, "notes": TEXTS, "jobs?": OBJECTS}],
    "phase": [
        {"phase": TEXT, "state": {"const": "started"}, "name": TEXT, "total": MAYBE_WHOLE},
        {"phase": TEXT, "state": {"const": "done"}, "name": TEXT, "seconds": NUMBER, "peak_bytes": MAYBE_WHOLE},
    ],
    "step": [{"phase": TEXT, "name?": TEXT, "done": WHOLE, "total": MAYBE_WHOLE}],
    "prompt": [{"prompt": TEXT, "given": TEXT, "is_rewritten": YES_OR_NO, "seed": WHOLE}],
    "preview": [{"path": TEXT, "step": WHOLE, "total": WHOLE}],
    "length": [{"frames": WHOLE, "fps": TEXT, "wanted_seconds": NUMBER}],
    "warning": [{"message": TEXT}],
    "output": [
        {"path": TEXT, "is_new": YES_OR_NO},
        {"title": TEXT, "facts": OBJECT},
        {
            "title": {"const": "plan"},
            **dict.fromkeys(("fits", "is_assumed"), YES_OR_NO),
            **dict.fromkeys(("vram_bytes", "ram_bytes"), MAYBE_WHOLE),
            "peak": TEXT,
            "phases": OBJECTS,
        },
        {
            "title": TEXT,
            **dict.fromkeys(("lag_ms", "agreement", "best", "confidence", "frame_ms"), MAYBE_NUMBER),
            "is_clear": YES_OR_NO,
            "frames": WHOLE,
            "seconds": NUMBER,
            "problem": MAYBE_TEXT,
        },
    ],
    "job": [
        {
            "state": {"enum": ["started", "done", "existing", "failed", "busy", "stopped"]},
            "worker": WHOLE,
            "seconds?": NUMBER,
            **{f"{name}?": kind for name, kind in FAILURE.items()},
        }
    ],
    "job_error": [{"places": TEXTS, **FAILURE}],
    "error": [FAILURE],
    "summary": [{"exit_code": WHOLE, "seconds": NUMBER}],
}


def event_schema() -> dict[str, Any]:
    """A line that a command prints with --json; `job` names the job of a batch to which it belongs."""
    return {
        "$schema": DRAFT,
        "title": "an event of ltx2 --json",
        "oneOf": [_event(name, fields) for name, forms in EVENTS.items() for fields in forms],
    }


def _event(name: str, fields: Mapping[str, Any]) -> dict[str, Any]:
    properties = {"schema": {"const": SCHEMA}, "event": {"const": name}}
    required = [*properties, *(field for field in fields if not field.endswith("?"))]
    properties |= {field.removesuffix("?"): kind for field, kind in fields.items()}
    return {
        "type": "object",
        "properties": {**properties, "job": TEXT},
        "required": required,
        "additionalProperties": False,
    }


def batch_schema() -> dict[str, Any]:
    """The content of `batch.json` in the folder of a batch."""
    return {"$schema": DRAFT, **BatchRecord.model_json_schema(by_alias=True)}


SCHEMAS = {"job": job_schema, "event": event_schema, "batch": batch_schema}


def written(schema: Mapping[str, Any]) -> str:
    """A schema as text, as in its file."""
    return json.dumps(schema, indent=1) + "\n"


if __name__ == "__main__":
    for name, make in SCHEMAS.items():
        (FOLDER / f"{name}.schema.json").write_text(written(make()), encoding="utf-8")
