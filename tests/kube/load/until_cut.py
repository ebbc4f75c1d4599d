"""until_cut.py HOST SECONDS: one conversation with an echo server, a line every 10 ms, until no answer comes for 2 s or the time
is over. Says "up" first; at the end lines that came back, and when the last one did, in seconds since the epoch."""
import socket
import sys
import time

talk, end, count, last = socket.create_connection((sys.argv[1], 9000), 30), time.time() + float(sys.argv[2]), 0, 0
talk.settimeout(2)
try:
    while time.time() < end:
        talk.sendall(b"line\n")
        if not talk.recv(65536):
            break
        count, last = count + 1, time.time()
        if count == 1:
            print("up", flush=True)
        time.sleep(0.01)
except OSError:
    pass
print(count, last)
