"""Addresses to names: symbol, module, build-id, source line. See :class:`Symbolizer`."""

from branchmon.symbols.place import Place
from branchmon.symbols.symbolizer import Symbolizer

__all__ = ["Place", "Symbolizer"]
