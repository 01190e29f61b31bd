"""A running studio answers the browser that was given its address, and nobody else."""

from __future__ import annotations

import http.client
import socket
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.studio.running import RunningStudio, start_studio, wait_until

Headers = dict[str, str]
Answer = tuple[int, Headers, bytes]

PATHS = [
    "/",
    "/frame/0/0",
    "/mask/0/0/starter/objects",
    "/download/0/starter/marks.zip",
    "/_nicegui_ws/socket.io/?EIO=4&transport=polling",
    "/no-such-page",
]
WEBSOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"


@pytest.fixture(scope="module")
def studio(tiny_video: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningStudio]:
    out = tmp_path_factory.mktemp("guard") / "marked"
    with start_studio(out, tiny_video, "--model", "starter", "--max-upload-mb", "3") as running:
        yield running


def ask(
    studio: RunningStudio,
    path: str,
    headers: Headers | None = None,
    *,
    method: str = "GET",
    body: bytes | None = None,
    cookie: bool = True,
) -> Answer:
    connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=30)
    sent = {"Cookie": studio.cookie} if cookie else {}
    connection.request(method, path, body, {**sent, **(headers or {})})
    answer = connection.getresponse()
    found = {name.lower(): value for name, value in answer.getheaders()}
    contents = answer.read()
    connection.close()
    return answer.status, found, contents


def upload(studio: RunningStudio, name: str, body: bytes) -> Answer:
    return ask(studio, "/upload", {"X-Name": name}, method="PUT", body=body)


def files(studio: RunningStudio) -> list[str]:
    folder = studio.out / "uploads"
    return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []


def test_it_listens_on_loopback_only(studio: RunningStudio) -> None:
    process = psutil.Process(studio.process.pid)
    listening = [c.laddr.ip for c in process.net_connections() if c.status == "LISTEN"]
    assert listening == ["127.0.0.1"]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("cookie", ["", "x", "{name}=", "{name}=wrong", "other={token}"])
def test_without_the_token_every_path_is_refused(
    studio: RunningStudio, path: str, cookie: str
) -> None:
    name = f"corrfractal-studio-{studio.port}"
    header = {"Cookie": cookie.format(name=name, token=studio.token)}
    assert ask(studio, path, header, cookie=False)[0] == 403
    assert ask(studio, f"{path}?token=wrong", header, cookie=False)[0] == 403


def test_the_printed_address_gives_a_cookie_and_leaves_no_token_behind(
    studio: RunningStudio,
) -> None:
    status, headers, _ = ask(studio, f"/?token={studio.token}", cookie=False)
    assert (status, headers["location"]) == (303, "/")
    cookie = headers["set-cookie"].lower()
    assert "httponly" in cookie
    assert "samesite=strict" in cookie
    status, headers, page = ask(studio, "/", {"Cookie": headers["set-cookie"].split(";")[0]})
    assert status == 200
    assert studio.token.encode() not in page
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "studio.example"},  # a name that was made to point to 127.0.0.1
        {"Host": "127.0.0.1.example:80"},
        {"Host": ""},
        {"Origin": "http://studio.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},  # another port of this computer
    ],
)
@pytest.mark.parametrize("path", ["/", "/frame/0/0"])
def test_other_pages_and_names_are_refused_even_with_the_cookie(
    studio: RunningStudio, headers: Headers, path: str
) -> None:
    assert ask(studio, path, headers)[0] == 403


@pytest.mark.parametrize("host", ["localhost:9999", "127.0.0.1:8000", "[::1]:7000"])
def test_a_tunnel_may_have_another_port(studio: RunningStudio, host: str) -> None:
    assert ask(studio, "/frame/0/0", {"Host": host, "Origin": f"http://{host}"})[0] == 200


@pytest.mark.parametrize(
    ("origin", "with_cookie", "first_line"),
    [
        ("http://127.0.0.1:{port}", True, "101"),
        ("http://127.0.0.1:{port}", False, "403"),
        ("http://studio.example", True, "403"),
    ],
)
def test_a_websocket_needs_cookie_and_origin(
    studio: RunningStudio, origin: str, with_cookie: bool, first_line: str
) -> None:
    lines = [
        f"GET {WEBSOCKET} HTTP/1.1",
        f"Host: 127.0.0.1:{studio.port}",
        f"Origin: {origin.format(port=studio.port)}",
        "Upgrade: websocket",
        "Connection: Upgrade",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        *([f"Cookie: {studio.cookie}"] if with_cookie else []),
    ]
    with socket.create_connection(("127.0.0.1", studio.port), timeout=30) as connection:
        connection.sendall(("\r\n".join(lines) + "\r\n\r\n").encode())
        assert connection.recv(64).decode().split()[1] == first_line


@pytest.mark.parametrize(
    "path",
    [
        "/frame/0/24",
        "/frame/1/0",
        "/frame/-1/0",
        "/frame/0/../../../../etc/passwd",
        "/mask/0/0/..%2f..%2f..%2f..%2fetc/objects",
        "/mask/0/0/marks/objects",
        "/download/0/..%2f..%2f/masks.zip",
        "/download/0/%2e%2e/marks.zip",
        "/download/0/starter/..%2f..%2f..%2fetc%2fpasswd",
        "/download/0/starter/studio.json",
        "/_nicegui/3.18.0/static/..%2f..%2f..%2f..%2fetc%2fpasswd",
        "/_nicegui/auto/static/../../../../etc/passwd",
    ],
)
def test_no_path_leads_out_of_what_the_page_shows(studio: RunningStudio, path: str) -> None:
    status, _, body = ask(studio, path)
    assert status in (404, 422)
    assert b"root:" not in body


@pytest.mark.parametrize(
    ("name", "stored"),
    [
        ("../../../escaped.mp4", "escaped.mp4"),
        ("..\\..\\windows.mp4", "windows.mp4"),
        ("%2e%2e%2fencoded.mp4", "encoded.mp4"),
        ("/etc/absolute.mp4", "absolute.mp4"),
        ("Ferien%20%C3%BC.MP4", "Ferien ü.MP4"),
    ],
)
def test_an_upload_stays_in_its_folder(
    studio: RunningStudio, tiny_video: Path, name: str, stored: str
) -> None:
    status, _, body = upload(studio, name, tiny_video.read_bytes())
    assert status == 200, body
    assert (studio.out / "uploads" / stored).read_bytes() == tiny_video.read_bytes()
    assert not list(studio.out.parent.glob("*.mp4"))
    again = upload(studio, name, tiny_video.read_bytes())
    assert again[0] == 200  # under another name: nothing is replaced
    assert Path(stored).stem + "-2" + Path(stored).suffix.lower() in files(studio)


@pytest.mark.parametrize(
    "name", ["", ".hidden.mp4", "..", "notes.txt", "a%00b.mp4", "a%0Ab.mp4", "x" * 200 + ".mp4"]
)
def test_a_name_that_is_no_videos_is_refused(
    studio: RunningStudio, tiny_video: Path, name: str
) -> None:
    before = files(studio)
    assert upload(studio, name, tiny_video.read_bytes())[0] == 422
    assert files(studio) == before


@pytest.mark.parametrize("contents", [b"", b"no video", bytes(100_000), b"<html><script>"])
def test_a_file_that_is_no_video_is_refused_and_removed(
    studio: RunningStudio, contents: bytes
) -> None:
    before = files(studio)
    status, _, body = upload(studio, "noise.mp4", contents)
    assert status == 422
    assert b"noise.mp4" in body
    assert files(studio) == before


def test_gigabytes_are_refused_before_they_are_sent(studio: RunningStudio) -> None:
    before = files(studio)
    head = {"X-Name": "big.mp4", "Content-Length": str(50 * 10**9)}
    connection = http.client.HTTPConnection("127.0.0.1", studio.port, timeout=30)
    connection.putrequest("PUT", "/upload")
    for name, value in {**head, "Cookie": studio.cookie}.items():
        connection.putheader(name, value)
    connection.endheaders()
    assert connection.getresponse().status == 413
    connection.close()
    endless = {"X-Name": "big.mp4", "Transfer-Encoding": "chunked"}
    assert ask(studio, "/upload", endless, method="PUT", body=b"5\r\nhello\r\n")[0] == 411
    # Other paths take a megabyte
    assert ask(studio, "/frame/0/0", method="POST", body=bytes(2 << 20))[0] == 413
    assert files(studio) == before


def test_an_upload_that_breaks_off_leaves_nothing(studio: RunningStudio) -> None:
    before = files(studio)
    with socket.create_connection(("127.0.0.1", studio.port), timeout=30) as connection:
        head = (
            f"PUT /upload HTTP/1.1\r\nHost: 127.0.0.1:{studio.port}\r\nX-Name: cut.mp4\r\n"
            f"Cookie: {studio.cookie}\r\nContent-Length: 2000000\r\n\r\n"
        )
        connection.sendall(head.encode() + bytes(100_000))
        wait_until(lambda: "cut.mp4" in files(studio))
    wait_until(lambda: "cut.mp4" not in files(studio))
    assert files(studio) == before
