#!/usr/bin/env bash
# The init of a node, in namespaces of its own (network, mounts, processes, host name): containerd, kubelet and kube-proxy.
# When it dies, everything on the node dies with it and its mounts go. Environment: N (n1), I (1), R (the run's folder),
# TOOLS (etcd, kubelet, ...), CNI (plugins), IMAGES (archives to import), GROUP (first part of its control
# group's name). What a reboot keeps is in $R/$N.
set -euo pipefail
D=$R/$N
mkdir -p "$D"/{kubelet,log,containerd,etc,var,opt,work-etc,work-var,work-opt,cgroups}
mount --make-rprivate /
hostname "$N"

# folders that belong to a node: what is written there stays in $D
for top in etc var opt; do
  mount -t overlay overlay -o "lowerdir=/$top,upperdir=$D/$top,workdir=$D/work-$top" "/$top"
done
mount -t tmpfs tmpfs /run
mkdir -p /run/netns /run/containerd /var/lib/kubelet /var/lib/cni /var/log /etc/cni/net.d /opt/cni/bin
mount --bind "$D/kubelet" /var/lib/kubelet
mount --bind "$D/log" /var/log
cp "$CNI"/{bridge,host-local,loopback} /opt/cni/bin/
rm -f /etc/resolv.conf
echo "nameserver 10.96.0.10" >/etc/resolv.conf

# /sys of this network, the machine's cgroups kept; the kubelet wants its root to exist
cgroups=/sys/fs/cgroup
if [ -f $cgroups/cgroup.controllers ]; then
  mkdir -p "$cgroups/$GROUP-$N"
  for controller in cpuset cpu memory pids; do
    echo "+$controller" >$cgroups/cgroup.subtree_control 2>/dev/null || true
    echo "+$controller" >"$cgroups/$GROUP-$N/cgroup.subtree_control" 2>/dev/null || true
  done
else
  for hierarchy in "$cgroups"/*/; do [ -L "${hierarchy%/}" ] || mkdir -p "$hierarchy/$GROUP-$N"; done
  for file in cpus mems; do cat $cgroups/cpuset/cpuset.$file >"$cgroups/cpuset/$GROUP-$N/cpuset.$file"; done
fi
mount --rbind $cgroups "$D/cgroups"
mount -t sysfs none /sys
mount --rbind "$D/cgroups" $cgroups
mount --make-rshared /

# the kubelet wants these; the machine keeps its own
for wish in kernel/panic:10 kernel/panic_on_oops:1 vm/overcommit_memory:1 vm/panic_on_oom:0; do
  file=$D/sysctl.$(basename "${wish%:*}")
  echo "${wish#*:}" >"$file"
  mount --bind "$file" "/proc/sys/${wish%:*}"
done

# the primary network: a bridge with addresses of both families. An upgrade of it would write the list again: so does a reboot
if [ ! -e /etc/cni/net.d/10-pods.conflist ]; then
  cat >/etc/cni/net.d/.new <<J
{"cniVersion":"1.0.0","name":"pods","plugins":[
 {"type":"bridge","bridge":"cni0","isGateway":true,"hairpinMode":true,"mtu":1500,"ipam":{"type":"host-local",
  "ranges":[[{"subnet":"10.88.$I.0/24"}],[{"subnet":"fd88:0:0:$I::/64"}]],"routes":[{"dst":"0.0.0.0/0"},{"dst":"::/0"}]}}]}
J
  mv /etc/cni/net.d/.new /etc/cni/net.d/10-pods.conflist
fi

cat >"$D/containerd.toml" <<T
version = 3
root = "$D/containerd"
state = "/run/containerd"
oom_score = 0
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "localhost/pause:1"
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "runc"
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = ["/opt/cni/bin"]
    conf_dir = "/etc/cni/net.d"
T
cat >"$D/kubelet.yaml" <<T
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
failCgroupV1: false
cgroupDriver: cgroupfs
cgroupRoot: /$GROUP-$N
enforceNodeAllocatable: []
oomScoreAdj: 0
failSwapOn: false
makeIPTablesUtilChains: false
address: 0.0.0.0
authentication: {anonymous: {enabled: false}, webhook: {enabled: true, cacheTTL: 1s}, x509: {clientCAFile: $R/pki/ca.crt}}
authorization: {mode: Webhook}
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: /etc/resolv.conf
imageGCHighThresholdPercent: 100
evictionHard: {memory.available: "50Mi"}
nodeStatusUpdateFrequency: 5s
syncFrequency: 10s
# how long a container waits that cases kill again and again does not hang upon which cases were before
crashLoopBackOff: {maxContainerRestartPeriod: 1s}
T
cat >"$D/proxy.yaml" <<T
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
clientConnection: {kubeconfig: $R/pki/proxy.kubeconfig}
clusterCIDR: 10.88.0.0/16,fd88::/48
mode: nftables
hostnameOverride: $N
metricsBindAddress: 127.0.0.1:10249
healthzBindAddress: 127.0.0.1:10256
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
T

run() { # name command...: started again when it ends, as a supervisor would
  local name=$1; shift
  while :; do "$@" >>"$D/$name.log" 2>&1 & echo $! >"$D/$name.pid"; wait $! || true; sleep 0.5; done
}
run containerd "$TOOLS/containerd" --config "$D/containerd.toml" &
until "$TOOLS/ctr" version >/dev/null 2>&1; do sleep 0.1; done
for archive in "$IMAGES"/*.tar; do "$TOOLS/ctr" -n k8s.io image import "$archive"; done >"$D/import.log" 2>&1
run kubelet "$TOOLS/kubelet" --config "$D/kubelet.yaml" --kubeconfig "$R/pki/$N.kubeconfig" --hostname-override "$N" \
  --node-ip "10.77.0.1$I,fd77::1$I" --root-dir /var/lib/kubelet &
run proxy "$TOOLS/kube-proxy" --config "$D/proxy.yaml" &
touch "$D/up"
while :; do sleep 3600 & wait $! || true; done
