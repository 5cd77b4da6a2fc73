"""How fast the engine is, as ratios to something else measured side by side.

Run `python -m benchmarks` (or `make bench`); `--only` names topics. A topic is one module in
`topics/` with one function under `@register_topic("name")`. Nothing here is a test: figures depend
on the machine.
"""

import os

# As in the dashboard, and before torch is imported: threads that wait do not spin, so that other
# work on the machine disturbs the figures less.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
