#!/usr/bin/env bash
# pki.sh DIR: a CA, the API server's certificates, the key of service account tokens, and fixed tokens for the programs.
set -euo pipefail
mkdir -p "$1"; cd "$1"
key() { openssl ecparam -name prime256v1 -genkey -noout -out "$1"; }
key ca.key
openssl req -x509 -new -key ca.key -subj /CN=test-ca -days 30 -out ca.crt \
  -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature 2>/dev/null
sign() { # name subject extensions
  key "$1.key"
  openssl req -new -key "$1.key" -subj "$2" -out "$1.csr"
  printf '%b' "$3" >"$1.ext"
  openssl x509 -req -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -days 30 -out "$1.crt" -extfile "$1.ext" 2>/dev/null
}
names=IP:127.0.0.1,IP:10.77.0.1,IP:10.96.0.1,DNS:localhost,DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc
sign apiserver /CN=kube-apiserver "subjectAltName=$names\nextendedKeyUsage=serverAuth\n"
sign apiserver-kubelet "/O=system:masters/CN=kube-apiserver-kubelet" "extendedKeyUsage=clientAuth\n"
openssl genrsa -out sa.key 2048 2>/dev/null
openssl rsa -in sa.key -pubout -out sa.pub 2>/dev/null
cat >tokens.csv <<'T'
admin-token,admin,admin,"system:masters"
kcm-token,system:kube-controller-manager,kcm
sched-token,system:kube-scheduler,sched
proxy-token,system:kube-proxy,proxy
n1-token,system:node:n1,n1,"system:nodes"
n2-token,system:node:n2,n2,"system:nodes"
T
for user in admin kcm sched proxy n1 n2; do
  cat >"$user.kubeconfig" <<T
apiVersion: v1
kind: Config
clusters: [{name: test, cluster: {server: "https://10.77.0.1:6443", certificate-authority: $PWD/ca.crt}}]
users: [{name: $user, user: {token: $user-token}}]
contexts: [{name: test, context: {cluster: test, user: $user}}]
current-context: test
T
done
printf 'apiVersion: v1\nkind: Config\n' >nobody.kubeconfig
# what Weft asks of the API server, one line a request
cat >audit.yaml <<'T'
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules:
  - {level: Metadata, users: ["system:serviceaccount:weft-system:weft-node", "system:serviceaccount:weft-system:weft-controller"]}
  - {level: None}
T
