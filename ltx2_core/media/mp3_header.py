"""What an MP3 file says about its length.

Source: the Xing, Info and VBRI headers, as LAME and others write them into the first frame.
"""

from __future__ import annotations

from pathlib import Path

ID3_BYTES = 10  # of the header of an ID3v2 tag, which are not included in its size
READ_BYTES = 4096  # with room for some padding before the first frame
COUNTS_AT = {b"Xing": 8, b"Info": 8, b"VBRI": 14}  # from the beginning of each name
HAS_COUNT = 1  # of the flags of Xing and Info


def announced_frames(path: Path) -> int:
    """The number of frames in the header; 0 if it does not say."""
    with path.open("rb") as file:
        start = file.read(READ_BYTES)
        if start[:3] == b"ID3" and len(start) > ID3_BYTES:
            size = sum(start[6 + i] << 7 * (3 - i) for i in range(4))
            file.seek(ID3_BYTES + size)
            start = file.read(READ_BYTES)
    for name, offset in COUNTS_AT.items():
        begin = start.find(name)
        flags = int.from_bytes(start[begin + 4 : begin + 8], "big")
        if begin >= 0 and (name == b"VBRI" or flags & HAS_COUNT):
            return int.from_bytes(start[begin + offset : begin + offset + 4], "big")
    return 0
