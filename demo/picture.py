#!/usr/bin/env python3
# SPDX-License-Identifier: GPL-2.0
"""Draw what pagemigrate printed in a run of the demo, as script(1) has recorded it.

    picture.py TYPESCRIPT SVG
"""

import io
import pathlib
import re
import sys

from rich.console import Console
from rich.text import Text


def commands(sent):
    """The lines of the commands, without what was overwritten: bars."""
    shown, on = [], False
    for line in sent.split("\n"):
        line = re.split(r"\r|\x1b\[2?K", line.rstrip("\r"))[-1]
        plain = Text.from_ansi(line).plain
        # Each begins like that, and ends with the next step of the demo.
        if plain.startswith("$ pagemigrate"):
            on = True
        elif plain.startswith("["):
            on = False
        if on:
            shown.append(line)
    return "\n".join(shown).rstrip()


sent, svg = map(pathlib.Path, sys.argv[1:])
text = commands(sent.read_bytes().decode())
if "before" not in text:
    sys.exit(f"{sent}: no move is to be seen")
console = Console(record=True, width=80, file=io.StringIO(), force_terminal=True)
console.print(Text.from_ansi(text), soft_wrap=True)
# A page that shows the picture loads no fonts for it: the reader's own serve.
drawn = console.export_svg(title="make demo")
drawn = re.sub(r"@font-face {.*?}\n", "", drawn, flags=re.S)
svg.write_text("".join(line.rstrip() + "\n" for line in drawn.splitlines()))
