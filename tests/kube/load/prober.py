"""prober.py PATH_OF_LOG HOST PORT: a TCP connection every 10 ms; writes a line "TIME ok" or "TIME no" to the log when the answer
changes, TIME being when the first attempt with that answer began. An attempt without an answer for 300 ms is a no. Says "up" first."""
import selectors
import socket
import sys
import time

path, host, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
family = socket.AF_INET6 if ":" in host else socket.AF_INET
selector, attempts, last, following = selectors.DefaultSelector(), {}, None, 0
outcomes, order, next_attempt = {}, [], 0.0
log = open(path, "w", buffering=1)
print("up", flush=True)
while True:
    now = time.time()
    if now >= next_attempt:
        next_attempt = now + 0.01
        s = socket.socket(family, socket.SOCK_STREAM)
        s.setblocking(False)
        s.connect_ex((host, port))
        selector.register(s, selectors.EVENT_WRITE)
        attempts[s] = now
        order.append(now)
    for key, _ in selector.select(0.002):
        s = key.fileobj
        outcomes[attempts.pop(s)] = s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
        selector.unregister(s)
        s.close()
    for s in [s for s, since in attempts.items() if now - since > 0.3]:
        outcomes[attempts.pop(s)] = False
        selector.unregister(s)
        s.close()
    # in the order in which they began
    while order and order[0] in outcomes:
        began = order.pop(0)
        answer = outcomes.pop(began)
        if answer != last:
            last = answer
            log.write("%.3f %s\n" % (began, "ok" if answer else "no"))
