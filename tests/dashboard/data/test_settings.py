"""Settings and their form as a link: what goes in comes out, and nonsense never breaks a page."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dashboard.data import link_words as links
from dashboard.data.link_words import (
    LinkError,
    override_from_text,
    override_to_text,
    remedy_from_text,
    remedy_to_text,
    scheme_from_text,
    scheme_to_text,
    shorten,
)
from dashboard.data.settings import (
    DEFAULT_CALIBRATION_SAMPLES,
    LINK_KEYS,
    MAX_CALIBRATION_SAMPLES,
    MIN_CALIBRATION_SAMPLES,
    Settings,
    params_from_text,
    preset_of,
    settings_from_params,
    settings_to_text,
)
from quant_engine.errors import SchemeError
from quant_engine.scheme import (
    GRANULARITIES,
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

MODELS = ("mlp", "resnet", "vit")

layer_names = st.text(
    st.characters(codec="utf-8", exclude_characters=":", exclude_categories=("Cs", "Cc", "Zs")),
    min_size=1,
    max_size=12,
).filter(lambda name: not any(c.isspace() for c in name))
tensor_schemes = st.sampled_from(GRANULARITIES).flatmap(
    lambda granularity: st.builds(
        TensorScheme,
        bits=st.integers(2, 8),
        symmetric=st.booleans(),
        granularity=st.just(granularity),
        observer=st.sampled_from(OBSERVERS),
        percentile=st.floats(51, 100),
        group_size=st.integers(2, 65536) if granularity == "per_group" else st.none(),
    )
)
dynamic_schemes = st.builds(
    TensorScheme, bits=st.integers(2, 8), symmetric=st.booleans(), is_dynamic=st.just(True)
)
input_schemes = (
    st.none()
    | tensor_schemes.map(lambda s: replace(s, granularity="per_tensor", group_size=None))
    | dynamic_schemes
)
layer_schemes = st.builds(LayerScheme, tensor_schemes, input_schemes)
treated = st.just(("*",)) | st.lists(layer_names, min_size=1, max_size=3, unique=True).map(tuple)
remedies = {
    CrossLayerEqualization: st.builds(CrossLayerEqualization, treated, st.booleans()),
    SmoothQuant: st.builds(SmoothQuant, treated, st.just("auto") | st.floats(0, 1)),
    Awq: st.builds(Awq, treated),
    OutputMse: st.builds(OutputMse, treated),
    Gptq: st.builds(Gptq, treated, st.floats(0, 1)),
    AdaRound: st.builds(
        AdaRound,
        treated,
        st.integers(1, 100_000),
        st.floats(1e-5, 1),
        st.floats(1e-3, 1e3),
        st.booleans(),
    ),
    BiasCorrection: st.builds(BiasCorrection, treated, st.booleans())
    | st.builds(BiasCorrection, treated, means=st.just("batch_norm")),
}
recipes = st.builds(
    Recipe,
    weight=tensor_schemes,
    activation=input_schemes,
    exclude_layers=st.lists(layer_names, max_size=3).map(tuple),
    overrides=st.dictionaries(layer_names, layer_schemes, max_size=3).map(Overrides),
    remedies=st.tuples(*(st.none() | kind for kind in remedies.values())).map(
        lambda given: tuple(remedy for remedy in given if remedy is not None)
    ),
)
settings = st.builds(
    Settings,
    model_name=st.sampled_from(MODELS),
    recipe=recipes | st.sampled_from(list(PRESETS.values())),
    calibration_samples=st.integers(MIN_CALIBRATION_SAMPLES, MAX_CALIBRATION_SAMPLES),
    seed=st.integers(0, 999_999),
)


@given(settings)
def test_a_link_gives_back_the_settings_it_was_made_from(chosen: Settings) -> None:
    read, notices = settings_from_params(params_from_text(settings_to_text(chosen)), MODELS)

    assert notices == ()
    assert read == chosen
    assert read is not None
    assert read.run_id == chosen.run_id


@given(st.dictionaries(st.sampled_from(LINK_KEYS), st.lists(st.text(max_size=20), max_size=3)))
def test_a_link_of_nonsense_gives_settings_and_never_an_exception(
    params: dict[str, list[str]],
) -> None:
    read, notices = settings_from_params(params, MODELS)

    assert read is None or read.model_name in MODELS
    assert all(isinstance(notice, str) and len(notice) < 400 for notice in notices)


@given(st.text(max_size=60))
def test_any_text_can_be_read_as_a_link(text: str) -> None:
    read, _ = settings_from_params(params_from_text(text), MODELS)

    assert read is None or settings_from_params(
        params_from_text(settings_to_text(read)), MODELS
    ) == (read, ())


def test_a_usual_link_is_short_and_readable() -> None:
    recipe = PRESETS["int8_mse"].with_excluded("head", "blocks.*").with_layer_bits("stem", 4)

    text = settings_to_text(Settings("vit", recipe, 64, 7))

    assert text == ("vit int8_mse exclude:head exclude:blocks.* bits:stem:4 samples:64 seed:7")


def test_an_empty_link_names_no_run() -> None:
    assert settings_from_params({}, MODELS) == (None, ())
    assert settings_from_params(params_from_text("  "), MODELS) == (None, ())


@pytest.mark.parametrize(
    ("params", "notice"),
    [
        ({"model": ["resnett"]}, "Did you mean 'resnet'?"),
        ({"preset": ["int9"]}, "the preset “int9”"),
        ({"weight": ["9"]}, "bits is 9"),
        ({"weight": ["8-nonsense"]}, "“nonsense” is not a word of a scheme"),
        ({"activation": ["8-per_channel"]}, "activation granularity"),
        ({"bits": ["stem"]}, "“stem” is not written as layer:bits"),
        ({"bits": ["stem:12"]}, "bits is 12"),
        ({"bits": ["stem:4:5:6"]}, "not written as layer:bits"),
        ({"samples": ["many"]}, "The link's samples is “many”"),
        ({"samples": ["3"]}, "Allowed: 8 to 2000"),
        ({"seed": ["-1"]}, "The link's seed is “-1”"),
        ({"seed": ["９"]}, "The link's seed is"),
    ],
)
def test_each_wrong_part_falls_back_with_a_notice(
    params: dict[str, list[str]], notice: str
) -> None:
    read, notices = settings_from_params({"model": ["mlp"], **params}, MODELS)

    assert read is not None
    assert len(notices) == 1
    assert notice in notices[0]
    usual = Settings("resnet" if "model" in params else "mlp")
    assert read == usual


def test_layers_that_the_model_does_not_have_are_left_out_and_the_nearest_named() -> None:
    layers = {"mlp": ("fc1", "head.0"), "resnet": ("conv1", "layer1.0.conv1", "layer1.0.conv2")}
    text = (
        "resnet int8_per_channel exclude:zzz exclude:layer1.* exclude:layr1.0.conv2 "
        "bits:head.0:4 bits:conv1:4"
    )
    read, notices = settings_from_params(params_from_text(text), MODELS, layers.__getitem__)

    assert read == Settings(
        "resnet", Recipe.default().with_excluded("layer1.*").with_layer_bits("conv1", 4)
    )
    unknown, misspelt, foreign = notices
    assert "“zzz”" in unknown
    assert "conv1" in unknown
    assert misspelt.index("layer1.0.conv2") < misspelt.index("Left out.")
    assert "gives bits to the layer “head.0”" in foreign


def test_run_ids_differ_exactly_where_the_computation_does() -> None:
    base = Settings("mlp", Recipe.default())
    same = (
        replace(base, recipe=replace(base.recipe, name="other name")),
        replace(
            base, recipe=replace(base.recipe, weight=replace(base.recipe.weight, percentile=99))
        ),
    )
    others = (
        replace(base, model_name="vit"),
        replace(base, recipe=base.recipe.with_excluded("a")),
        replace(base, recipe=base.recipe.with_layer_bits("a", 4)),
        replace(base, recipe=replace(base.recipe, activation=None)),
        replace(base, calibration_samples=DEFAULT_CALIBRATION_SAMPLES - 1),
        replace(base, seed=1),
    )

    assert {s.run_id for s in same} == {base.run_id}
    assert len({base.run_id, *(s.run_id for s in others)}) == len(others) + 1


def test_the_order_of_excluded_layers_does_not_matter() -> None:
    first = Settings("mlp", Recipe.default().with_excluded("a", "b"))
    second = Settings("mlp", Recipe.default().with_excluded("b", "a"))

    assert first.run_id == second.run_id


@pytest.mark.parametrize("changes", [{"calibration_samples": 1}, {"seed": -1}])
def test_settings_outside_their_range_are_refused(changes: dict[str, int]) -> None:
    with pytest.raises(SchemeError, match="Allowed"):
        Settings("mlp", **changes)


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_recognised(name: str) -> None:
    assert preset_of(PRESETS[name].with_excluded("x")) == name
    assert Settings("mlp", replace(PRESETS[name], name="")).recipe.name == name


@given(tensor_schemes)
@example(TensorScheme(4, symmetric=False, observer="hqq"))
def test_schemes_survive_as_text(scheme: TensorScheme) -> None:
    read = scheme_from_text(scheme_to_text(scheme))

    assert replace(read, percentile=scheme.percentile) == scheme
    if scheme.observer == "percentile":
        assert read == scheme


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("4-per_group", "group_size is None"),
        ("4-per_group1", "2 to 65536"),
        ("4-per_group99999", "2 to 65536"),
        ("4-per_groups", "“s” is not a group size"),
        ("4-per_group123456", "is not a group size"),
    ],
)
def test_a_group_size_in_a_link_that_makes_no_sense_is_refused(text: str, message: str) -> None:
    with pytest.raises((LinkError, SchemeError), match=message):
        scheme_from_text(text)


def test_runs_without_groups_are_called_as_before_there_were_any() -> None:
    assert Settings("mlp").run_id == "74d6fc2bf09f2573"


@given(layer_names, layer_schemes.filter(lambda s: s.weight.observer != "minmax"))
def test_a_layers_own_scheme_survives_as_text(name: str, scheme: LayerScheme) -> None:
    recipe = Settings("mlp", Recipe.default().with_override(name, scheme)).recipe
    canonical = recipe.overrides[name]

    assert override_from_text(override_to_text(name, canonical, recipe), recipe) == (
        name,
        canonical,
    )


def test_bits_follow_the_recipe_they_are_read_with() -> None:
    recipe = PRESETS["int8_mse"]

    _, scheme = override_from_text("stem:4:6", recipe)

    assert recipe.activation is not None
    assert scheme == LayerScheme(replace(recipe.weight, bits=4), replace(recipe.activation, bits=6))


def test_text_that_is_no_bits_is_refused() -> None:
    with pytest.raises(LinkError, match="not a number of bits"):
        override_from_text("stem:four", Recipe.default())


def test_shorten_keeps_markup_out() -> None:
    assert shorten("<b>[x](y)`$\n") == " b  x (y)   "


def test_a_dynamic_range_stands_in_the_link_as_a_word() -> None:
    dynamic = TensorScheme(bits=4, is_dynamic=True)
    recipe = Recipe(TensorScheme(), dynamic)

    text = settings_to_text(Settings("mlp", recipe))

    assert "activation:4-symmetric-per_tensor-minmax-dynamic" in text
    assert scheme_from_text("4-dynamic") == dynamic
    fixed = Settings("mlp", Recipe(TensorScheme(), TensorScheme(bits=4)))
    assert Settings("mlp", recipe).run_id != fixed.run_id


@pytest.mark.parametrize(
    "params",
    [{"activation": ["8-mse-dynamic"]}, {"weight": ["8-dynamic"]}, {"bits": ["a:8-dynamic:none"]}],
)
def test_a_dynamic_range_where_there_can_be_none_falls_back(params: dict[str, list[str]]) -> None:
    read, notices = settings_from_params(params, MODELS)

    assert read is not None
    assert read.recipe == Recipe.default()
    assert len(notices) == 1


def test_the_number_of_layers_in_a_link_is_bounded() -> None:
    names = [f"unknown{number}" for number in range(5000)]
    params = {"exclude": names, "bits": [f"{name}:4" for name in names]}

    settings, notices = settings_from_params(params, ["mlp"], lambda _: ["stem", "head"])

    assert settings == Settings("mlp")
    assert notices[0].startswith("The link's exclude names 5000 layers. Allowed: 256")
    assert notices[1].startswith("The link's bits names 5000 layers. Allowed: 256")
    assert len(notices) == 2 + links.MOST_NOTICES + 1
    assert notices[-1] == "The link names 507 more layers that this model does not have."


def test_a_name_in_a_link_is_bounded() -> None:
    pattern = "*" * (links.LONGEST_NAME + 1)
    settings, notices = settings_from_params(
        {"exclude": [pattern, "stem"]}, ["mlp"], lambda _: ["stem", "head"]
    )

    assert settings == Settings("mlp", Recipe.default().with_excluded("stem"))
    assert len(notices) == 1


@pytest.mark.parametrize("kind", REMEDIES)
@given(st.data())
def test_a_remedy_comes_back_from_its_text(kind: str, data: st.DataObject) -> None:
    remedy = data.draw(remedies[REMEDIES[kind]])

    assert remedy_from_text(remedy_to_text(remedy)) == remedy


@pytest.mark.parametrize(
    ("remedy", "text"),
    [
        (CrossLayerEqualization(absorb_bias=False), "cross_layer_equalization-keep_offsets"),
        (SmoothQuant(alpha=0.5), "smooth_quant-0.5"),
        (Awq(("head", "stem")), "awq:head:stem"),
        (OutputMse(), "output_mse"),
        (Gptq(("head",), 0.25), "gptq-0.25:head"),
        (AdaRound(steps=500), "adaround-500_0.01_1.0"),
        (AdaRound(("a",), 5, 1.0, 2.0, is_sequential=False), "adaround-5_1.0_2.0_each_layer:a"),
        (BiasCorrection(is_sequential=False), "bias_correction-each_layer"),
        (BiasCorrection(means="batch_norm"), "bias_correction-batch_norm"),
    ],
)
def test_remedies_stand_in_links_as_before(remedy: Remedy, text: str) -> None:
    assert remedy_to_text(remedy) == text
    assert remedy_from_text(text) == remedy


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gptk", "not a remedy. Did you mean 'gptq'"),
        ("gptq-much", "“much” is not a number"),
        ("bias_correction-0.5", "“0.5” is not a setting"),
        ("adaround-500", "“500” is not a setting"),
        ("adaround-0_0.1_1.0", "steps is 0"),
        ("adaround-9999999_0.1_1.0", "“9999999” is not a number of steps"),
        ("adaround-5_fast_1.0", "“fast” is not a number"),
        ("awq-0.5", "“0.5” is not a setting"),
        ("smooth_quant-2", "alpha is 2.0"),
        ("cross_layer_equalization-x", "“x” is not a setting"),
    ],
)
def test_a_remedy_in_a_link_that_makes_no_sense_is_left_out(text: str, message: str) -> None:
    with pytest.raises((LinkError, SchemeError), match=message):
        remedy_from_text(text)

    found, notices = settings_from_params({"model": ["mlp"], "remedy": [text]}, MODELS)

    assert found == Settings("mlp")
    assert [message in notice for notice in notices] == [True]


def test_a_remedy_of_unknown_layers_is_left_out_and_said() -> None:
    params = {"model": ["mlp"], "remedy": ["gptq:head:hed", "bias_correction:hed"]}

    found, notices = settings_from_params(params, MODELS, lambda _: ["head", "stem"])

    assert found is not None
    assert found.recipe.remedies == (Gptq(layers=("head",)),)
    assert [("“hed”" in n, "Nearest: head" in n) for n in notices] == [(True, True)] * 2


def test_a_remedy_of_many_layers_comes_back_whole() -> None:
    names = tuple(f"blocks.{n}.attention.output.projection" for n in range(30))
    chosen = Settings("mlp", Recipe.default().with_remedy(Gptq(layers=names)))
    found, notices = settings_from_params(
        params_from_text(settings_to_text(chosen)), MODELS, lambda _: names
    )
    assert found == chosen
    assert not notices
    endless = {"model": ["mlp"], "remedy": ["gptq:" + "a" * 400]}
    found, notices = settings_from_params(endless, MODELS, lambda _: names)
    assert not found.recipe.remedies  # not all layers instead
    assert any("remedy names" in notice for notice in notices)


def test_runs_without_remedies_keep_the_name_that_they_had() -> None:
    assert Settings("mlp").run_id == "74d6fc2bf09f2573"
    assert (
        Settings("mlp", replace(Recipe.default(), remedies=(Gptq(),))).run_id != "74d6fc2bf09f2573"
    )
