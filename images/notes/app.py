"""PUT /notes/NAME keeps a text, GET /notes/NAME gives it back, GET /notes lists the names."""

import json
import os
import re
import tempfile
from pathlib import Path

FOLDER = Path(os.environ["NOTES_FOLDER"])
NAME = re.compile(r"/notes/([a-z0-9][a-z0-9-]{0,63})")
LARGEST = 64 * 1024


def application(environ, start_response):
    status, kind, body = answer(environ)
    start_response(status, [("Content-Type", kind), ("Content-Length", str(len(body)))])
    return [body]


def answer(environ):
    method, path = environ["REQUEST_METHOD"], environ["PATH_INFO"]
    if method == "GET" and path == "/healthz":
        return text("200 OK", "ok")
    if method == "GET" and path == "/notes":
        names = sorted(note.stem for note in FOLDER.glob("*.txt"))
        return "200 OK", "application/json", json.dumps(names).encode() + b"\n"
    if match := NAME.fullmatch(path):
        note = FOLDER / f"{match[1]}.txt"
        if method == "PUT":
            return keep(note, environ)
        if method == "GET" and note.exists():
            return "200 OK", "text/plain; charset=utf-8", note.read_bytes()
    return text("404 Not Found", "There is nothing here.")


def keep(note, environ):
    size = int(environ.get("CONTENT_LENGTH") or 0)
    if size > LARGEST:
        return text("413 Content Too Large", f"A note has at most {LARGEST} bytes.")
    # A reader sees the old note or the new one, whole.
    with tempfile.NamedTemporaryFile(dir=FOLDER, delete=False) as new:
        new.write(environ["wsgi.input"].read(size))
    os.replace(new.name, note)
    return text("201 Created", "kept")


def text(status, line):
    return status, "text/plain; charset=utf-8", line.encode() + b"\n"
