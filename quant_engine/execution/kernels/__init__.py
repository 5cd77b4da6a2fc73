"""True integer arithmetic: int8 times int8, summed in int32, then one float scale for each output.

    y = s_x s_w Σ (q_x - z_x)(q_w - z_w) + bias

See `docs/math.md` for the derivation. Kernels know nothing of layers, models or recipes.
"""
