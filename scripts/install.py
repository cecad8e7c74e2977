"""Install Estafeta in `.venv`, and show how far pip is: `make demo` and `make test` begin with it.

`python scripts/install.py demo` takes PyTorch and scikit-learn, `python scripts/install.py dev` adds the tools of the
tests and checks to the same environment.
"""

from __future__ import annotations

import os
import re
import selectors
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

SILENCE_S = 10.0
"""Seconds without a line on the terminal after which a line says that pip is still at work."""

PIP = (".venv/bin/python", "-m", "pip", "install", "--disable-pip-version-check", "--progress-bar", "off")

DOWNLOAD = re.compile(
    r"\s*(?:Downloading|Using cached|Processing) (?:\S*/)?([\w.]+)-(\d[^-]*)-\S+\.whl(?!\.metadata)"
    r"( \([\d.]+ [kMG]?B\))?"
)


def install(extra: str) -> int:
    """Make the environment if it is not there, and install one extra of Estafeta in it; return pip's exit code."""
    began = time.monotonic()
    if not Path(".venv/bin/python").exists():
        print("Making the environment .venv", flush=True)
        subprocess.run([sys.executable, "-m", "venv", ".venv"], check=True)
    print(f"Installing estafeta[{extra}] in .venv; the first time takes minutes, most of them for PyTorch", flush=True)
    command = [*PIP, "--constraint", "constraints.txt", "--editable", f".[{extra}]"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as pip:
        spoken = began
        for line in lines(pip.stdout):
            now = time.monotonic()
            if text := progress(line) or (f"… {now - began:.0f} s" if now - spoken >= SILENCE_S else ""):
                print(f"  {text}", flush=True)
                spoken = now
    if not (code := pip.returncode):
        print(f"Installed in {time.monotonic() - began:.0f} s\n", flush=True)
    return code


def lines(output: IO[bytes] | None) -> Iterator[str]:
    """The lines of a pipe as they come, and an empty one for each SILENCE_S without any."""
    if output is None:
        return
    rest, selector = b"", selectors.DefaultSelector()
    selector.register(output, selectors.EVENT_READ)
    while True:
        if not selector.select(SILENCE_S):
            yield ""
        elif chunk := os.read(output.fileno(), 1 << 16):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from (line.decode(errors="replace") for line in whole if line)
        else:
            return


def progress(line: str) -> str:
    """Say how far pip is by one line of its output; most lines tell nothing."""
    if found := DOWNLOAD.match(line):
        return f"{found[1]} {found[2]}{found[3] or ''}"
    if line.startswith("Installing collected packages: "):
        return f"copying {line.count(',') + 1} packages to .venv"
    return ""


if __name__ == "__main__":
    sys.exit(install(sys.argv[1]))
