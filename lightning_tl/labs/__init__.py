"""Laboratories: theory with a known answer, simulated, and the library's measurements, fits and analyses run on it.

Each lab is a dataclass of parameters with :meth:`~lightning_tl.labs.lab.Lab.run`. Derivations are in docs/labs.md.
"""
