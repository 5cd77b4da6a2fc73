"""The dashboard: the only package that imports streamlit, plotly and pandas."""

from __future__ import annotations

import os

# Read when torch loads (by GNU's OpenMP, which it comes with on Linux). By default its threads spin
# for long while they wait for each other: alone on the machine that is fastest, but where other
# programs want the processor too, an analysis of two seconds takes half a minute. Threads that
# sleep at once (OMP_WAIT_POLICY=PASSIVE) make every small layer three times slower, and the times
# shown with it. So many spins cost nothing on a quiet machine, and seconds on a busy one.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
