"""Intel's branch monitoring unit and its ``intel_bm`` perf driver, in user space, on any x86-64 Linux machine."""

__version__ = "0.1.0"
