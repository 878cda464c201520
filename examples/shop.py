"""The shop that the example agents work for: help pages, a search over them, and orders.

Nothing here knows about tracing. It is what your agent would call anyway.
"""

from __future__ import annotations

import math
import re
import time
from collections import Counter
from dataclasses import dataclass


@dataclass(frozen=True)
class Document:
    """One help page."""

    title: str
    text: str


@dataclass(frozen=True)
class Order:
    """One order: prices in euros, ``days`` since it was delivered (None: still on its way)."""

    number: int
    item: str
    price: float
    days: int | None


DOCUMENTS = [
    Document(
        "Delivery",
        "Parcels leave our warehouse on the next working day. Delivery takes two to four days, and "
        "islands take a week. Orders above 50 euros ship free; below that, delivery costs 4.90 "
        "euros. You get a tracking link by email when the parcel leaves.",
    ),
    Document(
        "Returns and refunds",
        "You can return anything within 30 days of delivery, unused and in its box. Print the "
        "return label from your account and drop the parcel at any post office. The refund reaches "
        "your bank within five working days after the parcel has come back to us.",
    ),
    Document(
        "Warranty",
        "Frames carry a warranty of five years, motors and batteries two years. Wear of brake "
        "pads, tyres and chains is not covered. Send a photo of the damage with the order number "
        "and our workshop answers within two days.",
    ),
    Document(
        "Payment",
        "We accept cards, bank transfer and invoice. An invoice is due within 14 days. Cards are "
        "charged when the parcel leaves, not when you order.",
    ),
    Document(
        "Changing an order",
        "An order can be changed or cancelled until it has been packed, usually the same evening. "
        "Open the order in your account and choose change. A new delivery address is possible "
        "until the driver has loaded the parcel.",
    ),
    Document(
        "Battery care",
        "Charge the battery at room temperature and store it half full. In winter, keep the "
        "battery indoors, because cold cells lose range. A full charge takes four hours. Never "
        "charge a battery that is frozen or has been dropped.",
    ),
    Document(
        "Choosing a size",
        "Measure your inseam and multiply it by 0.66: that is the frame size in centimetres. "
        "Between two sizes, take the smaller one for agility and the larger one for touring. If "
        "the size is wrong, an exchange is free within 30 days.",
    ),
    Document(
        "Servicing",
        "The first service is due after 300 kilometres and is free. After that, service your "
        "bicycle once a year or every 2000 kilometres. Squeaking brakes are usually dirt on the "
        "disc: clean it with alcohol, never with oil. Book a service in the workshop calendar.",
    ),
    Document(
        "Your account",
        "Your account shows orders, parcels and invoices. To delete your account, write to us from "
        "the address you signed up with. To change your password, choose forgot password on the "
        "sign-in page.",
    ),
]

ORDERS = {
    number: Order(
        number,
        item=("city bicycle", "helmet", "spare battery", "rain jacket", "bicycle lock")[number % 5],
        price=(1490.0, 79.0, 420.0, 119.0, 49.0)[number % 5],
        days=None if number % 3 == 0 else number % 45,
    )
    for number in range(1000, 1100)
}


class OrderNotFound(LookupError):
    """No order has this number."""


def words(text: str) -> list[str]:
    """The words of a text in lower case, without a plural s; short ones say little and are left."""
    return [word.removesuffix("s") for word in re.findall(r"[a-z]{4,}", text.lower())]


def search(question: str, limit: int = 3) -> list[Document]:
    """The pages that fit the question, best first.

    Ranked by BM25 (Robertson & Zaragoza 2009) with the usual k1 = 1.2 and b = 0.75.
    """
    bags = [Counter(words(f"{page.title} {page.text}")) for page in DOCUMENTS]
    mean_length = sum(bag.total() for bag in bags) / len(bags)

    def score(bag: Counter[str]) -> float:
        total = 0.0
        for word in set(words(question)):
            pages_with_word = sum(word in other for other in bags)
            rarity = math.log(1 + (len(bags) - pages_with_word + 0.5) / (pages_with_word + 0.5))
            count = bag[word]
            saturation = count + 1.2 * (0.25 + 0.75 * bag.total() / mean_length)
            total += rarity * count * 2.2 / saturation
        return total

    ranked = sorted(zip(map(score, bags), DOCUMENTS, strict=True), key=lambda pair: -pair[0])
    return [page for points, page in ranked[:limit] if points > 0]


def find_order(number: int) -> Order:
    """Look an order up.

    Raises:
        OrderNotFound: there is no such order.
        TimeoutError: the order service did not answer (for one order in twenty it never does).
    """
    time.sleep(0.01)
    if number not in ORDERS:
        raise OrderNotFound(f"there is no order {number}")
    if number % 20 == 13:
        raise TimeoutError("the order service did not answer within 2 s")
    return ORDERS[number]


def refund_for(order: Order) -> float:
    """What we pay back for an order, in euros: all of it for 30 days, then nothing."""
    return order.price if order.days is None or order.days <= 30 else 0.0
