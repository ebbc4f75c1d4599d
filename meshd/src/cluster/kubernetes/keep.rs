//! The controller's state folder as one Secret, which outlives its pod: fetched before it starts, kept at each change.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use anyhow::{Context as _, ensure};
use k8s_openapi::ByteString;
use k8s_openapi::api::core::v1::Secret;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::api::PostParams;
use kube::{Api, Client};

use crate::store::{atomic_write, open_private_dir};

/// The files that are kept, by their key in the Secret.
const FILES: [(&str, &str); 5] = [
    ("root.key", "ca/root.key"),
    ("root.crt", "ca/root.crt"),
    ("intermediate.key", "ca/intermediate.key"),
    ("intermediate.crt", "ca/intermediate.crt"),
    ("registry", "registry"),
];

/// The Secret of a controller. Nobody but the controller's service account may read it.
#[derive(Clone)]
pub(crate) struct StateSecret {
    secrets: Api<Secret>,
    name: String,
}

impl StateSecret {
    pub(super) fn new(client: &Client, namespace: &str, name: &str) -> Self {
        Self { secrets: Api::namespaced(client.clone(), namespace), name: name.to_owned() }
    }

    /// Lays the kept files into the state folder; a file that is there already was kept by this very pod.
    ///
    /// # Errors
    /// The API server does not answer or refuses; the folder cannot be written.
    pub(crate) async fn fetch(&self, state_dir: &Path) -> anyhow::Result<()> {
        let Some(secret) = self.secrets.get_opt(&self.name).await.context("cannot read the controller's Secret")?
        else {
            return Ok(());
        };
        open_private_dir(state_dir)?;
        open_private_dir(&state_dir.join("ca"))?;
        let data = secret.data.unwrap_or_default();
        for (key, file) in FILES {
            let path = state_dir.join(file);
            if let (Some(ByteString(bytes)), false) = (data.get(key), path.exists()) {
                atomic_write(&path, bytes, 0o600)?;
            }
        }
        Ok(())
    }

    /// Keeps the files where they differ from what is kept. A kept root key is never replaced.
    ///
    /// # Errors
    /// The API server does not answer or refuses; another root key is kept.
    pub(crate) async fn keep(&self, state_dir: &Path) -> anyhow::Result<()> {
        let mut data = BTreeMap::new();
        for (key, file) in FILES {
            match fs::read(state_dir.join(file)) {
                Ok(bytes) => drop(data.insert(key.to_owned(), ByteString(bytes))),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("cannot read {file} of the state folder")),
            }
        }
        let params = PostParams::default();
        match self.secrets.get_opt(&self.name).await.context("cannot read the controller's Secret")? {
            None => {
                let metadata = ObjectMeta { name: Some(self.name.clone()), ..ObjectMeta::default() };
                let secret = Secret { metadata, data: Some(data), ..Secret::default() };
                self.secrets.create(&params, &secret).await.context("cannot make the controller's Secret")?;
            }
            Some(mut secret) => {
                let held = secret.data.take().unwrap_or_default();
                if held == data {
                    return Ok(());
                }
                let same = held.get("root.key").is_none_or(|key| Some(key) == data.get("root.key"));
                ensure!(same, "Secret {} holds the key of another trust root: it is not replaced", self.name);
                secret.data = Some(data);
                self.secrets
                    .replace(&self.name, &params, &secret)
                    .await
                    .context("cannot write the controller's Secret")?;
            }
        }
        Ok(())
    }
}
