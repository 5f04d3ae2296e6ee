"""WHAT HOLDS ON A REAL NETWORK: MiniLM-L6, fine-tuned by every method at its best rate.

`missviz reproduce real-network` runs the parts anew; what they gave before ships with the package:

>>> from missviz import real_network
>>> runs = real_network.stored("sentiment")  # doctest: +SKIP
"""

from missviz.real_network.parts import PARTS, Part
from missviz.real_network.storage import store, stored, stored_parts

__all__ = ["PARTS", "Part", "store", "stored", "stored_parts"]
