"""An application: an agent traced with the stock MLflow SDK and its asynchronous logging.

A process of its own, started by `bench.sdk`; prints one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import threading
import time

import mlflow
from mlflow.entities import SpanType

_ANSWER = "Your parcel is at the depot; the courier will try again tomorrow between 9 and 12. " * 8


@mlflow.trace(span_type=SpanType.RETRIEVER)
def search_documents(query: str) -> list[dict[str, str]]:
    """Find documents."""
    return [{"page_content": _ANSWER, "id": f"kb/{i}"} for i in range(2)]


@mlflow.trace(span_type=SpanType.TOOL)
def find_order(order: int) -> dict[str, object]:
    """Look an order up."""
    return {"order": order, "status": "shipped", "history": _ANSWER}


@mlflow.trace(span_type=SpanType.TOOL)
def check_policy(topic: str) -> str:
    """Look a policy up."""
    return _ANSWER


@mlflow.trace(span_type=SpanType.CHAT_MODEL)
def chat(messages: list[dict[str, str]]) -> dict[str, str]:
    """Answer, as a model would."""
    span = mlflow.get_current_active_span()
    if span is not None:
        usage = {"input_tokens": 850, "output_tokens": 130, "total_tokens": 980}
        span.set_attribute("mlflow.chat.tokenUsage", usage)
    return {"role": "assistant", "content": _ANSWER}


@mlflow.trace(span_type=SpanType.AGENT)
def support_agent(question: str, number: int) -> dict[str, object]:
    """Five spans."""
    mlflow.update_current_trace(
        tags={"env": "prod"},
        metadata={"mlflow.trace.session": f"session-{number // 5}", "mlflow.trace.user": "user-1"},
    )
    search_documents(question)
    find_order(number)
    check_policy("returns")
    answer = chat([{"role": "user", "content": question}])
    return {"answer": answer["content"], "number": number}


def main() -> None:
    """Answer questions at a rate; then flush as an application does when it ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--url", required=True)
    parser.add_argument("--experiment", required=True)
    parser.add_argument("--traces", type=int, required=True)
    parser.add_argument("--rate", type=float, required=True, help="traces/s; 0: without a pause")
    parser.add_argument("--threads", type=int, default=4)
    options = parser.parse_args()
    mlflow.set_tracking_uri(options.url)
    mlflow.set_experiment(experiment_id=options.experiment)
    numbers, lock = itertools.count(), threading.Lock()
    began = time.perf_counter()

    def answer() -> None:
        while True:
            with lock:
                number = next(numbers)
            if number >= options.traces:
                return
            if options.rate:
                time.sleep(max(0.0, began + number / options.rate - time.perf_counter()))
            support_agent(f"Where is order {number}?", number)

    threads = [threading.Thread(target=answer) for _ in range(options.threads)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    answered = time.perf_counter() - began
    mlflow.flush_trace_async_logging()
    flushed = time.perf_counter() - began
    report = {"answered_s": answered, "flushed_s": flushed, "cpu_s": time.process_time()}
    print(json.dumps(report))


if __name__ == "__main__":
    main()
