"""The space of knobs: what is drawn is allowed, new, and the same whatever length is planned."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from study_toys import SPACE, TRAIN_PY, bowl

from slm_ar.core.agent.edits import parse_knobs, set_knobs
from slm_ar.core.study.space import CYCLE, Space, Tried, draw, origin_of

points = st.tuples(*(st.floats(0, 1) for _ in SPACE.knobs))


@given(points)
def test_every_point_is_an_allowed_train_py(point: tuple[float, ...]) -> None:
    values = SPACE.values(point)
    written = {knob.name: knob.value for knob in parse_knobs(set_knobs(TRAIN_PY, values))}
    assert written == values


@given(points)
def test_values_come_back_from_their_point(point: tuple[float, ...]) -> None:
    values = SPACE.values(point)
    assert all(0 <= place <= 1 for place in SPACE.point(values))
    again = SPACE.values(SPACE.point(values))
    assert {name: values[name] for name in ("BATCH", "KIND", "LAYERS")} == {
        name: again[name] for name in ("BATCH", "KIND", "LAYERS")
    }
    assert all(abs(float(again[name]) - float(values[name])) <= 0.01 * float(values[name]) for name in ("SIZE", "STEP"))


def test_words_are_columns_of_their_own() -> None:
    features = SPACE.features(SPACE.start)
    assert len(features) == len(SPACE.knobs) + 2
    assert features[-3:] == [1.0, 0.0, 0.0]


def drawn(count: int, seed: int = 3) -> list[tuple[str, Tried]]:
    found: list[tuple[str, Tried]] = []
    for number in range(count):
        result = draw(SPACE, number, seed, [item for _, item in found])
        assert result is not None
        found.append((result[0], Tried(result[1], bowl(result[1]))))
    return found


def test_configurations_are_new_and_come_from_everywhere() -> None:
    found = drawn(40)
    assert found[0] == ("start", Tried(SPACE.start, bowl(SPACE.start)))
    assert len({SPACE.key(item.values) for _, item in found}) == 40
    counts = Counter(origin for origin, _ in found)
    assert counts == Counter(origin_of(number) for number in range(40))
    assert counts["space"] == 15 and CYCLE.count("space") == 4
    assert drawn(40) == found
    near = [bowl(item.values) for origin, item in found if origin in ("best", "search")]
    wide = [bowl(item.values) for origin, item in found if origin == "space"]
    assert sum(near) / len(near) < sum(wide) / len(wide)


def test_a_small_space_is_used_up_and_then_there_is_none() -> None:
    space = Space(parse_knobs("A = 1  # knob: int 1..2\nB = 1  # knob: choice 1 2 3\n"))
    tried: list[Tried] = []
    for number in range(6):
        result = draw(space, number, 0, tried)
        assert result is not None
        tried.append(Tried(result[1], float(number)))
    assert len({space.key(item.values) for item in tried}) == 6
    assert draw(space, 6, 0, tried) is None


def test_failures_are_learnt_from() -> None:
    tried = [Tried(SPACE.start, 2.0), Tried({**SPACE.start, "SIZE": 100.0}, None)]
    assert draw(SPACE, 3, 0, tried) is not None and origin_of(3) == "search"
