"""From where on a number of a layer counts: every threshold of findings and verdicts, once.

Texts say the thresholds that they go by, formed from these.
"""

from __future__ import annotations

# SQNR, in dB; at 20 dB the noise has 1 % of the signal's energy.
GOOD_DB = 35.0
BAD_DB = 20.0
CHANNEL_GAP_DB = 10.0
"""One scale is too coarse where a scale per channel promises so much more, channels counted alike;
and a channel stands out that lies so far below the median one."""
RANGE_GAIN_DB = 3.0
"""A range is wrong where another range estimator promises so much more."""
WORTH_DB = 0.5
"""Another range is worth a word from this gain on."""
HIDDEN_DB = 10.0
"""An output so far below weights and inputs has lost channels that a whole tensor hides."""

OUTLIER = 8.0
"""A channel is an outlier from this multiple of the median channel's largest value on."""
OUTLIER_CHANNELS = 0.25
"""Outliers are at most this share of the channels; more are no outliers."""
LOST_SHARE = 0.1
"""So many of the weights that are not 0 must have become 0 before it is called a cause."""
LOST_INPUTS = 0.05
"""Weights are unequal from this share of input channels on whose weights are lost."""
NARROW = 0.5
"""A channel's range is small where it is less than this share of the widest one's."""
FEW_BITS = 4
"""From this width of weights down, rounding alone costs so much that better rounding is offered."""
CLIPPED_SHARE = 0.5
"""Clipping is most of the squared error from this share on."""
ONE_SIDED = 0.1
"""Data is one-sided where its shorter side is at most this share of the longer one."""
SIGMAS = 6.0
"""Values beyond this many standard deviations are outliers."""
MOST_VALUES, FEW_CODES = 0.99, 0.4
"""Codes are put to use where this share of the values takes this share of the codes or more."""
MANY_ZEROS = 0.1
"""From this share of values that are exactly 0 on, they make the error smaller than ideal."""

SHIFT = 0.1
"""A shift is systematic where a constant makes this share of the channels' errors."""
DESTROYED = 0.3
"""From this share of the signal on, an error of the layer's own output is no detail."""
DAMAGED = 0.1
"""Beyond this share of an output, channels counted alike, it is asked where its error is from."""
INHERITED_SHARE = 0.1
"""An error is inherited where the layer alone makes at most this share of its energy."""
OWN_SHARE = 0.5
"""An error is mostly its own where the layer alone makes this share of its energy."""
DOMINATES = 4.0
"""Weights or inputs cost more than the other from this multiple of its energy on: 6 dB."""
WORST_LAYERS = 0.1
"""This share of the layers, those with the largest errors, and one at least, stand out."""
LEANING_SHARE = 0.25
"""The answer leans on a layer that makes this share of all layers' effects on it."""
MATTERS = 1e-3
"""An effect on the answer below this, KL divergence in nats or NMSE, is no finding."""
