"""Benchmarks: where images, prompts and truth come from, and how answers become figures."""
