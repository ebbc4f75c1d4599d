//! Puts the CNI plugin and its entry in the network list in place, keeps them there, and takes them back.
//!
//! A list that says that it takes files from beside it gets one of ours there, and stays as it is. Otherwise the entry goes behind
//! the other plugins of the list that the runtime reads (the first file of the folder by name, as libcni does), and a spare one
//! beside it; once the runtime has called that one, the list is given back (decision 0029). The list as it was is kept in the state
//! folder (`cni-original`), so that it comes back byte for byte.

mod canary;
mod drop_in;
mod fight;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Instant, SystemTime};

use anyhow::{Context as _, bail};
use cni::conf::{SOCKET_DEFAULT, TOMBSTONES_DEFAULT};
use cni::conflist::{insert_plugin, remove_plugin};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use self::canary::Canary;
use self::drop_in::Rung;
use self::fight::Fight;
use crate::store::{atomic_write, remove_durably};

/// The plugin's `type`, which is the name of its file.
const PLUGIN: &str = "mesh-cni";
/// A list over this is not touched.
const LIST_BYTES_MAX: u64 = 1 << 20;
/// Where things go.
#[derive(Clone, Debug)]
pub(crate) struct Places {
    /// Folder of network lists.
    pub(crate) conf_dir: PathBuf,
    /// Folder of plugins.
    pub(crate) bin_dir: PathBuf,
    /// The list by name; by default the first one.
    pub(crate) conflist: Option<String>,
    /// The plugin to copy.
    pub(crate) plugin: PathBuf,
    pub(crate) state_dir: PathBuf,
    pub(crate) run_dir: PathBuf,
}

/// The list as it was, and as we made it; both empty where it was given back.
#[derive(Serialize, Deserialize)]
struct Original {
    file: String,
    before: String,
    after: String,
}

/// The installation on this node.
pub(crate) struct Install {
    places: Places,
    copied: Option<(u64, SystemTime)>,
    /// Over the entry in the list, or the file that stands for it.
    entry: Fight,
    /// Over the spare entry.
    spare: Fight,
    is_spare_lost: bool,
    canary: Canary,
    list: Option<PathBuf>,
}

impl Install {
    pub(crate) fn new(places: Places) -> Self {
        let (entry, spare) = (Fight::default(), Fight::default());
        Self { places, copied: None, entry, spare, is_spare_lost: false, canary: Canary::default(), list: None }
    }

    /// Puts what is missing in place: the plugin first, then the entries that name it.
    ///
    /// # Errors
    /// No list is there yet, it cannot be edited, or somebody keeps taking the entry out; each with what to do.
    pub(crate) fn ensure(&mut self) -> anyhow::Result<()> {
        self.ensure_plugin()?;
        let path = self.places.list()?;
        let text = read_list(&path)?;
        let rung = Rung::of(&path, &text);
        if !matches!(rung, Rung::Both(_)) {
            // nobody but us takes it away
            self.spare = Fight::default();
        }
        if self.list.is_none() && self.places.is_given_back(&path) {
            // of a daemon before this one
            self.canary.handle_given_back();
        }
        // one of an older list's name, or that this list would not take
        drop_in::remove(&self.places.conf_dir, rung.place())?;
        let file = rung.text(&self.places.entry())?;
        match &rung {
            Rung::Beside(place) => self.ensure_beside(place, &file)?,
            // the spare one first: where both are read, a pod that starts in between is brought by it
            Rung::Both(place) => {
                self.ensure_spare(place, &file)?;
                if self.canary.is_trusted(Instant::now()) {
                    self.give_back(&path, &text)?;
                    self.list = Some(path);
                    return Ok(());
                }
                self.ensure_in_list(&path, text)?;
            }
            Rung::List => self.ensure_in_list(&path, text)?,
        }
        self.entry.in_place();
        self.list = Some(path);
        Ok(())
    }

    /// The list as its owner wrote it: the file beside it stands for us alone.
    fn give_back(&mut self, path: &Path, text: &str) -> anyhow::Result<()> {
        // once: an entry that somebody writes there later is theirs
        if self.places.is_given_back(path) {
            return Ok(());
        }
        let name = name_of(path);
        let before = without_us(self.places.read_original().as_ref(), &name, text)
            .with_context(|| format!("mesh-cni cannot be taken out of {}", path.display()))?;
        if before != text {
            atomic_write(path, before.as_bytes(), mode_of(path))?;
        }
        self.places.write_original(&Original { file: name, before: String::new(), after: String::new() })?;
        // nobody takes out what is not in
        self.entry = Fight::default();
        tracing::info!(file = %path.display(), "The runtime reads the file beside the network list: the list is as it was");
        Ok(())
    }

    fn ensure_in_list(&mut self, path: &Path, text: String) -> anyhow::Result<()> {
        let after = insert_plugin(&text, &self.places.entry())
            .with_context(|| format!("mesh-cni cannot be chained in {}", path.display()))?;
        if after == text {
            return Ok(());
        }
        match self.entry.handle_missing(Instant::now()) {
            None => bail!(
                "another agent keeps taking mesh-cni out of {}: new pods start without the mesh until it stops",
                path.display()
            ),
            Some(true) => {
                tracing::warn!(file = %path.display(), "Somebody rewrote the network list: mesh-cni is put back in");
            }
            Some(false) => {}
        }
        self.places.write_original(&Original { file: name_of(path), before: text, after: after.clone() })?;
        atomic_write(path, after.as_bytes(), mode_of(path))?;
        tracing::info!(file = %path.display(), "mesh-cni is chained");
        Ok(())
    }

    fn ensure_beside(&mut self, place: &Path, file: &str) -> anyhow::Result<()> {
        if drop_in::is_there(place, file) {
            return Ok(());
        }
        if self.entry.handle_missing(Instant::now()).is_none() {
            bail!(
                "another agent keeps taking {} away: new pods start without the mesh until it stops",
                place.display()
            );
        }
        drop_in::put(place, file)?;
        tracing::info!(file = %place.display(), "mesh-cni is chained by a file of its own");
        Ok(())
    }

    /// Who takes the spare entry away again and again has it: the one in the list is there.
    fn ensure_spare(&mut self, place: &Path, file: &str) -> anyhow::Result<()> {
        let now = Instant::now();
        if !drop_in::is_there(place, file) {
            match self.spare.handle_missing(now) {
                None => {
                    if !self.is_spare_lost {
                        tracing::warn!(file = %place.display(), "Another agent keeps taking mesh-cni's spare entry away: it is left out");
                    }
                    self.is_spare_lost = true;
                    return Ok(());
                }
                Some(true) => self.canary.handle_taken_away(),
                Some(false) => {}
            }
            drop_in::put(place, file)?;
            self.canary.handle_put(now);
            tracing::info!(file = %place.display(), "mesh-cni has a spare entry beside the network list");
        } else if !self.spare.is_in_place() {
            // of a daemon before this one
            self.canary.handle_put(now);
        }
        self.is_spare_lost = false;
        self.spare.in_place();
        Ok(())
    }

    /// The runtime has called mesh-cni for a pod: by the spare entry, or by the other.
    pub(crate) fn handle_add(&mut self, is_spare: bool) {
        self.canary.handle_add(is_spare, Instant::now());
    }

    /// A sandbox of this network has an address, since then, and no ADD has come for it.
    pub(crate) fn handle_missed(&mut self, network: &str, since: SystemTime) {
        let Some(list) = self.list.as_deref().filter(|list| self.places.is_given_back(list)) else { return };
        let given_back = fs::metadata(list).and_then(|metadata| metadata.modified());
        let is_ours = self.rung().is_some_and(|rung| rung.network() == Some(network));
        if is_ours && given_back.is_ok_and(|at| since > at) {
            tracing::warn!(file = %list.display(), "The runtime no longer reads the file beside the network list: mesh-cni goes into the list again");
            self.canary.handle_missed();
        }
    }

    /// How the list that was last in place takes us, as it is now.
    fn rung(&self) -> Option<Rung> {
        let list = self.list.as_deref()?;
        Some(Rung::of(list, &read_list(list).unwrap_or_default()))
    }

    /// What `meshctl status` says of the chain: the list, and whether the runtime reads what stands beside it.
    pub(crate) fn report(&self) -> Value {
        let beside = match self.rung() {
            None | Some(Rung::List) => "none",
            Some(Rung::Beside(_)) => "declared",
            Some(Rung::Both(_)) if self.is_spare_lost => "lost",
            Some(Rung::Both(_)) => match self.canary.is_read(Instant::now()) {
                Some(true) => "read",
                Some(false) => "unread",
                None => "unknown",
            },
        };
        json!({"list": self.list, "beside": beside})
    }

    fn ensure_plugin(&mut self) -> anyhow::Result<()> {
        let target = self.places.bin_dir.join(PLUGIN);
        let stamp = |path: &Path| fs::metadata(path).ok().and_then(|m| Some((m.len(), m.modified().ok()?)));
        if self.copied.is_some() && stamp(&target) == self.copied {
            return Ok(());
        }
        let plugin = &self.places.plugin;
        let bytes = fs::read(plugin).with_context(|| format!("cannot read the plugin {}", plugin.display()))?;
        if fs::read(&target).ok().as_ref() != Some(&bytes) {
            atomic_write(&target, &bytes, 0o755)?;
        }
        self.copied = stamp(&target);
        Ok(())
    }
}

impl Places {
    /// Takes the entry out of the list and of what libcni remembers of each ADD, and then the plugin away: some runtimes
    /// ask whoever was there at the ADD. What comes back is why the plugin stays: the files that cannot be changed.
    ///
    /// # Errors
    /// The list cannot be read or written.
    pub(crate) fn remove(&self, cache: &Path) -> anyhow::Result<Vec<String>> {
        let original = self.read_original();
        for path in self.lists()? {
            let Ok(text) = read_list(&path) else { continue };
            let Ok(before) = without_us(original.as_ref(), &name_of(&path), &text) else { continue };
            if before != text {
                atomic_write(&path, before.as_bytes(), mode_of(&path))?;
            }
        }
        drop_in::remove(&self.conf_dir, None)?;
        remove_durably(&self.original())?;
        let left = forget_us(cache);
        if left.is_empty() {
            remove_durably(&self.bin_dir.join(PLUGIN))?;
        }
        Ok(left)
    }

    fn original(&self) -> PathBuf {
        self.state_dir.join("cni-original")
    }

    fn read_original(&self) -> Option<Original> {
        serde_json::from_str(&fs::read_to_string(self.original()).ok()?).ok()
    }

    fn write_original(&self, original: &Original) -> anyhow::Result<()> {
        Ok(atomic_write(&self.original(), serde_json::to_string(original)?.as_bytes(), 0o600)?)
    }

    /// Whether this list was given back, and the file beside it stands for us.
    fn is_given_back(&self, list: &Path) -> bool {
        self.read_original().is_some_and(|original| original.file == name_of(list) && original.after.is_empty())
    }

    /// Our entry; what is as by default is left out.
    fn entry(&self) -> Map<String, Value> {
        let mut entry = Map::new();
        entry.insert("type".to_owned(), json!(PLUGIN));
        let own = [
            ("socket", self.run_dir.join("cni.sock"), SOCKET_DEFAULT),
            ("tombstones", self.state_dir.join("tombstones"), TOMBSTONES_DEFAULT),
        ];
        for (field, path, default) in own {
            if path != Path::new(default) {
                entry.insert(field.to_owned(), json!(path));
            }
        }
        entry
    }

    /// The list that the runtime reads.
    fn list(&self) -> anyhow::Result<PathBuf> {
        if let Some(name) = &self.conflist {
            return Ok(self.conf_dir.join(name));
        }
        let first = self.lists()?.into_iter().next();
        first.with_context(|| {
            format!("{} holds no network list yet: mesh-cni waits for the primary CNI plugin", self.conf_dir.display())
        })
    }

    /// Every file that libcni would read, in its order.
    fn lists(&self) -> anyhow::Result<Vec<PathBuf>> {
        let entries = fs::read_dir(&self.conf_dir)
            .with_context(|| format!("cannot read the folder of network lists {}", self.conf_dir.display()))?;
        let is_list = |path: &PathBuf| {
            let hidden = path.file_name().is_none_or(|name| name.to_string_lossy().starts_with('.'));
            !hidden && path.extension().is_some_and(|e| e == "conf" || e == "conflist" || e == "json")
        };
        let mut lists: Vec<_> = entries.filter_map(|e| Some(e.ok()?.path())).filter(is_list).collect();
        lists.sort();
        Ok(lists)
    }
}

fn read_list(path: &Path) -> anyhow::Result<String> {
    let cannot = || format!("cannot read the network list {}", path.display());
    let length = fs::metadata(path).with_context(cannot)?.len();
    if length > LIST_BYTES_MAX {
        bail!("{} has {length} bytes: that is no network list", path.display());
    }
    fs::read_to_string(path).with_context(cannot)
}

fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// A list as it was before us: byte for byte, or where somebody has edited it since, without our entry.
fn without_us(original: Option<&Original>, file: &str, text: &str) -> Result<String, cni::conflist::ConflistError> {
    match original {
        Some(original) if original.file == file && original.after == text => Ok(original.before.clone()),
        _ => remove_plugin(text, PLUGIN),
    }
}

fn mode_of(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt as _;
    fs::metadata(path).map_or(0o644, |metadata| metadata.permissions().mode() & 0o777)
}

/// Takes our entry out of every list that libcni's cache (`results/` of its folder) holds beside the result of an ADD, so that
/// a DEL by that list does not ask for us. We change no result, so the rest of the chain takes it as it is. What comes back
/// is what could not be changed, and why.
///
/// ```text
/// <cache>/results/<network>-<container id>-<interface>   {"kind":"cniCacheV1","config":"<base64 of the list>",…,"result":{…}}
/// ```
fn forget_us(cache: &Path) -> Vec<String> {
    let entries = fs::read_dir(cache.join("results")).into_iter().flatten().filter_map(Result::ok);
    let paths = entries.map(|entry| entry.path());
    let told = |path: PathBuf| Some(format!("{}: {:#}", path.display(), forget_in(&path).err()?));
    paths.filter_map(told).collect()
}

fn forget_in(path: &Path) -> anyhow::Result<()> {
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD as BASE64;
    let mut cached: Value = match fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).unwrap_or_default(),
        // its sandbox is gone
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error).context("it cannot be read"),
    };
    let Some(config) = cached.get_mut("config") else { return Ok(()) };
    let Ok(list) = BASE64.decode(config.as_str().unwrap_or_default()) else { return Ok(()) };
    let list = String::from_utf8_lossy(&list);
    if !list.contains(PLUGIN) {
        return Ok(());
    }
    let without = remove_plugin(&list, PLUGIN).context("the list in it cannot be edited")?;
    *config = json!(BASE64.encode(without));
    let text = serde_json::to_string(&cached)?;
    // a DEL may have come in between: what is gone is not made again
    if path.try_exists()? {
        atomic_write(path, text.as_bytes(), mode_of(path))?;
    }
    Ok(())
}

#[cfg(test)]
#[path = "install_tests.rs"]
mod tests;
