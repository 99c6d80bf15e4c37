"""The paper's figures 2 to 7 for any model, from traces of its answers; ``python -m benchmarks.analysis``."""
