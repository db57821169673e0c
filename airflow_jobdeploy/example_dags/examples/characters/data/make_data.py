"""Write characters.tsv.gz from this Python's own copy of the Unicode Character Database (see README.md)."""

from __future__ import annotations

import gzip
import re
import unicodedata
from pathlib import Path

VERSION = "15.1.0"
TARGET = Path(__file__).with_name("characters.tsv.gz")
#: Names made by rule, a family and a number: nothing can be learned from them.
BY_RULE = re.compile(
    r"-[0-9A-F]{3,6}$|^HANGUL SYLLABLE|^EGYPTIAN HIERO|^ANATOLIAN|^CUNEIFORM|^SIGNWRITING|^LINEAR A SIGN"
    r"|^BAMUM LETTER PHASE|^VAI SYLL|^YI SYLL|^ETHIOPIC SYLL|^BRAILLE|^VARIATION SELECTOR|^TAG "
)
#: Left out: separators, format and other invisible characters (categories Z* and C*).
KINDS = "LMNPS"


def rows() -> list[str]:
    found = []
    for code in range(0x110000):
        name = unicodedata.name(chr(code), "")
        category = unicodedata.category(chr(code))
        if name and category[0] in KINDS and not BY_RULE.search(name):
            found.append(f"{code:04X}\t{name}\t{category}")
    return found[::2]


if __name__ == "__main__":
    if unicodedata.unidata_version != VERSION:
        raise SystemExit(
            f"This Python knows Unicode {unicodedata.unidata_version}; {TARGET.name} is of {VERSION}: use Python 3.13."
        )
    text = "\n".join(rows()) + "\n"
    # mtime=0: the same bytes every time.
    TARGET.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))
    print(f"{TARGET}: {text.count(chr(10))} characters, {TARGET.stat().st_size} bytes")
