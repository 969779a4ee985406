"""Benchmarks: one line per figure, `name value unit`. Figures are for comparison within one run, on one machine."""
