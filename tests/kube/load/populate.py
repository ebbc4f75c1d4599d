"""populate.py SERVER CA TOKEN NODES PODS SERVICES: makes that many Nodes, running Pods with addresses, and Services, by four connections.

Every other namespace is enrolled; the pods of a node are of as many namespaces. Prints how long it took in seconds."""
import http.client
import json
import ssl
import sys
import threading
import time

server, authority, token = sys.argv[1:4]
nodes, pods, services = map(int, sys.argv[4:7])
context = ssl.create_default_context(cafile=authority)
core = "/api/v1"
spaces = 20


def thread_work(share, of):
    connection = http.client.HTTPSConnection(server, 6443, context=context, timeout=60)

    def send(method, path, body, kind="json"):
        headers = {"Authorization": "Bearer " + token, "Content-Type": "application/" + kind}
        connection.request(method, path, json.dumps(body), headers)
        answer = connection.getresponse()
        text = answer.read()
        assert answer.status in (200, 201, 409), (method, path, answer.status, text[:300])

    for i in range(share, nodes, of):
        cidrs = ["10.%d.%d.0/24" % (100 + i // 256, i % 256), "fd99:0:0:%x::/64" % (i + 1)]
        send("POST", core + "/nodes", {"metadata": {"name": "scale-%d" % i}, "spec": {"podCIDR": cidrs[0], "podCIDRs": cidrs}})
        address = [{"type": "InternalIP", "address": "172.20.%d.%d" % (i // 250, i % 250 + 1)}]
        send("PATCH", core + "/nodes/scale-%d/status" % i, {"status": {"addresses": address}}, "merge-patch+json")
    for i in range(share, pods, of):
        node, space, name = i % nodes, (i + i // nodes) % spaces, "pod-%d" % i
        path = core + "/namespaces/scale-%d/pods" % space
        spec = {"nodeName": "scale-%d" % node, "automountServiceAccountToken": False, "containers": [{"name": "main", "image": "x"}]}
        send("POST", path, {"metadata": {"name": name, "labels": {"app": "app-%d" % (i % 200)}}, "spec": spec})
        host = i // nodes + 2
        ips = [{"ip": "10.%d.%d.%d" % (100 + node // 256, node % 256, host)}, {"ip": "fd99:0:0:%x::%x" % (node + 1, host)}]
        status = {"phase": "Running", "podIP": ips[0]["ip"], "podIPs": ips}
        send("PATCH", path + "/" + name + "/status", {"status": status}, "merge-patch+json")
    for i in range(share, services, of):
        path = core + "/namespaces/scale-%d/services" % (i % spaces)
        spec = {"selector": {"app": "app-%d" % (i % 200)}, "ports": [{"port": 80}]}
        send("POST", path, {"metadata": {"name": "service-%d" % i}, "spec": spec})


begin = time.time()
workers = [threading.Thread(target=thread_work, args=(share, 4)) for share in range(4)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join()
print(time.time() - begin)
