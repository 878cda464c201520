"""The MLflow UI on Vedette: every page that shows traces shows them."""

from __future__ import annotations

from playwright.sync_api import expect

from .conftest import Filled, Visit

SCORERS = ("cites_source", "right_page")
ASSESSMENT_DETAILS = '[data-component-id="shared.model-trace-explorer.toggle-assessment-expanded"]'


def test_the_trace_list_shows_questions_states_tags_and_scores(
    visit: Visit, filled: Filled
) -> None:
    visit.open(filled.page("traces"), "of 40", *SCORERS, "agent_version: v2", "chat1-0")
    visit.shoot("traces")


def test_the_trace_list_can_be_searched_and_filtered(visit: Visit, filled: Filled) -> None:
    visit.open(filled.page("traces"), "of 40")
    visit.page.get_by_label("Filter by tag agent_version: v2").first.click()
    visit.see("20 of 40")
    expect(visit.page.get_by_text("agent_version: v1")).to_have_count(0)
    search = visit.page.get_by_placeholder("Search traces")
    search.fill("delete my account")
    search.press("Enter")
    visit.see("How do I delete my account?")
    expect(visit.page.get_by_text("Where is my order")).to_have_count(0)
    visit.shoot("filtered")


def test_a_trace_shows_its_spans_and_assessments(visit: Visit, filled: Filled) -> None:
    visit.open(filled.page(f"traces/{filled.judged}"), "write_answer", "search_help_pages")
    visit.see(filled.question, "[source:")
    visit.page.get_by_role("button", name="Assess").click()
    visit.see(*SCORERS, "helpful", "expected_page")
    for arrow in visit.page.locator(ASSESSMENT_DETAILS).all():
        arrow.click()
    visit.see("Short and right.", "reviewer@example.com")
    visit.shoot("trace")


def test_traces_are_grouped_by_session(visit: Visit, filled: Filled) -> None:
    visit.open(filled.page("traces"), "of 40")
    visit.page.get_by_label("Group traces by session").click()
    visit.see("chat1-0")
    visit.shoot("sessions")


def test_a_session_shows_its_turns_and_their_scores(visit: Visit, filled: Filled) -> None:
    visit.open(filled.page(f"chat-sessions/{filled.session}"), filled.session, "Turn 2")
    visit.see(filled.question, "cites_source:")
    visit.shoot("session")


def test_overview_usage(visit: Visit, filled: Filled) -> None:
    visit.open(filled.page("overview/usage"), "Latency", "Token Usage", "rules-small", "40")
    visit.shoot("usage")


def test_overview_quality(visit: Visit, filled: Filled) -> None:
    visit.open(filled.page("overview/quality"), "Quality Summary", *SCORERS, "true", "false")
    visit.shoot("quality")


def test_overview_tool_calls(visit: Visit, filled: Filled) -> None:
    visit.open(filled.page("overview/tool-calls"), "Total Tool Calls", "find_order", "refund_quote")
    visit.shoot("tool-calls")


def test_judges(visit: Visit, filled: Filled) -> None:
    visit.open(filled.page("judges"), *SCORERS)
    visit.shoot("judges")


def test_datasets(visit: Visit, filled: Filled) -> None:
    visit.open(filled.page("datasets"), "browser-dataset")
    visit.page.get_by_text("browser-dataset").first.click()
    visit.see("question")
    visit.shoot("datasets")
