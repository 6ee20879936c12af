"""The rules that turn out_features and out_indices into ordered names."""

import itertools

import pytest

from convnext_backbones.network.selection import feature_names, select_features

STAGE_COUNTS = [1, 2, 3, 4, 5]


def subsets(items):
    """Every non-empty subset, in order."""
    lengths = range(1, len(items) + 1)
    return [s for length in lengths for s in itertools.combinations(items, length)]


def test_names_are_the_stem_and_the_stages():
    assert feature_names(4) == ("stem", "stage1", "stage2", "stage3", "stage4")
    assert feature_names(1) == ("stem", "stage1")


@pytest.mark.parametrize("stages", STAGE_COUNTS)
def test_default_is_the_last_stage(stages):
    assert select_features(stages) == (f"stage{stages}",)


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("stages", STAGE_COUNTS)
def test_every_subset_of_names_is_selected_as_given(stages, kind):
    for names in subsets(feature_names(stages)):
        given = kind(names)
        assert select_features(stages, out_features=given) == names
        assert given == kind(names)


@pytest.mark.parametrize("kind", [list, tuple])
@pytest.mark.parametrize("stages", STAGE_COUNTS)
def test_every_subset_of_indices_counts_stages_from_zero(stages, kind):
    for indices in subsets(range(stages)):
        expected = tuple(f"stage{i + 1}" for i in indices)
        for signs in itertools.product([0, stages], repeat=len(indices)):  # i or i - stages
            given = kind(i - sign for i, sign in zip(indices, signs, strict=True))
            before = kind(given)
            assert select_features(stages, out_indices=given) == expected
            assert given == before


@pytest.mark.parametrize("stages", STAGE_COUNTS)
def test_names_and_indices_that_agree_are_accepted_and_others_refused(stages):
    for indices in subsets(range(stages)):
        for names in subsets(feature_names(stages)):
            if names == tuple(f"stage{i + 1}" for i in indices):
                assert select_features(stages, names, indices) == names
            else:
                with pytest.raises(ValueError, match=r"disagree.*Give one of the two"):
                    select_features(stages, names, indices)


@pytest.mark.parametrize("stages", [2, 4, 5])
def test_every_other_order_is_refused_and_the_order_shown(stages):
    names = feature_names(stages)
    for chosen in itertools.permutations(names, 2):
        if names.index(chosen[0]) > names.index(chosen[1]):
            with pytest.raises(
                ValueError, match=rf"not in network order.*'{chosen[1]}', '{chosen[0]}'"
            ):
                select_features(stages, out_features=chosen)
    for first, second in itertools.permutations(range(stages), 2):
        if first > second:
            with pytest.raises(ValueError, match="not in network order"):
                select_features(stages, out_indices=[first, second])
            with pytest.raises(ValueError, match="not in network order"):
                select_features(stages, out_indices=[first - stages, second])


@pytest.mark.parametrize(
    ("option", "given"),
    [
        ("out_features", ["stage1", "stage1"]),
        ("out_features", ("stem", "stage2", "stem")),
        ("out_indices", [0, 0]),
        ("out_indices", [3, -1]),
        ("out_indices", (-4, 0)),
    ],
    ids=repr,
)
def test_duplicates_are_refused(option, given):
    with pytest.raises(ValueError, match=f"{option}=.* names a feature twice"):
        select_features(4, **{option: given})


@pytest.mark.parametrize("stages", STAGE_COUNTS)
def test_indices_out_of_range_are_refused_with_the_range(stages):
    for index in (stages, stages + 3, -stages - 1, -stages - 2):
        with pytest.raises(ValueError, match=rf"holds {index}; valid: {-stages}\.\.{stages - 1} "):
            select_features(stages, out_indices=[index])


@pytest.mark.parametrize("name", ["stage0", "stage5", "Stem", "stage", "res2", ""])
def test_unknown_names_are_refused_with_the_valid_ones(name):
    with pytest.raises(ValueError, match=rf"holds '{name}'; .*valid: \('stem', 'stage1',"):
        select_features(4, out_features=[name])


def test_a_near_name_is_suggested():
    with pytest.raises(ValueError, match="did you mean 'stage3'"):
        select_features(4, out_features=["stag3"])


@pytest.mark.parametrize("option", ["out_features", "out_indices"])
@pytest.mark.parametrize("empty", [[], ()], ids=repr)
def test_an_empty_selection_is_refused(option, empty):
    with pytest.raises(ValueError, match=f"{option} is empty; choose at least one"):
        select_features(4, **{option: empty})


@pytest.mark.parametrize(
    "given",
    ["stage1", 1, {"stage1"}, iter(["stage1"]), {"stage1": 0}],
    ids=["string", "number", "set", "iterator", "dict"],
)
def test_names_in_no_list_are_refused(given):
    with pytest.raises(TypeError, match="out_features must be a list or tuple of names, got"):
        select_features(4, out_features=given)


@pytest.mark.parametrize("given", [1, -1, "0", {0}, range(2), 1.0], ids=str)
def test_indices_in_no_list_are_refused(given):
    with pytest.raises(
        TypeError, match="out_indices must be a list or tuple of whole numbers, got"
    ):
        select_features(4, out_indices=given)


@pytest.mark.parametrize("entry", [0, None, b"stage1", ("stage1",)], ids=repr)
def test_what_is_no_name_is_refused(entry):
    with pytest.raises(TypeError, match="which is no name; valid:"):
        select_features(4, out_features=[entry])


@pytest.mark.parametrize("entry", ["0", None, 1.0, True, False, (0,)], ids=repr)
def test_what_is_no_index_is_refused(entry):
    with pytest.raises(TypeError, match=r"which is no whole number; valid: -4\.\.3"):
        select_features(4, out_indices=[entry])
