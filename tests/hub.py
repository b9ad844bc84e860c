"""A stand-in for the Hugging Face hub on loopback, whose repositories are folders here.

`python -m tests.hub PORT FOLDER` serves the repositories FOLDER/owner/name and writes each request to
FOLDER/log.
"""

import hashlib
import json
import re
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

COMMIT = "0123456789abcdef0123456789abcdef01234567"


def digest(content: bytes) -> str:
    return hashlib.sha1(content).hexdigest()


class Hub(BaseHTTPRequestHandler):
    folder: Path

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        with (self.folder / "log").open("a") as log:
            log.write(f"{self.command} {self.path}\n")
        path = self.path.partition("?")[0]
        about = re.fullmatch(r"/api/models/([^/]+/[^/]+)(/(?:revision|tree)/[^/]+)?", path)
        file = re.fullmatch(r"/([^/]+/[^/]+)/resolve/[^/]+/(.+)", path)
        status, kind, content = 404, "application/json", b"{}"
        if about and (self.folder / about[1]).is_dir():
            root = self.folder / about[1]
            files = [p for p in sorted(root.rglob("*")) if p.is_file()]
            told = [(p.relative_to(root).as_posix(), p.stat().st_size, digest(p.read_bytes())) for p in files]
            if "/tree/" in path:
                said: object = [{"type": "file", "path": n, "size": s, "oid": d} for n, s, d in told]
            else:
                listed = [{"rfilename": name, "size": size} for name, size, _ in told]
                said = {"id": about[1], "sha": COMMIT, "siblings": listed}
            status, content = 200, json.dumps(said).encode()
        elif file and (self.folder / file[1] / file[2]).is_file():
            status, kind = 200, "application/octet-stream"
            content = (self.folder / file[1] / file[2]).read_bytes()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("ETag", f'"{digest(content)}"')
        if status == 404:
            self.send_header("X-Error-Code", "RepoNotFound" if about else "EntryNotFound")
        self.end_headers()
        if body:
            self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        pass


if __name__ == "__main__":
    Hub.folder = Path(sys.argv[2])
    server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Hub)
    print("ready", flush=True)
    server.serve_forever()
