"""Signs callbacks as a profile wants to verify them."""

import hmac
from base64 import b64encode

from jobproxy.profiles.signatures import Scheme, Verifier

#: What stands before the body that a wrong signature is made of.
WRONG = b"not this one"


def sign(verifier: Verifier, body: bytes, message_id: str, now: float) -> dict[str, str]:
    """Return the headers of a signed callback.

    :param message_id: of the callback, for Standard Webhooks.
    :param now: Unix time in seconds.
    """
    secret = verifier.secrets[0]
    if verifier.scheme is Scheme.STANDARD_WEBHOOKS:
        time = str(int(now))
        signed = f"{message_id}.{time}.".encode() + body
        signature = b64encode(hmac.digest(secret, signed, "sha256")).decode()
        return {
            "webhook-id": message_id,
            "webhook-timestamp": time,
            "webhook-signature": f"v1,{signature}",
        }
    if verifier.scheme is Scheme.TOKEN:
        return {verifier.header: verifier.prefix + secret.decode("latin-1")}
    digest = hmac.digest(secret, body, verifier.algorithm)
    text = digest.hex() if verifier.encoding == "hex" else b64encode(digest).decode()
    return {verifier.header: verifier.prefix + text}


def sign_wrongly(verifier: Verifier, body: bytes, message_id: str, now: float) -> dict[str, str]:
    """Return headers as those of :func:`sign`, with a signature that is wrong."""
    if verifier.scheme is Scheme.TOKEN:
        return {verifier.header: f"{verifier.prefix}{WRONG.decode()}"}
    return sign(verifier, WRONG + body, message_id, now)
