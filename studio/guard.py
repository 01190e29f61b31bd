"""Who may talk to the page: requests of this computer, to a loopback name, from the page itself,
with the token.

The token is in the address that the command prints. The first request with it gets a cookie and is
redirected, so that the token does not stay in the browser's address line. Any program of the same
user can read a page on loopback; a web page of another origin, or another user, cannot.
"""

from __future__ import annotations

import hmac
import ipaddress
import secrets
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, urlsplit

from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

UPLOAD = "/upload"
"""The one path that takes large bodies."""
MAX_BODY = 1 << 20
"""Bytes; of any request but an upload."""

SECURITY_HEADERS = {
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cross-Origin-Opener-Policy": "same-origin",
}


class Guard:
    """An ASGI application that answers refused requests itself and passes on the others.

    Args:
        app: the application to protect.
        token: the secret.
        cookie: name of the cookie that holds it; cookies do not know ports, so it should.
        max_upload: bytes of an upload.
    """

    def __init__(self, app: ASGIApp, token: str, cookie: str, max_upload: int) -> None:
        self.app = app
        self._token = token
        self._cookie = cookie
        self._max_upload = max_upload

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        refusal = self._check(scope)
        if refusal is None:
            await self.app(scope, receive, _with_headers(send))
        elif scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": 1008})
        else:
            await refusal(scope, receive, _with_headers(send))

    def _check(self, scope: Scope) -> Response | None:
        """The answer to a request that is not passed on; None: it is."""
        headers = {name.decode("latin-1"): v.decode("latin-1") for name, v in scope["headers"]}
        host = headers.get("host", "")
        # A name that leads here is not enough: attackers let theirs point to 127.0.0.1.
        if not _is_loopback(host):
            return PlainTextResponse("this page is served to this computer only", 403)
        origin = headers.get("origin")
        if origin is not None and origin != f"http://{host}":
            return PlainTextResponse("requests of other pages are refused", 403)

        query = parse_qs(scope["query_string"].decode("latin-1"))
        if self._is_token(query.get("token", [""])[0]) and scope["path"] == "/":
            answer = RedirectResponse("/", 303)
            answer.set_cookie(self._cookie, self._token, httponly=True, samesite="strict")
            return answer
        if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
            return PlainTextResponse("requests of other pages are refused", 403)
        if not self._is_token(_cookie(headers.get("cookie", ""), self._cookie)):
            return PlainTextResponse(
                "open the address that `corrfractal studio` printed: it holds the token", 403
            )
        return self._check_body(scope, headers)

    def _check_body(self, scope: Scope, headers: dict[str, str]) -> Response | None:
        limit = self._max_upload if scope["path"] == UPLOAD else MAX_BODY
        length = headers.get("content-length", "0")
        # Without a length a body could be endless.
        if "transfer-encoding" in headers or not length.isdecimal():
            return PlainTextResponse("a request must state its length", 411)
        if int(length) > limit:
            return PlainTextResponse(f"larger than {limit / 1e6:.0f} MB", 413)
        return None

    def _is_token(self, text: str) -> bool:
        return hmac.compare_digest(text.encode(), self._token.encode())


def new_token() -> str:
    """256 random bits."""
    return secrets.token_urlsafe(32)


def _is_loopback(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
        return name == "localhost" or ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _cookie(header: str, name: str) -> str:
    try:
        found = SimpleCookie(header).get(name)
    except CookieError:
        return ""
    return "" if found is None else found.value


def _with_headers(send: Send) -> Send:
    async def add_headers(message: Message) -> None:
        if message["type"] == "http.response.start":
            added = [(name.lower().encode(), v.encode()) for name, v in SECURITY_HEADERS.items()]
            message = {**message, "headers": [*message.get("headers", []), *added]}
        await send(message)

    return add_headers
