"""Measuring a streamed completion, and telling a stream from a buffered answer."""

import time
from dataclasses import dataclass

import openai

PROMPT = "Count from 1 to 500, separated by commas. Write nothing else."


@dataclass(frozen=True, kw_only=True, slots=True)
class Stream:
    """One streamed answer: chunks with text, seconds to the first and to the last of them."""

    chunks: int
    first: float
    last: float

    def complaint(self) -> str:
        """What shows that this was no stream of 300 chunks over 2 s, or ""."""
        if self.chunks < 300:
            return f"{self.chunks} chunks, fewer than 300"
        if self.last < 2:
            return f"the whole answer took {self.last:.2f} s, less than 2 s: too short to tell"
        if self.first > self.last / 5:
            return f"the first chunk came after {self.first:.2f} of {self.last:.2f} s: buffered"
        return ""


def stream(client: openai.OpenAI, model: str, tokens: int = 400) -> Stream:
    """Ask `model` for `tokens` tokens as a stream, and measure it."""
    began = time.monotonic()
    first = last = 0.0
    chunks = 0
    answer = client.chat.completions.create(
        model=model,
        messages=[{"role": "user", "content": PROMPT}],
        max_tokens=tokens,
        stream=True,
        # Known to llama-server: a model that would stop early goes on, so that there is a stream.
        extra_body={"ignore_eos": True},
    )
    for event in answer:
        # A model that thinks streams its thoughts first, under another name.
        delta = event.choices[0].delta if event.choices else None
        text = delta and (delta.content or getattr(delta, "reasoning_content", None))
        if text:
            chunks += 1
            last = time.monotonic() - began
            first = first or last
    return Stream(chunks=chunks, first=first, last=last)
