"""The machine that a benchmark ran on, by name."""

import os
import pathlib
import platform
import re


def machine():
    """The processor and how many cores of it there are, as in "Intel(R) Xeon(R) Processor, 2 cores"."""
    try:
        names = re.findall(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    except OSError:
        names = []
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {os.cpu_count()} cores"
