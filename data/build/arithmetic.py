"""Two-operand arithmetic: worked out digit by digit inside the think tags, or answered directly without them."""

from __future__ import annotations

import random

from data.build.conversation import Conversation, assistant, held_out, user

PLACES = ("ones", "tens", "hundreds")
_ASK = {
    "+": ("What is {a} + {b}?", "{a} + {b}", "Compute {a} + {b}.", "What is {a} plus {b}?", "Add {a} and {b}.",
          "How much is {a} + {b}?", "{a} + {b} = ?", "Please work out {a} + {b}.", "What is the sum of {a} and {b}?"),
    "-": ("What is {a} - {b}?", "{a} - {b}", "Compute {a} - {b}.", "What is {a} minus {b}?",
          "How much is {a} - {b}?", "{a} - {b} = ?", "Please work out {a} - {b}.", "What is {a} less {b}?"),
    "x": ("What is {a} x {b}?", "{a} x {b}", "Compute {a} x {b}.", "What is {a} times {b}?", "Multiply {a} by {b}.",
          "How much is {a} x {b}?", "{a} x {b} = ?", "Please work out {a} x {b}.", "What is {a} * {b}?"),
}  # fmt: skip


def value(a: int, operation: str, b: int) -> int:
    """The result of ``a operation b``."""
    return {"+": a + b, "-": a - b, "x": a * b}[operation]


def trace(a: int, operation: str, b: int) -> str:
    """The written working that leads to the result, one line per digit; the last line is the result itself."""
    if operation == "-" and a < b:
        return f"{a} < {b}\n{trace(b, '-', a)}\n-{b - a}"
    if operation == "x":
        return _times(a, b)
    if a < 10 and b < 10:
        return f"{a} {operation} {b} = {value(a, operation, b)}"
    return _columns(a, operation, b)


def _columns(a: int, operation: str, b: int) -> str:
    # Both numbers are padded to the same width first, so that a digit's place is its distance from the start of the line.
    width = max(len(str(a)), len(str(b)))
    left, right = str(a).zfill(width), str(b).zfill(width)
    lines, carry = [f"{left} {operation} {right}"], 0
    for place in range(width):
        x, y = int(left[-1 - place]), int(right[-1 - place])
        if operation == "+":
            total = x + y + carry
            sum_text = f"{x} + {y} + {carry} = {total}"
            carry, digit = divmod(total, 10)
        else:
            total = x - y - carry
            sum_text = f"{x} - {y} - {carry} = {total}"
            carry, digit = (1, total + 10) if total < 0 else (0, total)
        lines.append(f"{PLACES[place]}: {sum_text}, write {digit} carry {carry}")
    lines.append(str(value(a, operation, b)))
    return "\n".join(lines)


def _times(a: int, b: int) -> str:
    if a < 10 and b < 10:
        return f"{a} x {b} = {a * b}"
    if b >= 10:  # the smaller factor is the single digit; the order of the factors does not matter
        return f"{b} x {a}\n{_times(b, a)}"
    tens, ones = divmod(a, 10)
    first, second = ones * b, tens * 10 * b
    return f"{tens}0 x {b} = {second}\n{ones} x {b} = {first}\n{_columns(second, '+', first)}"


def problem(rng: random.Random) -> tuple[int, str, int]:
    """Two operands: + and - of one to three digits, x of a digit with a number of one or two digits."""
    operation = rng.choices("+-x", (0.4, 0.35, 0.25))[0]
    if operation == "x":
        a, b = (rng.randint(2, 9) if rng.random() < 0.45 else rng.randint(10, 99)), rng.randint(2, 9)
        return (b, operation, a) if rng.random() < 0.2 else (a, operation, b)
    digits = rng.choices((1, 2, 3), (0.15, 0.45, 0.4))[0]
    low, high = (0, 9, 99, 999)[digits - 1] + (digits > 1), (9, 99, 999)[digits - 1]
    a = rng.randint(low, high)
    b = rng.randint(low, high) if rng.random() < 0.6 else rng.randint(0, high)
    if operation == "-" and a < b and rng.random() < 0.75:
        a, b = b, a
    return (b, operation, a) if operation == "+" and rng.random() < 0.5 else (a, operation, b)


def _unseen(a: int, operation: str, b: int) -> bool:
    # Sums of single digits are a table to be known; from two digits on, one in ten is kept for evaluation.
    return max(a, b) >= 10 and held_out(f"{a}{operation}{b}")


def conversation(rng: random.Random, *, evaluation: bool = False, thinking: bool | None = None) -> Conversation:
    """One problem; evaluation uses sums that training never has (single digits, a table to be known, are shared)."""
    while True:
        a, operation, b = problem(rng)
        if _unseen(a, operation, b) == evaluation or (evaluation and max(a, b) < 10):
            break
    thinking = rng.random() < 0.8 if thinking is None else thinking
    ask = rng.choice(_ASK[operation]).format(a=a, b=b)
    reply = assistant(str(value(a, operation, b)), reasoning=trace(a, operation, b) if thinking else "")
    domain = "arithmetic" if thinking else "arithmetic (no thinking)"
    return Conversation(domain=domain, messages=[user(ask), reply], enable_thinking=thinking,
                        notes={"problem": (a, operation, b)})  # fmt: skip
