"""The library behind the WRPO companion; import from its modules, of which ``nano`` is the testbed.

Nothing heavy is imported here.
"""

__version__ = "0.1.0"
