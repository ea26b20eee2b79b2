"""``python -m wrpo_lib.cli``."""

from wrpo_lib.cli import main

main()
