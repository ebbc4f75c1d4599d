"""resolver.py ADDRESS NAME=IP[,IP...]...: a DNS server on port 53 that knows these names and no others. Says "up" first."""
import ipaddress
import socket
import struct
import sys

zone = {name.lower(): [ipaddress.ip_address(ip) for ip in ips.split(",")] for name, ips in (w.split("=") for w in sys.argv[2:])}
server = socket.socket(socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], 53))
print("up", flush=True)
while True:
    query, sender = server.recvfrom(4096)
    at, labels = 12, []
    while query[at]:
        labels.append(query[at + 1 : at + 1 + query[at]].decode())
        at += 1 + query[at]
    kind = struct.unpack(">H", query[at + 1 : at + 3])[0]
    known = zone.get(".".join(labels).lower())
    answers = [ip.packed for ip in known or [] if kind == (1 if ip.version == 4 else 28)]
    code = 0x8180 if known else 0x8183
    records = b"".join(b"\xc0\x0c" + struct.pack(">HHIH", kind, 1, 5, len(ip)) + ip for ip in answers)
    server.sendto(query[:2] + struct.pack(">HHHHH", code, 1, len(answers), 0, 0) + query[12 : at + 5] + records, sender)
