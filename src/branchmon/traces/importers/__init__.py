"""Text of ``perf script`` to traces: see :func:`branchmon.traces.importers.text.import_text`."""
