//! For tests: a file system of 64 KiB that fills up and turns read-only, in a mount namespace of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

const VARIABLE: &str = "WEFT_TEST_SMALL_DISK";

/// A mounted small file system; it ends with the process.
pub(in crate::store) struct SmallDisk(PathBuf);

/// Runs the calling test's body on a small file system: starts this very test once more as a process of its own,
/// which sees the file system and runs `body`. `name` is the test's full path.
pub(in crate::store) fn on_small_disk(name: &str, body: impl FnOnce(&SmallDisk)) {
    if let Some(dir) = std::env::var_os(VARIABLE) {
        body(&SmallDisk(PathBuf::from(dir)));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let script = r#"mount -t tmpfs -o size=64k,mode=700 weft-test "$1" && exec "$2" "$3" --exact --nocapture"#;
    let output = Command::new("unshare")
        .args(["-m", "sh", "-c", script, "sh"])
        .args([dir.path().as_os_str(), std::env::current_exe().unwrap().as_os_str(), name.as_ref()])
        .env(VARIABLE, dir.path())
        .output()
        .expect("unshare is installed (apt-get install util-linux)");
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said);
    assert!(output.status.success(), "run as root, or as a user that may mount in a namespace of its own:\n{said}");
    assert!(said.contains("1 passed"), "the test {name} was not found:\n{said}");
}

impl SmallDisk {
    pub(in crate::store) fn dir(&self) -> &Path {
        &self.0
    }

    /// Leaves no room for a single byte.
    pub(in crate::store) fn fill(&self) {
        std::fs::write(self.0.join("filling"), vec![0; 256 * 1024])
            .expect_err("the file system is larger than it should be");
    }

    /// Makes room again.
    pub(in crate::store) fn empty(&self) {
        std::fs::remove_file(self.0.join("filling")).unwrap();
    }

    pub(in crate::store) fn remount(&self, how: &str) {
        let mounted = Command::new("mount").args(["-o", &format!("remount,{how}")]).arg(&self.0).status().unwrap();
        assert!(mounted.success());
    }
}
