"""relay.py PORT HOST:PORT: takes connections on a port of all addresses and carries their bytes to another. Says "up" first."""
import socket
import sys
import threading

host, port = sys.argv[2].rsplit(":", 1)


def carry(a, b):
    try:
        while data := a.recv(65536):
            b.sendall(data)
    except OSError:
        pass
    for end in (a, b):
        try:
            end.shutdown(socket.SHUT_RDWR)
        except OSError:
            pass


def serve(client):
    try:
        server = socket.create_connection((host, int(port)), 5)
    except OSError:
        return client.close()
    threading.Thread(target=carry, args=(client, server), daemon=True).start()
    carry(server, client)


listener = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=64)
print("up", flush=True)
while True:
    threading.Thread(target=serve, args=(listener.accept()[0],), daemon=True).start()
