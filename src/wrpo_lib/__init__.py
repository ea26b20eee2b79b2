"""The library behind the WRPO companion.

Import from the submodules: ``objective``, ``quadruples``, ``training``,
``generation``, ``analysis``, ``evaluation``, ``figures``, ``paper``, ``records``, ``recipes`` and,
for the testbed, ``nano``. Nothing heavy is imported here.
"""

__version__ = "0.1.0"
