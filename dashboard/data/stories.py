"""Pairs of runs that teach something: the same model broken and repaired, stored with all figures.

A story says in its text only what its two stored runs show; a test reads their numbers.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from dashboard.data.settings import Settings
from quant_engine.scheme import PRESETS, Recipe


@dataclass(frozen=True, slots=True)
class Story:
    """One model quantized in two ways.

    Attributes:
        key: Its name in links.
        title: What happens, in a few words.
        text: Why, in one or two sentences.
        broken: The run that goes wrong.
        repaired: The same model with the one thing changed.
        change: What is changed, in a few words.
    """

    key: str
    title: str
    text: str
    broken: Settings
    repaired: Settings
    change: str


def _weights_at(bits: int) -> Recipe:
    recipe = PRESETS["int4_weights"]
    return replace(recipe, weight=replace(recipe.weight, bits=bits), name="")


STORIES = (
    Story(
        "one_scale",
        "One scale breaks a model, one per channel repairs it",
        "Some channels of this network are 256 times larger than others. One scale for a whole "
        "weight has steps for the large ones, and the small ones are rounded to 0.",
        Settings("mobilenet_unequal_channels", PRESETS["int8_per_tensor"]),
        Settings("mobilenet_unequal_channels", PRESETS["int8_per_channel"]),
        "one scale per channel",
    ),
    Story(
        "outlier_channels",
        "Two outlier channels take the range from the rest",
        "As in large language models, a few input channels are far larger than the others. They "
        "take nearly the whole range of the layers' inputs, and few steps are left for the rest.",
        Settings("vit_outlier_channels", PRESETS["int8_per_channel"]),
        Settings("vit_outlier_channels", PRESETS["int8_weights_only"]),
        "inputs stay float",
    ),
    Story(
        "how_far",
        "How far can weights go?",
        "Four bits are 15 values for a weight, and this network bears them. Two bits are three "
        "values, and it does not.",
        Settings("mobilenet", _weights_at(2)),
        Settings("mobilenet", PRESETS["int4_weights"]),
        "4-bit weights",
    ),
)


def story_of(run_id: str) -> Story | None:
    """Return the story that a run belongs to, or None."""
    return next((s for s in STORIES if run_id in (s.broken.run_id, s.repaired.run_id)), None)


def story_settings() -> tuple[Settings, ...]:
    """Return the settings of every run that a story shows, each once."""
    pairs = (settings for story in STORIES for settings in (story.broken, story.repaired))
    return tuple({settings.run_id: settings for settings in pairs}.values())


def example_stem(settings: Settings) -> str:
    """Return the name of the file that holds the stored run of these settings, without its ending.

    Example:
        >>> example_stem(Settings("mlp")), example_stem(STORIES[2].broken)
        ('mlp', 'mobilenet.int2_weights')
    """
    if settings == Settings(settings.model_name):
        return settings.model_name
    recipe = settings.recipe
    return f"{settings.model_name}.{recipe.name or f'int{recipe.weight.bits}_weights'}"
