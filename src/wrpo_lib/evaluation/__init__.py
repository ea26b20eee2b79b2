"""The three benchmarks of the paper, from questions to scores with intervals.

Files by name and hash, answers, a judge client, and statistics over judgements of any origin; each
step reads a file and writes a file.
"""
