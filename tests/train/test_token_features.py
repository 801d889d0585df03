"""What texts of tokens tell: numbers that lie near each other look alike, and shapes are told apart."""

from __future__ import annotations

import numpy as np
import pytest

from slm_ar.core.train.token_features import MOST_SHAPES, PERIODS, shape_of, token_features

OF_NUMBER = 2 * len(PERIODS) + 2


def test_near_numbers_have_near_features_whatever_stands_around_them() -> None:
    features = token_features([f":{minute:02}" for minute in range(60)])
    distances = np.linalg.norm(features[:, None] - features[None], axis=2)
    for minute in range(35, 59):
        far = distances[minute, minute - 35]
        assert 0 < distances[minute, minute + 1] < far
        assert 0 < distances[minute, minute - 10] < far
    assert np.array_equal(features, token_features([f" | {number:02}" for number in range(60)])), "one shape each"


@pytest.mark.parametrize("text", ["", "KING", "\ufffd", "1:2", "12345", "\u00b2", " | ", "<|bos|>"])
def test_what_is_not_one_number_of_up_to_four_digits_has_no_features(text: str) -> None:
    assert not token_features([text, "7"])[0].any()
    assert token_features([text]).shape == (1, 0)


def test_parts_of_characters_and_shapes_beyond_the_most_common_have_no_column() -> None:
    shapes = [f"{'.' * count}k" for count in range(MOST_SHAPES + 9)]
    texts = [*shapes * 5, *shapes[:-2], *["\ufffd", " \ufffd"] * 9]
    features = token_features(texts)
    assert features.shape == (len(texts), MOST_SHAPES)
    assert not features[-18:].any()
    assert not features[len(shapes) - 2 : len(shapes)].any(), "the rarest are left out"


def test_numbers_of_other_scripts_are_read() -> None:
    assert np.array_equal(*token_features(["\u0664\u0662", "42"]))


def test_leading_zeros_count_as_digits() -> None:
    seven, padded = token_features(["7", "07"])
    assert np.array_equal(seven[: 2 * len(PERIODS)], padded[: 2 * len(PERIODS)])
    assert (seven[-2], padded[-2]) == pytest.approx((0.7, 0.07))


def test_a_shape_counts_when_four_tokens_have_it() -> None:
    texts = [":01", ":02", ":03", ":04", " | 1", " | 2", " | 3", " | 4", "9:1", "9:2", "9:3"]
    features = token_features(texts)
    assert features.shape == (11, OF_NUMBER + 2)
    assert features.dtype == np.float32
    assert features[:, OF_NUMBER:].sum(axis=0).tolist() == [4, 4]
    assert not features[8:].any()


def test_shapes_keep_how_many_digits_and_what_stands_around_them() -> None:
    assert shape_of(" | KING 12:05 Noon\n") == " | A 00:00 Aa\n"
    assert shape_of("") == ""
    assert len({shape_of(text) for text in ("7", "07", ":7", " 7", "\n07", "k7", "K7")}) == 7
