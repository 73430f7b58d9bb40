"""A text in a query travels as its UTF-8 bytes."""

from __future__ import annotations

import numpy as np
import pytest

import tierline
from tierline._base_client import _arrays


def test_a_text_becomes_its_utf8_bytes() -> None:
    (array,) = _arrays({"text": "café"}, "query").values()
    assert array.dtype == np.uint8
    assert array.tobytes().decode("utf-8") == "café"


def test_a_text_that_is_no_unicode_is_refused_with_a_sentence() -> None:
    with pytest.raises(tierline.BadRequest, match=r"query\['text'\] is no valid Unicode"):
        _arrays({"text": "\ud800"}, "query")


def test_a_list_of_texts_is_no_array() -> None:
    with pytest.raises(tierline.BadRequest, match="must hold numbers"):
        _arrays({"text": ["a", "b"]}, "query")
