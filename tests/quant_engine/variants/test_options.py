import pytest

from quant_engine.errors import SchemeError
from quant_engine.scheme import GPTQ, Candidate, Gptq, LayerScheme, Recipe, TensorScheme
from quant_engine.variants.options import (
    bit_options,
    default_options,
    describe_option_fully,
    name_options,
    own_option,
    treated,
)

EIGHT = LayerScheme(TensorScheme(), TensorScheme(symmetric=False))


def test_schemes_that_read_alike_get_their_full_description():
    per_channel = LayerScheme(TensorScheme(granularity="per_channel"), EIGHT.activation)
    names = list(name_options([EIGHT, per_channel, EIGHT.with_bits(4)]))
    assert len(set(names)) == 3
    assert names[:2] == [describe_option_fully(EIGHT), describe_option_fully(per_channel)]
    assert names[2] == "int4 weights + int8 inputs"


def test_the_same_scheme_twice_counts_once_and_names_of_the_caller_are_kept():
    assert len(name_options([EIGHT, EIGHT])) == 1
    assert name_options({"mine": EIGHT}) == {"mine": Candidate(EIGHT)}


def test_a_percentile_stands_in_the_full_description():
    tight = TensorScheme(observer="percentile", percentile=99.0)
    assert "percentile 99)" in describe_option_fully(LayerScheme(tight))


def test_a_dynamic_range_reads_differently_from_a_fixed_one():
    fixed = LayerScheme(TensorScheme(), TensorScheme())
    dynamic = LayerScheme(TensorScheme(), TensorScheme(is_dynamic=True))
    assert "dynamic" in describe_option_fully(dynamic)
    assert len(name_options([fixed, dynamic])) == 2


def test_bit_options_change_the_weights_only():
    options = bit_options(Recipe.default(), bits=(8, 3))
    assert [scheme.weight.bits for scheme in options.values()] == [8, 3]
    assert {scheme.activation for scheme in options.values()} == {Recipe.default().activation}


@pytest.mark.parametrize("wrong", [[], {}, [TensorScheme()], {"": EIGHT}, {"float": EIGHT}])
def test_options_that_cannot_be_tried_are_refused(wrong):
    with pytest.raises(SchemeError, match="options"):
        name_options(wrong)


def test_candidates_by_gptq_have_names_of_their_own():
    names = list(name_options([EIGHT, Candidate(EIGHT), Candidate(EIGHT, (GPTQ,))]))
    assert names == ["int8 weights + int8 inputs", "int8 weights + int8 inputs, GPTQ"]
    assert treated({"mine": EIGHT}, GPTQ) == {"mine, GPTQ": Candidate(EIGHT, (GPTQ,))}
    assert treated(treated({"mine": EIGHT}, GPTQ), GPTQ) == treated({"mine": EIGHT}, GPTQ)
    with pytest.raises(SchemeError, match="kind of a remedy"):
        Candidate(EIGHT, ("stochastic",))
    with pytest.raises(SchemeError, match="list of kinds"):
        Candidate(EIGHT, GPTQ)


def test_the_option_of_a_recipe_follows_its_remedy():
    recipe = Recipe.default().with_remedy(Gptq(layers=("head",)))
    options = default_options(recipe)
    assert own_option(recipe, options, "head") == "int8 weights + int8 inputs, GPTQ"
    assert own_option(recipe, options, "stem") == "int8 weights + int8 inputs"
    assert own_option(recipe, {"four": Candidate(EIGHT.with_bits(4))}, "stem") == "four"
