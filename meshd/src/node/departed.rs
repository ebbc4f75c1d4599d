//! Attachments that no DEL came for: a runtime that ends a sandbox by what it noted at its ADD does not ask a plugin that stood
//! beside the list then.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use cni::Attachment;

use super::Node;
use super::admission::Attached;
use crate::store::AttachmentKey as Key;

/// How long a pod must be gone, its interface too: its DEL is on the way in the meantime.
const PATIENCE: Duration = Duration::from_secs(10);

/// Attachments of pods that are no more, and when each is looked at.
#[derive(Default)]
pub(super) struct Departed(BTreeMap<Key, Instant>);

impl Departed {
    /// Who is to be looked at, of all who are gone now.
    fn due(&mut self, gone: &BTreeSet<Key>, now: Instant) -> Vec<Key> {
        self.0.retain(|key, _| gone.contains(key));
        for key in gone {
            self.0.entry(key.clone()).or_insert(now + PATIENCE);
        }
        let due: Vec<_> = self.0.iter().filter(|(_, at)| **at <= now).map(|(key, _)| key.clone()).collect();
        // those that stay have their interface still
        self.0.retain(|_, at| *at > now);
        due
    }
}

impl Node {
    /// Forgets those whose pod and interface are both gone.
    pub(super) async fn forget_departed(&mut self) {
        if !self.view.is_synced() {
            return;
        }
        let is_gone = |held: &Attached| held.pod.as_ref().is_some_and(|record| self.listed(record).is_none());
        let records = self.attachments.records();
        let gone = records.iter().filter(|(_, held)| is_gone(held)).map(|(key, _)| key.clone()).collect();
        for key in self.departed.due(&gone, Instant::now()) {
            let Some(link) = self.attachments.record(&key.0, &key.1).map(|held| held.link.clone()) else { continue };
            match self.kernel.has_link(&link).await {
                Ok(false) => {}
                // the runtime still has it
                Ok(true) => continue,
                Err(error) => return self.note_trouble("kernel", &error),
            }
            let Ok(attachment) = Attachment::new(&key.0, &key.1) else { continue };
            // a file that cannot be removed is told of, and tried again each round
            let _told = self.detach(&attachment);
            tracing::info!(%attachment, "A pod is gone and no DEL came for it: it is detached");
            self.hear();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_that_is_gone_has_ten_seconds_for_its_del() {
        let (mut departed, begin) = (Departed::default(), Instant::now());
        let keys = |names: &[&str]| names.iter().map(|n| ((*n).to_owned(), "eth0".to_owned())).collect::<Vec<Key>>();
        let mut due = |names: &[&str], seconds| {
            departed.due(&keys(names).into_iter().collect(), begin + Duration::from_secs(seconds))
        };
        assert_eq!(due(&["a"], 0), keys(&[]));
        assert_eq!(due(&["a", "b"], 5), keys(&[]));
        assert_eq!(due(&["a", "b"], 10), keys(&["a"]));
        assert_eq!(due(&["a", "b"], 15), keys(&["b"]), "the other one has its interface still, and is looked at later");
        assert_eq!(due(&["a", "b"], 25), keys(&["a"]));
        assert_eq!(due(&[], 34), keys(&[]));
        assert_eq!(due(&["a", "b"], 36), keys(&[]), "it was there meanwhile");
    }
}
