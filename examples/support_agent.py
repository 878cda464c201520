"""A customer support agent, traced with the stock MLflow SDK.

    vedette up                                   # in one terminal
    python examples/support_agent.py             # in another
    python examples/support_agent.py --version v2

What makes it visible in Vedette is marked (1) to (5); the rest is an agent like any other. Its
"model" is a few rules, so that it needs no key, no network and always says the same.
"""

from __future__ import annotations

import argparse
import random
import re
import time
from typing import Any

import mlflow
import shop
from customers import conversations, talk
from mlflow.entities import Document as Passage
from mlflow.entities import SpanType

MODEL = "rules-small"
PRICE_PER_TOKEN = {"input": 0.15e-6, "output": 0.60e-6}  # dollars; pretended


class SupportAgent:
    """Answers questions. One agent serves many customers and remembers what each one asked."""

    def __init__(self, version: str = "v1") -> None:
        self.version = version
        self._order: dict[str, int] = {}  # what we remember of each session: its order,
        self._asked: dict[str, str] = {}  # and its previous question

    # (1) One call of this function is one trace; every traced call below it becomes a span in it.
    @mlflow.trace(name="support_agent", span_type=SpanType.AGENT)
    def answer(self, question: str, session: str, user: str) -> str:
        """The answer to one question.

        Raises:
            TimeoutError: the order service is down. (2) An exception that leaves the traced
                function gives the trace the status ERROR, with the exception in it.
        """
        # (3) The session groups the traces of one conversation; tags are yours to choose.
        mlflow.update_current_trace(
            session_id=session,
            user=user,
            tags={"agent_version": self.version},
            request_preview=question,
        )
        step = self.plan(question, self._order.get(session))
        previous, self._asked[session] = self._asked.get(session, ""), question
        if step["tool"] == "search_help_pages":
            # Version 2 searches for the previous question too, "for context". Nothing fails, but
            # whoever changes the subject gets a page about the old one.
            query = question if self.version == "v1" else f"{previous} {question}"
            return self.write_answer(question, self.search_help_pages(query))
        self._order[session] = step["order"]
        try:
            order = self.find_order(step["order"])
        except (
            shop.OrderNotFound
        ) as error:  # not our failure: the trace stays OK, its span does not
            return f"Sorry, {error}. Could you check the number? [source: order service]"
        if step["tool"] == "refund_quote":
            refund = self.refund_quote(order)
            told = f"You would get {refund:.2f} euros back for the {order.item}."
        elif order.days is None:
            told = f"Your {order.item} is on its way."
        else:
            told = f"Your {order.item} was delivered {order.days} days ago."
        return f"{told} [source: order {order.number}]"

    @mlflow.trace(span_type=SpanType.CHAT_MODEL)
    def plan(self, question: str, order: int | None) -> dict[str, Any]:
        """Choose the tool that will answer the question."""
        asked = re.search(r"\b\d{4}\b", question)
        order = int(asked.group()) if asked else order
        if order and re.search(r"how much|to return", question, re.IGNORECASE):
            step: dict[str, Any] = {"tool": "refund_quote", "order": order}
        elif asked:
            step = {"tool": "find_order", "order": order}
        else:
            step = {"tool": "search_help_pages"}
        self._bill(question, str(step))
        return step

    @mlflow.trace(span_type=SpanType.RETRIEVER)
    def search_help_pages(self, query: str) -> list[Passage]:
        """The help pages that fit the query, best first."""
        return [Passage(page.text, metadata={"doc_uri": page.title}) for page in shop.search(query)]

    @mlflow.trace(span_type=SpanType.TOOL)
    def find_order(self, number: int) -> shop.Order:
        """The order with this number."""
        return shop.find_order(number)

    @mlflow.trace(span_type=SpanType.TOOL)
    def refund_quote(self, order: shop.Order) -> float:
        """What the customer would get back, in euros."""
        return shop.refund_for(order)

    @mlflow.trace(span_type=SpanType.CHAT_MODEL)
    def write_answer(self, question: str, passages: list[Passage]) -> str:
        """Answer from the best page: the two sentences that share most words with the question."""
        if not passages:
            return "Sorry, I do not know. A colleague will write to you."
        page = passages[0]
        asked = set(shop.words(question))
        sentences = re.split(r"(?<=\.) ", page.page_content)
        sentences.sort(key=lambda text: len(asked.intersection(shop.words(text))), reverse=True)
        answer = f"{' '.join(sentences[:2])} [source: {page.metadata['doc_uri']}]"
        if self.version == "v2":
            answer = answer[:160]  # "shorter answers": and the source falls off the end
        self._bill(f"{question} {page.page_content}", answer)
        return answer

    def _bill(self, prompt: str, reply: str) -> None:
        """Spend a model's time, and put its token usage on the current span."""
        tokens = {"input_tokens": len(prompt) // 4 + 40, "output_tokens": len(reply) // 4 + 1}
        time.sleep(0.02 + 0.001 * tokens["output_tokens"] * random.uniform(0.8, 1.6))
        cost = {
            f"{kind}_cost": price * tokens[f"{kind}_tokens"]
            for kind, price in PRICE_PER_TOKEN.items()
        }
        span = mlflow.get_current_active_span()
        if span is None:  # tracing is switched off
            return
        # (4) Autologging (mlflow.openai.autolog() and the like) does this for a real model.
        span.set_attributes(
            {
                "mlflow.llm.model": MODEL,
                "mlflow.llm.provider": "example",
                "mlflow.chat.tokenUsage": {**tokens, "total_tokens": sum(tokens.values())},
                "mlflow.llm.cost": {**cost, "total_cost": sum(cost.values())},
            }
        )


def main() -> None:
    """Let made-up customers talk to the agent."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", default="http://127.0.0.1:5000", help="where Vedette listens")
    parser.add_argument("--experiment", default="support-agent")
    parser.add_argument("--version", choices=["v1", "v2"], default="v1")
    parser.add_argument("--questions", type=int, default=60, help="how many are asked in all")
    options = parser.parse_args()

    mlflow.set_tracking_uri(options.url)
    mlflow.set_experiment(options.experiment)
    agent = SupportAgent(options.version)
    seed = random.randrange(10_000)
    outcomes = list(talk(agent.answer, conversations(options.questions, seed)))
    failed = [outcome for outcome in outcomes if outcome is not None]
    # (5) Traces are sent in the background: a short-lived process waits for them before it ends.
    mlflow.flush_trace_async_logging()
    print(f"{len(outcomes)} questions answered by {options.version}, {len(failed)} failed.")


if __name__ == "__main__":
    main()
