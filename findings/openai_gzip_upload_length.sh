#!/usr/bin/env bash
# openai 3.57.0 with httpx: an upload of an opened gzip file sends the packed size as its length.
#
# One would guess: the client reads the file that gzip.open returns to its end, and sends what it read, so the
# server gets all 100,000 bytes.
# What happens: the length in the header is made from os.fstat(file.fileno()), the size of the packed file on the disk.
# The body is longer, so h11 stops it with LocalProtocolError "Too much data for declared Content-Length". This is an
# exception of h11, not of openai, so `except openai.OpenAIError` does not catch it, and nothing is tried again.
# A file opened with zipfile, which has no fileno, is sent whole.
# Seen: gzip: h11._util.LocalProtocolError, an OpenAIError: False; zip: 100000 bytes arrived
set -euo pipefail
folder=$(mktemp -d); trap 'rm -rf "$folder"' EXIT
"${PYTHON:-python3.11}" -m venv "$folder/venv"
"$folder/venv/bin/pip" install --quiet --disable-pip-version-check openai==3.57.0
cd "$folder"
"$folder/venv/bin/python" - <<'PY'
import gzip
import re
import sys
import threading
import zipfile
from http.server import BaseHTTPRequestHandler, HTTPServer

import openai

ANSWER = b'{"id":"file-1","object":"file","bytes":1,"created_at":1,"filename":"in.jsonl","purpose":"batch","status":"processed"}'
arrived = []


class Server(BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        found = re.search(rb'name="file".*?\r\n\r\n(.*?)\r\n--', body, re.DOTALL)
        if found is None:
            return
        arrived.append(len(found[1]))
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(ANSWER)))
        self.end_headers()
        self.wfile.write(ANSWER)

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = openai.OpenAI(base_url=f"http://127.0.0.1:{server.server_port}", api_key="a-key", max_retries=0)
data = b'{"custom_id": "a"}\n' * 5263 + b"\n\n\n"
assert len(data) == 100_000
with gzip.open("in.jsonl.gz", "wb") as file:
    file.write(data)
with zipfile.ZipFile("in.zip", "w", zipfile.ZIP_DEFLATED) as archive:
    archive.writestr("in.jsonl", data)
try:
    client.files.create(file=("in.jsonl", gzip.open("in.jsonl.gz", "rb")), purpose="batch")
    seen = "the upload succeeded"
except Exception as error:
    seen = f"{type(error).__module__}.{type(error).__name__}, an OpenAIError: {isinstance(error, openai.OpenAIError)}"
client.files.create(file=("in.jsonl", zipfile.ZipFile("in.zip").open("in.jsonl")), purpose="batch")
text = f"gzip: {seen}; zip: {arrived[-1]} bytes arrived"
print(text)
sys.exit(text != "gzip: h11._util.LocalProtocolError, an OpenAIError: False; zip: 100000 bytes arrived")
PY
