"""Answers at ADDRESS (port 9007) what it is to know, and how often it has answered. ping.py ADDRESS VOLUME FILES"""

import hashlib
import http.server
import pathlib
import signal
import socket
import sys
import threading

address, volume, files = sys.argv[1], pathlib.Path(sys.argv[2]), pathlib.Path(sys.argv[3])
known = {}
kept = volume / "count"


def learn(*_):
    known["word"] = hashlib.sha256((files / "word").read_bytes()).hexdigest()[:8]


class Metrics(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; version=0.0.4")
        self.end_headers()
        self.wfile.write(f"# TYPE ping_answers counter\nping_answers_total {count}\n".encode())

    def log_message(self, *_):
        pass


learn()
signal.signal(signal.SIGHUP, learn)
count = int(kept.read_text()) if kept.exists() else 0
metrics = http.server.HTTPServer(("127.0.0.1", 9090), Metrics)
threading.Thread(target=metrics.serve_forever, daemon=True).start()
server = socket.create_server((address, 9007))
with open(3, "w") as ready:
    ready.write("\n")
print("it answers", flush=True)
while True:
    asker, _ = server.accept()
    with asker:
        count += 1
        (volume / "count.new").write_text(str(count))
        (volume / "count.new").rename(kept)
        asker.sendall(f"{known['word']} {count}\n".encode())
