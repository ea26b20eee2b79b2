"""One function for each figure of the paper, drawn from tracked results alone."""
