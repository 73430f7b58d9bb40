"""Which bundles a policy wants, and what a line of generations lets happen to it."""

from __future__ import annotations

import pytest
from fake_scorer import FakeScorer
from hypothesis import given
from hypothesis import strategies as st

from tierline import BadRequest, ConfigurationError, ModelNotFound
from tierline_serving._channels import Channel
from tierline_serving.batching import Runner
from tierline_serving.served import Generation, Line, Served
from tierline_serving.versions import Keep, Listed, VersionPolicy, Wanted, wanted


def channel(name: str, *versions: int) -> Channel:
    stack = tuple(f"ranker-{version}-{version:012x}" for version in versions)
    return Channel(model="ranker", channel=name, stack=stack, history=())


def an_id(version: int) -> str:
    return f"{version}@{version:012x}"


THERE = [Listed(f"ranker-{version}-{version:012x}", an_id(version)) for version in range(1, 6)]


def test_the_policy_latest_serves_what_the_channel_names() -> None:
    assert wanted(VersionPolicy(), [channel("stable", 1, 2, 3)]) == Wanted(
        default=an_id(3), labels={"stable": an_id(3)}
    )


def test_the_policy_latest_2_also_serves_what_the_channel_named_before() -> None:
    found = wanted(VersionPolicy(count=2), [channel("stable", 1, 2, 3)])
    assert (found.default, found.others) == (an_id(3), (an_id(2),))


def test_latest_counts_bundles_and_not_moves() -> None:
    found = wanted(VersionPolicy(count=2), [channel("stable", 1, 3, 2, 3)])
    assert (found.default, found.others) == (an_id(3), (an_id(2),))


def test_every_channel_is_a_label_and_the_first_answers() -> None:
    found = wanted(VersionPolicy(), [channel("stable", 3), channel("canary", 3, 4)])
    assert found == Wanted(
        default=an_id(3), others=(an_id(4),), labels={"stable": an_id(3), "canary": an_id(4)}
    )


def test_the_policy_all_serves_every_bundle_there_is() -> None:
    found = wanted(VersionPolicy(keep=Keep.ALL), [channel("stable", 2)], THERE)
    assert found.default == an_id(2)
    assert {found.default, *found.others} == {each.id for each in THERE}


def test_the_policy_specific_serves_these_and_no_other() -> None:
    policy = VersionPolicy(keep=Keep.SPECIFIC, versions=("1", an_id(4)))
    found = wanted(policy, [channel("stable", 5), channel("canary", 4)], THERE)
    assert found == Wanted(default=an_id(4), others=(an_id(1),), labels={"canary": an_id(4)})


def test_a_specific_version_that_is_not_there_is_refused() -> None:
    policy = VersionPolicy(keep=Keep.SPECIFIC, versions=("9",))
    with pytest.raises(ConfigurationError, match="no version '9'"):
        wanted(policy, [channel("stable", 5)], THERE)


@pytest.mark.parametrize(
    ("text", "policy"),
    [
        ("latest", VersionPolicy()),
        ("latest:3", VersionPolicy(count=3)),
        ("all", VersionPolicy(keep=Keep.ALL)),
        ("specific:1, 2", VersionPolicy(keep=Keep.SPECIFIC, versions=("1", "2"))),
    ],
)
def test_a_policy_is_read_from_the_command_line(text: str, policy: VersionPolicy) -> None:
    assert VersionPolicy.parse(text) == policy


@pytest.mark.parametrize(
    "text", ["", "latest:0", "latest:-1", "latest:x", "all:1", "specific", "specific:", "newest"]
)
def test_what_is_no_policy_is_refused(text: str) -> None:
    with pytest.raises(ConfigurationError, match="expected latest"):
        VersionPolicy.parse(text)


def generation(version: int, digest: int | None = None) -> Generation:
    bundle = an_id(version) if digest is None else f"{version}@{digest:012x}"
    return Generation(Runner(FakeScorer(bundle=bundle)))


def a_line(now: int, *others: int, before: int | None = None, **labels: int) -> Line:
    made = {an_id(version): generation(version) for version in (*others, now)}
    return Line(
        now=made[an_id(now)],
        loaded=made,
        labels={label: an_id(version) for label, version in labels.items()},
        before=None if before is None else an_id(before),
    )


def test_a_version_is_found_by_id_by_its_bare_version_and_by_label() -> None:
    line = a_line(2, 1, 3, canary=3)
    for version, found in (
        (None, 2),
        (an_id(1), 1),
        ("1", 1),
        ("3", 3),
        ("label:canary", 3),
    ):
        assert line.find(version) is line.loaded[an_id(found)]
    for version in ("4", an_id(4), "label:stable", "label:", "", "@", "2@"):
        assert line.find(version) is None


def test_of_two_bundles_of_one_version_the_one_that_answers_is_meant() -> None:
    now, other = generation(1, 7), generation(1, 8)
    line = Line(now=now, loaded={now.bundle: now, other.bundle: other})
    assert line.find("1") is now


def test_a_label_moves_to_what_is_loaded_and_nowhere_else() -> None:
    line = a_line(2, 1, canary=2)
    assert line.labelled("canary", "1").labels == {"canary": an_id(1)}
    with pytest.raises(BadRequest, match="'canary' cannot move to 3, which is not loaded"):
        line.labelled("canary", "3")
    assert line.labels == {"canary": an_id(2)}


def test_a_roll_back_returns_and_takes_the_labels_along() -> None:
    line = a_line(2, 1, before=1, stable=2)
    back = line.rolled_back()
    assert (back.now.bundle, back.before, back.labels) == (an_id(1), an_id(2), {"stable": an_id(1)})
    assert back.rolled_back() == line


def test_there_is_no_roll_back_to_what_is_not_kept() -> None:
    with pytest.raises(BadRequest, match="no earlier bundle is kept"):
        a_line(2, 1).rolled_back()


def test_what_a_label_names_stays_when_the_bundle_before_is_let_go() -> None:
    line = a_line(3, 1, 2, before=2, canary=1).without_before()
    assert set(line.loaded) == {an_id(3), an_id(1)}
    assert line.before is None


@given(
    steps=st.lists(
        st.one_of(
            st.just(("back",)),
            st.just(("let go",)),
            st.tuples(st.just("label"), st.sampled_from("ab"), st.integers(1, 4)),
        ),
        max_size=12,
    )
)
def test_whatever_happens_to_a_line_it_names_only_what_is_loaded(
    steps: list[tuple[object, ...]],
) -> None:
    line = a_line(3, 1, 2, before=2)
    for step in steps:
        try:
            match step:
                case ("back",):
                    line = line.rolled_back()
                case ("let go",):
                    line = line.without_before()
                case (_, str(label), version):
                    line = line.labelled(label, str(version))
        except BadRequest:
            continue
        named = {line.now.bundle, *line.labels.values(), line.before} - {None}
        assert named <= set(line.loaded)
        assert all(line.find(bundle) is each for bundle, each in line.loaded.items())


def test_a_model_that_moves_tells_what_has_left() -> None:
    first, second = a_line(2, 1), a_line(3)
    served = Served({"ranker": first})
    assert served.move("ranker", second) == list(first.loaded.values())
    assert served.move("ranker", second) == []
    assert served.move("ranker", None) == [second.now]
    with pytest.raises(ModelNotFound, match="no model 'ranker' here; models: none"):
        served.find("ranker")


def test_a_version_that_is_not_loaded_is_not_found_and_what_is_there_is_named() -> None:
    served = Served({"ranker": a_line(2, 1)})
    with pytest.raises(ModelNotFound, match=f"as {an_id(2)}, {an_id(1)}, not in .* version 7"):
        served.find("ranker", "7")
