from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quant_engine.errors import StorageError
from quant_engine.report.serialization import decode, encode
from quant_engine.scheme import PRESETS, Recipe, TensorScheme
from tests.quant_engine.strategies import schemes


@dataclass(frozen=True, slots=True)
class Inner:
    """Every kind of scalar."""

    number: float
    whole: int
    text: str
    flag: bool


@dataclass(frozen=True, slots=True)
class Outer:
    """Every kind of container."""

    inner: Inner
    maybe: Inner | None
    many: tuple[Inner, ...]
    pair: tuple[float, int]
    scheme: TensorScheme
    recipe: Recipe
    share: float | None = None
    row: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


WHOLE = st.integers(-(2**63) + 1, 2**63 - 1)
inners = st.builds(Inner, st.floats(allow_nan=False), WHOLE, st.text(max_size=5), st.booleans())
outers = st.builds(
    Outer,
    inners,
    st.none() | inners,
    st.lists(inners, max_size=3).map(tuple),
    st.tuples(st.floats(allow_nan=False), WHOLE),
    schemes(),
    st.sampled_from(list(PRESETS.values())),
    st.none() | st.floats(allow_nan=False),
    st.lists(st.floats(allow_nan=False), max_size=3).map(tuple),
    st.lists(WHOLE, max_size=3).map(tuple),
)
INNER = Inner(1.5, 2, "three", True)
OUTER = Outer(INNER, None, (INNER,), (0.5, 1), TensorScheme(), PRESETS["int8_mse"])


@given(outers)
def test_everything_survives_json(value):
    text = json.dumps(encode(value), allow_nan=False)
    assert decode(Outer, json.loads(text)) == value


@pytest.mark.parametrize(
    ("value", "plain"), [(math.inf, "inf"), (-math.inf, "-inf"), (1.5, 1.5), (None, None)]
)
def test_numbers_json_cannot_hold_travel_as_text(value, plain):
    assert encode(value) == plain


def test_nan_survives():
    data = json.loads(json.dumps(encode(Inner(math.nan, 1, "", False)), allow_nan=False))
    assert data["number"] == "nan"
    assert math.isnan(decode(Inner, data).number)


def test_types_come_back_as_they_were():
    back = decode(Inner, {**encode(INNER), "number": 3})
    assert isinstance(back.number, float)
    assert all(isinstance(x, float) for x in decode(Outer, {**encode(OUTER), "row": [1, 2]}).row)
    assert back.flag is True
    assert isinstance(decode(Outer, encode(OUTER)).many, tuple)


def test_mappings_become_objects_with_text_keys():
    assert encode({1: (math.inf, [2])}) == {"1": ["inf", [2]]}


def test_what_was_stored_before_a_field_existed_gets_its_default():
    data = encode(OUTER)
    del data["share"]
    assert decode(Outer, data) == OUTER


def changed(**changes):
    return {**encode(OUTER), **changes}


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (None, "Outer must be an object, got NoneType"),
        ([], "Outer must be an object, got list"),
        (changed(maybee=1), "Outer has the unknown key 'maybee'. Did you mean 'maybe'?"),
        ({}, "Outer lacks inner, maybe, many, pair, scheme, recipe."),
        (changed(inner=3), "Outer.inner must be an object, got int"),
        (changed(many={}), "Outer.many must be a list, got dict"),
        (changed(many=[{}]), r"Outer.many[0] lacks number, whole, text, flag"),
        (changed(pair=[1.0]), "Outer.pair must hold 2 values, got 1"),
        (changed(pair=[1.0, 1.5]), "Outer.pair[1] must be of type int, got 1.5"),
        (changed(pair=[True, 1]), "Outer.pair[0] must be of type float, got True"),
        (changed(pair=["infinite", 1]), "Outer.pair[0] must be of type float, got 'infinite'"),
        (changed(pair=[10**400, 1]), "Outer.pair[0] must be of type float, got 1329 bits"),
        (changed(pair=[1.0, 10**400]), "Outer.pair[1] is an integer of 1329 bits"),
        (changed(share="x"), "Outer.share must be of type float, got 'x'"),
        (changed(row=[0.5, "x"]), "Outer.row[1] must be of type float, got 'x'"),
        (changed(counts=[1, True]), "Outer.counts[1] must be of type int, got True"),
        (changed(counts=[1, 2.0]), "Outer.counts[1] must be of type int, got 2.0"),
        (changed(counts=[1, -(10**400)]), "Outer.counts[1] is an integer of 1329 bits"),
        (changed(scheme={"bits": 99}), "Outer.scheme: bits is 99"),
        (changed(scheme=[8]), "Outer.scheme: TensorScheme must be a mapping"),
        (changed(recipe={"weight": {"bit": 1}}), "Did you mean 'bits'?"),
        (
            changed(inner={**encode(INNER), "flag": 1}),
            "Outer.inner.flag must be of type bool, got 1",
        ),
        (
            changed(inner={**encode(INNER), "text": None}),
            "Outer.inner.text must be of type str, got None",
        ),
    ],
)
def test_what_does_not_fit_is_refused_with_its_place(data, message):
    with pytest.raises(StorageError) as caught:
        decode(Outer, data)
    assert message in str(caught.value)


def test_what_cannot_be_stored_is_refused():
    with pytest.raises(TypeError, match="cannot store a set"):
        encode({1, 2})


def test_what_was_stored_before_a_field_with_a_default_was_added_still_reads():
    data = encode(replace(OUTER, share=0.25))
    assert decode(Outer, data).share == 0.25
    del data["share"]
    assert decode(Outer, data) == replace(OUTER, share=None)
