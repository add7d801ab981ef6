"""Looks for secrets where none may be: raw, base64 and URL-encoded."""

import base64
from urllib.parse import quote


def disguises(secret: str) -> dict[str, str]:
    """The forms in which `secret` may show, by name.

    base64 is looked for at all three alignments, because the secret may stand in the middle of
    what was encoded; only the characters that do not depend on its neighbours are compared.
    """
    raw = secret.encode()
    forms = {"raw": secret, "URL-encoded": quote(secret, safe="")}
    for shift in range(3):
        encoded = base64.b64encode(b"\0" * shift + raw).decode().rstrip("=")
        inner = encoded[(0, 2, 3)[shift] :][: (len(raw) * 8 // 6) - 2]
        forms[f"base64 at offset {shift}"] = inner
        forms[f"base64url at offset {shift}"] = inner.replace("+", "-").replace("/", "_")
    return forms


def find_leaks(secrets: dict[str, str], places: dict[str, str]) -> list[str]:
    """One line per secret and place that shows it: "llama_server.api_key, raw, in ps".

    `secrets` are values by name, `places` are texts by name. The values themselves are never part
    of what is returned. Raises ValueError for a secret shorter than 12 characters: such a one
    would be found everywhere by chance.
    """
    found = []
    for name, secret in sorted(secrets.items()):
        if len(secret) < 12:
            raise ValueError(f"{name} is too short to be looked for")
        for place, text in places.items():
            for form, needle in disguises(secret).items():
                if needle in text:
                    found.append(f"{name}, {form}, in {place}")
                    break
    return found
