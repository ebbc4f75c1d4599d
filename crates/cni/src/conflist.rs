//! Edits a network configuration list: puts us in behind the others, takes us out, keeps the rest and its order.

use serde_json::{Map, Value};
use thiserror::Error;

use crate::document::{CONFIGURATION, DocumentError, read_object};

/// Why a document cannot be edited. It is left alone then.
#[derive(Debug, Error)]
pub enum ConflistError {
    /// Not JSON, or too large.
    #[error("the network configuration list cannot be read: {0}")]
    Document(#[source] DocumentError),
    /// No list of plugins: a `.conf` of a single plugin, perhaps, which cannot be chained.
    #[error("it has no `plugins`: a single plugin's configuration has to be made a list (.conflist) first")]
    NoList,
    /// `plugins` holds something else than plugins.
    #[error("plugins[{index}] is not an object with a `type`")]
    Plugin {
        /// Which.
        index: usize,
    },
    /// Nobody to be chained after.
    #[error("`plugins` is empty: there must be one that gives pods their interface and address")]
    Alone,
    /// The entry to put in has no `type`.
    #[error("the entry to insert has no `type`")]
    Entry,
}

/// Puts `entry` behind the last plugin. Where a plugin of its `type` is in the list already it is replaced where it
/// stands (others may have been chained after it), unless it stands first, where it cannot work.
///
/// The text comes back byte for byte when nothing had to change.
///
/// # Errors
/// The text is no list with at least one other plugin, or the entry has no `type`.
pub fn insert_plugin(conflist: &str, entry: &Map<String, Value>) -> Result<String, ConflistError> {
    let ours = entry.get("type").and_then(Value::as_str).filter(|kind| !kind.is_empty()).ok_or(ConflistError::Entry)?;
    let mut fields = read(conflist)?;
    let plugins = plugins(&mut fields)?;
    let before = plugins.clone();
    let place = plugins.iter().position(|plugin| is_of(plugin, ours)).filter(|place| *place > 0);
    plugins.retain(|plugin| !is_of(plugin, ours));
    if plugins.is_empty() {
        return Err(ConflistError::Alone);
    }
    plugins.insert(place.unwrap_or(plugins.len()), Value::Object(entry.clone()));
    let changed = *plugins != before;
    Ok(written(conflist, fields, changed))
}

/// Takes every plugin of type `ours` out. The text comes back byte for byte when there was none.
///
/// # Errors
/// The text is no list.
pub fn remove_plugin(conflist: &str, ours: &str) -> Result<String, ConflistError> {
    let mut fields = read(conflist)?;
    let plugins = plugins(&mut fields)?;
    let count = plugins.len();
    plugins.retain(|plugin| !is_of(plugin, ours));
    let changed = plugins.len() != count;
    Ok(written(conflist, fields, changed))
}

fn read(conflist: &str) -> Result<Map<String, Value>, ConflistError> {
    read_object(conflist.as_bytes(), CONFIGURATION).map_err(ConflistError::Document)
}

fn plugins(fields: &mut Map<String, Value>) -> Result<&mut Vec<Value>, ConflistError> {
    let plugins = fields.get_mut("plugins").and_then(Value::as_array_mut).ok_or(ConflistError::NoList)?;
    match plugins.iter().position(|plugin| kind(plugin).is_none()) {
        Some(index) => Err(ConflistError::Plugin { index }),
        None => Ok(plugins),
    }
}

fn kind(plugin: &Value) -> Option<&str> {
    plugin.get("type").and_then(Value::as_str)
}

fn is_of(plugin: &Value, ours: &str) -> bool {
    kind(plugin) == Some(ours)
}

fn written(conflist: &str, fields: Map<String, Value>, changed: bool) -> String {
    if changed { format!("{:#}\n", Value::Object(fields)) } else { conflist.to_owned() }
}

#[cfg(test)]
mod tests;
