"""range.py LIST COUNT: gives the primary plugin of a network list COUNT addresses of each range: .240, ::f0 and on."""
import ipaddress
import json
import os
import sys

path, count = sys.argv[1], int(sys.argv[2])
with open(path) as file:
    network = json.load(file)
for plugin in network["plugins"]:
    for ranges in plugin.get("ipam", {}).get("ranges", []):
        for each in ranges:
            first = ipaddress.ip_network(each["subnet"])[240]
            each.update(rangeStart=str(first), rangeEnd=str(first + count - 1))
with open(path + ".new", "w") as file:
    json.dump(network, file)
os.rename(path + ".new", path)
