"""The ``intel_bm`` perf driver, and the little of perf's core that it needs."""
