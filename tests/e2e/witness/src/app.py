"""Writes down all the time that it is alive, by a clock that all processes of this machine share."""

import os
import socketserver
import threading
import time

ME = os.urandom(4).hex()


def live() -> None:
    while True:
        print("alive", ME, time.clock_gettime(time.CLOCK_BOOTTIME), flush=True)
        time.sleep(0.1)


class Answer(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.recv(1024)
        self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")


threading.Thread(target=live, daemon=True).start()
socketserver.TCPServer(("127.0.0.1", int(os.environ["PORT"])), Answer).serve_forever()
