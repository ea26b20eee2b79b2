"""The three benchmarks of the paper: from stored judgements to scores with intervals.

Only what lies between a judgement and a score is here now; answering, the judge client and the
instruction-difficulty term of AlpacaEval-2's length control come with the evaluation issue.
"""
