"""The three benchmarks of the paper: assets, answers, judgements, and scores with intervals.

One way through: assets → answers → calls → judging → judgements (of any origin) → summary →
compare, leaderboard.
"""
