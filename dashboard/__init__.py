"""The dashboard: the only package that imports streamlit, plotly and pandas."""

from __future__ import annotations

import os

# Read when torch loads. By default its threads spin while they wait for each other; where another
# program wants the processor too, an analysis of three seconds then takes over a minute.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
