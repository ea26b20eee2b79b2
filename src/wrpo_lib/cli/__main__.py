"""``python -m wrpo_lib.cli``."""

from wrpo_lib.cli import main

if __name__ == "__main__":
    main()
