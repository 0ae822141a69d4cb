"""What a result depends on besides the target: versions, platform, threads."""

import os
import platform
import sys
from functools import cache
from importlib import metadata

__all__ = ["describe_environment"]


def describe_environment() -> tuple[tuple[str, str], ...]:
    """Return (name, value) pairs; a framework that is not loaded is not asked."""
    pairs = [("python", platform.python_version()), ("platform", platform.platform(terse=True))]
    pairs += [("machine", platform.machine()), ("cpus", str(os.cpu_count()))]
    for package in ("gradcheck", "numpy", "torch", "jax", "jaxlib", "hypothesis"):
        if package in sys.modules or package == "gradcheck":
            pairs.append((package, _version(package)))
    return tuple(pairs)


_version = cache(metadata.version)  # reading it takes as long as checking a small layer
