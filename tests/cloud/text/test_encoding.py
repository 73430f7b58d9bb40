"""A text's vectors: of length one, cut where the model ends, the same whoever else is encoded."""

from __future__ import annotations

import numpy as np
import pytest
from tokenizers import Tokenizer

from tierline_cloud.text.encoding import Role, TextEncoder, TextSettings, read_tokenizer

TEXTS = ["red shoes", "waterproof hiking boots for men", "blue cup", "tea", "", "??", "red " * 40]


def test_vectors_have_length_one(encoder: TextEncoder) -> None:
    for each in encoder.encode_all(TEXTS, Role.QUERY):
        assert np.linalg.norm(each.vector) == pytest.approx(1.0, abs=1e-6)
        np.testing.assert_allclose(np.linalg.norm(each.tokens, axis=1), 1.0, atol=1e-6)


def test_a_text_has_a_vector_for_each_token_of_its_own(encoder: TextEncoder) -> None:
    assert encoder.encode("red shoes", Role.QUERY).tokens.shape == (2, 8)
    assert encoder.encode("hiking boots", Role.QUERY).tokens.shape == (3, 8)  # boot, ##s


def test_a_text_without_tokens_is_its_special_ones(encoder: TextEncoder) -> None:
    assert encoder.encode("", Role.QUERY).tokens.shape == (2, 8)


def test_a_long_text_is_cut_and_says_so(encoder: TextEncoder) -> None:
    cut = encoder.encode("red " * 40, Role.DOCUMENT)
    assert cut.is_cut
    assert cut.tokens.shape == (22, 8)  # 24 positions, two of them special
    assert not encoder.encode("red", Role.DOCUMENT).is_cut


def test_texts_encoded_together_are_those_encoded_alone_and_in_order(encoder: TextEncoder) -> None:
    texts = [*TEXTS, *(f"{word} lamp" for word in ("oak", "steel", "warm") * 15)]
    for text, together in zip(texts, encoder.encode_all(texts, Role.QUERY), strict=True):
        alone = encoder.encode(text, Role.QUERY)
        np.testing.assert_allclose(together.vector, alone.vector, atol=1e-6)
        np.testing.assert_allclose(together.tokens, alone.tokens, atol=1e-6)


def test_a_mean_leaves_no_token_out(encoder: TextEncoder) -> None:
    ids = encoder.tokenizer.encode("red shoes").ids
    mean = encoder._states([ids])[0].mean(axis=0)
    np.testing.assert_allclose(
        encoder.encode("red shoes", Role.QUERY).vector, mean / np.linalg.norm(mean), atol=1e-6
    )


def test_a_prompt_is_read_before_its_own_kind_of_text(encoder: TextEncoder) -> None:
    settings = TextSettings(pooling="cls", max_tokens=20, lower=True, query_prompt="tea ")
    prompted = TextEncoder(
        encoder.network, Tokenizer.from_str(encoder.tokenizer.to_str()), settings
    )
    query, whole = prompted.encode("CUP", Role.QUERY), prompted.encode("tea cup", Role.DOCUMENT)
    np.testing.assert_array_equal(query.vector, whole.vector)
    assert not np.array_equal(query.vector, prompted.encode("cup", Role.DOCUMENT).vector)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"pooling": "max"}, "pooling must be one of mean, cls"),
        ({"max_tokens": 2}, "max_tokens must be at least 3"),
        ({"max_tokens": "many"}, "max_tokens must be at least 3"),
        ({"lower": 1}, "lower must be true or false"),
        ({"query_prompt": None}, "query_prompt must be a text"),
    ],
)
def test_settings_that_make_no_sense_say_why(change: dict[str, object], sentence: str) -> None:
    said = {"pooling": "mean", "max_tokens": 20} | change
    with pytest.raises(ValueError, match=sentence):
        TextSettings(**said)  # type: ignore[arg-type]


def test_more_tokens_than_positions_are_refused(encoder: TextEncoder) -> None:
    with pytest.raises(ValueError, match="more than the 24 positions"):
        TextEncoder(encoder.network, encoder.tokenizer, TextSettings(pooling="cls", max_tokens=25))


def test_a_tokenizer_beyond_the_vocabulary_is_refused(encoder: TextEncoder) -> None:
    document = encoder.tokenizer.to_str()
    with pytest.raises(ValueError, match="ids end at 61, the network knows 60 tokens"):
        read_tokenizer(document, 60)
    with pytest.raises(ValueError, match="no tokenizer"):
        read_tokenizer("{}", 60)
