"""Benchmarks: one line per figure, `name value unit`. Figures are for comparison within one run, on one machine."""

import warnings

# The embedded PostgreSQL asks platformdirs, which warns of a container without a login session.
warnings.filterwarnings("ignore", message="XDG_RUNTIME_DIR")
