from __future__ import annotations

import json
import math
import pickle
from collections.abc import Callable
from dataclasses import FrozenInstanceError, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_engine.errors import QuantizationError, SchemeError, suggest
from quant_engine.scheme import (
    OBSERVERS,
    PRESETS,
    REMEDIES,
    AdaRound,
    Awq,
    BiasCorrection,
    CrossLayerEqualization,
    Gptq,
    LayerScheme,
    OutputMse,
    Overrides,
    Recipe,
    Remedy,
    SmoothQuant,
    TensorScheme,
)
from tests.quant_engine.strategies import schemes

INT8 = TensorScheme()
INT4 = TensorScheme(bits=4)
LAYER8 = LayerScheme(INT8, INT8)
LAYER4 = LayerScheme(INT4, INT8)

names = st.text(st.sampled_from("ab.*[]?"), min_size=1, max_size=6)
layer_schemes = st.builds(LayerScheme, schemes(), st.none() | schemes("per_tensor"))
recipes = st.builds(
    Recipe,
    schemes(),
    st.none() | schemes("per_tensor"),
    st.lists(names, max_size=3).map(tuple),
    st.dictionaries(names, layer_schemes, max_size=3).map(Overrides),
    st.text(max_size=5),
    st.sets(
        st.sampled_from((CrossLayerEqualization(), SmoothQuant(), Awq(), OutputMse(), Gptq()))
    ).map(tuple),
)


@pytest.mark.parametrize(
    ("bits", "symmetric", "qmin", "qmax"),
    [
        (8, True, -127, 127),
        (8, False, -128, 127),
        (4, True, -7, 7),
        (4, False, -8, 7),
        (2, True, -1, 1),
        (2, False, -2, 1),
    ],
)
def test_codes_of_a_width(bits, symmetric, qmin, qmax):
    scheme = TensorScheme(bits=bits, symmetric=symmetric)
    assert (scheme.qmin, scheme.qmax) == (qmin, qmax)


@pytest.mark.parametrize(
    ("field", "value", "allowed"),
    [
        ("bits", 1, "2 to 8"),
        ("bits", 9, "2 to 8"),
        ("bits", 8.0, "2 to 8"),
        ("bits", True, "2 to 8"),
        ("bits", "8", "2 to 8"),
        ("symmetric", 1, "True or False"),
        ("granularity", "per_chanel", "Did you mean 'per_channel'?"),
        ("group_size", 32, "Use 'per_group'"),
        ("observer", "minmx", "Did you mean 'minmax'?"),
        ("percentile", 50.0, "above 50 and up to 100"),
        ("percentile", 100.1, "above 50 and up to 100"),
        ("percentile", float("nan"), "above 50 and up to 100"),
        ("percentile", "99", "above 50 and up to 100"),
        ("percentile", True, "above 50 and up to 100"),
    ],
)
def test_a_field_out_of_bounds_is_named_with_what_is_allowed(field, value, allowed):
    with pytest.raises(SchemeError) as caught:
        TensorScheme(**{field: value})
    assert field in str(caught.value)
    assert repr(value) in str(caught.value)
    assert allowed in str(caught.value)


@pytest.mark.parametrize("size", [None, 1, 65537, 32.0, True, "32"])
def test_groups_need_a_size(size):
    with pytest.raises(SchemeError, match="2 to 65536, usually 32, 64 or 128") as caught:
        TensorScheme(granularity="per_group", group_size=size)
    assert repr(size) in str(caught.value)


def test_a_scheme_without_groups_is_stored_as_before_there_were_any():
    groups = TensorScheme(granularity="per_group", group_size=2)
    assert "group_size" not in INT8.to_dict()
    assert groups.to_dict()["group_size"] == 2
    assert groups.granularity_name == "per group of 2"


def test_inputs_have_one_scale():
    with pytest.raises(SchemeError, match="granularity is 'per_group'"):
        LayerScheme(INT8, TensorScheme(granularity="per_group", group_size=32))


def test_scheme_errors_are_quantization_errors_and_value_errors():
    with pytest.raises(QuantizationError):
        TensorScheme(bits=0)
    with pytest.raises(ValueError, match="bits"):
        TensorScheme(bits=0)


def test_schemes_are_frozen():
    with pytest.raises(FrozenInstanceError):
        INT8.bits = 4  # type: ignore[misc]


@given(schemes())
def test_a_tensor_scheme_survives_a_dictionary(scheme):
    assert TensorScheme.from_dict(scheme.to_dict()) == scheme


@given(recipes)
def test_a_recipe_survives_json_and_pickle(recipe):
    copy = Recipe.from_dict(json.loads(json.dumps(recipe.to_dict())))
    assert copy == recipe
    assert hash(copy) == hash(recipe)
    assert pickle.loads(pickle.dumps(recipe)) == recipe  # noqa: S301 - our own bytes


@pytest.mark.parametrize(
    ("cls", "data", "message"),
    [
        (TensorScheme, {"bit": 4}, "Did you mean 'bits'?"),
        (TensorScheme, [8], "must be a mapping of settings, got list"),
        (LayerScheme, {}, "needs the key 'weight'"),
        (LayerScheme, {"weight": {}, "input": None}, "unknown key 'input'"),
        (LayerScheme, {"weight": 8}, "must be a mapping of settings, got int"),
        (Recipe, {"weight": {}, "exclude": []}, "Did you mean 'exclude_layers'?"),
        (Recipe, {}, "needs the key 'weight'"),
        (Recipe, {"weight": {}, "exclude_layers": "head"}, "must be a list of layer names"),
        (Recipe, {"weight": {}, "exclude_layers": 3}, "must be a list of layer names"),
        (Recipe, {"weight": {}, "exclude_layers": [None]}, "takes layer names"),
        (Recipe, {"weight": {}, "overrides": []}, "must be a mapping by layer name"),
        (Recipe, {"weight": {}, "name": 3}, "must be text"),
        (Recipe, None, "must be a mapping of settings, got NoneType"),
    ],
)
def test_stored_settings_that_do_not_fit_are_refused(cls, data, message):
    with pytest.raises(SchemeError, match=message.replace("?", r"\?")):
        cls.from_dict(data)


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: LayerScheme(None), "weight must be a TensorScheme, got NoneType"),
        (lambda: LayerScheme(INT8, 8), "activation must be a TensorScheme or None, got int"),
        (lambda: LayerScheme(INT8, replace(INT8, granularity="per_channel")), "per_tensor"),
        (lambda: Recipe(None), "weight must be a TensorScheme"),
        (lambda: Recipe(INT8, exclude_layers="head"), r"must be a list of names: \('head',\)"),
        (lambda: Recipe(INT8, exclude_layers=(3,)), "exclude_layers holds 3"),
        (lambda: Recipe(INT8, overrides=[("a", LAYER8)]), "must be a mapping"),
        (lambda: Recipe(INT8, overrides={"a": INT8}), "must be a LayerScheme, got TensorScheme"),
        (lambda: Recipe(INT8, overrides={3: LAYER8}), "Keys are layer names"),
        (lambda: Recipe(INT8, name=None), "must be text"),
    ],
)
def test_settings_of_the_wrong_kind_are_refused(build, message):
    with pytest.raises(SchemeError, match=message):
        build()


def test_excluded_layers_have_no_scheme():
    recipe = Recipe(INT8, exclude_layers=("head", "blocks.*.fc?"))
    assert recipe.layer_scheme("head") is None
    assert recipe.layer_scheme("blocks.3.fc1") is None
    assert recipe.excluding_pattern("blocks.3.fc1") == "blocks.*.fc?"
    assert recipe.layer_scheme("blocks.3.fc12") == LayerScheme(INT8, None)
    assert recipe.excluding_pattern("stem") is None


def test_an_exact_name_wins_over_a_wildcard_and_the_first_wildcard_over_later_ones():
    first = LayerScheme(TensorScheme(bits=2))
    recipe = Recipe(INT8, INT8, overrides={"a.*": first, "*": LAYER4, "a.b": LAYER8})
    assert recipe.layer_scheme("a.b") == LAYER8
    assert recipe.layer_scheme("a.c") == first
    assert recipe.layer_scheme("c") == LAYER4


def test_the_order_of_overrides_is_part_of_a_recipe():
    one = Recipe(INT8, overrides={"a*": LAYER4, "*b": LAYER8})
    other = Recipe(INT8, overrides={"*b": LAYER8, "a*": LAYER4})
    assert one != other
    assert one.layer_scheme("ab") != other.layer_scheme("ab")


def test_names_with_wildcard_characters_match_themselves():
    assert Recipe(INT8, exclude_layers=("a[0]",)).layer_scheme("a[0]") is None


def test_later_changes_to_the_overrides_given_are_not_seen():
    given_overrides = {"a": LAYER4}
    recipe = Recipe(INT8, overrides=given_overrides)
    given_overrides["b"] = LAYER8
    assert list(recipe.overrides) == ["a"]


def test_repeated_exclusions_count_once():
    assert Recipe(INT8).with_excluded("a", "b").with_excluded("a").exclude_layers == ("a", "b")


def test_an_exclusion_can_be_taken_back():
    recipe = Recipe(INT8, exclude_layers=("a", "b.*"))
    assert recipe.with_included("a").exclude_layers == ("b.*",)
    assert recipe.with_included("b.c").exclude_layers == ("a",)


def test_other_bits_bring_an_excluded_layer_back():
    recipe = Recipe(INT8, INT8, exclude_layers=("a",)).with_layer_bits("a", 4, 6)
    scheme = recipe.layer_scheme("a")
    assert scheme is not None
    assert (scheme.weight.bits, scheme.activation.bits) == (4, 6)
    assert recipe.layer_scheme("b") == LAYER8


def test_other_weight_bits_keep_the_rest_of_a_layers_override():
    recipe = Recipe(INT8, INT8, overrides={"a": LayerScheme(INT8, None)}).with_layer_bits("a", 3)
    assert recipe.layer_scheme("a") == LayerScheme(TensorScheme(bits=3), None)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_are_known_by_their_own_name(name):
    assert PRESETS[name].name == name
    assert Recipe.from_dict(PRESETS[name].to_dict()) == PRESETS[name]


def test_the_default_recipe_is_int8_per_channel():
    recipe = Recipe.default()
    assert recipe.weight.granularity == "per_channel"
    assert (recipe.weight.bits, recipe.activation.bits) == (8, 8)
    assert (recipe.weight.symmetric, recipe.activation.symmetric) == (True, False)


def test_the_dynamic_preset_differs_from_the_default_in_its_input_range_alone():
    dynamic, default = PRESETS["int8_dynamic"], Recipe.default()
    assert dynamic.weight == default.weight
    assert dynamic.activation == replace(default.activation, is_dynamic=True)


def test_a_suggestion_lists_all_names_and_the_likely_one_first():
    assert suggest("entropie", OBSERVERS) == (
        "Did you mean 'entropy'? Valid: entropy, minmax, mse, percentile."
    )
    assert suggest("zzz", ["b", "a"]) == "Valid: a, b."


def test_remedies_round_trip_in_the_order_they_are_applied() -> None:
    given = (BiasCorrection(), Gptq(damping=0.1), SmoothQuant(alpha=0.5, layers=("a.*", "b")))
    others = (CrossLayerEqualization(), OutputMse(), Awq(), AdaRound(steps=50, regularization=2.0))
    recipe = replace(Recipe.default(), remedies=(*given, *others))

    assert [remedy.kind for remedy in recipe.remedies] == list(REMEDIES)
    assert Recipe.from_dict(json.loads(json.dumps(recipe.to_dict()))) == recipe
    assert {recipe, Recipe.default()} == {Recipe.from_dict(recipe.to_dict()), Recipe.default()}


def test_a_recipe_stored_before_there_were_remedies_has_none() -> None:
    stored = Recipe.default().to_dict()
    del stored["remedies"]

    assert Recipe.from_dict(stored) == Recipe.default()


def test_a_remedy_treats_layers_by_name_and_wildcard() -> None:
    remedy = SmoothQuant(layers=("head", "blocks.*.fc?"))

    treated = [n for n in ("head", "blocks.1.fc2", "blocks.1.proj", "heads") if remedy.treats(n)]
    assert treated == ["head", "blocks.1.fc2"]


def test_a_recipe_replaces_a_remedy_of_the_same_kind() -> None:
    recipe = Recipe.default().with_remedy(SmoothQuant()).with_remedy(BiasCorrection())

    assert recipe.with_remedy(SmoothQuant(alpha=0.5)).remedies == (
        SmoothQuant(alpha=0.5),
        BiasCorrection(),
    )


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SmoothQuant(alpha=1.5), "alpha is 1.5"),
        (lambda: SmoothQuant(alpha="best"), "alpha is 'best'"),
        (lambda: SmoothQuant(alpha=True), "alpha is True"),
        (lambda: Gptq(damping=-0.1), "damping is -0.1"),
        (lambda: Gptq(damping=math.nan), "damping is nan"),
        (lambda: AdaRound(steps=0), "steps is 0.*1 to 100000"),
        (lambda: AdaRound(steps=10.0), "steps is 10.0"),
        (lambda: AdaRound(learning_rate=0), "learning_rate is 0"),
        (lambda: AdaRound(regularization=math.inf), "regularization is inf"),
        (lambda: CrossLayerEqualization(absorb_bias=1), "absorb_bias is 1"),
        (lambda: BiasCorrection(layers="head"), "must be a list"),
        (lambda: BiasCorrection(layers=()), "at least one"),
        (lambda: replace(Recipe.default(), remedies=("gptq",)), "remedies holds 'gptq'"),
        (lambda: replace(Recipe.default(), remedies=(Remedy(),)), "remedies holds Remedy"),
        (lambda: replace(Recipe.default(), remedies=(Gptq(), Gptq(damping=0.1))), "2 of the kind"),
        (lambda: Remedy.from_dict({"kind": "gptk"}), "Did you mean 'gptq'"),
        (lambda: Remedy.from_dict({"kind": "gptq", "alpha": 1}), "unknown key 'alpha'"),
        (lambda: Recipe.from_dict({**Recipe.default().to_dict(), "remedies": "gptq"}), "a list"),
    ],
)
def test_remedies_that_make_no_sense_are_refused(make: Callable[[], object], message: str) -> None:
    with pytest.raises(SchemeError, match=message):
        make()
