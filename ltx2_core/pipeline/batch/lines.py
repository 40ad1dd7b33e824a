"""A job that came as a line of JSON on standard input.

Source: docs/batch.md, "Jobs from another program".
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from ...errors import RequestError
from ..resolve.setting_sources import Gathered
from .jobs import JobLine
from .names import check_name, escaped
from .reading import json_object
from .unsettled import Takes, check_line, completed


def job_of_line(text: bytes, place: str, flags: Mapping[str, Any], takes: Takes, given: Gathered) -> JobLine:
    """The job of a line, with the settings of the command line below its own.

    Its name is that of its file in the current folder, unless it sets `output`.
    Raises: RequestError if it is not a JSON object in UTF-8, or not a valid job.
    """
    try:
        content = json_object(text.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise RequestError(f"{place} cannot be read", "it is not UTF-8", "one JSON object a line") from error
    line = JobLine.parse(content, place)
    if line.name and "output" not in line.settings:
        check_name(line.name)
        line = replace(line, settings={**line.settings, "output": escaped(line.name) + ".{ext}"})
    line = completed(line, (flags,), given)
    check_line(line, takes)
    return line
