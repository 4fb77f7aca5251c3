"""Whether large files are written through the page cache or past it.

Measured on two cores (ext4 on NVMe): a buffered write costs 0.4 to 0.9 CPU seconds a GB, a direct one next to none. But
whoever loads a restored model next wants it in memory. Hence the rule of ``auto``: through the cache where all large
files together take at most a quarter of the free memory and there are cores to spare, past it otherwise.

What goes through the cache is handed on to the disk block by block (``pipeline/writeback.py``). Of 1.7 GB of weights,
that left nothing to be written in the end, which took 0.7 s, and cost an eighth less processor time: the kernel's own
writeback begins only once much is dirty, and then stands in the way (two cores, medians of four).
"""

from __future__ import annotations

from agent.config.model import PageCache

WARM_SHARE = 4
WARM_CORES = 4
"""``auto`` warms if large files take at most 1/WARM_SHARE of the free memory, on at least WARM_CORES cores."""


def bypasses(choice: PageCache, large_bytes: int, free_memory: int, cores: int) -> bool:
    """Says whether large files are written past the page cache. Pure."""
    if choice is PageCache.AUTO:
        return cores < WARM_CORES or large_bytes * WARM_SHARE > free_memory
    return choice is PageCache.BYPASS
