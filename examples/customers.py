"""Made-up customers of the shop, so that the example agents have somebody to talk to."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass

# What customers say, one conversation a line; {order} becomes an order number.
SCRIPTS = [
    ["How long does delivery take?", "Where is my order {order}?", "Thanks! Is delivery free?"],
    ["I want to return my order {order}.", "How much do I get back?", "When is the refund here?"],
    ["My brakes are squeaking. What can I do?", "Is the wear of brake pads under warranty?"],
    ["Which frame size do I need?", "Is the frame under warranty?", "And can I pay by invoice?"],
    ["Can I pay by invoice?", "When will my card be charged?", "Where is order {order}?"],
    ["How do I change the address of an order?", "Can it be cancelled too?"],
    ["How should I store the battery in winter?", "Does it have a warranty?"],
    ["When is the first service due?", "How do I book a service?", "Is delivery free?"],
    ["Where is order {order}?", "How much would I get back?", "How do I return a parcel?"],
    ["How do I delete my account?", "Do I still get a refund?"],
    ["How long does a full charge take?", "Do you rent out unicycles?"],
]


@dataclass(frozen=True)
class Conversation:
    """One customer's questions, in order."""

    session: str
    user: str
    questions: tuple[str, ...]


def conversations(questions: int, seed: int) -> list[Conversation]:
    """Conversations with exactly this many questions in all; the same ones for the same seed."""
    chance = random.Random(seed)
    made: list[Conversation] = []
    while questions > 0:
        # One order in twelve does not exist.
        order = (
            chance.randrange(9000, 9100)
            if chance.random() < 1 / 12
            else chance.randrange(1000, 1100)
        )
        script = chance.choice(SCRIPTS)[:questions]
        made.append(
            Conversation(
                session=f"chat{seed}-{len(made):03}",
                user=f"customer-{chance.randrange(40):02}",
                questions=tuple(line.format(order=order) for line in script),
            )
        )
        questions -= len(script)
    return made


def talk(
    answer: Callable[..., str], talks: list[Conversation], at_once: int = 4
) -> Iterator[Exception | None]:
    """Hold the conversations, several at once, and yield once per answer: None, or what was raised.

    ``answer`` is called as ``answer(question, session=..., user=...)``. A customer whose question
    failed asks the next one all the same.
    """

    def hold(conversation: Conversation) -> list[Exception | None]:
        outcomes: list[Exception | None] = []
        for question in conversation.questions:
            try:
                answer(question, session=conversation.session, user=conversation.user)
                outcomes.append(None)
            except Exception as error:
                outcomes.append(error)
        return outcomes

    with ThreadPoolExecutor(at_once) as pool:
        for done in as_completed([pool.submit(hold, conversation) for conversation in talks]):
            yield from done.result()
