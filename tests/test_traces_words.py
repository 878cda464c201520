"""The words of a text filter narrow a search without leaving anything out."""

from __future__ import annotations

import pytest

from vedette.traces.filters import ContentClause, compile_filter
from vedette.traces.words import has_words, required_words


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("trace.text ILIKE '%Refund policy%'", ["policy", "refund"]),
        ("trace.text LIKE '%order_id%'", ["order"]),
        ('trace.text LIKE \'%"q": "naïve"%\'', []),  # too short, or not plain letters
        ("trace.text LIKE '%2024%'", []),  # numbers are written in several ways
        ("trace.text LIKE '%1e16%'", []),
        ("trace.text LIKE '%status_code%attributes%'", []),  # in every span
        ("span.attributes.model LIKE '%gpt4%'", ["gpt4", "model"]),
        ("span.attributes.model RLIKE '^gpt.*'", []),
        ("span.attributes.model = 'gpt4'", []),
        ("trace.text LIKE '%parcel%' AND span.content ILIKE '%LOST%'", ["lost", "parcel"]),
    ],
)
def test_only_plain_words_are_looked_for(text: str, words: list[str]) -> None:
    spans = compile_filter(text, None).spans
    assert spans is not None
    assert required_words(spans.content) == words


def test_an_expression_without_special_characters_is_a_text() -> None:
    assert required_words([ContentClause("RLIKE", "lost parcel")]) == ["lost", "parcel"]
    assert required_words([ContentClause("RLIKE", "lost|parcel")]) == []


def test_words_are_found_in_any_case() -> None:
    assert has_words('{"attributes": {"q": "\\"The Lost Parcel\\""}}', ["lost", "parcel"])
    assert not has_words('{"attributes": {"q": "lost"}}', ["lost", "parcel"])
