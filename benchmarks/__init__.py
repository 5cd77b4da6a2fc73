"""How fast the engine is, as ratios to something else measured side by side.

Run `python -m benchmarks` (or `make bench`); `--only` names topics. A topic is one module in
`topics/` with one function under `@register_topic("name")`. Nothing here is a test: figures depend
on the machine.
"""

import os

# As in the dashboard, and before torch is imported: threads that wait spin for a short while only,
# so that other work on the machine disturbs the figures less.
os.environ.setdefault("GOMP_SPINCOUNT", "10000")
