"""A prediction: what any choice of bits for the layers would do to a run's model.

It belongs to a model, its two schemes and its samples, not to what a run says of single layers
(float, bits, remedies that treat each by itself): runs that differ only in that share it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import product

from dashboard.data.settings import Settings, canonical
from quant_engine import LogitResponse, bit_options, in_groups, treated
from quant_engine.report import ConfigurationPoint, ConfigurationScore, FrontierReport, TrustRegion
from quant_engine.response import as_pairs, find_region
from quant_engine.scheme import (
    ADAROUND,
    BIAS_CORRECTION,
    GPTQ,
    LOCAL_REMEDIES,
    MAX_BITS,
    MIN_BITS,
    OUTPUT_MSE,
    Candidate,
    LayerScheme,
    Overrides,
    Recipe,
    local_remedies,
)
from quant_engine.variants import FLOAT_OPTION, OPTION_BITS

MOST_TREATED_BITS = 4
"""Remedies and groups are tried up to these bits, as wider weights gain little from them
(`docs/remedies.md`), GPTQ at the recipe's own bits too."""
GROUP_SIZE = 32
FLOAT_LETTER = "f"
LETTERS = {
    (False, ()): "2345678",
    (False, (GPTQ,)): "BCDEFGH",
    (False, (BIAS_CORRECTION,)): "IJKLMNO",
    (False, (GPTQ, BIAS_CORRECTION)): "PQRSTUV",
    (True, ()): "ghijklm",
    (True, (GPTQ,)): "nopqrst",
    (False, (OUTPUT_MSE,)): "abcdeuv",
    (False, (OUTPUT_MSE, GPTQ)): "wxyzWXY",
    (False, (ADAROUND,)): "019AZ-_",
}
"""What stands in a link for 2 to 8 bits: whether in groups that the recipe does not have, and kinds
of remedies -> a letter for each width."""
WAY_WORDS = {
    OUTPUT_MSE: "narrow ranges",
    GPTQ: "GPTQ",
    ADAROUND: "AdaRound",
    BIAS_CORRECTION: "bias",
}
NEAREST = "nearest code"
MAX_SCORES = 256

Configuration = Mapping[str, str]
"""Layer name -> option name; layers left out stay float."""


def bare_settings(settings: Settings) -> Settings:
    """Return the settings without what they say about single layers.

    AdaRound stays, for all layers: it takes long, so it is a choice only where it was asked for.
    """
    recipe = settings.recipe
    bare = Recipe(recipe.weight, recipe.activation, remedies=recipe.remedies)
    for kind, remedy in local_remedies(recipe).items():
        # Which layers it treats is chosen; how it does is not.
        everywhere = replace(remedy, layers=LOCAL_REMEDIES[kind].layers)
        bare = bare.without_remedy(type(remedy))
        if kind == ADAROUND or everywhere != LOCAL_REMEDIES[kind]:
            bare = bare.with_remedy(everywhere)
    return replace(settings, recipe=bare)


def prediction_id(settings: Settings) -> str:
    """Return the name that predictions for these settings have."""
    return bare_settings(settings).run_id


def widths_of(recipe: Recipe) -> tuple[int, ...]:
    """Return the bits of weights that can be chosen, the recipe's own among them.

    Example:
        >>> widths_of(Recipe.default())
        (8, 6, 4, 3, 2)
    """
    return tuple(sorted({*OPTION_BITS, recipe.weight.bits}, reverse=True))


@dataclass(frozen=True, slots=True)
class MeasuredSearch:
    """Configurations that a search predicted best within a budget, and that were then run.

    Attributes:
        budget: In words, such as "60 kB".
        points: What was run, the best measured first.
    """

    budget: str
    points: tuple[ConfigurationPoint, ...]


def options_of(recipe: Recipe) -> dict[str, LayerScheme | Candidate]:
    """Return what can be chosen for a layer: every width, the narrow ones in other ways too.

    AdaRound is among them where the recipe rounds layers by themselves by it.
    """
    widths = widths_of(recipe)
    rounded = [bits for bits in widths if bits <= MOST_TREATED_BITS or bits == recipe.weight.bits]
    narrow = bit_options(recipe, [bits for bits in widths if bits <= MOST_TREATED_BITS])
    groups = {} if recipe.weight.group_size else in_groups(narrow, GROUP_SIZE)
    return {
        **bit_options(recipe, widths),
        **treated(bit_options(recipe, rounded), GPTQ),
        **treated(narrow, BIAS_CORRECTION),
        **treated(narrow, GPTQ, BIAS_CORRECTION),
        **groups,
        **(treated(groups, GPTQ) if groups else {}),
        **treated(narrow, OUTPUT_MSE),
        **treated(narrow, OUTPUT_MSE, GPTQ),
        **(treated(narrow, ADAROUND) if ADAROUND in local_remedies(recipe) else {}),
    }


def way_of(candidate: Candidate) -> Candidate:
    """Return a candidate but for its bits: at 8 of them."""
    return replace(candidate, scheme=candidate.scheme.with_bits(MAX_BITS))


@dataclass(frozen=True, eq=False)
class Prediction:
    """What predicts, the best of what it predicts, and what was run to check it.

    Attributes:
        response: Predicts any configuration.
        frontier: The least predicted degradation for every size.
        measured: Configurations that were run; each holds its prediction too.
    """

    response: LogitResponse
    frontier: FrontierReport
    measured: tuple[ConfigurationPoint, ...] = ()

    @cached_property
    def letters(self) -> dict[str, str]:
        """What stands in a link for each option: its bits, or another letter; "f" for float."""

        def letter(candidate: Candidate) -> str:
            by_width = LETTERS[self._is_in_other_groups(candidate), candidate.remedies]
            return by_width[candidate.scheme.weight.bits - MIN_BITS]

        options = self.response.candidates.items()
        return {FLOAT_OPTION: FLOAT_LETTER, **{name: letter(option) for name, option in options}}

    def _is_in_other_groups(self, candidate: Candidate) -> bool:
        weight, own = candidate.scheme.weight, self.response.report.recipe.weight
        return weight.group_size != own.group_size

    @cached_property
    def ways(self) -> tuple[Candidate, ...]:
        """What can be done to weights besides their bits; see `way_of`. Plain rounding is first."""
        return tuple(dict.fromkeys(map(way_of, self.response.candidates.values())))

    def way_words(self, way: Candidate) -> str:
        """Return a way in words: "nearest code", "GPTQ + bias", "groups of 32 + GPTQ"."""
        size = way.scheme.weight.group_size
        groups = [f"groups of {size}"] if self._is_in_other_groups(way) else []
        return " + ".join([*groups, *(WAY_WORDS[kind] for kind in way.remedies)]) or NEAREST

    @cached_property
    def labels(self) -> dict[str, str]:
        """What to call each option on a button: "float", its bits, "4 GPTQ"."""

        def label(candidate: Candidate) -> str:
            way = way_of(candidate)
            more = "" if way == self.ways[0] else f" {self.way_words(way)}"
            return f"{candidate.scheme.weight.bits}{more}"

        options = self.response.candidates.items()
        return {FLOAT_OPTION: FLOAT_OPTION, **{name: label(option) for name, option in options}}

    @cached_property
    def plain_options(self) -> tuple[str, ...]:
        """Float, and the options that round to the nearest code."""
        candidates = self.response.candidates.items()
        return (FLOAT_OPTION, *(name for name, c in candidates if way_of(c) == self.ways[0]))

    def words(self, option: str) -> str:
        """Return an option in words: "float", "4 bits", "4 bits GPTQ"."""
        bits, _, way = self.labels[option].partition(" ")
        return bits if option == FLOAT_OPTION else f"{bits} bits {way}".rstrip()

    def way(self, option: str) -> Candidate:
        """Return what an option does to weights besides their bits; to float, plain rounding."""
        return self.ways[0] if option == FLOAT_OPTION else way_of(self.response.candidates[option])

    def twin(self, layer: str, option: str, way: Candidate) -> str | None:
        """Return the option with the same bits in another way; None where a layer has none."""
        if option == FLOAT_OPTION:
            return None
        found = self._at(option, way)
        is_own = found is not None and self.response.effective_option(layer, found) == found
        return found if is_own else None

    def ways_of(self, layer: str, option: str) -> tuple[Candidate, ...]:
        """Return the ways that a layer has at the bits of an option."""
        return tuple(way for way in self.ways if self.twin(layer, option, way) is not None)

    def why_not(self, layer: str, option: str) -> dict[str, str]:
        """Return why remedies do not treat a layer at the bits of an option, by their kind."""
        if option == FLOAT_OPTION:
            return {}
        alike = {self._at(option, way) for way in self.ways}
        return {
            kind: why
            for name, other, kind, why in self.response.report.untreated
            if name == layer and other in alike
        }

    def _at(self, option: str, way: Candidate) -> str | None:
        """Return the option with the bits of another one in a way; None if that was not tried."""
        bits = self.response.candidates[option].scheme.weight.bits
        wanted = replace(way, scheme=way.scheme.with_bits(bits))
        return next((n for n, c in self.response.candidates.items() if c == wanted), None)

    @cached_property
    def alone(self) -> dict[tuple[str, str], float]:
        """Predicted degradation of each layer alone under each option, the rest in float.

        Of several outputs it is the largest of their ratios, as everywhere.
        """
        layers, options = self.response.layers, self.response.options
        places = list(product(range(len(layers)), range(len(options))))
        found = self.response.degradations([[place] for place in places])
        return {
            (layers[layer], options[option]): float(degradation)
            for (layer, option), degradation in zip(places, found, strict=True)
        }

    @cached_property
    def measured_alone(self) -> dict[tuple[str, str], float]:
        """Measured degradation by single layers under an option: what checked the predictions."""
        return {
            point.configuration[0]: point.measured
            for point in self.response.report.agreement.single_points
            if len(point.configuration) == 1
        }

    @cached_property
    def region(self) -> TrustRegion:
        """Up to which degradation predictions hold here, by all that was predicted and run.

        The response's own `trust_region` goes by its agreement check alone.
        """
        agreement = self.response.report.agreement
        points = (*agreement.single_points, *agreement.random_points)
        runs = [(p.predicted, p.measured) for p in self.measured if p.measured]
        return find_region(
            [(p.predicted, p.measured) for p in points]
            + [(predicted.degradation, measured.degradation) for predicted, measured in runs]
        )

    def score(self, configuration: Configuration) -> ConfigurationScore:
        """Return what is predicted for a configuration; nothing is run."""
        return self._score(self.to_text(configuration))

    @cached_property
    def _score(self) -> Callable[[str], ConfigurationScore]:
        return lru_cache(maxsize=MAX_SCORES)(
            lambda text: self.response.score(self.from_text(text) or {})
        )

    def uniform(self, option: str) -> dict[str, str]:
        """Return the configuration in which every layer has one option."""
        return {} if option == FLOAT_OPTION else self.response.uniform(option)

    def measured_score(self, configuration: Configuration) -> ConfigurationScore | None:
        """Return what running a configuration gave, or None if it was not run."""
        wanted = dict(as_pairs(configuration))
        return next((p.measured for p in self.measured if p.as_dict() == wanted), None)

    def with_measured(self, points: Iterable[ConfigurationPoint]) -> Prediction:
        """Return a copy that holds these runs too; a newer one replaces an older one."""
        known = {frozenset(p.configuration): p for p in (*self.measured, *points)}
        return replace(self, measured=tuple(known.values()))

    def to_text(self, configuration: Configuration) -> str:
        """Return a configuration as one letter per layer, in the order they run."""
        return "".join(
            self.letters[configuration.get(name, FLOAT_OPTION)] for name in self.response.layers
        )

    def from_text(self, text: str) -> dict[str, str] | None:
        """Return what `to_text` wrote, or None if it does not fit this model."""
        names = {letter: option for option, letter in self.letters.items()}
        layers = self.response.layers
        if len(text) != len(layers) or not set(text) <= set(names):
            return None
        chosen = {layer: names[letter] for layer, letter in zip(layers, text, strict=True)}
        return dict(as_pairs(chosen))

    def configuration_of(self, recipe: Recipe) -> tuple[dict[str, str], tuple[str, ...]]:
        """Return the configuration that comes closest to a recipe.

        Returns:
            The configuration, and the layers whose scheme and remedies are none of the options: the
            option with the nearest bits stands for them.
        """
        options = {option: name for name, option in self.response.candidates.items()}
        configuration, stand_ins = {}, []
        for name in self.response.layers:
            wanted = Candidate.of(recipe, name)
            if wanted is None:
                continue
            found = options.get(wanted)
            if found is None:
                stand_ins.append(name)
                found = options[_nearest(wanted, options)]
            configuration[name] = self.response.effective_option(name, found)
        return configuration, tuple(stand_ins)

    def recipe_of(self, configuration: Configuration) -> Recipe:
        """Return the shortest recipe that quantizes the model as a configuration says."""
        recipe = self.response.recipe(configuration)
        plain = LayerScheme(recipe.weight, recipe.activation)
        own = {name: scheme for name, scheme in recipe.overrides.items() if scheme != plain}
        return canonical(replace(recipe, overrides=Overrides(own)))


def _nearest(wanted: Candidate, options: Iterable[Candidate]) -> Candidate:
    """Return the candidate with the nearest bits, of several one with the same remedies."""
    bits = wanted.scheme.weight.bits
    return min(
        options, key=lambda o: (abs(o.scheme.weight.bits - bits), o.remedies != wanted.remedies)
    )
