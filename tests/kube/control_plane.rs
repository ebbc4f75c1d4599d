//! etcd, the API server, the controller manager and the scheduler, each a process that can be killed and started again.

use std::collections::BTreeMap;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use crate::shell::{attempt, eventually};

/// Where the API server listens, on the bridge between the nodes.
pub const ADDRESS: &str = "10.77.0.1";

/// The programs of the control plane.
pub struct ControlPlane {
    dir: PathBuf,
    tools: PathBuf,
    running: Mutex<BTreeMap<&'static str, Child>>,
}

impl ControlPlane {
    /// Starts everything; returns when the API server is ready.
    pub fn up(dir: &Path, tools: &Path) -> Self {
        let plane = Self { dir: dir.to_owned(), tools: tools.to_owned(), running: Mutex::default() };
        for program in ["etcd", "kube-apiserver"] {
            plane.start(program);
        }
        plane.await_ready();
        for program in ["kube-controller-manager", "kube-scheduler"] {
            plane.start(program);
        }
        plane
    }

    /// Starts one program.
    pub fn start(&self, program: &'static str) {
        let log = File::options().create(true).append(true).open(self.dir.join(format!("{program}.log")));
        let log = log.expect("the run's folder takes files");
        let child = Command::new(self.tools.join(program))
            .args(self.flags(program))
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file has a second handle"))
            .stderr(log)
            .spawn()
            .unwrap_or_else(|e| panic!("cannot start {program}: {e}"));
        self.running.lock().expect("nobody panicked with it").insert(program, child);
    }

    /// Kills one program as `kill -9` does.
    pub fn kill(&self, program: &str) {
        let mut child = self.running.lock().expect("nobody panicked with it").remove(program).expect("it runs");
        child.kill().expect("it can be killed");
        child.wait().expect("it ends");
    }

    /// Starts again whatever a failed case left dead.
    pub fn recover(&self) {
        let all = ["etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler"];
        for program in all {
            let runs = self.running.lock().expect("nobody panicked with it").contains_key(program);
            if !runs {
                self.start(program);
            }
        }
        self.await_ready();
    }

    /// Waits until the API server is ready.
    pub fn await_ready(&self) {
        let kubectl = self.tools.join("kubectl").display().to_string();
        let config = self.dir.join("pki/admin.kubeconfig").display().to_string();
        eventually("the API server is ready", Duration::from_secs(180), || {
            attempt(&kubectl, &["--kubeconfig", &config, "get", "--raw", "/readyz"]).status.success().then_some(())
        });
    }

    fn flags(&self, program: &str) -> Vec<String> {
        let pki = self.dir.join("pki");
        let pki = pki.display();
        let text = match program {
            "etcd" => format!(
                "--name e --data-dir {}/etcd --listen-client-urls http://127.0.0.1:2379 --advertise-client-urls http://127.0.0.1:2379 \
                 --listen-peer-urls http://127.0.0.1:2380 --initial-advertise-peer-urls http://127.0.0.1:2380 \
                 --initial-cluster e=http://127.0.0.1:2380 --unsafe-no-fsync --log-level warn",
                self.dir.display()
            ),
            "kube-apiserver" => format!(
                "--etcd-servers=http://127.0.0.1:2379 --bind-address=0.0.0.0 --advertise-address={ADDRESS} --secure-port=6443 \
                 --tls-cert-file={pki}/apiserver.crt --tls-private-key-file={pki}/apiserver.key --client-ca-file={pki}/ca.crt \
                 --service-account-issuer=https://kubernetes.default.svc --service-account-key-file={pki}/sa.pub \
                 --service-account-signing-key-file={pki}/sa.key --token-auth-file={pki}/tokens.csv \
                 --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction \
                 --service-cluster-ip-range=10.96.0.0/16,fd96::/112 --allow-privileged=true --endpoint-reconciler-type=lease \
                 --kubelet-client-certificate={pki}/apiserver-kubelet.crt --kubelet-client-key={pki}/apiserver-kubelet.key \
                 --kubelet-preferred-address-types=InternalIP --profiling=false \
                 --audit-policy-file={pki}/audit.yaml --audit-log-path={}/audit.log",
                self.dir.display()
            ),
            "kube-controller-manager" => format!(
                "--kubeconfig={pki}/kcm.kubeconfig --leader-elect=false --use-service-account-credentials=true \
                 --service-account-private-key-file={pki}/sa.key --root-ca-file={pki}/ca.crt --cluster-signing-cert-file={pki}/ca.crt \
                 --cluster-signing-key-file={pki}/ca.key --allocate-node-cidrs=true --cluster-cidr=10.88.0.0/16,fd88::/48 \
                 --service-cluster-ip-range=10.96.0.0/16,fd96::/112 --node-monitor-grace-period=20s --bind-address=127.0.0.1 \
                 --profiling=false --kube-api-qps=200 --kube-api-burst=400"
            ),
            "kube-scheduler" => {
                format!(
                    "--kubeconfig={pki}/sched.kubeconfig --leader-elect=false --bind-address=127.0.0.1 --profiling=false"
                )
            }
            other => panic!("{other} is no program of the control plane"),
        };
        text.split_whitespace().map(str::to_owned).collect()
    }
}
