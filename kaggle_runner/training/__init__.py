import logging

logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)
"""It warns of a kernel that it can fetch from the hub for some CPUs, and does without: nobody can do anything about it.
Source: bitsandbytes 0.50, backends/cpu/ops.py, its only warning."""
