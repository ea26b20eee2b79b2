"""One function for each figure of the paper, drawn from tracked results alone.

``FIGURES`` names them, with the results and the page that each belongs to.
"""

from wrpo_lib.figures.map import FIGURES, draw_all

__all__ = ["FIGURES", "draw_all"]
